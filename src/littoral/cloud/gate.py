"""A version ships only if it passes: in the envelope, true on the probe, not collapsed, no harm, not for nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from littoral.bundle import Bundle
from littoral.core.affine import apply_delta, decode_delta, violations
from littoral.core.arrays import Frame, Tensors

if TYPE_CHECKING:
    from littoral.cloud.adapt import Worker

Right = NDArray[np.bool_]
"""Per frame whether a student says what the teacher says."""


@dataclass(frozen=True, kw_only=True)
class GateConfig:
    """The bounds of the gate."""

    probe_margin: float = 0.05
    """The cloud asks for this much more agreement on the probe than a device will, so that devices need not refuse."""
    min_spread: float = 0.5
    """The answers on recent frames must be spread over the classes at least this well, relative to the teacher's."""
    others_margin: float = 0.1
    """So much of the agreement with the teacher may a version cost a witness, against the one it was made from."""
    source_margin: float = 0.08
    """No version may bring a witness further below the source's values than this, however small the step: a chain that
    loses a little with each version would pass ``others_margin`` for ever. What makes a bad chain better may ship."""
    min_others: int = 32
    """Fewer frames of a witness say nothing."""
    spare_frames: int = 1
    """A witness may lose so many more frames than it gains, against what serves it without the version."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether a version may ship, why not, and the figures that it was judged by."""

    passed: bool
    reason: str
    report: dict[str, float]
    harmed: tuple[str, ...] = ()
    """The witnesses whom it would cost something."""
    needless: bool = False
    """It harms nobody beyond chance, and is no better than what serves without it: held, and nobody is to blame."""
    base_needless: bool = False
    """The version that it was made from is no better either: back to the source's values."""


@dataclass(frozen=True)
class _Agreement:
    """On which of a witness's frames the student agrees with the teacher: with a version, with the one that it was made
    from, and with the source's values."""

    of_version: Right
    of_base: Right
    of_source: Right

    @property
    def now(self) -> float:
        return float(self.of_version.mean())

    @property
    def before(self) -> float:
        return float(self.of_base.mean())

    @property
    def source(self) -> float:
        return float(self.of_source.mean())

    def harms(self, config: GateConfig) -> bool:
        return self.now < self.before - config.others_margin or self.now < min(
            self.before, self.source - config.source_margin
        )

    def told(self) -> str:
        return (
            f"on its frames it agrees with the teacher on {self.now:.0%}, the version that it was made from on "
            f"{self.before:.0%}, the source on {self.source:.0%}"
        )


def _gain(right: Right, source: Right) -> tuple[int, int]:
    """On how many frames values agree with the teacher and the source's do not, and the opposite."""
    return int((right & ~source).sum()), int((source & ~right).sum())


