"""A device put apart: it learns and is served as before, but from chains of versions that are its own.

For each domain of the cohort that a quarantined device is in it has a domain of its own, with the same centre, that no
other device is ever put into. So it neither teaches the others nor is taught by them, and what it taught is forgotten:
the domains that it was in begin afresh. Where there are no fingerprints,
and so no domains, its samples are recorded and not learned from. Everything here runs in the writer's transaction.
"""

from __future__ import annotations

import sqlite3

from littoral.cloud.schema import note
from littoral.core.recall import NO_DOMAIN


def is_quarantined(db: sqlite3.Connection, device_id: str) -> bool:
    """Whether a device is apart now."""
    row = db.execute("SELECT quarantined_at FROM devices WHERE id = ?", (device_id,)).fetchone()
    return row is not None and row["quarantined_at"] is not None


def own_domain(db: sqlite3.Connection, cohort: str, device_id: str, domain: int) -> int:
    """A device's own domain beside one of the cohort's, made if there is none; a domain of its own as it is."""
    row = db.execute("SELECT * FROM domains WHERE cohort = ? AND number = ?", (cohort, domain)).fetchone()
    if row is None or row["own_of"] is not None:
        return domain
    found = db.execute(
        "SELECT number FROM domains WHERE cohort = ? AND founder = ? AND own_of = ?", (cohort, device_id, domain)
    ).fetchone()
    if found is not None:
        return int(found["number"])
    number = 1 + int(db.execute("SELECT max(number) FROM domains WHERE cohort = ?", (cohort,)).fetchone()[0])
    db.execute(
        "INSERT INTO domains (cohort, number, centre, num_scenes, known, founder, own_of) VALUES (?, ?, ?, 1, 0, ?, ?)",
        (cohort, number, row["centre"], device_id, domain),
    )
    return number


def set_apart(db: sqlite3.Connection, cohort: str, device_id: str, *, version: int, reason: str, now: float) -> None:
    """Quarantine a device, and withdraw its samples that no job has taken yet. Nothing for one that is apart.

    The domains that it taught begin afresh after ``version``: no later one is made from what it had a part in.
    """
    changed = db.execute(
        "UPDATE devices SET quarantined_at = ? WHERE id = ? AND cohort = ? AND quarantined_at IS NULL",
        (now, device_id, cohort),
    )
    if changed.rowcount != 1:
        return
    db.execute(
        "UPDATE domains SET afresh_after = ?1 WHERE cohort = ?2 AND own_of IS NULL AND number IN"
        " (SELECT s.domain FROM samples s JOIN versions v ON v.cohort = s.cohort AND v.job = s.job"
        " WHERE s.device_id = ?3 AND s.cohort = ?2 AND v.status = 'shipped'"
        " AND json_extract(v.verdict, '$.left_out') IS NOT ?3)",
        (version, cohort, device_id),
    )
    domain = db.execute("SELECT domain FROM devices WHERE id = ?", (device_id,)).fetchone()["domain"]
    db.execute("UPDATE samples SET withdrawn = 1 WHERE device_id = ? AND job IS NULL", (device_id,))
    db.execute("UPDATE devices SET domain = ? WHERE id = ?", (own_domain(db, cohort, device_id, domain), device_id))
    note(db, now, "device-quarantined", device_id, reason)


def release(db: sqlite3.Connection, device_id: str, *, reason: str, now: float) -> bool:
    """End a quarantine; False when there was none. The device shares again from its next scene on.

    Raises:
        ValueError: no such device is enrolled.
    """
    if db.execute("SELECT 1 FROM devices WHERE id = ?", (device_id,)).fetchone() is None:
        raise ValueError(f"no device {device_id!r} is enrolled; 'littoral enrol list' shows those that are")
    changed = db.execute(
        "UPDATE devices SET quarantined_at = NULL WHERE id = ? AND quarantined_at IS NOT NULL", (device_id,)
    )
    if changed.rowcount == 1:
        note(db, now, "device-released", device_id, reason)
    return changed.rowcount == 1


def learned_from(db: sqlite3.Connection, cohort: str, device_id: str, domain: int) -> tuple[int, bool]:
    """The domain that a new sample or scene of a device counts for, and whether it may be learned from."""
    if not is_quarantined(db, device_id):
        return domain, True
    return own_domain(db, cohort, device_id, domain), domain != NO_DOMAIN
