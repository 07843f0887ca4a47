"""The record: who is enrolled, what the devices sent, and what was made of it. SQLite, and the only truth.

Every change goes through one `GroupWriter`, so a future that resolved means: committed and synced. Reads never wait for
a commit. Those that the gateway's event loop does have a connection of their own, so that they do not wait for what
the dashboard and the cohort look up. What belongs to a cohort's versions is in `littoral.cloud.ledger`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from littoral.bundle.signing import PublicKey
from littoral.cloud.domains import DomainRule
from littoral.cloud.intake import Entry, Origin, insert
from littoral.cloud.quarantine import release
from littoral.cloud.schema import LATER, SCHEMA, TABLES, note
from littoral.cloud.seen import mark_seen
from littoral.cloud.writer import GroupWriter, Work
from littoral.errors import BundleError, LinkRefused, ProtocolError, StorageError

RECORD_FILE = "record.sqlite3"
BUSY_TIMEOUT_S = 5.0
PAGE_BYTES = 4_096


@dataclass(frozen=True, kw_only=True)
class EnrolledDevice:
    """A device as the record knows it. Times are seconds since the epoch."""

    id: str
    name: str
    public_key: PublicKey
    cohort: str
    enrolled_at: float
    revoked_at: float | None
    num_samples: int
    sample_bytes: int
    num_malformed: int
    domain: int
    last_scene: int | None
    quarantined_at: float | None


class Store:
    """The record of one cloud; several processes may have it open (the cloud, and a command that makes a token).

    Args:
        folder: The state folder; made if missing.
        bundle_digest: The bundle that is served, 32 bytes; None to open an existing record, whatever its bundle is.
        max_bytes: The most that the record may grow to, in bytes; None for as much as the disk holds.
        rule: How scenes get their domain; None: everything is of domain 0.
        keep_images: Also those that nothing will be learned from.
    Raises:
        BundleError: the folder belongs to another bundle.
        StorageError: the record cannot be opened or written, or is of another schema.
    """

    def __init__(
        self,
        folder: Path,
        *,
        bundle_digest: bytes | None,
        max_bytes: int | None = None,
        rule: DomainRule | None = None,
        keep_images: bool = False,
    ) -> None:
        self.path, self.rule, self.keep_images = folder / RECORD_FILE, rule, keep_images
        self._max_bytes = max_bytes
        if bundle_digest is None and not self.path.exists():
            raise StorageError(f"no record at {self.path}; start a cloud with this state folder first")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            connection = _connect(self.path)
        except (sqlite3.Error, OSError) as error:
            raise StorageError(f"the record {self.path} cannot be opened ({error}); give a writable folder") from error
        try:
            _prepare(connection, bundle_digest)
            if max_bytes is not None:
                connection.execute(f"PRAGMA max_page_count = {max(1, max_bytes // PAGE_BYTES)}")
            self._reader, self._quick_reader = _Reader(self.path), _Reader(self.path)
        except sqlite3.Error as error:
            connection.close()
            raise StorageError(f"the record {self.path} cannot be used ({error})") from error
        except BaseException:
            connection.close()
            raise
        self._writer = GroupWriter(connection)

    def close(self) -> None:
        """Commit what was submitted and close. Idempotent."""
        self._writer.close()
        self._reader.close()
        self._quick_reader.close()

    def write(self, work: Work[Any]) -> Future[Any]:
        """Submit work to the writer; see `GroupWriter.submit`."""
        return self._writer.submit(work)

    def read(self, sql: str, *values: Any) -> list[sqlite3.Row]:
        """Rows of a query over what is committed.

        Raises:
            StorageError: the record cannot be read.
        """
        return self._reader.rows(sql, values)

    def read_at_once(self, sql: str, *values: Any) -> list[sqlite3.Row]:
        """The same for a few rows that an index finds: it waits for no other query but of its kind."""
        return self._quick_reader.rows(sql, values)

    # -- tokens and devices ------------------------------------------------------------------------------------------

    def add_token(self, secret_sha256: bytes, *, now: float) -> Future[None]:
        """Keep the hash of a new enrolment token's secret."""

        def work(db: sqlite3.Connection) -> None:
            db.execute("INSERT INTO tokens (sha256, created_at) VALUES (?, ?)", (secret_sha256, now))
            note(db, now, "token-made", secret_sha256.hex()[:12], "")

        return self.write(work)

    def redeem(
        self, secret_sha256: bytes, *, public_key: PublicKey, name: str, cohort: str, now: float
    ) -> Future[EnrolledDevice]:
        """Trade a token for membership of a cohort, once; the same key asking again gets the same answer.

        The future raises `LinkRefused` with ``bad-token`` (unknown or already used) or ``revoked``.
        """

        def work(db: sqlite3.Connection) -> EnrolledDevice:
            device_id = public_key.fingerprint
            token = db.execute("SELECT device_id FROM tokens WHERE sha256 = ?", (secret_sha256,)).fetchone()
            if token is None or token["device_id"] not in (None, device_id):
                raise LinkRefused("bad-token", "this token is unknown or was used; make one with 'littoral enrol make'")
            known = _device(db, device_id)
            if known is not None and known.revoked_at is not None:
                raise LinkRefused(
                    "revoked",
                    f"device {device_id} was revoked; remove device.key from its state "
                    "folder and enrol it with a new token",
                )
            if token["device_id"] is None:
                db.execute(
                    "UPDATE tokens SET redeemed_at = ?, device_id = ? WHERE sha256 = ?", (now, device_id, secret_sha256)
                )
                db.execute(
                    "INSERT INTO devices (id, name, public_key, cohort, enrolled_at) VALUES (?, ?, ?, ?, ?)"
                    " ON CONFLICT (id) DO UPDATE SET name = excluded.name, cohort = excluded.cohort,"
                    " domain = iif(cohort = excluded.cohort, domain, 0),"
                    " last_scene = iif(cohort = excluded.cohort, last_scene, NULL)",
                    (device_id, name, public_key.raw, cohort, now),
                )
                note(db, now, "device-enrolled", device_id, name)
            device = _device(db, device_id)
            assert device is not None
            return device

        return self.write(work)

    def revoke(self, device_id: str, *, reason: str, now: float) -> Future[bool]:
        """Shut a device out for good and withdraw its samples that no job has taken yet; False when already so.

        The future raises `ValueError` when no such device is enrolled.
        """

        def work(db: sqlite3.Connection) -> bool:
            device = _device(db, device_id)
            if device is None:
                raise ValueError(f"no device {device_id!r} is enrolled; 'littoral enrol list' shows those that are")
            if device.revoked_at is not None:
                return False
            db.execute("UPDATE devices SET revoked_at = ? WHERE id = ?", (now, device_id))
            db.execute("UPDATE samples SET withdrawn = 1 WHERE device_id = ? AND job IS NULL", (device_id,))
            note(db, now, "device-revoked", device_id, reason)
            return True

        return self.write(work)

    def release(self, device_id: str, *, reason: str, now: float) -> Future[bool]:
        """End a device's quarantine; see `littoral.cloud.quarantine.release`."""
        return self.write(lambda db: release(db, device_id, reason=reason, now=now))

    def device(self, device_id: str) -> EnrolledDevice | None:
        """The device of this id, revoked or not."""
        rows = self.read_at_once("SELECT * FROM devices WHERE id = ?", device_id)
        return _to_device(rows[0]) if rows else None

    def devices(self) -> list[EnrolledDevice]:
        """All devices, oldest first."""
        return [_to_device(row) for row in self.read("SELECT * FROM devices ORDER BY enrolled_at, id")]

    # -- what devices send -------------------------------------------------------------------------------------------

    def record(
        self,
        device_id: str,
        stream: int,
        entries: Sequence[tuple[int, Entry]],
        *,
        now: float,
        highest_version: int = 0,
    ) -> Future[int]:
        """Commit durable messages of one outbox, in order; the future gives the last sequence committed and synced.

        What was committed before is skipped. The future raises `ProtocolError` when a sequence is missing before one
        of these, `LinkRefused` (``not-enrolled``, ``revoked``), `StorageError`, or `ValueError` for a fingerprint that
        is not one of the bundle's; then none of them was recorded.

        Args:
            highest_version: The highest version that the device has seen, as it says.
        """

        def work(db: sqlite3.Connection) -> int:
            device = _device(db, device_id)
            if device is None or device.revoked_at is not None:
                code = "not-enrolled" if device is None else "revoked"
                raise LinkRefused(code, f"device {device_id} may not send: {code}")
            row = db.execute(
                "SELECT acked_sequence FROM streams WHERE device_id = ? AND stream = ?", (device_id, _signed(stream))
            ).fetchone()
            acked: int = row["acked_sequence"] if row else 0
            for sequence, message in entries:
                if sequence <= acked:
                    continue
                if sequence != acked + 1:
                    raise ProtocolError(f"sequence {sequence} came after {acked}; send again from {acked + 1}")
                origin = Origin(
                    device_id=device_id, cohort=device.cohort, stream=_signed(stream), sequence=sequence, now=now
                )
                insert(db, message, origin, rule=self.rule, highest=highest_version, keep_images=self.keep_images)
                acked = sequence
            db.execute(
                "INSERT INTO streams (device_id, stream, acked_sequence) VALUES (?, ?, ?)"
                " ON CONFLICT (device_id, stream) DO UPDATE SET acked_sequence = excluded.acked_sequence",
                (device_id, _signed(stream), acked),
            )
            mark_seen(db, device_id, now)
            return acked

        return self.write(work)

    def acked_sequence(self, device_id: str, stream: int) -> int:
        """The last committed sequence of a device's outbox stream; 0 when there is none (sequences start at 1)."""
        rows = self.read_at_once(
            "SELECT acked_sequence FROM streams WHERE device_id = ? AND stream = ?", device_id, _signed(stream)
        )
        return int(rows[0]["acked_sequence"]) if rows else 0

    def last_receipts(self) -> dict[str, dict[str, Any]]:
        """Per device id the newest receipt: version, outcome, code, reason, received_at."""
        return self._newest_receipts("")

    def last_reverts(self) -> dict[str, dict[str, Any]]:
        """Likewise the newest that says that a version was taken back; not of devices that said so of none."""
        return self._newest_receipts(" AND r.outcome = 'reverted'")

    def _newest_receipts(self, those: str) -> dict[str, dict[str, Any]]:
        rows = self.read(
            "SELECT device_id, version, outcome, code, reason, received_at FROM receipts"
            f" WHERE id IN (SELECT (SELECT max(r.id) FROM receipts r WHERE r.device_id = d.id{those}) FROM devices d)"
        )
        return {row["device_id"]: {key: row[key] for key in row.keys() if key != "device_id"} for row in rows}  # noqa: SIM118

    def quarantines(self) -> dict[str, str]:
        """Per device in quarantine why it is."""
        rows = self.read(
            "SELECT a.subject, a.detail FROM audit a JOIN devices d ON d.id = a.subject"
            " WHERE a.kind = 'device-quarantined' AND d.quarantined_at IS NOT NULL ORDER BY a.id"
        )
        return {row["subject"]: row["detail"] for row in rows}

    def last_sample_at(self, cohort: str) -> float | None:
        """When the newest sample came, in seconds since the epoch; None before the first."""
        rows = self.read("SELECT received_at FROM samples WHERE cohort = ? ORDER BY id DESC LIMIT 1", cohort)
        return float(rows[0][0]) if rows else None

    def size(self) -> tuple[int, int]:
        """Bytes of the record's files, and how many more can be written, those that it uses again among them.

        Raises:
            StorageError: the record cannot be read.
        """
        pages, unused = (int(self.read(f"PRAGMA {name}")[0][0]) for name in ("page_count", "freelist_count"))
        beside = self.path.with_name(f"{RECORD_FILE}-wal")
        try:
            num_bytes = sum(path.stat().st_size for path in (self.path, beside) if path.exists())
            room_bytes = shutil.disk_usage(self.path.parent).free
        except OSError as error:
            raise StorageError(f"the record {self.path} cannot be looked at ({error})") from error
        if self._max_bytes is not None:
            room_bytes = min(room_bytes, max(self._max_bytes - pages * PAGE_BYTES, 0))
        return num_bytes, room_bytes + unused * PAGE_BYTES

    # -- the rest ----------------------------------------------------------------------------------------------------

    def audit(self, kind: str, subject: str, detail: str, *, now: float) -> Future[None]:
        """Write down that something happened which a person may ask about."""
        return self.write(lambda db: note(db, now, kind, subject, detail))

    def audit_entries(self) -> Iterator[tuple[float, str, str, str]]:
        """The audit, oldest first: time, kind, subject, detail."""
        for row in self.read("SELECT at, kind, subject, detail FROM audit ORDER BY id"):
            yield row["at"], row["kind"], row["subject"], row["detail"]


