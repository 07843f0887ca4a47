"""Normalisation while it learns: the values of running statistics, the gradients of batch statistics."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import nn

from littoral.bundle import InputSpec
from littoral.models.frames import normalise
from littoral.models.norm import AdaptiveBatchNorm, adaptable_kind, adaptive_state, learn, prepare

EPS = 1e-5


def source_norm(seed: int = 0) -> nn.BatchNorm2d:
    torch.manual_seed(seed)
    norm = nn.BatchNorm2d(3)
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            assert tensor is not None
            tensor.copy_(torch.rand(3) + 0.5)
    return norm.eval()


def frames(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1)) * 2 + 0.7


def both(mode: Literal["batch", "renorm"]) -> tuple[nn.BatchNorm2d, AdaptiveBatchNorm]:
    return source_norm(), AdaptiveBatchNorm(source_norm(), mode)


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5), (4, 3, 5, 5), (1, 3, 2, 2)], ids=["BC", "BCL", "BCHW", "one"])
@pytest.mark.parametrize("mode", ["batch", "renorm"])
def test_in_eval_mode_it_is_the_source_layer(shape: tuple[int, ...], mode: Literal["batch", "renorm"]) -> None:
    norm = source_norm()
    ours = AdaptiveBatchNorm(norm, mode).eval()
    x = frames(*shape)
    expected = nn.functional.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=EPS)
    torch.testing.assert_close(ours(x), expected)


def test_batch_mode_is_torchs_batch_norm_values_gradients_and_statistics() -> None:
    theirs, ours = both("batch")
    theirs.train()
    ours.train()
    outcomes = []
    for norm in (theirs, ours):
        x = frames(6, 3, 4, 4).requires_grad_()
        y = norm(x)
        (y**3).sum().backward()
        outcomes.append((y, x.grad, norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var))
    for expected, came in zip(*outcomes, strict=True):
        torch.testing.assert_close(came, expected, rtol=1e-4, atol=1e-4)


def test_renorm_gives_the_values_of_running_statistics() -> None:
    theirs, ours = both("renorm")
    x = frames(6, 3, 4, 4)
    torch.testing.assert_close(ours.train()(x), theirs(x), rtol=1e-4, atol=1e-5)
    # The control: batch statistics give something else.
    assert not torch.allclose(both("batch")[1].train()(x), theirs(x), atol=0.1)


def test_renorm_has_the_gradient_of_batch_norm_and_not_of_running_statistics() -> None:
    """Per channel the gradient to the input is BatchNorm's times r = batch sigma / running sigma."""
    theirs, ours = both("renorm")
    x, reference, fixed = (frames(6, 3, 4, 4).requires_grad_() for _ in range(3))
    pull = frames(6, 3, 4, 4).flip(0)
    (ours.train()(x) * pull).sum().backward()
    (theirs(fixed) * pull).sum().backward()
    assert theirs.running_var is not None
    running = theirs.running_var.clone()
    theirs.train()
    (theirs(reference) * pull).sum().backward()
    r = ((reference.detach().var((0, 2, 3), correction=0) + EPS) / (running + EPS)).sqrt().view(1, 3, 1, 1)
    assert x.grad is not None
    assert reference.grad is not None
    torch.testing.assert_close(x.grad, reference.grad * r, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(
        x.grad.sum((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-3
    )  # a shift of all changes nothing
    assert fixed.grad is not None
    assert not torch.allclose(x.grad, fixed.grad, atol=1e-2)


@pytest.mark.parametrize("mode", ["batch", "renorm"])
def test_running_statistics_move_a_tenth_of_the_way_by_the_unbiased_variance(mode: Literal["batch", "renorm"]) -> None:
    norm = source_norm()
    assert norm.running_mean is not None
    assert norm.running_var is not None
    ours, x = AdaptiveBatchNorm(norm, mode).train(), frames(2, 3, 2, 2)
    ours(x)
    torch.testing.assert_close(ours.running_mean, 0.9 * norm.running_mean + 0.1 * x.mean((0, 2, 3)))
    torch.testing.assert_close(ours.running_var, 0.9 * norm.running_var + 0.1 * x.var((0, 2, 3)))


@pytest.mark.parametrize(
    "norm",
    [nn.BatchNorm2d(3, affine=False), nn.BatchNorm2d(3, track_running_stats=False)],
    ids=["no-affine", "no-statistics"],
)
def test_a_batch_norm_without_values_or_statistics_is_refused(norm: nn.Module) -> None:
    with pytest.raises(ValueError, match="both must be True for a network that is to be adapted"):
        prepare(nn.Sequential(norm), "batch")


def model() -> nn.Sequential:
    norms = (
        nn.BatchNorm2d(4),
        nn.GroupNorm(2, 4),
        nn.LayerNorm(2),
        nn.LayerNorm([4, 2, 2]),
        nn.LayerNorm(2, bias=False),
    )
    return nn.Sequential(nn.Conv2d(3, 4, 1), *norms, nn.Dropout(0.5), nn.Flatten(), nn.Linear(16, 2))


def test_only_normalisation_layers_learn_and_the_given_model_is_left_alone() -> None:
    given = model().train()
    ready = prepare(given, "batch")
    learning = [name for name, p in ready.named_parameters() if p.requires_grad]
    assert learning == ["1.weight", "1.bias", "2.weight", "2.bias", "3.weight", "3.bias"], (
        "what a bundle has no place for does not learn"
    )
    assert [name for name, _ in adaptive_state(ready)] == [*learning, "1.running_mean", "1.running_var"]
    assert all(p.requires_grad for p in given.parameters())
    assert isinstance(given[1], nn.BatchNorm2d)
    assert given.training


def test_a_prepared_model_infers_until_it_is_told_to_learn() -> None:
    """Else its first answers would be by batch statistics, and would move the running ones."""
    ready = prepare(model(), "batch")
    assert not any(module.training for module in ready.modules())
    before = {name: tensor.clone() for name, tensor in adaptive_state(ready)}
    ready(frames(4, 3, 2, 2))
    assert all(torch.equal(tensor, before[name]) for name, tensor in adaptive_state(ready))


def test_learning_is_for_batch_norm_alone_dropout_stays_off() -> None:
    ready = prepare(model(), "batch")
    learn(ready, True)
    assert [type(m).__name__ for m in ready.modules() if m.training] == ["AdaptiveBatchNorm"]
    learn(ready, False)
    assert not any(module.training for module in ready.modules())


def test_a_model_with_nothing_to_adapt_is_refused() -> None:
    with pytest.raises(ValueError, match="no normalisation layer with affine values"):
        prepare(nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4, affine=False)), "batch")


class GroupNormed(nn.Module):
    """A network whose first layer that learns is a GroupNorm behind one that does not, as `prepare` leaves it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(channels, 8, 3, padding=1), nn.GroupNorm(2, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.norm(self.conv(x)).relu().mean((2, 3))
        return out


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("pooled", [False, True])
def test_group_norm_learns_from_frames_as_they_come(channels: int, pooled: bool) -> None:
    """Frames are channels-last in memory. Where this test kills the whole run, torch's GroupNorm is at fault again."""
    torch.manual_seed(0)
    spec = InputSpec(height=12, width=10, channels=channels, mean=(0.5,) * channels, std=(0.25,) * channels)
    plain = GroupNormed(channels)
    if pooled:
        plain.conv = nn.Sequential(plain.conv, nn.AdaptiveAvgPool2d(1))
    model = prepare(plain, "batch")
    x = normalise(torch.randint(0, 256, (4, *spec.shape), dtype=torch.uint8), spec)
    torch.testing.assert_close(model(x), plain(x))
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
    losses = []
    for _ in range(5):
        loss = model(x).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses == sorted(losses, reverse=True)


class NormAndRelu(nn.BatchNorm2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).relu()


@pytest.mark.parametrize(
    ("norm", "words"),
    [(NormAndRelu(3), "NormAndRelu with a forward of its own"), (nn.SyncBatchNorm(3), "make a BatchNorm2d of it")],
    ids=["subclass", "sync"],
)
def test_a_norm_that_does_more_than_torchs_is_refused_and_not_half_taken(norm: nn.Module, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        prepare(nn.Sequential(nn.Conv2d(3, 3, 1), norm), "batch")


def test_a_subclass_that_changes_nothing_in_what_it_does_may_learn() -> None:
    class Named(nn.BatchNorm2d):
        """A name of its own."""

    assert [name for name, _ in adaptive_state(prepare(nn.Sequential(Named(3)), "batch"))][:2] == ["0.weight", "0.bias"]


def test_a_norm_of_two_names_learns_under_both() -> None:
    given = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    given.again = given[1]

    class Uses(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.named, self.body = given[1], given

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.named(self.body[0](x))
            return y

    ready = prepare(Uses(), "batch")
    ready(frames(2, 3, 4, 4)).sum().backward()
    assert [name for name, p in ready.named_parameters() if p.requires_grad] == ["named.weight", "named.bias"]
    assert all(p.grad is not None for p in ready.parameters() if p.requires_grad)
    assert ready.body[1] is ready.body.again is ready.named


def test_a_double_network_learns_in_float32() -> None:
    assert {p.dtype for p in prepare(model().double(), "batch").parameters()} == {torch.float32}


def test_a_network_that_does_not_adapt_may_have_any_norm() -> None:
    kinds = [
        adaptable_kind(norm, "n", learns=False) for norm in (NormAndRelu(3), nn.SyncBatchNorm(3), nn.GroupNorm(1, 3))
    ]
    assert kinds == ["batch", None, "group"]
