"""A version ships only if it passes here: inside the envelope, true on the probe, not collapsed, no harm to others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from littoral.bundle import Bundle
from littoral.core.affine import apply_delta, decode_delta, violations
from littoral.core.arrays import Frame, Tensors

if TYPE_CHECKING:
    from littoral.cloud.adapt import Worker


@dataclass(frozen=True, kw_only=True)
class GateConfig:
    """The bounds of the gate."""

    probe_margin: float = 0.05
    """The cloud asks for this much more agreement on the probe than a device will, so that devices need not refuse."""
    min_spread: float = 0.5
    """The answers on recent frames must be spread over the classes at least this well, relative to the teacher's."""
    others_margin: float = 0.1
    """So much of the agreement with the teacher may be lost on frames of devices that had the smaller part in it."""
    min_others: int = 32
    """Fewer frames of other devices say nothing."""


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

    def check(
        self, payload: bytes, *, recent_frames: Frame, other_frames: Frame | None = None, base_payload: bytes = b""
    ) -> Verdict:
        """Judge a version as a device would get it: decoded from its payload.

        Args:
            payload: A coded delta (`littoral.core.affine.encode_delta`).
            recent_frames: uint8 ``(N, H, W, C)``, the newest samples; at least 2.
            other_frames: uint8 ``(M, H, W, C)`` of the same domain, replayed, of devices other than those that gave
                most of the recent ones; None or fewer than ``min_others`` are not judged on.
            base_payload: The version that this one was made from; empty for the source.
        """
        manifest, report = self.bundle.manifest, {"probe_agreement": 0.0}
        try:
            delta = decode_delta(payload, manifest.norm_layers)
        except ValueError as error:
            return Verdict(passed=False, reason=f"the payload cannot be decoded: {error}", report=report)
        affine = self._affine(delta)
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
        from littoral.cloud.teacher import spread  # here: torch comes with it, and stand-ins for the gate need none

        report["spread_nats"], report["teacher_spread_nats"] = spread(recent), spread(teacher)
        if other_frames is not None and len(other_frames) >= self.config.min_others:
            base = self._affine(decode_delta(base_payload, manifest.norm_layers) if base_payload else None)
            answers = self.worker.logits(other_frames, role="teacher").argmax(1)
            report["others_agreement"] = self._agreement(other_frames, answers, affine)
            report["others_base_agreement"] = self._agreement(other_frames, answers, base)
        return self._judge(report)

    def _affine(self, delta: Tensors | None) -> Tensors:
        source = self.bundle.source_affine
        return source if delta is None else apply_delta(source, delta, self.bundle.manifest.norm_layers)

    def _agreement(self, frames: Frame, answers: np.ndarray, affine: Tensors) -> float:
        """The share of frames on which a student with these values gives the answers."""
        student = self.worker.logits(frames, role="student", affine=affine)
        return float((student.argmax(1) == answers).mean())

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
        others, before = report.get("others_agreement", 0.0), report.get("others_base_agreement", 0.0)
        if others < before - self.config.others_margin:
            reason = (
                f"it costs the other devices: on their frames it agrees with the teacher on {others:.0%}, the version "
                f"that it was made from on {before:.0%}; at most {self.config.others_margin:.0%} may be lost"
            )
            return Verdict(passed=False, reason=reason, report=report)
        return Verdict(passed=True, reason="", report=report)
