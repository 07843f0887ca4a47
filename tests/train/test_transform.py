"""A split that is fitted and not trained: what it sends, what it leaves out, and how its steps are found."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="fitting needs the cloud extra")

from torch import nn  # noqa: E402

from littoral.core.tasks import Classification  # noqa: E402
from littoral.models.architectures import transform  # noqa: E402
from littoral.models.bottleneck import make_split_tail, split_tail_kwargs, to_split_tail  # noqa: E402
from littoral.train.transform import TransformOptions, fit_transform, sensitivity_of  # noqa: E402

TASK = Classification(num_classes=2)
OPTIONS = TransformOptions(num_channels=12, block=2, steps=(8.0, 1.0), decoder_width=4)


class Tail(nn.Module):
    """Answers by the first channel alone; the second is as large and says nothing, the third never changes."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([4.0, 0.0, 0.0]))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        score = (features * self.weight[:, None, None]).sum(1).mean((1, 2))
        return torch.stack([score, -score], 1)


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


def test_without_rounding_everything_comes_back_even_at_edges_that_are_no_whole_block() -> None:
    given = features(height=5, width=7)
    options = dataclasses.replace(OPTIONS, steps=(1e-4,))
    fitted = fit_transform(given, Tail(), TASK, options).bottleneck
    level = torch.zeros(len(given), dtype=torch.long)
    back = fitted.decode(fitted.symbols(fitted.latent(given), level).float(), level)
    assert back.shape == given.shape
    assert torch.allclose(back[:, 0], given[:, 0], atol=1e-3)


def test_noise_that_no_answer_sees_makes_a_channel_insensitive() -> None:
    sensitivity = sensitivity_of(features(8), Tail(), TASK)
    assert sensitivity[0] > 1e3 * sensitivity[1]
    assert (sensitivity > 0).all()


def test_steps_are_the_coarsest_that_keep_the_answers() -> None:
    said: list[str] = []
    options = dataclasses.replace(OPTIONS, steps=None, keeps=(0.8, 0.96), answered_frames=64)
    fitted = fit_transform(features(), Tail(), TASK, options, progress=said.append).bottleneck
    cloud, kept = to_split_tail(fitted, Tail()), []
    with torch.no_grad():
        own = Tail()(features()).argmax(1)
        for level in range(2):
            levels = torch.full((64,), level)
            answers = cloud(fitted.symbols(fitted.latent(features()), levels).float(), levels).argmax(1)
            kept.append(float((answers == own).float().mean()))
    assert 0.8 <= kept[0] < 0.96 <= kept[1]
    assert fitted.gains[0, 0] < fitted.gains[1, 0]
    assert [line for line in said if "keep 0.96 of 64" in line]


def test_what_too_few_channels_cannot_keep_is_not_asked_for() -> None:
    """Else the finest level would round hardly at all, for megabytes."""
    options = dataclasses.replace(OPTIONS, num_channels=1, steps=None, keeps=(0.999,), answered_frames=64)
    given = features()
    given[:, 0] += torch.randn((64, 6, 6), generator=torch.Generator().manual_seed(1))  # of no direction most
    fitted = fit_transform(given, Tail(), TASK, options).bottleneck
    assert fitted.gains[0, 0] < 8


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


@pytest.mark.parametrize("changes", [{"steps": (0.0,)}, {"keeps": ()}, {"keeps": (1.0,)}, {"block": 0}])
def test_options_that_cannot_be_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"expected shares below 1|every number of it is positive"):
        TransformOptions(**changes)