class Gate:
    """Judges coded versions with the student of a worker."""

    def __init__(self, bundle: Bundle, worker: Worker, config: GateConfig | None = None) -> None:
        self.bundle, self.worker, self.config = bundle, worker, config or GateConfig()

    def check(
        self,
        payload: bytes,
        *,
        recent_frames: Frame,
        witnesses: Mapping[str, Frame] | None = None,
        base_payload: bytes = b"",
    ) -> Verdict:
        """Judge a version as a device would get it: decoded from its payload.

        Args:
            payload: A coded delta (`littoral.core.affine.encode_delta`).
            recent_frames: uint8 ``(N, H, W, C)``, the newest samples; at least 2.
            witnesses: Per device uint8 ``(M, H, W, C)``, its frames of the same domain; fewer than ``min_others`` are
                not judged on. A version that costs none of them too much, and is worse for none than the source's
                values, passes; else whoever called decides by ``harmed`` and ``needless``, and the verdict says no.
            base_payload: The version that this one was made from; empty, or without a change, for the source.
        """
        layers, report = self.bundle.manifest.norm_layers, {"probe_agreement": 0.0}
        try:
            affine = self._affine(decode_delta(payload, layers))
        except ValueError as error:
            return Verdict(passed=False, reason=f"the payload cannot be decoded: {error}", report=report)
        if refused := self._refused(affine, recent_frames, report):
            return Verdict(passed=False, reason=refused, report=report)
        step = decode_delta(base_payload, layers) if base_payload else {}
        base = self._affine(step) if any(value.any() for value in step.values()) else None
        costs = {
            device: self._agreement(frames, affine, base)
            for device, frames in (witnesses or {}).items()
            if len(frames) >= self.config.min_others
        }
        return self._judged(costs, report, has_base=base is not None)

    def _judged(self, costs: Mapping[str, _Agreement], report: dict[str, float], *, has_base: bool) -> Verdict:
        """What the witnesses say."""
        if costs:
            worst = min(costs.values(), key=lambda cost: cost.now - max(cost.before, cost.source))
            report |= {
                "others_agreement": worst.now,
                "others_base_agreement": worst.before,
                "others_source_agreement": worst.source,
            }
        base_needless = has_base and bool(self._idle({d: cost.of_base for d, cost in costs.items()}, costs))
        if harmed := tuple(sorted(device for device, cost in costs.items() if cost.harms(self.config))):
            reason = "; ".join(f"it costs {device}: {costs[device].told()}" for device in harmed)
            return Verdict(passed=False, reason=reason, report=report, harmed=harmed, base_needless=base_needless)
        if idle := self._idle({device: cost.of_version for device, cost in costs.items()}, costs):
            reason = "no better than what serves without it: " + "; ".join(f"{d}: {costs[d].told()}" for d in idle)
            return Verdict(passed=False, reason=reason, report=report, needless=True, base_needless=base_needless)
        return Verdict(passed=True, reason="", report=report)

    def _idle(self, right: Mapping[str, Right], costs: Mapping[str, _Agreement]) -> list[str]:
        """The witnesses whom values give no more than the source's do; none where twice as many gain by them."""
        gains = {device: _gain(values, costs[device].of_source) for device, values in right.items()}
        idle = sorted(device for device, (gained, lost) in gains.items() if lost - gained > self.config.spare_frames)
        gaining = [d for d, (gained, lost) in gains.items() if gained - lost >= 2 * math.sqrt(max(gained + lost, 1))]
        return idle if len(gaining) < 2 * len(idle) else []

    def _affine(self, delta: Tensors) -> Tensors:
        return apply_delta(self.bundle.source_affine, delta, self.bundle.manifest.norm_layers)

    def _agreement(self, frames: Frame, affine: Tensors, base: Tensors | None) -> _Agreement:
        """With the teacher, as devices serve: versions by the frames' own statistics, the source's values by a mixture.

        Args:
            base: The version that it was made from; None for the source.
        """
        from littoral.cloud.served import served_logits  # here: torch comes with it

        answers = self.worker.logits(frames, role="teacher").argmax(1)

        def right(values: Tensors) -> Right:
            same: Right = self.worker.logits(frames, role="student", affine=values).argmax(1) == answers
            return same

        source: Right = served_logits(self.worker, frames, self.bundle.source_affine).argmax(1) == answers
        return _Agreement(right(affine), source if base is None else right(base), source)

    def _refused(self, affine: Tensors, recent_frames: Frame, report: dict[str, float]) -> str:
        """Why these values may not ship whatever the witnesses say, empty if they may; the report gets its figures."""
        from littoral.cloud.teacher import spread  # here: torch comes with it, and stand-ins for the gate need none

        manifest = self.bundle.manifest
        if found := violations(affine, self.bundle.source_affine, manifest.envelope_max_delta):
            return "outside the envelope: " + "; ".join(found[:3])
        frames, labels = self.bundle.probe
        probe = self.worker.source_logits(frames, affine)
        recent = self.worker.logits(recent_frames, role="student", affine=affine)
        if not (np.isfinite(probe).all() and np.isfinite(recent).all()):
            return "the outputs are not finite"
        teacher = self.worker.logits(recent_frames, role="teacher")
        kept = float((probe.argmax(1) == labels).mean())
        own, wanted = spread(recent), spread(teacher)
        report |= {
            "probe_agreement": kept,
            "teacher_agreement": float((recent.argmax(1) == teacher.argmax(1)).mean()),
            "spread_nats": own,
            "teacher_spread_nats": wanted,
        }
        needed = min(manifest.probe.min_agreement + self.config.probe_margin, 1.0)
        if kept < needed:
            return f"it keeps {kept:.0%} of the probe's labels, {needed:.0%} are needed"
        if own < self.config.min_spread * wanted:
            return f"collapse: its answers spread over {own:.2f} nats of classes, the teacher's over {wanted:.2f}"
        return ""
