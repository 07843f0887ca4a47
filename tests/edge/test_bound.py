"""What runs in memory that stays gives what runs in new memory, and whoever keeps an answer has it for good."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the bundle is built here")

from exit_bundles import source_like

from littoral.bundle import Bundle
from littoral.bundle.exits import ExitHeads
from littoral.edge.device import Device
from littoral.edge.device_config import DeviceConfig
from littoral.edge.exit_config import ExitConfig
from littoral.edge.exit_parts import ExitParts
from littoral.edge.session import Model, SessionConfig

FRAMES = source_like(6, seed=5)[0]


@pytest.fixture(scope="module")
def bundle(exit_bundle: Path) -> Bundle:
    return Bundle.open(exit_bundle)


@pytest.fixture(scope="module")
def parts(bundle: Bundle) -> ExitParts:
    return ExitParts(bundle, ExitHeads.open(bundle), SessionConfig())


def test_each_segment_and_stem_gives_the_same_bits_in_memory_that_stays(bundle: Bundle, parts: ExitParts) -> None:
    model = Model(bundle)
    path, end = parts.path(model), len(bundle.manifest.segments)
    for frame in [*FRAMES, FRAMES[0]]:
        new = stays = frame[None]
        position = 0
        for i, placed in enumerate(parts.all):
            new, stays = model.through(position, placed.after, new), path.through(position, placed.after, stays)
            position = placed.after
            np.testing.assert_array_equal(stays, new)
            np.testing.assert_array_equal(path.pooled(i, stays), placed.pooled(new))
            np.testing.assert_array_equal(path.features[placed.columns], placed.pooled(new))
        np.testing.assert_array_equal(path.through(position, end, stays), model.through(position, end, new))


def test_what_it_gave_is_overwritten_and_what_the_model_gave_is_not(bundle: Bundle, parts: ExitParts) -> None:
    model = Model(bundle)
    bound = model.for_one_frame()
    bound.through(0, 1, FRAMES[:1])
    first, kept = bound.through(0, 1, FRAMES[:1]), model.through(0, 1, FRAMES[:1])
    before = first.copy()
    assert bound.through(0, 1, FRAMES[1:2]) is first
    model.through(0, 1, FRAMES[1:2])
    assert (first != before).any()
    np.testing.assert_array_equal(kept, before)


def test_a_frame_that_is_not_laid_out_in_order_gives_the_same(bundle: Bundle, parts: ExitParts) -> None:
    bound, mirrored = Model(bundle).for_one_frame(), FRAMES[:1, :, ::-1]
    assert not mirrored.flags.c_contiguous
    np.testing.assert_array_equal(bound.through(0, 1, mirrored), Model(bundle).through(0, 1, mirrored.copy()))


def test_an_answer_that_is_kept_does_not_change_with_later_frames(bundle: Bundle) -> None:
    with Device(bundle, config=DeviceConfig(adapt_statistics=False, exits=ExitConfig())) as device:
        answers = [device.infer(frame) for frame in FRAMES]
    for frame, answer in zip(FRAMES, answers, strict=True):
        np.testing.assert_array_equal(answer.logits, Model(bundle).run(frame[None])[0])


def test_another_model_is_run_in_memory_of_its_own(bundle: Bundle, parts: ExitParts) -> None:
    gamma = bundle.manifest.norm_layers[0].gamma
    other = Model(bundle, {gamma: 2 * bundle.weights[gamma]}, version=1)
    with Device(bundle, config=DeviceConfig(adapt_statistics=False, exits=ExitConfig())) as device:
        first = device.infer(FRAMES[0])
        device._maintenance.model = other
        second = device.infer(FRAMES[0])
    np.testing.assert_array_equal(first.logits, Model(bundle).run(FRAMES[:1])[0])
    np.testing.assert_array_equal(second.logits, other.run(FRAMES[:1])[0])
    assert (first.logits != second.logits).any()
