"""Deadzones of a split's levels: one is taken if it spares more than its loss is worth by the levels' own price."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from torch import Tensor, nn

from littoral.models.bottleneck import Bottleneck, to_split_tail
from littoral.models.entropy import FactorisedPrior
from littoral.train.deadzones import Trial, best_size, choose_deadzones, fit_codec, measured_size, price_of_loss
from littoral.train.tables import DeadzoneOptions, TableOptions

USUAL = TableOptions(contexts=None)
"""Tables per channel are enough here, and quicker."""
NONE = dataclasses.replace(USUAL, deadzones=())
PLAIN = (Trial(60.0, 0.5), Trial(100.0, 0.1), Trial(200.0, 0.05))


def test_a_loss_is_worth_what_the_step_from_the_next_coarser_level_costs() -> None:
    assert [price_of_loss(PLAIN, level) for level in range(3)] == pytest.approx([100, 100, 2000])
    assert price_of_loss((Trial(60.0, 0.5), Trial(60.0, 0.1)), 1) is None, "a finer level that costs nothing"
    assert price_of_loss((Trial(60.0, 0.5), Trial(100.0, 0.5)), 1) is None, "and one that gives nothing"


def tried(spared: float, loss: float, *sizes: float) -> dict[float, Trial]:
    """Of a level of 100 bytes: what deadzones spare is so many times their size, their loss of its square."""
    return {size: Trial(100.0 - spared * size, 0.1 + loss * size**2) for size in sizes}


@pytest.mark.parametrize("price", [100, 1000], ids=str)
def test_the_size_is_where_one_more_byte_spared_costs_as_much_loss_as_a_byte_is_worth(price: float) -> None:
    size, spared = best_size(PLAIN[1], tried(200, 10.0, 0.1, 0.2), price)
    assert size == pytest.approx(200 / (2 * price * 10.0), abs=0.005)
    assert spared == pytest.approx(200 * size - price * 10.0 * size**2)


def test_what_costs_nothing_is_taken_as_far_as_it_was_tried_and_what_spares_nothing_is_not() -> None:
    assert best_size(PLAIN[1], tried(200, 0.0, 0.1, 0.2), 100) == pytest.approx((0.2, 40))
    assert best_size(PLAIN[1], tried(-50, 0.0, 0.1, 0.2), 100) == (0.0, 0.0)
    assert best_size(PLAIN[1], tried(200, float("nan"), 0.1, 0.2), 100) == (0.0, 0.0)


COARSE = Trial(14.0, 0.0111)
"""A level measured on frames, its whole values few; with what deadzones made of it, at 509 bytes for each of loss."""
COLLAPSED = {0.07: Trial(8.09, 0.0308), 0.1: Trial(8.03, 0.0317), 0.2: Trial(8.0, 0.0316)}


def test_a_size_that_was_never_tried_is_not_taken_where_its_own_trial_says_that_it_costs() -> None:
    tried_first = {size: COLLAPSED[size] for size in (0.1, 0.2)}
    aimed, spared = best_size(COARSE, tried_first, 509.0)
    assert (aimed, spared) == (0.07, pytest.approx(3.3, abs=0.1)), "so say the laws"
    assert measured_size(COARSE, COLLAPSED, 509.0, aimed=aimed, least=0.14) == 0.0


@pytest.mark.parametrize(
    ("losses", "taken"),
    [((0.1, 0.1, 0.1), 0.07), ((0.5, 0.1, 0.12), 0.1), ((0.5, 0.2, 0.12), 0.2), ((0.5, 0.5, float("nan")), 0.0)],
    ids=["aimed", "first-tried", "second-tried", "none"],
)
def test_what_is_aimed_at_is_taken_if_it_pays_and_else_the_best_that_was_tried(
    losses: tuple[float, float, float], taken: float
) -> None:
    measured = {size: Trial(90.0, loss) for size, loss in zip((0.07, 0.1, 0.2), losses, strict=True)}
    assert measured_size(PLAIN[1], measured, 100, aimed=0.07, least=1.0) == taken
    assert measured_size(PLAIN[1], measured, 100, aimed=0.07, least=11.0) == 0.0, "nothing spares so much"


def bottleneck_of(*gains: float, channels: int = 2) -> Bottleneck:
    """Whose encoder and decoder change nothing."""
    prior = FactorisedPrior(len(gains), channels)
    return Bottleneck(
        nn.Identity(),
        nn.Identity(),
        prior,
        num_channels=channels,
        num_levels=len(gains),
        starting_gains=gains,
    ).eval()


class Sum(nn.Module):
    """Of a frame's features, each weighed by what ``of`` makes of it: ``(B, 1)``."""

    def __init__(self, of: str) -> None:
        super().__init__()
        self.of = of

    def forward(self, features: Tensor) -> Tensor:
        if self.of == "large":  # what is little says nothing
            features = features * (features.abs() > 3)
        if self.of == "sign":
            features = features.sign() * (features.abs() > 0.45)
        return features.flatten(1)[:, :, None]


def squared(outputs: Tensor, reference: Tensor, targets: Tensor | None) -> Tensor:
    """A distortion."""
    assert targets is None, "nothing is known of the frames"
    return (outputs - reference).square().flatten(1).mean(1)


