"""What becomes of a job, as the record keeps it: shipped or held, why, and which devices are to blame."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from littoral.bundle import SignedVersion
from littoral.cloud.jobs import AdaptResult
from littoral.cloud.ledger import NewVersion, VersionEntry

if TYPE_CHECKING:
    from littoral.cloud.gate import Verdict

BLAMED, LEFT_OUT, QUARANTINED = "blamed", "left_out", "quarantined"
"""Keys of a verdict in the record: devices, with commas between them."""
BACK = "back_to_source"
"""Key of a verdict: what shipped are the source's values."""


def back(new: NewVersion, payload: bytes, signed: SignedVersion) -> NewVersion:
    """In a held version's place the source's values; the held one's samples still taught nothing."""
    return replace(
        new,
        status="shipped",
        reason=f"back to the source's values: {new.reason}",
        payload=payload,
        signed=signed,
        state=b"",
        verdict={**new.verdict, BACK: 1.0},
    )


def learned_from_its_job(entry: VersionEntry | NewVersion) -> bool:
    """Whether a version learned from its job's samples, so that they are good for replay."""
    return entry.status == "shipped" and BACK not in entry.verdict


def held(reason: str, result: AdaptResult, verdict: Mapping[str, float]) -> NewVersion:
    """A version that no device gets."""
    return NewVersion(
        status="held",
        reason=reason,
        payload=result.payload,
        signed=None,
        state=b"",
        report=plain(result.report),
        verdict=plain(verdict),
    )


def shipped(result: AdaptResult, verdict: Verdict, signed: SignedVersion) -> NewVersion:
    """A version for the devices of its domain."""
    return NewVersion(
        status="shipped",
        reason=verdict.reason,
        payload=result.payload,
        signed=signed,
        state=result.state,
        report=plain(result.report),
        verdict=plain(verdict.report),
        labels=result.labels,
    )


def blaming(
    new: NewVersion, devices: Collection[str], *, left_out: Collection[str] = (), reason: str = ""
) -> NewVersion:
    """The same with who is to blame, whose samples are not in it, and perhaps a better reason."""
    told = {key: ",".join(sorted(names)) for key, names in ((BLAMED, devices), (LEFT_OUT, left_out)) if names}
    return replace(new, verdict={**new.verdict, **told}, reason=reason or new.reason)


def quarantining(new: NewVersion, devices: Sequence[str]) -> NewVersion:
    """The same, together with which these devices are quarantined."""
    if not devices:
        return new
    return replace(new, verdict={**new.verdict, QUARANTINED: ",".join(devices)}, quarantined=tuple(devices))


def named(entry: VersionEntry | NewVersion, key: str) -> tuple[str, ...]:
    """The devices that a verdict has under a key."""
    return tuple(name for name in str(entry.verdict.get(key, "")).split(",") if name)


def plain(report: Mapping[str, float | str]) -> dict[str, float | str]:
    """A report that JSON can hold: numbers as finite floats, the others as text."""
    out: dict[str, float | str] = {}
    for key, value in report.items():
        number = value if isinstance(value, str) else float(value)
        out[key] = number if isinstance(number, str) or math.isfinite(number) else str(number)
    return out
