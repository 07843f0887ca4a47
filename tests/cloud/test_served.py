"""The student as devices serve it: near the source under its statistics, far from it under the frames' own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from littoral.bundle import Bundle
from littoral.cloud.adapt import Worker
from littoral.cloud.jobs import AdaptConfig
from littoral.cloud.served import served_logits, world_share
from littoral.core.drift import StatisticsConfig

OWN_ALONE, SOURCE_ALONE = StatisticsConfig(half_trust_factor=0.0), StatisticsConfig(half_trust_factor=1e9)


@pytest.fixture(scope="module")
def tiny(tiny_bundle: Path) -> Bundle:
    return Bundle.open(tiny_bundle, require_cloud=True)


@pytest.fixture(scope="module")
def worker(tiny: Bundle) -> Worker:
    return Worker(tiny, AdaptConfig(precision="float32"))


def test_a_far_world_has_more_of_its_own_than_the_sources(tiny: Bundle, worker: Worker) -> None:
    frames = tiny.probe[0]
    near, far = (world_share(worker, x, StatisticsConfig()) for x in (frames, (frames // 4 + 190).astype(np.uint8)))
    assert 0 <= near < 0.3 < far < 1


def test_of_a_bundle_that_does_not_say_what_the_sources_world_looks_like_all_is_its_own(
    tiny: Bundle, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert world_share(worker, tiny.probe[0], StatisticsConfig()) < 1
    monkeypatch.setitem(worker.bundle.__dict__, "source_world", None)
    assert world_share(worker, tiny.probe[0], StatisticsConfig()) == 1


def test_at_its_ends_it_is_the_source_and_the_batch(tiny: Bundle, worker: Worker) -> None:
    frames, affine = tiny.probe[0], tiny.source_affine
    source, batch = worker.source_logits(frames, affine), worker.logits(frames, role="student", affine=affine)
    np.testing.assert_allclose(served_logits(worker, frames, affine, config=SOURCE_ALONE), source, atol=1e-3)
    np.testing.assert_allclose(served_logits(worker, frames, affine, config=OWN_ALONE), batch, atol=1e-3)
    assert np.abs(source - batch).max() > 0.1


def test_it_leaves_the_worker_as_it_was(tiny: Bundle, worker: Worker) -> None:
    frames, affine = tiny.probe[0], tiny.source_affine
    before = worker.source_logits(frames, affine)
    served_logits(worker, frames, affine)
    assert worker.source_logits(frames, affine).tobytes() == before.tobytes()