def sparse_latents(num: int = 300) -> np.ndarray:
    """Most values are little, some are large: a source for which a deadzone is made."""
    rng = np.random.default_rng(0)
    little, large = rng.normal(0, 0.6, (num, 2, 4, 4)), rng.choice([-6.0, 6.0], (num, 2, 4, 4))
    return np.where(rng.random((num, 2, 4, 4)) < 0.1, large + rng.normal(0, 1, little.shape), little).astype(np.float32)


def chosen(bottleneck: Bottleneck, of: str, options: TableOptions = USUAL, **told: object) -> tuple[float, ...]:
    tail = to_split_tail(bottleneck, Sum(of))
    return choose_deadzones(bottleneck, tail, sparse_latents(), squared, options, **told)  # type: ignore[arg-type]


def test_where_small_values_say_nothing_the_largest_is_taken_and_where_they_do_none() -> None:
    said: list[str] = []
    assert chosen(bottleneck_of(0.25, 1.0), "large", progress=said.append)[1] == 0.2
    assert "by 300 source frames" in said[0]
    assert "a deadzone of 0.2 spares" in said[2]
    uniform = np.random.default_rng(1).uniform(-8, 8, (300, 2, 4, 4)).astype(np.float32)
    bottleneck = bottleneck_of(0.25, 1.0)
    found = choose_deadzones(bottleneck, to_split_tail(bottleneck, Sum("all")), uniform, squared, USUAL)
    assert found == (), "of a level source no value is likelier for being nearer to 0, so nothing is spared"


def test_a_level_that_a_deadzone_silences_gets_none_and_what_was_measured_is_said() -> None:
    """What the coarse level sends lies a little beyond a half: at 0.1 it is gone, and no more can be lost."""
    rng = np.random.default_rng(0)
    sent = rng.choice([-1.0, 1.0], (300, 2, 4, 4)) * rng.uniform(0.47, 0.58, (300, 2, 4, 4))
    latents = np.where(rng.random(sent.shape) < 0.2, sent, rng.uniform(-0.2, 0.2, sent.shape)).astype(np.float32)
    bottleneck, said = bottleneck_of(1.0, 6.0), list[str]()
    tail = to_split_tail(bottleneck, Sum("sign"))
    found = choose_deadzones(bottleneck, tail, latents, squared, USUAL, progress=said.append)
    assert found == (0.0, 0.2)
    assert "no deadzone pays; a deadzone of 0.03 spares -5" in said[1]
    assert "a deadzone of 0.2 spares 0.5" in said[2]


def test_a_saving_below_the_least_one_is_none() -> None:
    dear = dataclasses.replace(USUAL, choice=DeadzoneOptions(least_saving=0.9))
    assert chosen(bottleneck_of(0.25, 1.0), "large", dear) == ()


def test_a_single_level_has_no_price_and_no_deadzone() -> None:
    assert chosen(bottleneck_of(1.0), "large") == ()


def test_what_is_given_is_taken_and_nothing_is_tried() -> None:
    bottleneck, latents = bottleneck_of(0.25, 1.0), sparse_latents()

    def never(*_args: object) -> Tensor:
        raise AssertionError("a trial")

    for given in ((0.1, 0.3), ()):
        codec = fit_codec(bottleneck, nn.Identity(), latents, never, dataclasses.replace(USUAL, deadzones=given))
        assert codec.deadzones == pytest.approx(given)


def test_losses_are_those_of_held_back_frames_where_there_are_some_and_bytes_and_tables_of_the_others() -> None:
    bottleneck, latents = bottleneck_of(0.25, 1.0), sparse_latents()
    tail = to_split_tail(bottleneck, Sum("large"))
    assert fit_codec(bottleneck, tail, latents, squared, USUAL).deadzones[1] > 0
    # At the finer level every second value is a 4 without a deadzone, and with one a 3, which says nothing.
    held = np.random.default_rng(1).choice([3.55, 5.0], latents[:20].shape).astype(np.float32)
    by_held = fit_codec(bottleneck, tail, latents, squared, USUAL, held_NCHW=held)
    assert by_held.deadzones[0] > 0, "held frames alone would have no bytes to spare"
    assert by_held.deadzones[1] == 0
    fixed = dataclasses.replace(USUAL, deadzones=by_held.deadzones)
    assert by_held.tables.digest == fit_codec(bottleneck, tail, latents, squared, fixed).tables.digest


def test_the_codec_that_is_fitted_takes_fewer_bytes_than_one_that_rounds_to_the_nearest() -> None:
    """With tables by neighbours, as a build makes them."""
    bottleneck, latents = bottleneck_of(0.25, 1.0), sparse_latents()
    tail = to_split_tail(bottleneck, Sum("large"))
    sizes = [
        sum(len(codec.encode(latent, 1)) for latent in latents)
        for codec in (
            fit_codec(bottleneck, tail, latents, squared, TableOptions()),
            fit_codec(bottleneck, tail, latents, squared, TableOptions(deadzones=())),
        )
    ]
    assert sizes[0] < 0.95 * sizes[1]


@pytest.mark.parametrize("sizes", [(0.1,), (0.1, 0.1), (0.0, 0.1), (0.1, 0.5)], ids=str)
def test_sizes_that_make_no_sense_are_refused(sizes: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"two or more above 0 and below 0\.5"):
        DeadzoneOptions(sizes=sizes)
    with pytest.raises(ValueError, match="least_saving"):
        DeadzoneOptions(least_saving=1.0)
