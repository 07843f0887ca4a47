"""A split that is fitted and not trained: what it sends, what it leaves out, and how its steps are found."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="fitting needs the cloud extra")

from torch import nn  # noqa: E402

from littoral.core.tasks import Classification, Detection  # noqa: E402
from littoral.models.architectures import transform  # noqa: E402
from littoral.models.bottleneck import make_split_tail, split_tail_kwargs, to_split_tail  # noqa: E402
from littoral.train import transform as module  # noqa: E402
from littoral.train.split_losses import ClassifierDistortion  # noqa: E402
from littoral.train.transform import TransformOptions, fit_transform, sensitivity_of  # noqa: E402

TASK = Classification(num_classes=2)


@pytest.fixture(autouse=True)
def quick_prior(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Most of a fit's time goes into the prior, which one test is about."""
    if "prior" not in request.node.name:
        monkeypatch.setattr(module, "_PRIOR_STEPS", 2)


OPTIONS = TransformOptions(num_channels=12, block=2, steps=(8.0, 1.0), decoder_width=4)


class Tail(nn.Module):
    """Answers by the first channel alone; the second is as large and says nothing, the third never changes."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([4.0, 0.0, 0.0]))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        score = (features * self.weight[:, None, None]).sum(1).mean((1, 2))
        return torch.stack([score, -score], 1)


class Both(nn.Module):
    """Answers by both channels, by the first three times as much."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.ReLU(inplace=True)  # changes nothing of what comes here, and would change the caller's

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        score = (self.first(features) * torch.tensor([3.0, 1.0])[:, None, None]).sum(1).mean((1, 2)) - 4 * 0.25
        return torch.stack([score, -score], 1)


def positive() -> torch.Tensor:
    """Two channels, everywhere independent and alike."""
    return torch.rand((64, 2, 8, 8), generator=torch.Generator().manual_seed(0)) * 0.5


def features(num_frames: int = 64, height: int = 6, width: int = 6) -> torch.Tensor:
    made = torch.Generator().manual_seed(0)
    drawn = torch.randn((num_frames, 3, height, width), generator=made)
    drawn[:, 0] = drawn[:, 0] * 0.2 + torch.randn((num_frames, 1, 1), generator=made)  # alike all over a frame
    drawn[:, 2] = 5.0
    return drawn


def test_what_the_answers_hang_on_is_sent_and_the_rest_is_not() -> None:
    fitted = fit_transform(features(), Tail(), TASK, OPTIONS).bottleneck
    latent = fitted.latent(features())
    symbols = fitted.symbols(latent, torch.ones(64, dtype=torch.long))
    back = fitted.decode(symbols.float(), torch.ones(64, dtype=torch.long))
    error = (back - features()).square().mean((0, 2, 3))
    assert error[0] < 0.1 * features()[:, 0].var()
    assert error[1] > 0.9 * features()[:, 1].var()  # as large, and worth no bit
    assert error[2] < 1e-6
    assert latent.var((0, 2, 3)).argmax() == 0  # the direction of most variance comes first
    assert fitted.kept[0] < fitted.kept[1] < 12  # what is 0 anyway is not sent


