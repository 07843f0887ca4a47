"""What we send: unsure answers, pictures unlike those sent before, within a budget; alike at batch 1 and 64."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from littoral.core.arrays import FloatArray, Frame
from littoral.core.budget import BudgetConfig
from littoral.core.novelty import Descriptor, SentMemory
from littoral.core.product import ProductConfig, ProductSelector, upload_score
from littoral.core.selection import entropy, softmax

SHAPE = (32, 32, 3)
RICH = BudgetConfig(bytes_per_1000_frames=1e9, burst_bytes=1e9)


def pictures(count: int, *, seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> Frame:
    """Unlike pictures: smooth, each with its own colours."""
    rng = np.random.default_rng(seed)
    height, width, channels = shape
    coarse = rng.integers(20, 236, (count, 4, 4, channels)).astype(np.float32)
    return coarse.repeat(-(-height // 4), 1).repeat(-(-width // 4), 2)[:, :height, :width].astype(np.uint8)


def camera(frame: Frame, count: int, *, noise: float, seed: int = 0) -> Frame:
    """So many frames of a camera that does not move."""
    rng = np.random.default_rng(seed)
    return np.clip(frame + rng.normal(0, noise, (count, *frame.shape)), 0, 255).astype(np.uint8)


def unsure(count: int, classes: int = 10, *, seed: int = 0) -> FloatArray:
    return np.random.default_rng(seed).normal(0, 1, (count, classes)).astype(np.float32)


def choose(
    selector: ProductSelector, frames: Frame, logits: FloatArray, *, batch: int = 1, scene: int = 0
) -> np.ndarray:
    nats, out = entropy(softmax(logits)), []
    for at in range(0, len(frames), batch):
        part = slice(at, at + batch)
        kept = selector.select(frames[part], logits[part], nats[part], scene=scene)
        for _ in range(int(kept.sum())):
            selector.settle(1_500)
        out.append(kept)
    return np.concatenate(out)


# The score.


def test_the_score_by_hand() -> None:
    config = ProductConfig(entropy_exponent=2.0, certainty_exponent=1.0, novelty_exponent=0.5)
    assert upload_score(0.5 * math.log(10), 10, 0.25, config) == pytest.approx(0.5**2 * 0.5 * 0.5)


@given(st.floats(0, 8), st.integers(2, 1000), st.floats(0, 1), *[st.floats(0, 4)] * 3)
def test_the_score_lies_between_0_and_1(
    nats: float, classes: int, novelty: float, by_entropy: float, by_certainty: float, by_novelty: float
) -> None:
    config = ProductConfig(entropy_exponent=by_entropy, certainty_exponent=by_certainty, novelty_exponent=by_novelty)
    assert 0 <= upload_score(min(nats, math.log(classes)), classes, novelty, config) <= 1


@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_the_same_share_of_ln_k_is_worth_the_same_whatever_the_number_of_classes(classes: int) -> None:
    assert upload_score(0.3 * math.log(classes), classes, 1.0, ProductConfig()) == pytest.approx(0.3)


@pytest.mark.parametrize(
    "wrong",
    [
        {"entropy_min_fraction": 0.5, "entropy_max_fraction": 0.5},
        {"entropy_max_fraction": 1.1},
        {"entropy_exponent": -1.0},
        {"novelty_exponent": math.nan},
        {"novelty_distance": 0.0},
        {"duplicate_distance": -0.1},
        {"answer_weight": math.inf},
        {"remembered_frames": 0},
    ],
    ids=str,
)
def test_a_configuration_without_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="got"):
        ProductConfig(**wrong)  # type: ignore[arg-type]


def test_one_class_is_nothing_to_choose_among() -> None:
    with pytest.raises(ValueError, match="at least 2 classes, got 1"):
        ProductSelector(1, SHAPE)


# Novelty.


@pytest.mark.parametrize("shape", [(32, 32, 3), (16, 16, 1), (224, 200, 3), (33, 47, 3), (3, 2, 1), (1, 1, 4)], ids=str)
def test_a_picture_is_near_itself_in_other_light_and_with_noise_and_far_from_others(
    shape: tuple[int, int, int],
) -> None:
    describe = Descriptor(shape, 10, 0.05)
    logits = np.zeros(10, np.float32)
    frames = pictures(2, shape=shape)

    def apart(a: Frame, b: Frame) -> float:
        return float(np.linalg.norm(describe(a, logits) - describe(b, logits)))

    one, other = frames
    assert apart(one, one) == 0
    if min(shape[:2]) >= 16:
        assert apart(one, (one // 2 + 40).astype(np.uint8)) < 0.05
        assert apart(one, camera(one, 1, noise=10)[0]) < 0.08
        assert 0.3 < apart(one, other) <= 1.01


def test_another_answer_is_a_little_novel() -> None:
    describe = Descriptor(SHAPE, 10, 0.05)
    frame, sure = pictures(1)[0], 50 * np.eye(10, dtype=np.float32)
    assert np.linalg.norm(describe(frame, sure[0]) - describe(frame, sure[1])) == pytest.approx(0.05, rel=1e-3)


def test_a_uniform_frame_is_near_another_and_has_no_nan() -> None:
    describe = Descriptor(SHAPE, 10, 0.05)
    grey = [np.full(SHAPE, value, np.uint8) for value in (0, 128, 255)]
    found = [describe(frame, np.zeros(10, np.float32)) for frame in grey]
    assert np.isfinite(found).all()
    assert np.linalg.norm(found[0] - found[2]) < 1e-3


def test_the_memory_is_bounded_and_forgets_the_oldest() -> None:
    memory = SentMemory(capacity=3, size=2)
    rows = np.array([[0, 1], [0, 2], [0, 4], [0, 8]], np.float32)
    assert memory.distance(rows[0]) == 1.0
    for row in rows:
        memory.add(row)
    assert len(memory) == 3
    assert memory.distance(np.array([0, 1], np.float32)) == pytest.approx(1.0)
    assert memory.distance(rows[3]) == 0.0
    memory.clear()
    assert len(memory) == 0


# The choice.


@pytest.mark.parametrize("noise", [0.0, 4.0, 12.0])
def test_a_camera_that_looks_at_one_thing_sends_it_once(noise: float) -> None:
    selector = ProductSelector(10, SHAPE, ProductConfig(budget=RICH))
    steady = unsure(1).repeat(2_000, 0) + np.random.default_rng(1).normal(0, 0.2, (2_000, 10)).astype(np.float32)
    kept = choose(selector, camera(pictures(1)[0], 2_000, noise=noise), steady)
    assert kept[0]
    assert kept.sum() <= 3
    assert selector.num_duplicates >= 1_990


def test_without_the_test_for_duplicates_it_would_send_all_of_them() -> None:
    """Negative control."""
    selector = ProductSelector(10, SHAPE, ProductConfig(budget=RICH, duplicate_distance=0.0))
    assert choose(selector, camera(pictures(1)[0], 200, noise=4.0), unsure(1).repeat(200, 0)).all()


def test_a_stream_that_changes_is_not_throttled() -> None:
    selector = ProductSelector(10, SHAPE, ProductConfig(budget=RICH))
    assert choose(selector, pictures(500), unsure(500)).mean() > 0.98


def test_frames_of_low_contrast_are_not_all_alike() -> None:
    flat = (118 + (pictures(300).astype(np.float32) - 128) / 20).astype(np.uint8)
    selector = ProductSelector(10, SHAPE, ProductConfig(budget=RICH))
    assert choose(selector, flat, unsure(300)).mean() > 0.9


def test_in_a_new_scene_the_same_picture_is_worth_sending_again() -> None:
    selector = ProductSelector(10, SHAPE, ProductConfig(budget=RICH))
    frames, logits = camera(pictures(1)[0], 50, noise=4.0), unsure(1).repeat(50, 0)
    kept = [choose(selector, frames, logits, scene=scene).sum() for scene in (1, 1, 2)]
    assert kept[0] >= 1
    assert kept[1:] == [0, kept[0]]


@pytest.mark.parametrize("bound", ["min", "max"])
def test_an_entropy_outside_the_bounds_is_never_sent(bound: str) -> None:
    selector = ProductSelector(10, SHAPE, ProductConfig(budget=RICH, entropy_max_fraction=0.9))
    logits = np.eye(10, dtype=np.float32)[:1] * (30 if bound == "min" else 0)
    assert not choose(selector, pictures(1), logits).any()


@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_the_budget_holds_and_is_spent_on_the_least_sure(classes: int) -> None:
    rng = np.random.default_rng(0)
    frames = pictures(256)[rng.integers(256, size=6_000)]
    logits = unsure(6_000, classes) * rng.uniform(0.5, 8, (6_000, 1)).astype(np.float32)
    config = ProductConfig(
        budget=BudgetConfig(bytes_per_1000_frames=150_000), remembered_frames=16, novelty_exponent=0.0
    )
    selector = ProductSelector(classes, SHAPE, config)
    kept = choose(selector, frames, logits)
    nats = entropy(softmax(logits))
    assert selector.budget.spent_bytes == 1_500 * kept.sum()
    assert selector.budget.spent_bytes <= 150_000 + 150 * 6_000
    assert kept[2_000:].mean() == pytest.approx(0.1, abs=0.02)
    assert nats[2_000:][kept[2_000:]].mean() > 1.5 * nats.mean()


@pytest.mark.parametrize("batch", [8, 64])
def test_batch_1_and_larger_ones_choose_alike(batch: int) -> None:
    """All the same when sizes are known at once; nearly so as they are known only after each batch."""
    frames, logits = pictures(4_096, seed=3), unsure(4_096, seed=3) * 3
    config = ProductConfig(budget=BudgetConfig(bytes_per_1000_frames=300_000))
    kept = {size: choose(ProductSelector(10, SHAPE, config), frames, logits, batch=size) for size in (1, batch)}
    assert abs(kept[1].mean() - kept[batch].mean()) < 0.02
    assert (kept[1] == kept[batch]).mean() > 0.9


def test_equal_streams_are_chosen_from_alike() -> None:
    first, second = (choose(ProductSelector(10, SHAPE), pictures(800), unsure(800) * 3) for _ in range(2))
    assert (first == second).all()


def test_a_frame_that_may_not_be_sent_is_not_looked_at() -> None:
    selector = ProductSelector(10, SHAPE, ProductConfig(budget=BudgetConfig(bytes_per_1000_frames=0, burst_bytes=0)))
    frame, logits = pictures(1)[0], unsure(1)[0]
    while selector.select_one(frame, logits, 2.0):
        selector.settle(3_000)
    selector._describe = None  # type: ignore[assignment]
    assert not selector.select_one(frame, logits, 0.0)
    assert not selector.select_one(frame, logits, 2.0)


def test_the_budget_is_spent_though_novelty_takes_from_every_score() -> None:
    """Frames that are not looked at count as much as they would be worth if they were as novel as those that are."""
    rng = np.random.default_rng(0)
    near = np.clip(pictures(1) + rng.normal(0, 40, (4_000, 8, 8, 3)).repeat(4, 1).repeat(4, 2), 0, 255).astype(np.uint8)
    config = ProductConfig(budget=BudgetConfig(bytes_per_1000_frames=150_000), novelty_exponent=2.0)
    kept = choose(ProductSelector(10, SHAPE, config), near, unsure(4_000))
    assert kept[1_000:].mean() == pytest.approx(0.1, abs=0.025)
