"""Which units there are: what is compared has the same budget, and what is promised of networks is counted."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from littoral.bench.rows import chosen_by_name
from littoral.bench.split.local_only import SHAPES, local_network, macs_of, size_for
from littoral.bench.split.make import _MAKERS, _MODULES, modules_of
from littoral.bench.split.plan import (
    ENCODER_MACS,
    INPUTS,
    LOCAL,
    NETWORKS,
    PIXELS,
    SEGMENT,
    SEGMENT_MACS,
    SIDE_BY_SIDE_EPOCHS,
    full_plan,
    quick_plan,
)
from littoral.bench.split.rates import TRAINED
from littoral.bench.split.steps import steps_taken
from littoral.bench.split.table import SplitTable
from littoral.bench.split.training import _METHODS, steps_of, tables_of
from littoral.bench.split.unit import SplitUnit
from littoral.core.codec import HEADER_BYTES
from littoral.models.architectures import calibrate_8_bit, channel_reduction, product
from littoral.models.bottleneck import count_macs
from littoral.models.parts import head_of
from littoral.models.zoo import resnet20
from littoral.train.tables import TableOptions, build_codec


@pytest.mark.parametrize("given", INPUTS)
def test_the_plan_s_macs_are_those_of_its_networks(given: str) -> None:
    shape = (3, 32, 32)
    if given != PIXELS:
        head = head_of(resnet20(), given)
        assert count_macs(head, shape) == SEGMENT_MACS[given]
        shape = (32, 16, 16)
    assert count_macs(product(**NETWORKS[given]).encoder, shape) == ENCODER_MACS[given]
    assert ENCODER_MACS[given] <= 0.3 * count_macs(resnet20(), (3, 32, 32))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_network_that_sends_nothing_has_the_work_that_it_is_said_to_have(shape: str) -> None:
    size = size_for(ENCODER_MACS[PIXELS], shape)  # type: ignore[arg-type]
    assert size is not None
    assert 0.9 * ENCODER_MACS[PIXELS] < size.macs <= ENCODER_MACS[PIXELS]
    assert count_macs(local_network(num_classes=10, **size.kwargs), (3, 32, 32)) == size.macs
    assert size_for(macs_of(width=2, blocks=1, stride=2) - 1, "halved") is None


def budgets(plan: list[SplitUnit], *, side_by_side: bool) -> set[tuple[str, int, int, int]]:
    trainings = [unit.training for unit in plan if (unit.kind == "compared") is side_by_side]
    return {(t.teacher, t.frames, t.epochs, t.views) for t in trainings if t is not None}


def test_what_is_held_against_one_another_has_the_same_budget() -> None:
    assert budgets(full_plan(), side_by_side=False) == {("resnet56", 50_000, 20, 8)}
    assert budgets(full_plan(), side_by_side=True) == {("resnet56", 50_000, SIDE_BY_SIDE_EPOCHS, 4)}
    assert len({*budgets(quick_plan(), side_by_side=False), *budgets(quick_plan(), side_by_side=True)}) == 1
    for asked, short in ((7, SIDE_BY_SIDE_EPOCHS), (2, 2)):
        assert {budget[2] for budget in budgets(full_plan(epochs=asked), side_by_side=False)} == {asked}
        assert {budget[2] for budget in budgets(full_plan(epochs=asked), side_by_side=True)} == {short}


def test_side_by_side_there_is_every_method_and_the_product_has_what_a_single_rate_is_held_against() -> None:
    trained = [unit.training for unit in full_plan() if unit.kind == "compared" and unit.training is not None]
    assert {training.method for training in trained} == set(_METHODS) - {LOCAL}
    whole = next(training for training in trained if (training.method, training.variant) == ("product", SEGMENT))
    singles = [training for training in trained if training.method == "product_single"]
    assert [training.options["rate_weights"] for training in singles] == [
        [weight] for weight in whole.options["rate_weights"]
    ]
    for training in singles:
        assert {**training.options, "rate_weights": 0, "starting_gains": 0} == {
            **whole.options, "rate_weights": 0, "starting_gains": 0,
        }  # fmt: skip


@pytest.mark.parametrize("method", sorted(_METHODS))
def test_the_same_epochs_are_as_many_steps_but_for_published_batches(method: str) -> None:
    training = next(u.training for u in full_plan() if u.training is not None and u.training.method == method)
    options = {name: value for name, value in training.options.items() if name not in ("segment", "cut")}
    _, recipe = _METHODS[method](training, options)
    half = training.epochs // 2
    halves = half * (50_000 // 64) + half * (50_000 // 128)
    assert steps_of(recipe, training.frames) == (
        halves if method.startswith("parity") else training.epochs * (50_000 // 64)
    )


@pytest.mark.parametrize(
    ("method", "stages", "shape"),
    [
        ("parity", ["layer2", "layer3"], (1, 32, 16, 16)),
        ("parity_first_stage", ["layer1", "layer2", "layer3"], (1, 16, 32, 32)),
    ],
)
def test_entropic_student_mimics_every_stage_from_its_cut_on(
    method: str, stages: list[str], shape: tuple[int, ...]
) -> None:
    training = next(u.training for u in full_plan() if (u.kind, u.method) == ("compared", method) and u.training)
    options = {name: value for name, value in training.options.items() if name != "cut"}
    bottleneck, recipe = _METHODS[method](training, options)
    assert list(recipe.phases[0].loss.features) == stages
    level = torch.zeros(1, dtype=torch.long)
    assert bottleneck(torch.zeros(1, 3, 32, 32), level).features.shape == shape


@pytest.mark.parametrize(("method", "steps"), [("product", 15_620), ("parity", 11_710), ("local_only", 7_800)])
def test_a_row_that_is_older_than_its_steps_has_those_of_its_time(method: str, steps: int) -> None:
    training = next(u.training for u in full_plan() if u.kind != "compared" and u.training and u.method == method)
    assert steps_taken(training, {}) == steps
    assert steps_taken(training, {"steps": 7}) == 7


def test_a_budget_that_leaves_a_stage_without_an_epoch_is_refused() -> None:
    with pytest.raises(ValueError, match="1 epochs were asked for"):
        full_plan(epochs=1)


def test_no_unit_is_planned_twice_and_quick_has_one_of_every_kind() -> None:
    for plan in (full_plan(), quick_plan()):
        assert len({unit.key for unit in plan}) == len(plan)
        assert {unit.kind for unit in plan} == set(_MAKERS) == set(_MODULES)


def test_there_is_a_network_that_sends_nothing_for_each_product_s_device() -> None:
    budgets = {unit.options["budget_macs"] for unit in full_plan() if unit.method == LOCAL}
    assert {ENCODER_MACS[given] + SEGMENT_MACS[given] for given in INPUTS} <= budgets


def test_units_are_chosen_by_method_and_variant_or_also_by_kind() -> None:
    plan = full_plan()
    assert {unit.kind for unit in chosen_by_name(plan, ["*/pixels"])} == {
        "split", "compared", "timing", "leakage", "robust",
    }  # fmt: skip
    assert {unit.name for unit in chosen_by_name(plan, ["split/product/pixels"])} == {
        f"split product/pixels 20 epochs seed {seed}" for seed in (0, 1, 2)
    }
    assert chosen_by_name(plan, []) == plan


def test_a_codec_s_numbers_do_not_hang_on_how_a_split_is_trained() -> None:
    codec, split = (next(unit for unit in quick_plan() if unit.kind == kind) for kind in ("codec", "split"))
    assert SplitTable().fingerprint_of(codec) != SplitTable().fingerprint_of(split)
    assert "littoral.bench.split.training" in modules_of(split)


def test_the_product_s_deadzones_are_chosen_as_a_build_chooses_them_and_its_rivals_have_none() -> None:
    tables = {unit.name: tables_of(unit.training) for unit in full_plan() if unit.kind in TRAINED}
    for name, options in tables.items():
        expected = TableOptions() if " product/" in name else TableOptions(deadzones=())
        if not name.startswith("compared channel_reduction/"):
            assert options == expected, name
    assert tables["split product/layer2.1 20 epochs seed 0"].deadzones is None, "to be chosen"


def test_channel_reduction_has_no_entropy_coder() -> None:
    (unit,) = (unit for unit in full_plan() if unit.method == "channel_reduction" and unit.variant == "2-channels")
    bottleneck = channel_reduction(num_channels=2)
    latents = np.random.default_rng(0).normal(0, 1, (40, 2, 8, 8)).astype(np.float32)
    calibrate_8_bit(bottleneck, torch.from_numpy(latents))
    latents -= bottleneck.shift.numpy()[:, None, None]
    codec = build_codec(bottleneck, latents, tables_of(unit.training))
    sizes = {len(codec.encode(latent, 0)) for latent in latents}
    assert len(sizes) == 1, "all frames cost the same"
    assert 128 <= sizes.pop() <= 128 + HEADER_BYTES + 4
