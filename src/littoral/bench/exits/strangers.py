"""Classes that a user never showed, and days that a user takes back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from littoral.bench.exits.chain import Chain
from littoral.bench.exits.learn import FRAMES_PER_DAY, labelled_frames, new_heads, show
from littoral.bench.exits.measure import Case, policy_of
from littoral.bench.exits.scored import Scored, certify, outcome, score
from littoral.bench.exits.seen import Part, Seen
from littoral.core.exit_gate import ExitGate, StrangerGate, fit_gate, fit_stranger_gate
from littoral.core.exits import OFF, exit_indices
from littoral.core.personal import PersonalConfig, PersonalHead

Row = dict[str, Any]


def stranger_row(chain: Chain, seen: Seen, *, labels: float, config: PersonalConfig | None = None) -> Row:
    """How often the device is right on frames of classes that the user never showed, with and without the gate.

    The thresholds are those that were certified on the user's own frames, with all exits gated or none. A gated exit
    lets no frame leave that lies further from what the user showed than the held-back frames do; a watched one none of
    which the shipped head is surer that its class was never shown. Where the deep exit's is shut, ``watched`` and
    ``gated_to_shipped`` have the shipped network's answer.
    """
    config = config or PersonalConfig()
    heads = _taught(chain, seen.personal, labels, seen.user.index, config)
    new = tuple(head.refresh()[0] for head in heads)
    case = Case(method="personal", heads=new, num_frames=len(seen.personal), labels=labels)
    policy, rest = policy_of(case, seen.calibration, chain.costs())
    calibration = score(new, rest, policy.temperatures)
    loss, level = ("excess", 0.0) if labels else ("disagreement", 0.05)
    thresholds = certify(policy.path_LE, calibration, loss=loss, level=level).thresholds
    gates = [gate_of(head) for head in heads]
    watched = [stranger_gate_of(head) for head in heads]
    row: Row = {"labels": labels, "loss": loss}
    for name, part in (("own", seen.test), ("never", seen.unseen)):
        scored = score(new, part, policy.temperatures)
        free = outcome(policy, scored, thresholds)
        leaving = exit_indices(_gated(scored.confidences_NE, part, gates), thresholds)
        row |= {
            f"{name}_shipped_right": scored.shipped_right,
            f"{name}_full_right": outcome(policy, scored, (OFF,) * (len(new) - 1)).right,
            f"{name}_right": free.right,
            f"{name}_gated_right": scored.right(leaving),
            f"{name}_early": float((exit_indices(scored.confidences_NE, thresholds) < len(new) - 1).mean()),
            f"{name}_gated_early": float((leaving < len(new) - 1).mean()),
            f"{name}_passes": float(
                np.mean([gate.lets(x).mean() for gate, x in zip(gates, part.features, strict=True)])
            ),
        }
        row[f"{name}_gated_to_shipped_right"] = _right_with_shipped(scored, part, leaving, gates)
        leaving = exit_indices(_gated(scored.confidences_NE, part, watched), thresholds)
        row[f"{name}_watched_right"] = _right_with_shipped(scored, part, leaving, watched)
        row[f"{name}_watched_early"] = float((leaving < len(new) - 1).mean())
        at_end = np.full(len(part), len(new) - 1)
        row[f"{name}_watched_full_right"] = _right_with_shipped(scored, part, at_end, watched)
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}


def gate_of(head: PersonalHead) -> ExitGate:
    """From what the head has summed and held back."""
    if head.moments is None or head.config.fit == "logits":
        raise ValueError("a gate needs the source's moments, and sums of answers: not of the fit 'logits'")
    gram, targets, _ = head.evidence.total(keep_per_day=head.config.keep_per_day)
    return fit_gate(gram, targets, head.moments, head.held.features[: len(head.held)].astype(np.float32))


def stranger_gate_of(head: PersonalHead) -> StrangerGate:
    """The same of the other kind."""
    return fit_stranger_gate(
        head.shipped, head.evidence.weights(), head.held.features[: len(head.held)].astype(np.float32)
    )


def _right_with_shipped(
    scored: Scored, part: Part, leaving: np.ndarray, gates: Sequence[ExitGate | StrangerGate]
) -> float:
    """Percent right where the shipped network answers what the deepest gate does not let through."""
    deepest = len(gates) - 1
    ends = scored.answers_NE[np.arange(len(leaving)), leaving]
    ends = np.where((leaving == deepest) & ~gates[-1].lets(part.features[-1]), scored.shipped_N, ends)
    return 100 * float((ends == scored.labels_N).mean())


def _gated(confidences_NE: np.ndarray, part: Part, gates: Sequence[ExitGate | StrangerGate]) -> np.ndarray:
    """Confidences below every threshold where the exit's gate is shut."""
    out = confidences_NE.copy()
    for i, gate in enumerate(gates[:-1]):
        out[~gate.lets(part.features[i]), i] = -1.0
    return out


def removal_row(chain: Chain, seen: Seen, *, labels: float, config: PersonalConfig | None = None) -> Row:
    """A head that gave a day back, against one that was never given it: the largest difference of any weight."""
    config, day = config or PersonalConfig(), 2
    gave = _taught(chain, seen.personal, labels, seen.user.index, config)
    never = _taught(chain, seen.personal, labels, seen.user.index, config, without=day)
    before = [head.matrix() for head in gave]
    for head in gave:
        head.remove_day(day)
    after = [head.matrix() for head in gave]
    gaps = [float(np.abs(a - head.matrix()).max()) for a, head in zip(after, never, strict=True)]
    moved = [float(np.abs(a - b).max()) for a, b in zip(after, before, strict=True)]
    held = max(len(head.memory.days[: head.memory.size][head.memory.days[: head.memory.size] == day]) for head in gave)
    return {
        "labels": labels,
        "day_frames": FRAMES_PER_DAY,
        "largest_difference": max(gaps),
        "least_moved_by_the_day": min(moved),
        "frames_of_the_day_left": held,
    }


def _taught(
    chain: Chain, personal: Part, labels: float, seed: int, config: PersonalConfig, *, without: int | None = None
) -> list[PersonalHead]:
    heads = new_heads(chain, config=config, seed=seed)
    given, deep = labelled_frames(len(personal), labels, seed=seed), personal.deep_NK
    for i in range(len(personal)):
        if (day := i // max(1, min(FRAMES_PER_DAY, len(personal) // 4))) != without:
            show(heads, personal, i, day=day, labelled=bool(given[i]), deep=deep)
    return heads
