"""Tables for the routing bench's tests: one worked by hand, one drawn from a seed."""

from __future__ import annotations

import numpy as np

from littoral.bench.routing.tables import CloudWay, FrameTable
from littoral.bench.routing.traces import LinkTrace
from littoral.core.route_words import Way
from littoral.core.switcher import all_switch_features

WEBP, SPLIT = 0, 1


def by_hand() -> FrameTable:
    """Four frames, one exit after 10 ms, the whole network after 30; a picture of 10,000 bytes, a payload of 1,000.

    frame   exit 0 (sure)   whole (sure)   picture   payload
    0       right (0.95)    right          right     right
    1       wrong (0.4)     right (0.9)    right     right
    2       wrong (0.3)     wrong (0.5)    right     right
    3       wrong (0.9)     wrong (0.4)    wrong     right
    """
    return FrameTable(
        labels_N=np.array([1, 1, 1, 1]),
        answers_NP=np.array([[1, 1], [0, 1], [0, 0], [0, 0]]),
        confidences_NP=np.array([[0.95, 0.97], [0.4, 0.9], [0.3, 0.5], [0.9, 0.4]]),
        cloud_answers_NW=np.array([[1, 1], [1, 1], [1, 1], [0, 1]]),
        bytes_NW=np.array([[10_000, 1_000]] * 4),
        ways=(
            CloudWay(name="webp", way=Way(split=1, level=0, point=0, num_bytes=10_000, encode_ms=2), cloud_ms=5),
            CloudWay(name="split", way=Way(split=0, level=0, point=1, num_bytes=1_000, encode_ms=1), cloud_ms=5),
        ),
        step_ms=(10.0, 20.0),
    )


def plain_trace(bytes_per_ms: float = 1000.0, one_way_ms: float = 10.0, loss: float = 0.0) -> LinkTrace:
    """A link that does not change."""
    one = np.ones(1)
    return LinkTrace(
        name="plain",
        time_ms=0 * one,
        up_kbit_s=8 * bytes_per_ms * one,
        down_kbit_s=1e9 * one,
        one_way_ms=one_way_ms * one,
        loss=loss * one,
        cloud_queue_ms=0 * one,
        duration_ms=1000.0,
    )


def drawn(n: int, seed: int) -> FrameTable:
    """Hard frames are got wrong by the device, most of them not by the cloud; three levels and a picture."""
    rng = np.random.default_rng(seed)
    labels, hard = rng.integers(0, 6, n), rng.random(n) ** 1.5
    probabilities = []
    for skill in (2.5, 4.0, 6.5):
        z = 0.9 * rng.standard_normal((n, 6))
        z[np.arange(n), labels] += skill * (1 - hard)
        p = np.exp(z - z.max(axis=1, keepdims=True))
        probabilities.append(p / p.sum(axis=1, keepdims=True))
    answers = np.stack([p.argmax(axis=1) for p in probabilities], axis=1)
    ways, cloud, sizes = [], [], []
    for level, (size, drop) in enumerate(((300, 0.25), (900, 0.15), (2000, 0.1), (5000, 0.1))):
        picture = level == 3
        way = Way(
            split=int(picture), level=0 if picture else level, point=0 if picture else 1, num_bytes=size, encode_ms=1
        )
        ways.append(CloudWay(name="webp" if picture else f"split/{level}", way=way, cloud_ms=4))
        right = rng.random(n) < 0.99 - drop * hard**2
        cloud.append(np.where(right, labels, (labels + 1) % 6))
        sizes.append(np.maximum(rng.normal(size, 0.12 * size, n), 50).astype(np.int64))
    return FrameTable(
        labels_N=labels,
        answers_NP=answers,
        confidences_NP=np.stack([p.max(axis=1) for p in probabilities], axis=1),
        features_NPF=all_switch_features(np.stack(probabilities, axis=1)),
        cloud_answers_NW=np.stack(cloud, axis=1),
        bytes_NW=np.stack(sizes, axis=1),
        ways=tuple(ways),
        step_ms=(4.0, 6.0, 12.0),
    )
