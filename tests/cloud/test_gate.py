"""What the gate lets through, what it holds, and that it is the gate that holds it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from littoral.bundle import Bundle
from littoral.cloud.adapt import AdaptConfig, AdaptJob, Worker
from littoral.cloud.gate import Gate, GateConfig
from littoral.core.affine import encode_delta
from littoral.core.arrays import FloatArray

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
@pytest.mark.parametrize("guard", ["envelope", "probe", "collapse", "none"])
def test_a_collapsed_version_is_held_by_each_guard_and_passes_without_any(
    tiny: Bundle, worker: Worker, change: Change, guard: str
) -> None:
    bundle = tiny if guard == "envelope" else wide(tiny)
    needs = 0.6 if guard == "probe" else -1.0
    probe = dataclasses.replace(bundle.manifest.probe, min_agreement=needs)
    bundle = dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, probe=probe))
    config = GateConfig(probe_margin=0.05, min_spread=0.5 if guard == "collapse" else 0.0)
    verdict = Gate(bundle, worker, config).check(payload(tiny, change), recent_frames=tiny.probe[0])
    assert verdict.passed == (guard == "none"), verdict
    told = {
        "envelope": "outside the envelope: ",
        "probe": "of the probe's labels",
        "collapse": "collapse: ",
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
    huge = payload(tiny, lambda name, value: np.full_like(value, 1e32))
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
