"""A cohort's part of the record: which samples wait, who works on them, and the versions that came of it.

Each domain has a chain of versions of its own; numbers grow over the whole cohort. Making version ``head + 1`` is a
job. It takes samples of one domain, is claimed with a lease and a fencing token, and its version is committed only
while the head is still the one it was made for and the token the newest: doing a job twice has one effect.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Literal

from littoral.bundle.update import SignedVersion
from littoral.cloud.domains import DomainEntry, read_domains
from littoral.cloud.quarantine import set_apart
from littoral.cloud.schema import note
from littoral.cloud.shares import Waiting
from littoral.cloud.store import Store

Status = Literal["shipped", "held"]
_NEWEST = "SELECT coalesce(max(version), 0) FROM versions WHERE cohort = ?"


@dataclass(frozen=True, kw_only=True)
class Head:
    """Where a cohort stands. ``version`` is its newest, shipped or held; ``shipped`` the newest shipped by domain.

    ``open_job`` is the id of a job that was begun on this head and not finished, ``waiting`` what no job has taken.
    """

    version: int
    shipped: dict[int, int]
    open_job: int | None
    waiting: tuple[Waiting, ...]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The right to make version ``head_version + 1`` of a job's samples, until somebody else claims it."""

    job: int
    head_version: int
    domain: int
    base_version: int
    num_samples: int
    fencing_token: int


@dataclass(frozen=True, kw_only=True)
class StoredSample:
    """A recorded sample with its image as it came."""

    id: int
    device_id: str
    predicted: int
    coding: str
    sha256: bytes
    """Of the image as it came; it may have been damaged or given up since."""
    image: bytes


@dataclass(frozen=True, kw_only=True)
class NewVersion:
    """What a finished job leaves behind. ``signed`` is None for a version that is held back; labels are not kept."""

    status: Status
    reason: str
    payload: bytes
    signed: SignedVersion | None
    state: bytes
    report: dict[str, Any]
    verdict: dict[str, Any]
    labels: tuple[bytes, ...] = ()
    quarantined: tuple[str, ...] = ()
    """Devices that are put apart together with it."""


@dataclass(frozen=True, kw_only=True)
class ShippedVersion:
    """A version that devices of its domain may have, as it crosses the wire."""

    version: int
    domain: int
    signed: SignedVersion


@dataclass(frozen=True, kw_only=True)
class VersionEntry:
    """A line of the version history. ``job`` is None for a re-issue of ``base_version``."""

    version: int
    domain: int
    base_version: int
    job: int | None
    status: Status
    reason: str
    payload_bytes: int
    report: dict[str, Any]
    verdict: dict[str, Any]
    num_samples: int
    created_at: float


