"""What the device must tell the cloud, kept on disk until the cloud has it.

A message goes from a bounded queue in memory (`Outbox.put` never waits for the disk) by a writer thread into SQLite
(WAL, ``synchronous=FULL``, many messages in one commit), gets its sequence when it is first handed to the link
(`Outbox.peek`, committed before the bytes leave), and is deleted on a cumulative ack (`Outbox.ack`).

A message with a sequence may have been sent, so it keeps its sequence and its bytes, whatever happens, until it is
acked. One without has never left the device: dropping it leaves no gap.

Policy when ``capacity_bytes`` is exceeded: samples that were never sent go, lowest value first, the oldest first among
equals; the newcomer is among them. Receipts and scenes are not samples: they displace samples and may go over the
capacity by `RECEIPT_RESERVE_BYTES`.

A scene's number is kept with the commit that stores it, so no sample of a scene is ever stored before its number is,
and a number that may have left the device is not given to another scene after a restart. In the same way each commit
keeps the level that the byte budget has by then: whatever may have left the device is paid for after a restart too.
"""

from __future__ import annotations

import contextlib
import logging
import math
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from littoral.core.budget import ByteBudget
from littoral.edge.outbox_file import Connect, Limits, OutboxFile, Row, connect_durably, is_damaged, is_forbidden
from littoral.errors import ProtocolError, StorageError
from littoral.wire.envelope import Frame, encode_frame
from littoral.wire.messages import DurableMessage, Sample, Scene, to_frame

log = logging.getLogger("littoral.edge.outbox")

QUEUE_BYTES = 8_388_608
"""How much may wait in memory for the writer; over it the lowest-value waiting sample goes."""
RECEIPT_RESERVE_BYTES = 1_048_576
RETRY_S = 5.0
"""How long the writer waits before it tries a failing disk again, when no new sample makes it try."""
_TOP = 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class Counters:
    """Messages since the outbox was made: ``accepted == acked + queued + dropped`` at any moment."""

    accepted: int
    acked: int
    queued: int
    dropped: int


