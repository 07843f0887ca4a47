"""What every method does for one user: flat rows of one number after another, in percent and in shares of work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from littoral.bench.exits.chain import Chain
from littoral.bench.exits.learn import STOPS, Learned, learn
from littoral.bench.exits.scored import (
    Policy,
    certified,
    equal_accuracy,
    make_policy,
    outcome,
    outcomes_of,
    patience,
    score,
    split_calibration,
    within_budget,
)
from littoral.bench.exits.seen import Part, Seen
from littoral.core.exits import OFF, ExitCosts
from littoral.core.heads import LinearHead
from littoral.core.personal import PersonalConfig
from littoral.core.risk import Certified

Row = dict[str, Any]
Heads = tuple[LinearHead, ...]
BUDGETS = (0.25, 0.35, 0.5, 0.75)
"""Mean work as a share of the whole network's, at which methods are compared."""
RISKS = (0.02, 0.03, 0.05)
"""The disagreement with the device's own full depth that is promised without labels."""
LABELS = (0.0, 0.1, 1.0)
RARE_LABELS = (0.01, 0.05)
GENERIC, CORRECTED, PERSONAL, UNPROTECTED, LAST = "generic", "corrected", "personal", "unprotected", "last layer"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One set of heads and what is known to whoever chooses its thresholds.

    Attributes:
        labels: The share of the personal frames that the user labelled; above 0 calibration frames have labels too.
    """

    method: str
    heads: Heads
    num_frames: int
    labels: float = 0.0
    serving: int = 0
    """How many of the heads are personal ones."""


def shipped_heads(chain: Chain) -> Heads:
    """As the bundle has them."""
    return tuple(exit.head for exit in chain.exits)


def cases_of(
    chain: Chain, seen: Seen, *, labels: Sequence[float], stops: Sequence[int] = STOPS, config: PersonalConfig
) -> list[Case]:
    """Everything that is measured for one user: not personalised, and personalised with so many labels."""
    shipped = shipped_heads(chain)
    cases = [Case(method=GENERIC, heads=shipped, num_frames=0)]
    for share in labels:
        for learned in learn(chain, seen.personal, config=config, labels=share, seed=seen.user.index, stops=stops):
            cases += _cases(learned, share, shipped, at_end=learned.num_frames == max(stops))
    return cases


def _cases(learned: Learned, labels: float, shipped: Heads, *, at_end: bool) -> list[Case]:
    count = learned.num_frames
    cases = [Case(method=PERSONAL, heads=learned.serving, num_frames=count, labels=labels, serving=sum(learned.serves))]
    if at_end:
        fitted, last = learned.fitted, (*shipped[:-1], learned.serving[-1])
        cases.append(Case(method=UNPROTECTED, heads=fitted, num_frames=count, labels=labels, serving=len(fitted)))
        cases.append(Case(method=LAST, heads=last, num_frames=count, labels=labels, serving=int(learned.serves[-1])))
    if labels == 0:
        cases.append(Case(method=CORRECTED, heads=learned.corrected, num_frames=count, serving=0))
    return cases


def policy_of(case: Case, calibration: Part, costs: ExitCosts) -> tuple[Policy, Part]:
    """The case's temperatures and path, and the calibration frames that are left to certify a step of it."""
    search, rest = split_calibration(calibration)
    return make_policy(case.heads, search, costs, labelled=case.labels > 0), rest


def measured(case: Case, seen: Seen, costs: ExitCosts) -> Row:
    """A case's row.

    ``full_right`` is with every frame run to the end. ``eq_*`` is with hindsight, ``cert_*`` certified: ``_d02`` and
    ``_d05`` for a disagreement of 2 and 5 % with the device's own full depth, which needs no label, ``_x`` for "errs no
    more often than the shipped network", which needs labels of the calibration frames.
    """
    policy, rest = policy_of(case, seen.calibration, costs)
    test = score(case.heads, seen.test, policy.temperatures)
    calibration = score(case.heads, rest, policy.temperatures)
    full = outcome(policy, test, (OFF,) * (len(case.heads) - 1))
    row: Row = {
        "method": case.method,
        "labels": case.labels,
        "frames": case.num_frames,
        "personal_heads": case.serving,
        "shipped_right": test.shipped_right,
        "full_right": full.right,
        "first_exit_right": test.exits_right[0],
    }
    if case.method == LAST:
        return _rounded(row)
    steps = outcomes_of(policy, test)
    for budget in BUDGETS:
        row[f"right_{round(100 * budget)}"] = within_budget(steps, budget).right
    for name, wanted in (("eq", test.shipped_right), ("eqfull", full.right)):
        same = equal_accuracy(steps, wanted)
        row[f"{name}_compute"] = 1.0 if same is None else same.compute
    for level in RISKS:
        found, promise = certified(policy, calibration, test, loss="disagreement", level=level)
        tag = f"cert_d{round(100 * level):02d}"
        row |= {f"{tag}_compute": found.compute, f"{tag}_right": found.right}
        row |= {f"{tag}_risk": found.disagreement, f"{tag}_held": isinstance(promise, Certified)}
    found, promise = certified(policy, calibration, test, loss="excess", level=0.0)
    row |= {"cert_x_compute": found.compute, "cert_x_right": found.right, "cert_x_risk": found.excess}
    row["cert_x_held"] = isinstance(promise, Certified)
    plain = outcome(policy, test, (0.9,) * (len(case.heads) - 1))
    row |= {"plain_compute": plain.compute, "plain_right": plain.right}
    patient = patience(policy, test, 1)
    row |= {"patience_compute": patient.compute, "patience_right": patient.right}
    return _rounded(row)


def user_rows(
    chain: Chain,
    seen: Seen,
    *,
    labels: Sequence[float] = LABELS,
    stops: Sequence[int] = STOPS,
    config: PersonalConfig | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> list[Row]:
    """All rows of a user."""
    costs, facts = chain.costs(), seen.user.facts()
    short = {key: facts[key] for key in ("user", "style", "hard")}
    rows = []
    for case in cases_of(chain, seen, labels=labels, stops=stops, config=config or PersonalConfig()):
        tell(case.method)
        rows.append({**short, **measured(case, seen, costs)})
    return rows


def _rounded(row: Row) -> Row:
    return {
        key: round(value, 2 if key.endswith("right") or key.startswith("right") else 4)
        if isinstance(value, float)
        else value
        for key, value in row.items()
    }
