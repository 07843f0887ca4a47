"""What calibrates is never what is played: the frames of a run are halved, whatever stream is made of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from littoral.bench.exits.bundles import PLACES
from littoral.bench.routing.halves import halves
from littoral.bench.routing.measured import SHIFTS, WayAnswers
from littoral.bench.routing.timed import Timed
from littoral.bench.split.material import STUDENT

FRAMES, POINTS, CLASSES = 60, len(PLACES[STUDENT]) + 1, 10
SPENT = Timed(
    whole_ms=6.0,
    segment_ms=(1.0,) * POINTS,
    exit_ms=(0.1,) * (POINTS - 1),
    encode_ms={"split layer2.1 0": 0.5, "png": 0.5},
    cloud_ms={"split layer2.1 0": 1.0, "png": 1.0},
    machine={},
)


def material() -> Any:
    """Frames whose labels are their own numbers."""
    rng = np.random.default_rng(0)
    probabilities = {world: rng.dirichlet(np.ones(CLASSES), (FRAMES, POINTS)) for world in ("clean", "shifted")}
    came = WayAnswers(answers_N=np.zeros(FRAMES, np.int64), bytes_N=np.full(FRAMES, 100))
    return SimpleNamespace(
        config=SimpleNamespace(frames=FRAMES, inputs=("layer2.1",)),
        labels=np.arange(FRAMES),
        groups=np.arange(FRAMES) % (len(SHIFTS) + 1) - 1,
        device=lambda world: probabilities[world],
        split_way=lambda world, given: [came],
        picture_way=lambda world, codec, quality: came,
        pictures=lambda: [("png", 0)],
    )


@pytest.mark.parametrize("stream", ["clean", "drift"])
@pytest.mark.parametrize("seed", [0, 1])
def test_no_frame_that_calibrates_is_in_the_stream(stream: str, seed: int) -> None:
    made = halves(material(), SPENT, stream=stream, seed=seed, device_ms=8.0)
    for exits, calibration in made.calibration.items():
        fitted, played = set(calibration.labels_N.tolist()), set(made.stream[exits].labels_N.tolist())
        assert len(fitted) == len(calibration.labels_N) == FRAMES // 2
        assert played == set(range(FRAMES)) - fitted