class _Reader:
    """A connection that only reads, for any thread."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self._connection = _connect(path)
        self._connection.execute("PRAGMA query_only = ON")

    def rows(self, sql: str, values: Sequence[Any]) -> list[sqlite3.Row]:
        try:
            with self._lock:
                return self._connection.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise StorageError(f"the record {self._path} cannot be read ({error})") from error

    def close(self) -> None:
        with self._lock:
            self._connection.close()


def _connect(path: Path) -> sqlite3.Connection:
    """A connection whose commits are synced. A file that it makes only its owner can read: it holds frames."""
    with contextlib.suppress(FileExistsError):  # closing a file that SQLite has open would drop this process's locks
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(db: sqlite3.Connection, bundle_digest: bytes | None) -> None:
    db.execute("BEGIN IMMEDIATE")
    with contextlib.ExitStack() as undo:
        undo.callback(db.execute, "ROLLBACK")
        if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone() is None:
            if bundle_digest is None:
                raise StorageError("the record is empty; start a cloud with this state folder first")
            for statement in TABLES.split(";\n"):
                if statement.strip():
                    db.execute(statement)
            found = {"schema": str(SCHEMA), "bundle_digest": bundle_digest.hex()}
            db.executemany("INSERT INTO meta (key, value) VALUES (?, ?)", found.items())
        meta = {row["key"]: row["value"] for row in db.execute("SELECT key, value FROM meta")}
        if meta.get("schema") != str(SCHEMA):
            raise StorageError(
                f"the record has schema {meta.get('schema')}, this littoral reads {SCHEMA}; "
                "use the littoral that made it, or a new state folder"
            )
        for statement in LATER:
            db.execute(statement)
        if bundle_digest is not None and meta["bundle_digest"] != bundle_digest.hex():
            raise BundleError(
                f"the state folder belongs to bundle {meta['bundle_digest'][:12]}…, the bundle given is "
                f"{bundle_digest.hex()[:12]}…; give each bundle a state folder of its own, and with --fleet-from the "
                "devices of this one"
            )
        undo.pop_all()
    db.execute("COMMIT")


def _signed(unsigned: int) -> int:
    """SQLite's integers have a sign; a stream's number is any unsigned 64 bits."""
    return unsigned - 2**64 if unsigned >= 2**63 else unsigned


def _to_device(row: sqlite3.Row) -> EnrolledDevice:
    values = {key: row[key] for key in row.keys()}  # noqa: SIM118
    return EnrolledDevice(**{**values, "public_key": PublicKey(row["public_key"])})


def _device(db: sqlite3.Connection, device_id: str) -> EnrolledDevice | None:
    row = db.execute("SELECT * FROM devices WHERE id = ?", (device_id,)).fetchone()
    return _to_device(row) if row else None
