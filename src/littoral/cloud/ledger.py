"""A cohort's part of the record: which samples wait, who works on them, and the versions that came of it.

Making version ``head + 1`` is a job. A job is claimed with a lease and a fencing token, and its version is committed
only while the head is still the one it was made for and the token the newest: doing a job twice has one effect.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Literal

from littoral.bundle.update import SignedVersion
from littoral.cloud.store import Store

Status = Literal["shipped", "held"]


@dataclass(frozen=True, kw_only=True)
class SampleRange:
    """``num_samples`` samples of a cohort, ids ``first`` to ``last``, both included."""

    first: int
    last: int
    num_samples: int


@dataclass(frozen=True, kw_only=True)
class Head:
    """Where a cohort stands. ``version`` is the newest, shipped or held; ``base_version`` the newest shipped, 0 none.

    ``open_job`` is the range of a job that was begun on this head and not finished; ``waiting`` are the ids of samples
    that no job has taken, in commit order, as many as were asked for.
    """

    version: int
    base_version: int
    open_job: SampleRange | None
    waiting: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The right to make version ``head_version + 1`` of these samples, until somebody else claims it."""

    job: int
    head_version: int
    base_version: int
    samples: SampleRange
    fencing_token: int


@dataclass(frozen=True, kw_only=True)
class StoredSample:
    """A recorded sample with its image as it came."""

    id: int
    device_id: str
    predicted: int
    coding: str
    image: bytes


@dataclass(frozen=True, kw_only=True)
class NewVersion:
    """What a finished job leaves behind. ``signed`` is None for a version that is held back."""

    status: Status
    reason: str
    payload: bytes
    signed: SignedVersion | None
    state: bytes
    report: dict[str, Any]
    verdict: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ShippedVersion:
    """A version that devices may have, as it crosses the wire."""

    version: int
    signed: SignedVersion


@dataclass(frozen=True, kw_only=True)
class VersionEntry:
    """A line of the version history."""

    version: int
    base_version: int
    status: Status
    reason: str
    payload_bytes: int
    report: dict[str, Any]
    verdict: dict[str, Any]
    samples: SampleRange
    created_at: float


