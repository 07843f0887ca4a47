"""The outbox's database: one SQLite file, its transactions, and no thread.

    meta      stream, last_sequence, acked_sequence, accepted, acked, dropped, scene, budget
    messages  id (order of arrival), sequence (NULL until it is handed out), type, body, num_bytes, value, keep, taken_s

The file is locked for as long as it is open: two processes that number messages in one stream would lose some.
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from littoral.errors import StorageError

log = logging.getLogger("littoral.edge.outbox")

SCHEMA = 1
_CREATE = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL)",
    """CREATE TABLE messages (
        id INTEGER PRIMARY KEY AUTOINCREMENT, sequence INTEGER UNIQUE, type INTEGER NOT NULL, body BLOB NOT NULL,
        num_bytes INTEGER NOT NULL, value REAL NOT NULL, keep INTEGER NOT NULL, taken_s REAL NOT NULL)""",
    "CREATE INDEX unsent ON messages (keep, value, id) WHERE sequence IS NULL",
    f"PRAGMA user_version = {SCHEMA}",
)
_TALLY = ("last_sequence", "acked_sequence", "accepted", "acked", "dropped")
_SCENE = "scene"
"""Missing in a file that 0.1.0 made: it has no scenes."""
_BUDGET = "budget"
"""Missing where no budget was kept yet."""
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_FORBIDDEN = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM)

Connect = Callable[[Path], sqlite3.Connection]


@dataclass(frozen=True, eq=False)
class Row:
    """A message on its way into the file. ``keep`` marks what is no sample, ``scene`` is the number of a new scene."""

    type: int
    body: bytes
    num_bytes: int
    value: float
    keep: bool
    taken_s: float
    scene: int = 0


@dataclass(frozen=True, kw_only=True)
class Tally:
    """What the file says of itself; ``rows`` and ``num_bytes`` are of the messages in it.

    ``budget`` is the level of the byte budget in whole bytes, with all messages in the file paid for.
    """

    last_sequence: int = 0
    acked_sequence: int = 0
    accepted: int = 0
    acked: int = 0
    dropped: int = 0
    scene: int = 0
    budget: int | None = None
    rows: int = 0
    num_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bytes of messages in the file; receipts and scenes may exceed them by the reserve."""

    capacity_bytes: int
    reserve_bytes: int


def connect_durably(path: Path) -> sqlite3.Connection:
    """Open a database whose commits are on the disk when they return; only its owner can read it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):  # closing a file that SQLite has open would drop this process's locks
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    try:
        for pragma in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = FULL"):
            connection.execute(f"PRAGMA {pragma}")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def is_damaged(error: Exception) -> bool:
    """True when SQLite says that the file's content is broken, and not that the disk is."""
    return isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGED


def is_forbidden(error: Exception) -> bool:
    """True when it is not the disk that has no room, but somebody who does not let us write on it."""
    if isinstance(error, OSError):
        return error.errno in (errno.EROFS, errno.EACCES, errno.EPERM)
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _FORBIDDEN


