"""A version ships only if it passes here: inside the envelope, true on the probe, and not collapsed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from littoral.bundle import Bundle
from littoral.cloud.adapt import Worker
from littoral.core.affine import apply_delta, decode_delta, violations
from littoral.core.arrays import Frame
from littoral.core.selection import entropy


@dataclass(frozen=True, kw_only=True)
class GateConfig:
    """The bounds of the gate."""

    probe_margin: float = 0.05
    """The cloud asks for this much more agreement on the probe than a device will, so that devices need not refuse."""
    min_spread: float = 0.5
    """The answers on recent frames must be spread over the classes at least this well, relative to the teacher's."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether a version may ship, why not, and the figures that it was judged by."""

    passed: bool
    reason: str
    report: dict[str, float]


class Gate:
    """Judges coded versions with the student of a worker."""

    def __init__(self, bundle: Bundle, worker: Worker, config: GateConfig | None = None) -> None:
        self.bundle, self.worker, self.config = bundle, worker, config or GateConfig()

    def check(self, payload: bytes, *, recent_frames: Frame) -> Verdict:
        """Judge a version as a device would get it: decoded from its payload.

        Args:
            payload: A coded delta (`littoral.core.affine.encode_delta`).
            recent_frames: uint8 ``(N, H, W, C)``, the newest samples; at least 2.
        """
        manifest, report = self.bundle.manifest, {"probe_agreement": 0.0}
        try:
            delta = decode_delta(payload, manifest.norm_layers)
        except ValueError as error:
            return Verdict(passed=False, reason=f"the payload cannot be decoded: {error}", report=report)
        affine = apply_delta(self.bundle.source_affine, delta, manifest.norm_layers)
        if found := violations(affine, self.bundle.source_affine, manifest.envelope_max_delta):
            return Verdict(passed=False, reason="outside the envelope: " + "; ".join(found[:3]), report=report)

        frames, labels = self.bundle.probe
        probe = self.worker.source_logits(frames, affine)
        recent = self.worker.logits(recent_frames, role="student", affine=affine)
        if not (np.isfinite(probe).all() and np.isfinite(recent).all()):
            return Verdict(passed=False, reason="the outputs are not finite", report=report)
        report["probe_agreement"] = float((probe.argmax(1) == labels).mean())
        teacher = self.worker.logits(recent_frames, role="teacher")
        report["teacher_agreement"] = float((recent.argmax(1) == teacher.argmax(1)).mean())
        spread, expected = _spread(recent), _spread(teacher)
        report["spread_nats"], report["teacher_spread_nats"] = spread, expected
        return self._judge(report)

    def _judge(self, report: dict[str, float]) -> Verdict:
        needed = min(self.bundle.manifest.probe.min_agreement + self.config.probe_margin, 1.0)
        if report["probe_agreement"] < needed:
            reason = f"it keeps {report['probe_agreement']:.0%} of the probe's labels, {needed:.0%} are needed"
            return Verdict(passed=False, reason=reason, report=report)
        if report["spread_nats"] < self.config.min_spread * report["teacher_spread_nats"]:
            reason = (
                f"collapse: its answers spread over {report['spread_nats']:.2f} nats of classes, the teacher's over "
                f"{report['teacher_spread_nats']:.2f}"
            )
            return Verdict(passed=False, reason=reason, report=report)
        return Verdict(passed=True, reason="", report=report)


def _spread(logits_BK: np.ndarray) -> float:
    """Entropy in nats of the labels given: ln K when all classes are answered alike often, 0 for one answer to all.

    Of the labels, not of the mean probabilities: a dead network answers everything with the same blank doubt, whose
    mean is spread as evenly as can be.
    """
    counts = np.bincount(logits_BK.argmax(1), minlength=logits_BK.shape[1])
    return float(entropy((counts[None] / len(logits_BK)).astype(np.float32))[0])