class Outbox:
    """Durable messages on their way to the cloud. Every method may be called from any thread.

    What waits in memory when the process is killed is lost, and was never counted in the file: the identity of the
    counters holds after a restart too. `flush` says when all is on disk.

    Args:
        path: The database file; its folder is made.
        capacity_bytes: How many bytes of messages are kept on disk.
        clock: Seconds, of any origin; messages are stamped with it.
        connect: Opens the database; tests pass disks that fail.
    Raises:
        StorageError: another process has this outbox open. A disk that fails is no error here: see `last_error`.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        capacity_bytes: int,
        clock: Callable[[], float] = time.time,
        connect: Connect = connect_durably,
    ) -> None:
        self._limits = Limits(capacity_bytes=capacity_bytes, reserve_bytes=RECEIPT_RESERVE_BYTES)
        self._clock = clock
        self._state = threading.Condition()  # guards what follows; never held during a disk access
        self._waiting: list[Row] = []
        self._waiting_bytes = 0
        self._writing = 0
        self._stored = 0
        self._accepted = self._acked = self._dropped = 0
        self._ack_wanted = 0
        self._closing = False
        self.last_error: str | None = None
        """Why the disk does not take messages, or None while it does."""
        self.on_stored: Callable[[], None] | None = None
        """Called from the writer thread when new messages are on the disk; must be quick."""
        self._budget: ByteBudget | None = None
        self._disk = threading.Lock()  # guards the file; taken before `_state`, never after it
        self._file = OutboxFile(Path(path), connect=connect)
        with self._disk:
            try:
                self._open()
            except (sqlite3.Error, OSError) as error:
                self._note(error)
        self._writer = threading.Thread(target=self._run, name="littoral-outbox", daemon=True)
        self._writer.start()

    def _open(self) -> None:
        if self._file.is_open:
            return
        self._file.open()
        tally = self._file.tally
        with self._state:
            self._stored = tally.rows
            self._accepted += tally.accepted
            self._acked += tally.acked
            self._dropped += tally.dropped

    # What the device calls.

    def put(self, message: DurableMessage, *, value: float) -> int | None:
        """Take a message for the cloud, without waiting for the disk.

        Args:
            message: A Sample, a Receipt or a Scene.
            value: How much a sample is worth; when room is short the lowest goes first. Not used for the others.
        Returns:
            How many bytes it takes on the wire at most, envelope included: its stream and sequence vary by a few. None
            when it was dropped at once: too large, worth less than all that waits, or the outbox is closed.
        """
        row = self._row(message, value)
        with self._state:
            self._accepted += 1
            if row is None or self._closing:
                self._dropped += 1
                return None
            self._waiting.append(row)
            self._waiting_bytes += row.num_bytes
            taken = True
            while self._waiting_bytes > QUEUE_BYTES:
                taken = self._drop_one_waiting() is not row and taken
            self._state.notify_all()
            return row.num_bytes if taken else None

    def _row(self, message: DurableMessage, value: float) -> Row | None:
        keep = not isinstance(message, Sample)
        frame = to_frame(message, stream=_TOP, sequence=_TOP)
        try:
            num_bytes = len(encode_frame(frame))
        except ProtocolError as error:
            log.warning("a message for the cloud was dropped: %s", error)
            return None
        if num_bytes > self._limits.capacity_bytes and not keep:
            return None
        scene = message.scene if isinstance(message, Scene) else 0
        value = value if math.isfinite(value) else -1e300
        return Row(frame.type, frame.body, num_bytes, value, keep, self._clock(), scene)

    def _drop_one_waiting(self) -> Row:
        samples = [row for row in self._waiting if not row.keep]
        worst = min(samples, key=lambda row: row.value) if samples else self._waiting[-1]
        self._waiting.remove(worst)
        self._waiting_bytes -= worst.num_bytes
        self._dropped += 1
        return worst

    @property
    def counters(self) -> Counters:
        with self._state:
            queued = self._stored + self._writing + len(self._waiting)
            return Counters(accepted=self._accepted, acked=self._acked, queued=queued, dropped=self._dropped)

    @property
    def accepted(self) -> int:
        return self.counters.accepted

    @property
    def acked(self) -> int:
        return self.counters.acked

    @property
    def queued(self) -> int:
        return self.counters.queued

    @property
    def dropped(self) -> int:
        return self.counters.dropped

    def flush(self, timeout_s: float) -> bool:
        """Wait until all that was put and acked is on disk or dropped; False when it took longer."""
        with self._state:
            return self._state.wait_for(lambda: not self._writing and not self._work(), timeout_s)

    def close(self) -> None:
        """Commit what waits and close the file. What is put afterwards counts as dropped."""
        with self._state:
            self._closing = True
            self._state.notify_all()
        self._writer.join()
        with self._disk:
            self._file.close()

    @property
    def last_scene(self) -> int | None:
        """The highest number of a scene that was stored; None while that cannot be known, because the disk fails."""
        return self._file.tally.scene if self._file.is_open else None

    def keep_budget(self, budget: ByteBudget) -> None:
        """Let a budget go on where the last run left it, and keep its level with every commit from now on.

        To be called before the first `put`. A sample must be taken from the budget before it is put. While the disk
        fails, what the last run left cannot be known: the budget then goes on with the least that there can be.
        """
        budget.resume(self._file.tally.budget if self._file.is_open else -math.inf)
        self._budget = budget

    # What the link calls.

    @property
    def stream(self) -> int:
        """The random number, below 2**63, under which the cloud knows the messages of this database."""
        return self._file.stream

    @property
    def last_sequence(self) -> int:
        """The highest sequence that was ever handed out in this stream; 0 when none was."""
        return self._file.tally.last_sequence

    @property
    def acked_sequence(self) -> int:
        """The highest sequence that the cloud has acknowledged in this stream."""
        with self._state:
            return max(self._ack_wanted, self._file.tally.acked_sequence)

    def peek(self, after_sequence: int, max_bytes: int) -> list[tuple[int, bytes]]:
        """The messages to send next, each with its sequence and the bytes of its frame.

        Messages that have no sequence yet get theirs here, and it is on disk before this returns. The list ends with
        the message that reaches ``max_bytes``, so it has at least one when there is any. Waits for the disk.

        Raises:
            StorageError: the disk failed, or the outbox is closed; nothing was handed out.
        """
        if max_bytes <= 0:
            return []
        with self._disk:
            self._refuse_closed()
            try:
                self._open()
                rows = self._file.hand_out(after_sequence, max_bytes)
            except (sqlite3.Error, OSError) as error:
                raise self._note(error) from error
            stream = self._file.stream
        return [
            (sequence, encode_frame(Frame(type=kind, stream=stream, sequence=sequence, body=body)))
            for sequence, kind, body in rows
        ]

    def ack(self, sequence: int) -> None:
        """The cloud has committed everything up to ``sequence``; the writer forgets it with its next commit."""
        with self._state:
            self._ack_wanted = max(self._ack_wanted, min(sequence, self._file.tally.last_sequence))
            self._state.notify_all()

    def renew_stream(self) -> None:
        """Start a new stream and number what is queued anew.

        For when this database and the cloud's record do not belong together any more, because one of them was restored
        from an older copy.

        Raises:
            StorageError: the disk failed, or the outbox is closed; the old stream stays.
        """
        with self._disk:
            self._refuse_closed()
            try:
                self._open()
                self._file.renew_stream()
            except (sqlite3.Error, OSError) as error:
                raise self._note(error) from error
            with self._state:
                self._ack_wanted = 0

    def _refuse_closed(self) -> None:
        if self._closing and not self._writer.is_alive():
            raise StorageError("the outbox is closed")

    # The writer thread.

    def _work(self) -> bool:
        return bool(self._waiting) or self._ack_wanted > self._file.tally.acked_sequence

    def _wait(self) -> None:
        if self.last_error is None:
            self._state.wait_for(lambda: self._closing or self._work() or self.last_error is not None)
        else:
            self._state.wait_for(lambda: self._closing or any(not row.keep for row in self._waiting), RETRY_S)

    def _run(self) -> None:
        while True:
            with self._state:
                self._wait()
                last = self._closing
                batch, self._waiting, self._waiting_bytes = self._waiting, [], 0
                self._writing = len(batch)
            with self._disk:
                self._write(batch)
            with self._state:
                self._state.notify_all()
                if last and (self.last_error is not None or not self._work()):
                    return

    def _write(self, batch: list[Row]) -> None:
        """Commit a batch and the ack; on a failing disk count the samples as dropped and keep the receipts waiting."""
        try:
            self._open()
            self._commit(batch)
        except (sqlite3.Error, OSError, StorageError) as error:
            self._give_up(batch, error)
            return
        with self._state:
            if self.last_error is not None:
                log.warning("the outbox can be written again; it has dropped %d messages so far", self._dropped)
            self.last_error = None
        if batch and (on_stored := self.on_stored) is not None:
            on_stored()

    def _commit(self, batch: list[Row]) -> None:
        with self._state:
            ack, acked_before, dropped = self._ack_wanted, self._acked, self._dropped
            accepted = self._accepted - len(self._waiting) - self._writing + len(batch)
        acked, out = self._file.commit(
            batch,
            ack=ack,
            accepted=accepted,
            acked=acked_before,
            dropped=dropped,
            limits=self._limits,
            budget=self._level(),
        )
        with self._state:
            self._acked += acked
            self._dropped += out
            self._stored += len(batch) - acked - out
            self._writing -= len(batch)

    def _level(self) -> int | None:
        """Of the budget; read after a batch was taken, so that all of it was taken from the budget before."""
        return None if self._budget is None else max(-_TOP, min(math.floor(self._budget.level_bytes), _TOP))

    def _give_up(self, batch: list[Row], error: Exception) -> None:
        receipts = [row for row in batch if row.keep]
        with self._state:
            self._writing = 0
            self._dropped += len(batch) - len(receipts)
            self._waiting = receipts + self._waiting
            self._waiting_bytes += sum(row.num_bytes for row in receipts)
        self._note(error)
        if self._file.is_open and self._ack_wanted > self._file.tally.acked_sequence:
            with contextlib.suppress(sqlite3.Error):  # what is acked may be what fills the disk
                self._commit([])

    def _note(self, error: Exception) -> StorageError:
        """Keep why the disk failed, log it once, and set a damaged file aside; the next access makes a new one."""
        with self._state:
            advice = "make its folder writable" if is_forbidden(error) else "free some space on its disk"
            message = f"the outbox {self._file.path} cannot be written ({error}); {advice}"
            if self.last_error is None:
                until = "samples are dropped and counted" if self._file.is_open else "nothing is sent"
                log.error("%s; until then %s", message, until)
            self.last_error = message
            self._state.notify_all()  # the writer sees whether it lasts
        if is_damaged(error):
            try:
                self._file.set_aside(error)
            except OSError as stays:  # a disk with damage is often read-only from then on
                log.error("the damaged outbox %s cannot be set aside (%s)", self._file.path, stays)
            with self._state:
                self._dropped += self._stored
                self._stored = self._ack_wanted = 0
        return StorageError(message)
