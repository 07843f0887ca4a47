"""A hostile device of the bench: what it sends, that it is the same every time, and that it deceives the teacher."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from littoral.bench.adapt.hostile import HostileLink, World, prepare_worlds
from littoral.bench.adapt.poison import PoisonConfig, poison
from littoral.bench.adapt.product import Product, ProductOptions
from littoral.bench.method import Setup
from littoral.bundle import Bundle
from littoral.cloud.adapt import Worker
from littoral.cloud.ledger import Ledger

Make = Callable[..., Setup]
STRONG = PoisonConfig(kind="collision", aim="next_class", max_change=64)


@pytest.fixture(scope="module")
def frames(small: Bundle) -> np.ndarray:
    return small.load_tensors(small.manifest.replay_file)["frames"][:32]


def answers(worker: Worker, frames: np.ndarray, role: str) -> np.ndarray:
    return worker.logits(frames, role=role).argmax(1)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["matched", "collision"])
def test_poison_depends_on_its_seed_and_stays_within_its_bound(small: Bundle, frames: np.ndarray, kind: str) -> None:
    config = dataclasses.replace(STRONG, kind=kind, steps=4)  # type: ignore[arg-type]
    first, again, other = (poison(small, frames, seed=seed, config=config) for seed in (0, 0, 1))
    assert first.tobytes() == again.tobytes() != other.tobytes()
    assert first.dtype == np.uint8
    assert 0 < np.abs(first.astype(int) - frames).max() <= 64


def test_the_teacher_teaches_the_next_class_and_the_student_notices_little(small: Bundle, frames: np.ndarray) -> None:
    worker = Worker(small)
    before = answers(worker, frames, "teacher")
    bad = poison(small, frames, seed=0, config=STRONG)
    assert (answers(worker, bad, "teacher") == (before + 1) % 10).mean() > 0.6
    noticed = (answers(worker, bad, "student") == answers(worker, frames, "student")).mean()
    blind = poison(small, frames, seed=0, config=dataclasses.replace(STRONG, weight=0.0))
    assert noticed > (answers(worker, blind, "student") == answers(worker, frames, "student")).mean()


def test_one_answer_to_all_is_what_a_batchs_own_statistics_refuse(small: Bundle, frames: np.ndarray) -> None:
    worker = Worker(small)
    wanted = {"one_class": np.zeros(32, int), "next_class": (answers(worker, frames, "teacher") + 1) % 10}
    reached = {}
    for aim, classes in wanted.items():
        bad = poison(small, frames, seed=0, config=dataclasses.replace(STRONG, aim=aim))  # type: ignore[arg-type]
        reached[aim] = (answers(worker, bad, "teacher") == classes).mean()
    assert reached["one_class"] < 0.5 < reached["next_class"]


def test_it_joins_the_domain_of_honest_devices_and_floods_it(setup: Make, small: Bundle) -> None:
    device = {"selection": {"entropy_min_fraction": 0.0, "duplicate_distance": 0.0}, "statistics_batch_frames": 8}
    options = {"device": device, "adapt": {"batch_size": 8, "inner_steps": 1}, "hostile": [1], "recorded": ["clean"]}
    made = setup(num_devices=2)
    product = Product(made, ProductOptions.of(options))
    honest = np.concatenate([made.source_frames, made.source_frames])
    for start in range(0, 96, 16):
        for number in (0, 1):
            product.answer(honest[start : start + 16], device=number)
    ledger: Ledger = product.clouds[0]._hub.ledger
    domains = {d.name: d.domain for d in ledger.store.devices()}
    sent = {d.name: d.num_samples for d in ledger.store.devices()}
    product.close()
    assert domains["device-0"] == domains["device-1"] == 1
    assert sent["device-1"] == 6 * 4 * 32 > sent["device-0"] > 0


@pytest.mark.parametrize("severity", [1, 5])
def test_it_has_recorded_the_worlds_as_severe_as_its_fleet_meets_them(
    setup: Make, severity: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int]] = []

    def corrupted(frames: np.ndarray, name: str, *, severity: int, seed: int) -> np.ndarray:
        asked.append((name, severity))
        return 255 - frames[:4]

    monkeypatch.setattr("littoral.bench.adapt.product.corrupt", corrupted)
    options = {"hostile": [1], "recorded": ["saturate"], "recorded_severity": severity}
    Product(setup(num_devices=2), ProductOptions.of(options)).close()
    assert asked == [("saturate", severity)]


def test_worlds_are_the_same_every_time_and_there_must_be_one(small: Bundle, frames: np.ndarray) -> None:
    first, again = (prepare_worlds(small, [frames, 255 - frames], seed=3) for _ in range(2))
    assert [w.fingerprint for w in first] == [w.fingerprint for w in again]
    assert [w.frames.tobytes() for w in first] == [w.frames.tobytes() for w in again]
    assert first[0].fingerprint != first[1].fingerprint
    with pytest.raises(ValueError, match="give it recordings"):
        HostileLink(worlds=[])
    with pytest.raises(ValueError, match="give it recordings"):
        HostileLink(worlds=[World(fingerprint=b"", frames=frames[:0], labels=())])


def honest_accuracy(setup: Make, small: Bundle, *, guarded: bool) -> tuple[float, Product, set[str]]:
    """Of two honest devices beside a hostile one, over the last four of sixteen batches; and who is put apart."""
    selection = {"entropy_min_fraction": 0.0, "duplicate_distance": 0.0, "budget": {"bytes_per_1000_frames": 2e5}}
    still = {"near_factor": 0.0, "balanced": False}  # the gate alone: a device that is near the source needs none
    options = {
        "device": {"selection": selection, "statistics_batch_frames": 8, "statistics": still},
        "adapt": {"batch_size": 8, "student_lr": 0.005, "precision": "float32"},
        "guarded": guarded,
        "hostile": [2],
        "recorded": ["clean"],
    }
    product = Product(setup(num_devices=3), ProductOptions.of(options))
    frames, labels = small.probe
    rng, right = np.random.default_rng(5), []
    for _ in range(16):
        chosen = rng.integers(0, len(frames), 16)
        answered = [product.answer(frames[chosen], device=number) for number in range(3)]
        right.append([(answers == labels[chosen]).mean() for answers in answered[:2]])
    apart = {d.name for d in product.clouds[0]._hub.ledger.store.devices() if d.quarantined_at is not None}
    product.close()
    return float(np.mean(right[-4:])), product, apart


@pytest.mark.slow
def test_poison_spoils_the_fleet_without_guards_and_not_with_them(setup: Make, small: Bundle) -> None:
    """The source is always right here, since the labels are its own answers."""
    spoiled, unguarded, _ = honest_accuracy(setup, small, guarded=False)
    kept, guarded, apart = honest_accuracy(setup, small, guarded=True)
    assert spoiled < 0.8
    assert kept > 0.9
    assert unguarded.costs.notes["devices_quarantined"] == unguarded.costs.notes["versions_held"] == 0
    assert apart == {"device-2"}, "the hostile one, and nobody else"
    assert guarded.costs.notes["devices_quarantined"] == 1
    assert guarded.costs.notes["versions_held"] > 0
