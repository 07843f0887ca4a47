"""Numbers of versions: a domain's version under a new one, for a device that comes back and does not remember it.

A device takes only what is above the highest number that it has seen. When it enters a domain whose newest version is
below that, and has no version of that domain itself, the cohort repeats the newest one as its next version: the same
payload, the same state, signed anew. All is decided from the record, so a restart loses nothing and repeats nothing.

A version that a job made is repeated at once. A repetition is itself repeated only ``reissue_interval_s`` after it was
made, for all that need it by then. So whatever devices say of themselves, a domain has no more re-issues than versions
that jobs made, and one for each interval.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from concurrent.futures import Future

from littoral.bundle.update import SignedVersion
from littoral.cloud.ledger import Head, Ledger, NewVersion, head_version, open_job
from littoral.core.recall import NO_DOMAIN

MOST_VERSIONS = 2**53
"""No number is passed over beyond it: it is exact in JSON, and no cohort makes as many versions."""

Sign = Callable[[bytes, int, int], SignedVersion]
"""A payload, its version and its domain, to the signed version."""


def forgotten(ledger: Ledger, *, now: float, interval_s: float) -> list[int]:
    """Domains whose newest shipped version a device in them needs again under a new number, and may have by now.

    That is so while the device is in a scene of the domain that it began with a version of another chain, so that it
    does not remember the domain's, and had already seen a number as high as the domain's newest, so that it would
    refuse it. A re-issue has a higher number than that scene's device had seen, so each scene calls for at most one.

    Args:
        now: Seconds since the epoch, as for `reissue`; after a clock was set back the interval is waited twice at most.
        interval_s: How old a version must be that is itself a re-issue.
    """
    rows = ledger.store.read(
        "SELECT DISTINCT s.domain FROM devices d JOIN scenes s ON s.id = d.last_scene"
        " JOIN versions n ON n.cohort = ?1 AND n.version ="
        " (SELECT max(version) FROM versions WHERE cohort = ?1 AND domain = s.domain AND status = 'shipped')"
        " WHERE s.cohort = ?1 AND d.revoked_at IS NULL AND s.domain > 0 AND n.version <= s.highest_version"
        " AND (n.job IS NOT NULL OR abs(?2 - n.created_at) >= ?3) AND NOT EXISTS"
        " (SELECT 1 FROM versions WHERE cohort = ?1 AND domain = s.domain AND version = s.version)"
        " ORDER BY s.domain",
        ledger.cohort,
        now,
        interval_s,
    )
    return [int(row["domain"]) for row in rows]


def reissue(ledger: Ledger, head: Head, domain: int, *, sign: Sign, now: float) -> Future[bool]:
    """Compare and set: record version ``head.version + 1``, a repetition of the domain's newest shipped one.

    False when the head moved on or a job was begun on it. The state stays where it is: the new row points at the
    version that a job made.
    """
    payload = ledger.payload_of(head.shipped[domain])
    new = NewVersion(
        status="shipped",
        reason=f"re-issued for domain {domain}",
        payload=payload,
        signed=sign(payload, head.version + 1, domain),
        state=b"",
        report={},
        verdict={},
    )

    def work(db: sqlite3.Connection) -> bool:
        if head_version(db, ledger.cohort) != head.version or open_job(db, ledger.cohort, head.version):
            return False
        original = db.execute(
            "SELECT iif(job IS NULL, base_version, version) FROM versions WHERE cohort = ? AND version = ?",
            (ledger.cohort, head.shipped[domain]),
        ).fetchone()[0]
        ledger.insert_version(
            db, new, version=head.version + 1, domain=domain, base_version=int(original), job=None, now=now
        )
        return True

    return ledger.store.write(work)


def pass_over(ledger: Ledger, first: int, *, now: float) -> Future[bool]:
    """Have the cohort's next version be ``first`` at least; False where it is anyway.

    For a record that was restored from an older copy: devices refuse every number up to the highest that they have
    seen, whatever is in it. A job that was begun goes on. What stands for the numbers is a version that is held.

    Raises:
        ValueError: ``first`` is below 1 or above `MOST_VERSIONS`.
    """
    if not 1 <= first <= MOST_VERSIONS:
        raise ValueError(f"the first version is 1 to {MOST_VERSIONS}, got {first}")
    new = NewVersion(
        status="held",
        reason=f"no version: numbers below {first} are passed over, since devices have seen them",
        payload=b"",
        signed=None,
        state=b"",
        report={},
        verdict={},
    )

    def work(db: sqlite3.Connection) -> bool:
        head = head_version(db, ledger.cohort)
        if head >= first - 1:
            return False
        ledger.insert_version(db, new, version=first - 1, domain=NO_DOMAIN, base_version=0, job=None, now=now)
        db.execute(
            "UPDATE jobs SET head_version = ? WHERE cohort = ? AND head_version = ? AND status = 'open'",
            (first - 1, ledger.cohort, head),
        )
        return True

    return ledger.store.write(work)