class Ledger:
    """The versions and jobs of one cohort."""

    def __init__(self, store: Store, cohort: str) -> None:
        self.store = store
        self.cohort = cohort

    def head(self, *, at_most: int) -> Head:
        """Where the cohort stands, with up to ``at_most`` waiting sample ids."""
        version, base = self._versions()
        job = self.store.read(
            "SELECT first_sample, last_sample, num_samples FROM jobs WHERE cohort = ? AND head_version = ?",
            self.cohort,
            version,
        )
        waiting = self.store.read(
            "SELECT id FROM samples WHERE cohort = ?1 AND withdrawn = 0"
            " AND id > (SELECT coalesce(max(last_sample), 0) FROM jobs WHERE cohort = ?1) ORDER BY id LIMIT ?2",
            self.cohort,
            at_most,
        )
        return Head(
            version=version,
            base_version=base,
            open_job=SampleRange(first=job[0][0], last=job[0][1], num_samples=job[0][2]) if job else None,
            waiting=tuple(row["id"] for row in waiting),
        )

    def _versions(self) -> tuple[int, int]:
        row = self.store.read(
            "SELECT coalesce(max(version), 0), coalesce(max(CASE status WHEN 'shipped' THEN version END), 0)"
            " FROM versions WHERE cohort = ?",
            self.cohort,
        )[0]
        return int(row[0]), int(row[1])

    def claim(
        self, head: Head, samples: SampleRange, *, now: float, lease_s: float, take_over: bool = False
    ) -> Future[Claim | None]:
        """Take the job that makes version ``head.version + 1`` of ``samples``.

        None when the head moved on, when the samples are not those any more, or when another worker's lease on the job
        still runs; ``take_over`` says that no other worker can be alive (the state folder's lock is held).
        """

        def work(db: sqlite3.Connection) -> Claim | None:
            if _head_version(db, self.cohort) != head.version:
                return None
            job = db.execute(
                "SELECT * FROM jobs WHERE cohort = ? AND head_version = ?", (self.cohort, head.version)
            ).fetchone()
            if job is None:
                return self._open_job(db, head, samples, now + lease_s)
            same = (job["first_sample"], job["last_sample"]) == (samples.first, samples.last)
            if job["status"] != "open" or not same or (job["lease_until"] > now and not take_over):
                return None
            token = job["fencing_token"] + 1
            db.execute(
                "UPDATE jobs SET lease_until = ?, fencing_token = ? WHERE id = ?", (now + lease_s, token, job["id"])
            )
            return Claim(
                job=job["id"],
                head_version=head.version,
                base_version=job["base_version"],
                samples=samples,
                fencing_token=token,
            )

        return self.store.write(work)

    def _open_job(self, db: sqlite3.Connection, head: Head, samples: SampleRange, lease_until: float) -> Claim | None:
        count = db.execute(
            "SELECT count(*) FROM samples WHERE cohort = ? AND withdrawn = 0 AND id BETWEEN ? AND ?",
            (self.cohort, samples.first, samples.last),
        ).fetchone()[0]
        if count != samples.num_samples:
            return None
        cursor = db.execute(
            "INSERT INTO jobs (cohort, head_version, base_version, first_sample, last_sample, num_samples, status,"
            " lease_until, fencing_token) VALUES (?, ?, ?, ?, ?, ?, 'open', ?, 1)",
            (self.cohort, head.version, head.base_version, samples.first, samples.last, count, lease_until),
        )
        assert cursor.lastrowid is not None
        return Claim(
            job=cursor.lastrowid,
            head_version=head.version,
            base_version=head.base_version,
            samples=samples,
            fencing_token=1,
        )

    def commit(self, claim: Claim, new: NewVersion, *, now: float) -> Future[bool]:
        """Compare and set: record version ``claim.head_version + 1`` if the claim still holds; False if it does not."""

        def work(db: sqlite3.Connection) -> bool:
            if _head_version(db, self.cohort) != claim.head_version:
                return False
            done = db.execute(
                "UPDATE jobs SET status = 'done' WHERE id = ? AND status = 'open' AND fencing_token = ?",
                (claim.job, claim.fencing_token),
            )
            if done.rowcount != 1:
                return False
            signed = new.signed
            row = {
                "cohort": self.cohort,
                "version": claim.head_version + 1,
                "base_version": claim.base_version,
                "status": new.status,
                "payload": new.payload,
                "payload_sha256": hashlib.sha256(new.payload).digest(),
                "manifest": signed.manifest if signed else b"",
                "signature": signed.signature if signed else b"",
                "state": new.state,
                "report": json.dumps(new.report, sort_keys=True),
                "verdict": json.dumps(new.verdict, sort_keys=True),
                "reason": new.reason,
                "first_sample": claim.samples.first,
                "last_sample": claim.samples.last,
                "created_at": now,
            }
            names = ", ".join(row)
            db.execute(f"INSERT INTO versions ({names}) VALUES ({', '.join('?' * len(row))})", tuple(row.values()))
            db.execute(
                "INSERT INTO audit (at, kind, subject, detail) VALUES (?, ?, ?, ?)",
                (now, f"version-{new.status}", f"{self.cohort}/{claim.head_version + 1}", new.reason),
            )
            return True

        return self.store.write(work)

    def samples(self, samples: SampleRange) -> list[StoredSample]:
        """The samples of a range, in commit order."""
        rows = self.store.read(
            "SELECT s.id, s.device_id, s.predicted, s.coding, b.data FROM samples s JOIN blobs b USING (sha256)"
            " WHERE s.cohort = ? AND s.withdrawn = 0 AND s.id BETWEEN ? AND ? ORDER BY s.id",
            self.cohort,
            samples.first,
            samples.last,
        )
        return [
            StoredSample(id=row[0], device_id=row[1], predicted=row[2], coding=row[3], image=row[4]) for row in rows
        ]

    def state(self, version: int) -> bytes:
        """The adaptation state after a version; ``b""`` for version 0, the source."""
        rows = self.store.read("SELECT state FROM versions WHERE cohort = ? AND version = ?", self.cohort, version)
        return bytes(rows[0]["state"]) if rows else b""

    def newest_shipped(self) -> ShippedVersion | None:
        """The version that a device should have; None while there is none."""
        rows = self.store.read(
            "SELECT version, manifest, signature, payload FROM versions WHERE cohort = ? AND status = 'shipped'"
            " ORDER BY version DESC LIMIT 1",
            self.cohort,
        )
        if not rows:
            return None
        signed = SignedVersion(manifest=rows[0]["manifest"], signature=rows[0]["signature"], payload=rows[0]["payload"])
        return ShippedVersion(version=rows[0]["version"], signed=signed)

    def payload(self, sha256: bytes) -> bytes | None:
        """A shipped version's payload by its digest."""
        rows = self.store.read(
            "SELECT payload FROM versions WHERE payload_sha256 = ? AND cohort = ? AND status = 'shipped' LIMIT 1",
            sha256,
            self.cohort,
        )
        return bytes(rows[0]["payload"]) if rows else None

    def history(self, *, limit: int = 1_000_000) -> list[VersionEntry]:
        """The newest ``limit`` versions, shipped and held, oldest first."""
        rows = self.store.read(
            "SELECT v.version, v.base_version, v.status, v.reason, length(v.payload) AS payload_bytes, v.report,"
            " v.verdict, v.first_sample, v.last_sample, v.created_at, j.num_samples FROM versions v"
            " JOIN jobs j ON j.cohort = v.cohort AND j.head_version = v.version - 1"
            " WHERE v.cohort = ? ORDER BY v.version DESC LIMIT ?",
            self.cohort,
            limit,
        )
        return [
            VersionEntry(
                version=row["version"],
                base_version=row["base_version"],
                status=row["status"],
                reason=row["reason"],
                payload_bytes=row["payload_bytes"],
                report=json.loads(row["report"]),
                verdict=json.loads(row["verdict"]),
                samples=SampleRange(first=row["first_sample"], last=row["last_sample"], num_samples=row["num_samples"]),
                created_at=row["created_at"],
            )
            for row in reversed(rows)
        ]


def _head_version(db: sqlite3.Connection, cohort: str) -> int:
    row = db.execute("SELECT coalesce(max(version), 0) FROM versions WHERE cohort = ?", (cohort,)).fetchone()
    return int(row[0])