class OutboxFile:
    """The database. Not for two threads at once; every method may raise ``sqlite3.Error`` and changes nothing then."""

    def __init__(self, path: Path, *, connect: Connect = connect_durably) -> None:
        self.path = path
        self.stream = secrets.randbits(62) + 1
        self.tally = Tally()
        self._connect = connect
        self._connection: sqlite3.Connection | None = None

    @property
    def is_open(self) -> bool:
        return self._connection is not None

    def open(self) -> None:
        """Open the file, or make it; set a damaged one aside and begin anew.

        Raises:
            StorageError: another process has it open.
        """
        try:
            self._open()
        except sqlite3.Error as error:
            self.close()
            if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:
                raise StorageError(
                    f"another process uses {self.path}; give each device its own state folder"
                ) from error
            if not is_damaged(error):
                raise
            self.set_aside(error)
            self._open()

    def _open(self) -> None:
        self._connection = connection = self._connect(self.path)
        (schema,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables == 0:
            self._make(connection)
        elif schema != SCHEMA:
            raise _damaged(f"schema {schema}, this littoral reads {SCHEMA}")
        else:
            found = [row[0] for row in connection.execute("PRAGMA quick_check(1)")]
            if found != ["ok"]:
                raise _damaged(str(found[0]))
            self._load(connection)

    def _make(self, connection: sqlite3.Connection) -> None:
        with self._transaction():
            for statement in _CREATE:
                connection.execute(statement)
            self._save(self.stream, Tally())
        self.tally = Tally()

    def _load(self, connection: sqlite3.Connection) -> None:
        meta = dict(connection.execute("SELECT key, value FROM meta"))
        if missing := {"stream", *_TALLY} - set(meta):
            raise _damaged(f"no {sorted(missing)[0]}")
        rows, num_bytes = connection.execute("SELECT count(*), coalesce(sum(num_bytes), 0) FROM messages").fetchone()
        self.stream = meta["stream"]
        known = {key: meta[key] for key in _TALLY}
        self.tally = Tally(**known, scene=meta.get(_SCENE, 0), budget=meta.get(_BUDGET), rows=rows, num_bytes=num_bytes)

    def set_aside(self, reason: Exception | str) -> None:
        """Rename a damaged file, so that a person can look at it, and forget what was in it. The newest two are kept.

        Raises:
            OSError: it cannot be renamed; it is closed and forgotten all the same.
        """
        self.close()
        self.stream = secrets.randbits(62) + 1
        self.tally = Tally()
        before = f"{self.path.name}.damaged-"
        tails = [path.name.removeprefix(before) for path in self.path.parent.iterdir() if path.name.startswith(before)]
        known = sorted(int(tail) for tail in tails if tail.isdecimal())
        aside = self.path.with_name(f"{before}{known[-1] + 1 if known else 1}")
        for end in ("-wal", "-shm", ""):
            here = self.path.with_name(self.path.name + end)
            if here.exists():
                os.replace(here, aside.with_name(aside.name + end))
        for old in known[:-1]:
            for end in ("-wal", "-shm", ""):
                self.path.with_name(f"{before}{old}{end}").unlink(missing_ok=True)
        log.error("the outbox %s is damaged (%s); it is now %s and a new one was started", self.path, reason, aside)

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        assert self._connection is not None
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def _save(self, stream: int, tally: Tally) -> None:
        assert self._connection is not None
        values = [("stream", stream), *((key, getattr(tally, key)) for key in (*_TALLY, _SCENE))]
        if tally.budget is not None:
            values.append((_BUDGET, tally.budget))
        self._connection.executemany("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", values)

    def commit(
        self,
        batch: Sequence[Row],
        *,
        ack: int,
        accepted: int,
        acked: int,
        dropped: int,
        limits: Limits,
        budget: int | None = None,
    ) -> tuple[int, int]:
        """Forget what was acked, store a batch, make room, and keep the counters, in one synced commit.

        Args:
            batch: New messages in order.
            ack: Forget every message up to this sequence.
            accepted, acked, dropped: The counters as they are once the batch is stored, but for what this commit acks
                or drops.
            limits: How much may stay.
            budget: The byte budget's level once the batch is stored; None leaves what is kept.
        Returns:
            How many messages were acked, and how many were dropped to make room.
        """
        with self._transaction() as connection:
            ack = min(ack, self.tally.last_sequence)
            gone, freed = connection.execute(
                "SELECT count(*), coalesce(sum(num_bytes), 0) FROM messages WHERE sequence <= ?", (ack,)
            ).fetchone()
            connection.execute("DELETE FROM messages WHERE sequence <= ?", (ack,))
            connection.executemany(
                "INSERT INTO messages (type, body, num_bytes, value, keep, taken_s) VALUES (?, ?, ?, ?, ?, ?)",
                [(row.type, row.body, row.num_bytes, row.value, row.keep, row.taken_s) for row in batch],
            )
            num_bytes = self.tally.num_bytes - freed + sum(row.num_bytes for row in batch)
            out, num_bytes = _make_room(connection, num_bytes, limits)
            tally = replace(
                self.tally,
                acked_sequence=max(ack, self.tally.acked_sequence),
                accepted=accepted,
                acked=acked + gone,
                dropped=dropped + out,
                scene=max(self.tally.scene, *(row.scene for row in batch), 0),
                budget=self.tally.budget if budget is None else budget,
                rows=self.tally.rows + len(batch) - gone - out,
                num_bytes=num_bytes,
            )
            self._save(self.stream, tally)
        self.tally = tally
        return gone, out

    def hand_out(self, after_sequence: int, max_bytes: int) -> list[tuple[int, int, bytes]]:
        """``(sequence, type, body)`` after a sequence, numbering what has no number yet; see `Outbox.peek`."""
        assert self._connection is not None
        out: list[tuple[int, int, bytes]] = []
        total = 0
        for sequence, kind, body, num_bytes in self._connection.execute(
            "SELECT sequence, type, body, num_bytes FROM messages WHERE sequence > ? ORDER BY sequence",
            (after_sequence,),
        ):
            out.append((sequence, kind, body))
            total += num_bytes
            if total >= max_bytes:
                return out
        new: list[tuple[int, int]] = []
        for number, kind, body, num_bytes in self._connection.execute(
            "SELECT id, type, body, num_bytes FROM messages WHERE sequence IS NULL ORDER BY id"
        ):
            new.append((self.tally.last_sequence + 1 + len(new), number))
            out.append((new[-1][0], kind, body))
            total += num_bytes
            if total >= max_bytes:
                break
        if new:
            tally = replace(self.tally, last_sequence=new[-1][0])
            with self._transaction() as connection:
                connection.executemany("UPDATE messages SET sequence = ? WHERE id = ?", new)
                self._save(self.stream, tally)
            self.tally = tally
        return out

    def renew_stream(self) -> None:
        """A new stream number; what is queued loses its sequences and keeps its order, and scenes count on."""
        stream = secrets.randbits(62) + 1
        tally = replace(self.tally, last_sequence=0, acked_sequence=0)
        with self._transaction() as connection:
            connection.execute("UPDATE messages SET sequence = NULL")
            self._save(stream, tally)
        self.stream, self.tally = stream, tally


def _make_room(connection: sqlite3.Connection, num_bytes: int, limits: Limits) -> tuple[int, int]:
    """Drop what was never sent until the limits hold: samples by value, then, over the reserve, the
    newest receipts and scenes."""
    out = 0
    for query, limit in (
        ("keep = 0 ORDER BY value, id", limits.capacity_bytes),
        ("keep = 1 ORDER BY id DESC", limits.capacity_bytes + limits.reserve_bytes),
    ):
        while num_bytes > limit:
            rows = connection.execute(
                f"SELECT id, num_bytes FROM messages WHERE sequence IS NULL AND {query} LIMIT 64"
            ).fetchall()
            if not rows:
                break
            for number, size in rows:
                if num_bytes <= limit:
                    break
                connection.execute("DELETE FROM messages WHERE id = ?", (number,))
                num_bytes -= size
                out += 1
    return out, num_bytes


def _damaged(what: str) -> sqlite3.DatabaseError:
    error = sqlite3.DatabaseError(what)
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error
