"""Is the promise kept? The same user calibrated anew two hundred times, with the true risk known.

All calibration and test frames of a user together are the world; each time some of them calibrate, and the rest says
what the risk then is. Heads are fixed. What is counted is how often it is above the level that was promised.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from littoral.bench.exits.chain import Chain
from littoral.bench.exits.learn import learn
from littoral.bench.exits.scored import Scored, certify, score, temperatures_of
from littoral.bench.exits.seen import Part, Seen
from littoral.core.arrays import Float64s
from littoral.core.exits import exit_indices
from littoral.core.personal import PersonalConfig
from littoral.core.risk import Certified, shared_path

NUM_CALIBRATIONS = 200
CASES = (("disagreement", 0.02, 0.0), ("disagreement", 0.05, 0.0), ("excess", 0.0, 1.0))
"""Loss, level, and the share of personal frames with labels."""


def risk_rows(
    chain: Chain,
    seen: Seen,
    *,
    num_frames: int = 400,
    num_calibrations: int = NUM_CALIBRATIONS,
    config: PersonalConfig | None = None,
) -> list[dict[str, Any]]:
    """By case how often the promise was broken, and how often the plain mean of the calibration frames would be.

    Args:
        num_frames: That calibrate; other 100 fit temperatures.
    """
    rng = np.random.default_rng([seen.user.seed, seen.user.index, 5])
    world = _joined(seen.calibration, seen.test)
    heads = {
        labels: learn(
            chain,
            seen.personal,
            config=config or PersonalConfig(),
            labels=labels,
            seed=seen.user.index,
            stops=(len(seen.personal),),
        )[-1].serving
        for labels in sorted({labels for *_, labels in CASES})
    }
    rows = []
    for loss, level, labels in CASES:
        tuning = world.take(rng.permutation(len(world))[:100])
        scored = score(heads[labels], world, temperatures_of(heads[labels], tuning, labelled=labels > 0))
        path, broken, believed, none, risks = shared_path(len(heads[labels])), 0, 0, 0, []
        for _ in range(num_calibrations):
            order = rng.permutation(len(world))
            here, rest = _rows(scored, order[:num_frames]), _rows(scored, order[num_frames:])
            found = certify(path, here, loss=loss, level=level)
            none += not isinstance(found, Certified)
            risk = _risk(rest, loss, found.thresholds)
            risks.append(risk)
            broken += risk > level
            believed += _risk(rest, loss, _believed(path, here, loss, level)) > level
        rows.append(
            {
                "user": seen.user.index,
                "style": seen.user.style,
                "loss": loss,
                "level": level,
                "labels": labels,
                "calibrations": num_calibrations,
                "frames": num_frames,
                "broken": broken / num_calibrations,
                "not_certified": none / num_calibrations,
                "mean_risk": round(float(np.mean(risks)), 4),
                "broken_if_the_mean_is_believed": believed / num_calibrations,
            }
        )
    return rows


def _believed(path: Float64s, here: Scored, loss: str, level: float) -> tuple[float, ...]:
    """The fastest step whose mean loss on the calibration frames is within the level: the usual rule."""
    losses, rows, chosen = here.losses(loss), np.arange(len(here.labels_N)), path[0]
    for step in path:
        if losses[rows, exit_indices(here.confidences_NE, step)].mean() <= level:
            chosen = step
    return tuple(chosen.tolist())


def _risk(scored: Scored, loss: str, thresholds: tuple[float, ...]) -> float:
    leaving = exit_indices(scored.confidences_NE, thresholds)
    return float(scored.losses(loss)[np.arange(len(leaving)), leaving].mean())


def _rows(scored: Scored, rows: np.ndarray) -> Scored:
    return Scored(
        confidences_NE=scored.confidences_NE[rows],
        answers_NE=scored.answers_NE[rows],
        labels_N=scored.labels_N[rows],
        shipped_N=scored.shipped_N[rows],
    )


def _joined(one: Part, two: Part) -> Part:
    return Part(
        features=tuple(np.concatenate(pair) for pair in zip(one.features, two.features, strict=True)),
        logits_NK=np.concatenate([one.logits_NK, two.logits_NK]),
        labels_N=np.concatenate([one.labels_N, two.labels_N]),
    )
