"""What the gate lets through, what it holds, and that it is the gate that holds it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from littoral.bundle import Bundle
from littoral.cloud.adapt import Worker
from littoral.cloud.gate import Gate, GateConfig, _Agreement
from littoral.cloud.jobs import AdaptConfig, AdaptJob
from littoral.core.affine import encode_delta
from littoral.core.arrays import FloatArray

ANY = 1_000_000
"""Frames that a witness may lose: the guard against needless versions is off."""
Change = Callable[[str, FloatArray], FloatArray]


@pytest.fixture(scope="module")
def tiny(tiny_bundle: Path) -> Bundle:
    return Bundle.open(tiny_bundle, require_cloud=True)


@pytest.fixture(scope="module")
def worker(tiny: Bundle) -> Worker:
    return Worker(tiny, AdaptConfig(inner_steps=1))


def payload(tiny: Bundle, change: Change) -> bytes:
    return encode_delta(
        {k: change(k, v).astype(np.float32) for k, v in tiny.source_affine.items()}, tiny.manifest.norm_layers
    )


def wide(tiny: Bundle) -> Bundle:
    """The bundle without the guard of the envelope."""
    bounds = dict.fromkeys(tiny.source_affine, 1e6)
    return dataclasses.replace(tiny, manifest=dataclasses.replace(tiny.manifest, envelope_max_delta=bounds))


def nothing(name: str, value: FloatArray) -> FloatArray:
    return np.zeros_like(value)


def gammas_to_zero(name: str, value: FloatArray) -> FloatArray:
    return -value if name.endswith(".weight") else np.zeros_like(value)


def dead(name: str, value: FloatArray) -> FloatArray:
    """Every ReLU shut: one answer to everything, whatever the statistics."""
    return np.full_like(value, -50.0) if name.endswith(".bias") else np.zeros_like(value)


def inside(tiny: Bundle, change: Change) -> Change:
    """The same attack as far as the envelope allows."""
    bounds = tiny.manifest.envelope_max_delta
    return lambda name, value: np.clip(change(name, value), -0.99 * bounds[name], 0.99 * bounds[name])


def test_the_source_passes_on_a_worker_that_has_done_nothing_yet(tiny: Bundle) -> None:
    verdict = Gate(tiny, Worker(tiny)).check(payload(tiny, nothing), recent_frames=tiny.probe[0])
    assert verdict.passed, verdict.reason
    assert verdict.reason == ""
    assert verdict.report["probe_agreement"] == 1.0
    assert verdict.report["spread_nats"] > 1.0


def test_what_adaptation_makes_of_its_own_domain_passes(tiny: Bundle) -> None:
    worker = Worker(tiny, AdaptConfig())
    frames = tiny.probe[0]
    result = worker.adapt(AdaptJob(base_version=0, state=b"", new_frames=frames, replay_frames=frames[:0], seed=0))
    verdict = Gate(tiny, worker).check(result.payload, recent_frames=frames)
    assert verdict.passed, verdict.reason


@pytest.mark.parametrize("change", [gammas_to_zero, dead], ids=["gammas-to-zero", "dead-relu"])
@pytest.mark.parametrize("guard", ["envelope", "probe", "collapse", "others", "needless", "none"])
def test_a_collapsed_version_is_held_by_each_guard_and_passes_without_any(
    tiny: Bundle, worker: Worker, change: Change, guard: str
) -> None:
    bundle = tiny if guard == "envelope" else wide(tiny)
    needs = 0.6 if guard == "probe" else -1.0
    probe = dataclasses.replace(bundle.manifest.probe, min_agreement=needs)
    bundle = dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, probe=probe))
    config = GateConfig(
        probe_margin=0.05,
        min_spread=0.5 if guard == "collapse" else 0.0,
        others_margin=0.1 if guard == "others" else 1.0,
        source_margin=0.08 if guard == "others" else 1.0,
        spare_frames=1 if guard == "needless" else ANY,
    )
    gate = Gate(bundle, worker, config)
    verdict = gate.check(payload(tiny, change), recent_frames=tiny.probe[0], witnesses={"b": tiny.probe[0]})
    assert verdict.passed == (guard == "none"), verdict
    told = {
        "envelope": "outside the envelope: ",
        "probe": "of the probe's labels",
        "collapse": "collapse: ",
        "others": "it costs b: on its frames it agrees with the teacher on ",
        "needless": "no better than what serves without it: b: on its frames it agrees with the teacher on ",
        "none": "",
    }
    assert told[guard] in verdict.reason


def test_collapse_as_far_as_the_envelope_allows_is_held_too(tiny: Bundle, worker: Worker) -> None:
    verdict = Gate(tiny, worker).check(payload(tiny, inside(tiny, dead)), recent_frames=tiny.probe[0])
    assert not verdict.passed
    assert "outside the envelope" not in verdict.reason


@pytest.mark.parametrize(
    "damage",
    [lambda data: data[:-1], lambda data: b"", lambda data: data[:20] + b"\x55" + data[21:]],
    ids=["truncated", "empty", "flipped"],
)
def test_what_cannot_be_decoded_is_held_and_says_why(
    tiny: Bundle, worker: Worker, damage: Callable[[bytes], bytes]
) -> None:
    verdict = Gate(tiny, worker).check(damage(payload(tiny, nothing)), recent_frames=tiny.probe[0])
    assert not verdict.passed
    assert "the payload cannot be decoded: " in verdict.reason


def test_a_step_beyond_the_envelope_is_named_with_its_bound(tiny: Bundle, worker: Worker) -> None:
    name = "stem.norm.weight"
    bound = tiny.manifest.envelope_max_delta[name]

    def beyond(at: str, value: FloatArray) -> FloatArray:
        return np.full_like(value, 1.1 * bound) if at == name else np.zeros_like(value)

    verdict = Gate(tiny, worker).check(payload(tiny, beyond), recent_frames=tiny.probe[0])
    assert not verdict.passed
    assert f"'{name}' moves by" in verdict.reason
    assert f"allows {bound:.4g}" in verdict.reason


def test_outputs_that_are_not_finite_are_held(tiny: Bundle, worker: Worker) -> None:
    huge = payload(tiny, lambda name, value: np.full_like(value, 5e31))
    with np.errstate(over="ignore"):
        bundle = wide(tiny)
        bounds = dict.fromkeys(tiny.source_affine, 1e33)
        bundle = dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, envelope_max_delta=bounds))
        verdict = Gate(bundle, worker).check(huge, recent_frames=tiny.probe[0])
    assert not verdict.passed
    assert verdict.reason == "the outputs are not finite"


def test_a_verdict_does_not_depend_on_the_one_before(tiny: Bundle, worker: Worker) -> None:
    gate = Gate(tiny, worker)
    first = gate.check(payload(tiny, nothing), recent_frames=tiny.probe[0])
    gate.check(payload(tiny, inside(tiny, dead)), recent_frames=tiny.probe[0])
    assert gate.check(payload(tiny, nothing), recent_frames=tiny.probe[0]) == first


# -- the other devices -------------------------------------------------------------------------------------------------


def lenient(tiny: Bundle, *, others_margin: float = 0.1) -> tuple[Bundle, GateConfig]:
    """No guard but that against harm to the other devices."""
    bundle = wide(tiny)
    probe = dataclasses.replace(bundle.manifest.probe, min_agreement=-1.0)
    bundle = dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, probe=probe))
    return bundle, GateConfig(min_spread=0.0, others_margin=others_margin, source_margin=1.0, spare_frames=ANY)


def test_what_costs_the_other_devices_is_measured_against_the_version_it_was_made_from(
    tiny: Bundle, worker: Worker
) -> None:
    bundle, config = lenient(tiny)
    frames, killed, good = tiny.probe[0], payload(tiny, dead), payload(tiny, nothing)
    gate = Gate(bundle, worker, config)
    from_good = gate.check(killed, recent_frames=frames, witnesses={"b": frames}, base_payload=good)
    assert not from_good.passed
    assert from_good.report["others_base_agreement"] > from_good.report["others_agreement"] + 0.1
    from_source = gate.check(killed, recent_frames=frames, witnesses={"b": frames})
    assert from_source.report == from_good.report, "an empty base is the source"
    from_dead = gate.check(killed, recent_frames=frames, witnesses={"b": frames}, base_payload=killed)
    assert from_dead.passed, "it costs them nothing that they had"
    recovered = gate.check(good, recent_frames=frames, witnesses={"b": frames}, base_payload=killed)
    assert recovered.passed


def test_a_version_that_is_worse_by_chance_or_a_little_is_held_and_nobody_is_to_blame(
    tiny: Bundle, worker: Worker
) -> None:
    frames = tiny.probe[0]
    little = payload(tiny, lambda n, v: 0.012 * dead(n, v))
    bundle, config = lenient(tiny, others_margin=1.0)
    gate = Gate(bundle, worker, dataclasses.replace(config, spare_frames=1))
    verdict = gate.check(little, recent_frames=frames, witnesses={"b": frames})
    assert (verdict.passed, verdict.needless, verdict.harmed) == (False, True, ())
    assert not verdict.base_needless, "the source is not worse than itself"
    again = gate.check(little, recent_frames=frames, witnesses={"b": frames}, base_payload=payload(tiny, dead))
    assert again.base_needless, "back to the source's values"
    still = gate.check(little, recent_frames=frames, witnesses={"b": frames}, base_payload=payload(tiny, nothing))
    assert not still.base_needless, "an empty delta is the source"


def right_on(gained: int, lost: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """A version's answers and the source's, which differ on so many of 64 frames."""
    version, source = np.zeros(64, bool), np.zeros(64, bool)
    version[:gained], source[32 : 32 + lost] = True, True
    return version, source


@pytest.mark.parametrize(
    ("witnesses", "idle"),
    [
        ([(0, 0)], []),
        ([(0, 1)], []),
        ([(1, 3)], ["0"]),
        ([(9, 3), (0, 2)], ["1"]),
        ([(9, 1), (0, 2)], ["1"]),
        ([(9, 1), (9, 1), (0, 2)], []),
        ([(2, 1), (2, 1), (0, 2)], ["2"]),
    ],
    ids=["alike", "a-frame", "worse", "one-gains", "one-gains-much", "two-gain", "two-gain-by-chance"],
)
def test_a_loss_counts_beyond_a_frame_and_is_outweighed_by_two_that_gain_beyond_chance(
    tiny: Bundle, worker: Worker, witnesses: list[tuple[int, int]], idle: list[str]
) -> None:
    pairs = {str(number): right_on(*pair) for number, pair in enumerate(witnesses)}
    costs = {device: _Agreement(version, source, source) for device, (version, source) in pairs.items()}
    assert Gate(tiny, worker)._idle({device: cost.of_version for device, cost in costs.items()}, costs) == idle


def small_steps(tiny: Bundle, count: int) -> list[bytes]:
    """A chain whose every version is a little nearer to a dead network."""
    return [payload(tiny, lambda n, v, s=step / count: s * dead(n, v) / 25) for step in range(count + 1)]


@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "negative-control"])
def test_a_chain_cannot_creep_below_the_source_however_small_its_steps(
    tiny: Bundle, worker: Worker, guarded: bool
) -> None:
    bundle, config = lenient(tiny)
    config = dataclasses.replace(config, source_margin=0.08 if guarded else 1.0)
    gate, frames, chain = Gate(bundle, worker, config), tiny.probe[0], small_steps(tiny, 100)
    base, agreement = chain[0], 1.0
    for step in chain[1:]:
        verdict = gate.check(step, recent_frames=frames, witnesses={"b": frames}, base_payload=base)
        if not verdict.passed:
            assert verdict.harmed == ("b",)
            break
        base, agreement = step, verdict.report["others_agreement"]
    source = gate.check(chain[0], recent_frames=frames, witnesses={"b": frames}).report["others_agreement"]
    assert (agreement >= source - 0.08) == guarded


def test_a_bad_chain_may_ship_what_is_better_though_still_below_the_source(tiny: Bundle, worker: Worker) -> None:
    bundle, config = lenient(tiny)
    gate, frames = Gate(bundle, worker, dataclasses.replace(config, source_margin=0.08)), tiny.probe[0]
    worse, better = (payload(tiny, lambda n, v, s=s: s * dead(n, v)) for s in (1.0, 0.02))
    up = gate.check(better, recent_frames=frames, witnesses={"b": frames}, base_payload=worse)
    down = gate.check(worse, recent_frames=frames, witnesses={"b": frames}, base_payload=better)
    assert up.report["others_agreement"] < up.report["others_source_agreement"] - 0.08
    assert (up.passed, down.passed) == (True, False)


def test_each_witness_is_asked_for_itself(tiny: Bundle, worker: Worker) -> None:
    bundle, config = lenient(tiny)
    frames = tiny.probe[0]
    noise = np.random.default_rng(5).integers(0, 256, size=(32, *tiny.manifest.input.shape), dtype=np.uint8)
    gate = Gate(bundle, worker, config)
    verdict = gate.check(payload(tiny, dead), recent_frames=frames, witnesses={"a": noise, "b": frames})
    assert "b" in verdict.harmed
    assert "it costs b: on its frames it agrees with the teacher on" in verdict.reason


@pytest.mark.parametrize("num_frames", [None, 0, 31])
def test_too_few_frames_of_other_devices_say_nothing(tiny: Bundle, worker: Worker, num_frames: int | None) -> None:
    bundle, config = lenient(tiny)
    others = None if num_frames is None else {"b": tiny.probe[0][:num_frames]}
    verdict = Gate(bundle, worker, config).check(payload(tiny, dead), recent_frames=tiny.probe[0], witnesses=others)
    assert verdict.passed
    assert "others_agreement" not in verdict.report


@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "negative-control"])
def test_a_version_learned_from_poison_is_held_for_the_others_sake(tiny: Bundle, guarded: bool) -> None:
    """The loud device's frames are noise; the student follows a teacher that knows nothing of them."""
    noise = np.random.default_rng(5).integers(0, 256, size=(32, *tiny.manifest.input.shape), dtype=np.uint8)
    worker = Worker(tiny, AdaptConfig(inner_steps=64, student_lr=0.1, settled_nats=0.0))
    result = worker.adapt(AdaptJob(base_version=0, state=b"", new_frames=noise, replay_frames=noise[:0], seed=0))
    bundle, config = lenient(tiny, others_margin=0.1 if guarded else 1.0)
    verdict = Gate(bundle, worker, config).check(result.payload, recent_frames=noise, witnesses={"b": tiny.probe[0]})
    assert verdict.passed != guarded, verdict