class Ledger:
    """The versions and jobs of one cohort."""

    def __init__(self, store: Store, cohort: str) -> None:
        self.store = store
        self.cohort = cohort

    # -- where it stands ---------------------------------------------------------------------------------------------

    def head(self) -> Head:
        """Where the cohort stands."""
        shipped = self.store.read(
            "SELECT domain, max(version) FROM versions WHERE cohort = ? AND status = 'shipped' GROUP BY domain",
            self.cohort,
        )
        version = int(self.store.read(_NEWEST, self.cohort)[0][0])
        job = self.store.read(
            "SELECT id FROM jobs WHERE cohort = ? AND head_version = ? AND status = 'open'", self.cohort, version
        )
        waiting = self.store.read(
            "SELECT s.domain, count(*), min(s.id),"
            " (SELECT coalesce(max(j.id), 0) FROM jobs j WHERE j.cohort = ?1 AND j.domain = s.domain)"
            " FROM samples s WHERE s.cohort = ?1 AND s.job IS NULL AND s.withdrawn = 0"
            " GROUP BY s.domain ORDER BY s.domain",
            self.cohort,
        )
        return Head(
            version=version,
            shipped={int(row[0]): int(row[1]) for row in shipped},
            open_job=int(job[0]["id"]) if job else None,
            waiting=tuple(Waiting(domain=r[0], num_samples=r[1], oldest=r[2], last_job=r[3]) for r in waiting),
        )

    def waiting(self, domain: int, *, per_device: int) -> list[tuple[int, str]]:
        """(id, device) of the waiting samples of a domain in commit order, of each device the oldest ``per_device``."""
        rows = self.store.read(
            "SELECT id, device_id FROM (SELECT id, device_id, row_number() OVER (PARTITION BY device_id ORDER BY id)"
            " AS turn FROM samples WHERE cohort = ? AND domain = ? AND job IS NULL AND withdrawn = 0)"
            " WHERE turn <= ? ORDER BY id",
            self.cohort,
            domain,
            per_device,
        )
        return [(int(row["id"]), str(row["device_id"])) for row in rows]

    def domains(self) -> list[DomainEntry]:
        """The cohort's domains, also those that the index gave up; domain 0 is not among them."""
        return read_domains(self.store.read("SELECT * FROM domains WHERE cohort = ? ORDER BY number", self.cohort))

    # -- jobs --------------------------------------------------------------------------------------------------------

    def claim(
        self, head: Head, samples: Sequence[int], *, domain: int, base_version: int, now: float, lease_s: float
    ) -> Future[Claim | None]:
        """Begin the job that makes version ``head.version + 1`` of these waiting samples.

        None when the head moved on, a job was begun on it, or one of the samples does not wait in the domain any more.
        """
        ids = json.dumps(list(samples))

        def work(db: sqlite3.Connection) -> Claim | None:
            if head_version(db, self.cohort) != head.version or open_job(db, self.cohort, head.version):
                return None
            free = db.execute(
                "SELECT count(*) FROM samples WHERE id IN (SELECT value FROM json_each(?)) AND cohort = ?"
                " AND domain = ? AND job IS NULL AND withdrawn = 0",
                (ids, self.cohort, domain),
            ).fetchone()[0]
            if not samples or free != len(samples):
                return None
            cursor = db.execute(
                "INSERT INTO jobs (cohort, head_version, domain, base_version, num_samples, status, lease_until,"
                " fencing_token) VALUES (?, ?, ?, ?, ?, 'open', ?, 1)",
                (self.cohort, head.version, domain, base_version, len(samples), now + lease_s),
            )
            assert cursor.lastrowid is not None
            db.execute(
                "UPDATE samples SET job = ? WHERE id IN (SELECT value FROM json_each(?))", (cursor.lastrowid, ids)
            )
            return Claim(
                job=cursor.lastrowid,
                head_version=head.version,
                domain=domain,
                base_version=base_version,
                num_samples=len(samples),
                fencing_token=1,
            )

        return self.store.write(work)

    def resume(self, head: Head, *, now: float, lease_s: float, take_over: bool = False) -> Future[Claim | None]:
        """Take over the job that was begun on this head, with the same samples and the same base.

        None when the head moved on, when there is no such job, or when another worker's lease on it still runs;
        ``take_over`` says that no other worker can be alive (the state folder's lock is held).
        """

        def work(db: sqlite3.Connection) -> Claim | None:
            job = open_job(db, self.cohort, head.version)
            if head_version(db, self.cohort) != head.version or job is None:
                return None
            if job["lease_until"] > now and not take_over:
                return None
            token = job["fencing_token"] + 1
            db.execute(
                "UPDATE jobs SET lease_until = ?, fencing_token = ? WHERE id = ?", (now + lease_s, token, job["id"])
            )
            return Claim(
                job=job["id"],
                head_version=head.version,
                domain=job["domain"],
                base_version=job["base_version"],
                num_samples=job["num_samples"],
                fencing_token=token,
            )

        return self.store.write(work)

    def samples(self, job: int) -> list[StoredSample]:
        """The samples that a job took, in commit order."""
        return self._with_images("s.job = ?", job)

    def samples_of(self, ids: Sequence[int]) -> list[StoredSample]:
        """Samples by their ids, in commit order."""
        return self._with_images("s.id IN (SELECT value FROM json_each(?))", json.dumps(list(ids)))

    def _with_images(self, which: str, value: object) -> list[StoredSample]:
        rows = self.store.read(
            "SELECT s.id, s.device_id, s.predicted, s.coding, sha256, b.data FROM samples s JOIN blobs b USING (sha256)"
            f" WHERE {which} AND s.cohort = ? ORDER BY s.id",
            value,
            self.cohort,
        )
        names = ("id", "device_id", "predicted", "coding", "sha256", "image")
        return [StoredSample(**dict(zip(names, row, strict=True))) for row in rows]

    def commit(self, claim: Claim, new: NewVersion, *, now: float, passed_over: Sequence[int] = ()) -> Future[bool]:
        """Compare and set: record version ``claim.head_version + 1`` if the claim still holds; False if it does not.

        Args:
            passed_over: Of the job's samples those that could not be decoded.
        """

        def work(db: sqlite3.Connection) -> bool:
            if head_version(db, self.cohort) != claim.head_version:
                return False
            done = db.execute(
                "UPDATE jobs SET status = 'done' WHERE id = ? AND status = 'open' AND fencing_token = ?",
                (claim.job, claim.fencing_token),
            )
            if done.rowcount != 1:
                return False
            db.execute(
                "UPDATE samples SET withdrawn = 1 WHERE id IN (SELECT value FROM json_each(?)) AND job = ?",
                (json.dumps(list(passed_over)), claim.job),
            )
            self.insert_version(
                db,
                new,
                version=claim.head_version + 1,
                domain=claim.domain,
                base_version=claim.base_version,
                job=claim.job,
                now=now,
            )
            for device_id in new.quarantined:
                version = claim.head_version + 1
                reason = f"version {version}: {new.reason}"
                set_apart(db, self.cohort, device_id, version=version, reason=reason, now=now)
            return True

        return self.store.write(work)

    def insert_version(
        self,
        db: sqlite3.Connection,
        new: NewVersion,
        *,
        version: int,
        domain: int,
        base_version: int,
        job: int | None,
        now: float,
    ) -> None:
        """Write a version, inside the writer's transaction."""
        row = {
            "cohort": self.cohort,
            "version": version,
            "domain": domain,
            "base_version": base_version,
            "job": job,
            "status": new.status,
            "payload": new.payload,
            "payload_sha256": hashlib.sha256(new.payload).digest(),
            "manifest": new.signed.manifest if new.signed else b"",
            "signature": new.signed.signature if new.signed else b"",
            "state": new.state,
            "report": json.dumps(new.report, sort_keys=True),
            "verdict": json.dumps(new.verdict, sort_keys=True),
            "reason": new.reason,
            "created_at": now,
        }
        if new.status == "shipped" and job is not None:  # only a domain's newest is ever gone on from
            of_domain = "cohort = ? AND domain = ? AND status = 'shipped' AND length(state) > 0"
            db.execute(f"UPDATE versions SET state = x'' WHERE {of_domain}", (self.cohort, domain))
        names = ", ".join(row)
        db.execute(f"INSERT INTO versions ({names}) VALUES ({', '.join('?' * len(row))})", tuple(row.values()))
        note(db, now, f"version-{new.status}", f"{self.cohort}/{version}", new.reason)

    # -- versions ----------------------------------------------------------------------------------------------------

    def state(self, version: int) -> bytes:
        """The adaptation state after a domain's newest shipped version; ``b""`` for version 0, the source."""
        rows = self.store.read(
            "SELECT o.state FROM versions v JOIN versions o ON o.cohort = v.cohort"
            " AND o.version = iif(v.job IS NULL, v.base_version, v.version) WHERE v.cohort = ? AND v.version = ?",
            self.cohort,
            version,
        )
        return bytes(rows[0]["state"]) if rows else b""

    def payload_of(self, version: int) -> bytes:
        """The coded delta of a version; ``b""`` for version 0, the source."""
        rows = self.store.read("SELECT payload FROM versions WHERE cohort = ? AND version = ?", self.cohort, version)
        return bytes(rows[0]["payload"]) if rows else b""

    def newest_number(self) -> int:
        """The newest version, shipped or held; 0 for none. Read at once."""
        return int(self.store.read_at_once(_NEWEST, self.cohort)[0][0])

    def newest_shipped(self) -> dict[int, ShippedVersion]:
        """By domain the version that its devices should have."""
        rows = self.store.read(
            "SELECT version, domain, manifest, signature, payload FROM versions WHERE cohort = ?1 AND version IN"
            " (SELECT max(version) FROM versions WHERE cohort = ?1 AND status = 'shipped' GROUP BY domain)",
            self.cohort,
        )
        return {row["domain"]: _shipped(row) for row in rows}

    def newest_shipped_of(self, domain: int) -> ShippedVersion | None:
        """The version that the devices of a domain should have. Read at once (`Store.read_at_once`)."""
        rows = self.store.read_at_once(
            "SELECT version, domain, manifest, signature, payload FROM versions"
            " WHERE cohort = ? AND domain = ? AND status = 'shipped' ORDER BY version DESC LIMIT 1",
            self.cohort,
            domain,
        )
        return _shipped(rows[0]) if rows else None

    def payload(self, sha256: bytes) -> bytes | None:
        """A shipped version's payload by its digest."""
        rows = self.store.read_at_once(
            "SELECT payload FROM versions WHERE payload_sha256 = ? AND cohort = ? AND status = 'shipped' LIMIT 1",
            sha256,
            self.cohort,
        )
        return bytes(rows[0]["payload"]) if rows else None

    def history(self, *, limit: int = 1_000_000) -> list[VersionEntry]:
        """The newest ``limit`` versions, shipped and held, oldest first."""
        rows = self.store.read(
            "SELECT v.version, v.domain, v.base_version, v.job, v.status, v.reason, length(v.payload) AS payload_bytes,"
            " v.report, v.verdict, v.created_at, coalesce(j.num_samples, 0) AS num_samples FROM versions v"
            " LEFT JOIN jobs j ON j.id = v.job WHERE v.cohort = ? ORDER BY v.version DESC LIMIT ?",
            self.cohort,
            limit,
        )
        decoded = ("report", "verdict")
        return [
            VersionEntry(**{k: json.loads(row[k]) if k in decoded else row[k] for k in row.keys()})  # noqa: SIM118
            for row in reversed(rows)
        ]


def _shipped(row: sqlite3.Row) -> ShippedVersion:
    signed = SignedVersion(manifest=row["manifest"], signature=row["signature"], payload=row["payload"])
    return ShippedVersion(version=row["version"], domain=row["domain"], signed=signed)


def head_version(db: sqlite3.Connection, cohort: str) -> int:
    """`Ledger.newest_number` inside the writer's transaction."""
    return int(db.execute(_NEWEST, (cohort,)).fetchone()[0])


def open_job(db: sqlite3.Connection, cohort: str, head_version: int) -> sqlite3.Row | None:
    """The row of the job that was begun on a head and not finished."""
    row: sqlite3.Row | None = db.execute(
        "SELECT * FROM jobs WHERE cohort = ? AND head_version = ? AND status = 'open'", (cohort, head_version)
    ).fetchone()
    return row