def test_errors_are_as_large_as_answers_bear_and_a_bit_costs_what_the_step_is_worth(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_NOISE", 0.05)  # small, so that losses are squares
    given, before = positive(), positive()
    options = dataclasses.replace(OPTIONS, num_channels=8, steps=(0.1,), sensitivity_frames=64)
    sensitivity = sensitivity_of(given, Both(), TASK)
    assert float(sensitivity[0] / sensitivity[1]) == pytest.approx(9, rel=0.3)
    fitted = fit_transform(given, Both(), TASK, options)
    assert torch.equal(given, before), "a tail that works in place leaves the caller's features alone"
    level = torch.zeros(64, dtype=torch.long)
    back = fitted.bottleneck.decode(fitted.bottleneck.symbols(fitted.bottleneck.latent(given), level).float(), level)
    error = (back.detach() - given).square().mean((0, 2, 3))
    assert float(error[1] / error[0]) == pytest.approx(float(sensitivity[0] / sensitivity[1]), rel=0.1)
    loss = ClassifierDistortion()(Both()(back.detach().clone()), Both()(given.clone()), None).mean()
    num_values = given[0].numel()
    assert float(loss) == pytest.approx(fitted.rate_weights[0] * num_values / (2 * math.log(2)), rel=0.5)


def test_without_rounding_everything_comes_back_even_at_edges_that_are_no_whole_block() -> None:
    given = features(height=5, width=6)
    options = dataclasses.replace(OPTIONS, steps=(1e-4,))
    fitted = fit_transform(given, Tail(), TASK, options).bottleneck
    level = torch.zeros(len(given), dtype=torch.long)
    back = fitted.decode(fitted.symbols(fitted.latent(given), level).float(), level)
    assert back.shape == given.shape
    assert torch.allclose(back[:, 0], given[:, 0], atol=1e-3)


def test_no_more_channels_are_made_than_a_payload_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SYMBOLS", 50)
    assert fit_transform(features(), Tail(), TASK, OPTIONS).bottleneck.num_channels == 50 // 9
    monkeypatch.setattr("littoral.models.bottleneck.MAX_SYMBOLS", 8)
    with pytest.raises(ValueError, match="the latent of the transform has 1 x 3 x 3 symbols"):
        fit_transform(features(), Tail(), TASK, OPTIONS)


def test_noise_that_no_answer_sees_makes_a_channel_insensitive() -> None:
    sensitivity = sensitivity_of(features(8), Tail(), TASK)
    assert sensitivity[0] > 1e3 * sensitivity[1]
    assert (sensitivity > 0).all()


def test_steps_are_the_coarsest_that_keep_the_answers() -> None:
    said: list[str] = []
    options = dataclasses.replace(OPTIONS, steps=None, keeps=(0.6, 0.92), answered_frames=64)
    fitted = fit_transform(features(), Tail(), TASK, options, progress=said.append).bottleneck
    cloud, kept = to_split_tail(fitted, Tail()), []
    with torch.no_grad():
        own = Tail()(features()).argmax(1)
        for level in range(2):
            levels = torch.full((64,), level)
            answers = cloud(fitted.symbols(fitted.latent(features()), levels).float(), levels).argmax(1)
            kept.append(float((answers == own).float().mean()))
    assert 0.8 <= kept[0] < 0.96 <= kept[1]  # half of the answers are kept where nothing is sent
    assert fitted.gains[0, 0] < fitted.gains[1, 0]
    assert [line for line in said if f"keep {kept[1]:.3g} of 64" in line]


def test_what_too_few_channels_cannot_keep_is_not_asked_for() -> None:
    """Else the finest level would round hardly at all, for megabytes."""
    given = features()
    given[:, 0] += torch.randn((64, 6, 6), generator=torch.Generator().manual_seed(1))  # of no direction most
    options = dataclasses.replace(OPTIONS, num_channels=1, steps=None, keeps=(0.9,), answered_frames=64)
    fitted = fit_transform(given, Tail(), TASK, options).bottleneck
    assert fitted.gains[0, 0] < 8


@pytest.mark.parametrize("offset", [0.0, 1.5, 2.0])
def test_every_level_sends_something_however_frequent_one_answer_is(offset: float) -> None:
    given = features()
    given[:, 0] += offset  # of the first class 50, 93 and 98 of 100
    fitted = fit_transform(given, Tail(), TASK, dataclasses.replace(OPTIONS, steps=None)).bottleneck
    gains = fitted.gains[:, 0].tolist()
    assert gains == sorted({*gains}), "each level is finer than the one before"
    for level in range(fitted.num_levels):
        assert fitted.symbols(fitted.latent(given), torch.full((64,), level)).any()


def test_steps_are_chosen_by_other_frames_where_there_are_some() -> None:
    options = dataclasses.replace(OPTIONS, steps=None)
    same = fit_transform(features(), Tail(), TASK, options).bottleneck
    others = fit_transform(features(), Tail(), TASK, options, answered_NCHW=features()[:20] * 0.3).bottleneck
    assert torch.equal(same.encoder[-1].linear.weight, others.encoder[-1].linear.weight)
    assert (others.gains[:, 0] > same.gains[:, 0]).all(), "what is weaker needs finer steps"


def test_the_seed_alone_decides() -> None:
    first = fit_transform(features(), Tail(), TASK, OPTIONS, seed=1).bottleneck.state_dict()
    torch.manual_seed(5)
    state = torch.get_rng_state()
    again = fit_transform(features(), Tail(), TASK, OPTIONS, seed=1).bottleneck.state_dict()
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    other = fit_transform(features(), Tail(), TASK, OPTIONS, seed=2).bottleneck.state_dict()
    assert any(not torch.equal(value, other[name]) for name, value in first.items())


def test_large_blocks_are_halved() -> None:
    given = torch.randn((4, 200, 8, 8), generator=torch.Generator().manual_seed(0))

    class Mean(nn.Module):
        def forward(self, features: torch.Tensor) -> torch.Tensor:
            return features.mean((2, 3))[:, :2]

    fitted = fit_transform(given, Mean(), TASK, dataclasses.replace(OPTIONS, block=4)).bottleneck
    assert fitted.latent(given).shape == (4, 12, 4, 4)


def test_answers_that_cannot_tell_what_rounding_costs_are_refused() -> None:
    class Same(Tail):
        def forward(self, features: torch.Tensor) -> torch.Tensor:
            return super().forward(features).abs() * torch.tensor([1.0, -1.0]) + torch.tensor([1.0, 0.0])

    with pytest.raises(
        ValueError, match=r"as much the network's own where nothing is sent.*more of them, or cut it at"
    ):
        fit_transform(features(), Same(), TASK, dataclasses.replace(OPTIONS, steps=None))
    boxes = Detection(num_classes=2, input_height=16, input_width=16, strides=(8,), max_boxes=8)

    class Blind(nn.Module):
        def forward(self, features: torch.Tensor) -> torch.Tensor:
            return torch.sigmoid(features.mean((1, 2, 3)) - 9)[:, None, None].expand(-1, *boxes.output_shape)

    with pytest.raises(ValueError, match="finds nothing on 32 frames"):
        fit_transform(features(), Blind(), boxes, dataclasses.replace(OPTIONS, steps=None))


def test_its_prior_knows_about_what_symbols_cost() -> None:
    given = features()
    fitted = fit_transform(given, Tail(), TASK, dataclasses.replace(OPTIONS, steps=(0.5,))).bottleneck
    level = torch.zeros(len(given), dtype=torch.long)
    symbols = fitted.symbols(fitted.latent(given), level)[:, : fitted.kept[0]]
    entropy = 0.0
    for values in symbols.movedim(1, 0).flatten(1):
        _, counts = np.unique(values.numpy(), return_counts=True)
        share = counts / counts.sum()
        entropy -= float((share * np.log2(share)).sum()) * values.numel()
    believed = float(fitted(given, level).rate_bits.detach().sum())
    assert entropy <= believed < 1.2 * entropy


def test_the_cloud_makes_it_anew_from_its_arguments() -> None:
    fitted = fit_transform(features(height=5, width=7), Tail(), TASK, OPTIONS).bottleneck
    kwargs = split_tail_kwargs(fitted, {"factory": "test_transform:Tail"})
    again = make_split_tail(**kwargs)
    again.load_state_dict(to_split_tail(fitted, Tail()).state_dict())
    level = torch.zeros(2, dtype=torch.long)
    symbols = fitted.symbols(fitted.latent(features(2, 5, 7)), level).float()
    assert torch.equal(again.eval()(symbols, level), to_split_tail(fitted, Tail())(symbols, level))


def test_a_gate_lets_everything_through_at_first() -> None:
    made = transform(in_channels=2, num_channels=3, starting_gains=[1.0], size=(4, 4), block=2, gate_width=2)
    encoder = made.eval().encoder[-1]
    given = torch.randn(2, 2, 4, 4)
    assert torch.allclose(made.latent(given), encoder.linear(given))


@pytest.mark.parametrize("spoilt", [torch.full((4, 3, 4, 4), 2.0), torch.full((4, 3, 4, 4), float("nan"))])
def test_features_that_say_nothing_are_refused(spoilt: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="not finite, or the same everywhere"):
        fit_transform(spoilt, Tail(), TASK, OPTIONS)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"steps": (0.0,)}, r"steps are \(0.0,\), expected positive"),
        ({"steps": (1.0, 8.0)}, "each smaller than the one before"),
        ({"keeps": ()}, r"keeps are \(\), expected shares between 0 and 1"),
        ({"keeps": (0.5, 1.0)}, "expected shares between 0 and 1"),
        ({"keeps": (0.8, 0.6)}, "each larger than the one before"),
        ({"steps": tuple(range(17, 0, -1))}, "17 levels were asked for by steps or keeps, at most 16 are taken"),
        ({"keeps": tuple(step / 20 for step in range(1, 18))}, "17 levels were asked for"),
        ({"block": 0}, "block is 0, expected 1 or more"),
        ({"gate_width": -1}, "gate_width is -1, expected 0 or more"),
    ],
)
def test_options_that_cannot_be_are_refused(changes: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        TransformOptions(**changes)
