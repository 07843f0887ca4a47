"""The outbox: nothing is lost silently, nothing waits for the disk, nothing that may have been sent ever changes."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from littoral.core.budget import BudgetConfig, ByteBudget
from littoral.edge import outbox as outbox_module
from littoral.edge.outbox import Outbox
from littoral.edge.outbox_file import connect_durably
from littoral.errors import StorageError
from littoral.wire.envelope import decode_frame
from littoral.wire.messages import Receipt, Sample, from_frame

WAIT_S = 10.0


def sample(frame_id: int, *, num_bytes: int = 100) -> Sample:
    return Sample(
        frame_id=frame_id, version=0, predicted=1, entropy_nats=0.5, coding="raw", image=bytes(num_bytes), scene=0
    )


def receipt(version: int) -> Receipt:
    return Receipt(version=version, outcome="installed", code="", reason="")


def open_outbox(folder: Path, **kwargs: object) -> Outbox:
    arguments = {"capacity_bytes": 100_000, "clock": lambda: 0.0, **kwargs}
    return Outbox(folder / "outbox.db", **arguments)  # type: ignore[arg-type]


def frame_ids(outbox: Outbox, after: int = 0, max_bytes: int = 10**9) -> list[tuple[int, int]]:
    """(sequence, frame id or version) of what the outbox hands out."""
    out = []
    for sequence, data in outbox.peek(after, max_bytes):
        frame = decode_frame(data)
        assert (frame.sequence, frame.stream) == (sequence, outbox.stream)
        message = from_frame(frame)
        out.append((sequence, message.frame_id if isinstance(message, Sample) else -message.version))
    return out


def assert_balanced(outbox: Outbox) -> None:
    counters = outbox.counters
    assert counters.accepted == counters.acked + counters.queued + counters.dropped, counters


class FullDisk:
    """A database that stops growing when told to."""

    def __init__(self) -> None:
        self.connection: sqlite3.Connection | None = None

    def connect(self, path: Path) -> sqlite3.Connection:
        self.connection = connect_durably(path)
        return self.connection

    def fill(self) -> None:
        assert self.connection is not None
        self.connection.execute("PRAGMA max_page_count = 1")

    def free(self) -> None:
        assert self.connection is not None
        self.connection.execute("PRAGMA max_page_count = 100000")


def test_messages_come_out_in_order_with_contiguous_sequences(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    for i in range(5):
        assert outbox.put(sample(i), value=1.0)
    assert outbox.flush(WAIT_S)
    assert frame_ids(outbox) == [(1, 0), (2, 1), (3, 2), (4, 3), (5, 4)]
    assert frame_ids(outbox, after=3) == [(4, 3), (5, 4)]
    assert 0 < outbox.stream < 2**63
    outbox.close()


def test_peek_ends_with_the_message_that_reaches_the_limit(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    for i in range(5):
        outbox.put(sample(i, num_bytes=1000), value=1.0)
    outbox.flush(WAIT_S)
    assert len(outbox.peek(0, 1)) == 1
    assert len(outbox.peek(0, 1500)) == 2
    assert outbox.peek(0, 0) == []
    assert outbox.last_sequence == 2, "only what was handed out has a sequence"
    outbox.close()


def test_the_same_bytes_are_handed_out_again_after_a_restart(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    for i in range(3):
        outbox.put(sample(i), value=1.0)
    outbox.flush(WAIT_S)
    before = outbox.peek(0, 10**9)
    outbox.close()
    again = open_outbox(tmp_path)
    assert again.peek(0, 10**9) == before
    again.close()


def test_only_an_ack_removes_a_message(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    for i in range(4):
        outbox.put(sample(i), value=1.0)
    outbox.flush(WAIT_S)
    outbox.peek(0, 10**9)
    assert outbox.queued == 4
    outbox.ack(2)
    outbox.ack(1)  # an older one, late
    assert outbox.flush(WAIT_S)
    assert (outbox.acked, outbox.queued, outbox.acked_sequence) == (2, 2, 2)
    assert frame_ids(outbox) == [(3, 2), (4, 3)]
    outbox.close()


def test_an_ack_of_what_was_never_handed_out_removes_nothing(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    outbox.put(sample(0), value=1.0)
    outbox.put(sample(1), value=1.0)
    outbox.flush(WAIT_S)
    outbox.peek(0, 1)
    outbox.ack(2**63 - 1)
    outbox.flush(WAIT_S)
    assert (outbox.acked, outbox.queued) == (1, 1)
    outbox.close()


def test_over_capacity_the_lowest_value_goes_first_and_the_oldest_of_equals(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path, capacity_bytes=3300)
    for i, value in enumerate([0.5, 0.1, 0.9, 0.1, 0.7]):
        outbox.put(sample(i, num_bytes=1000), value=value)
        outbox.flush(WAIT_S)
    assert [frame_id for _, frame_id in frame_ids(outbox)] == [0, 2, 4]
    assert outbox.dropped == 2
    assert_balanced(outbox)
    outbox.close()


def test_what_may_have_been_sent_is_never_dropped_and_dropping_leaves_no_gap(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path, capacity_bytes=3300)
    outbox.put(sample(0, num_bytes=1000), value=0.0)
    outbox.flush(WAIT_S)
    assert frame_ids(outbox) == [(1, 0)]
    for i in range(1, 8):
        outbox.put(sample(i, num_bytes=1000), value=float(i))
    outbox.flush(WAIT_S)
    assert frame_ids(outbox) == [(1, 0), (2, 6), (3, 7)]
    assert_balanced(outbox)
    outbox.close()


def test_receipts_displace_samples_and_are_kept_over_capacity(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path, capacity_bytes=300)
    outbox.put(sample(7), value=1e9)
    for i in range(50):
        assert outbox.put(receipt(i + 1), value=0.0)
    outbox.flush(WAIT_S)
    assert [frame_id for _, frame_id in frame_ids(outbox)] == [-(i + 1) for i in range(50)]
    assert outbox.dropped == 1
    outbox.close()


def test_a_sample_that_fits_no_frame_or_no_outbox_is_dropped_and_counted(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path, capacity_bytes=2_000_000)
    assert not outbox.put(sample(0, num_bytes=1_048_576), value=1.0)
    outbox.close()
    small = open_outbox(tmp_path / "small", capacity_bytes=50)
    assert not small.put(sample(0), value=1.0)
    assert (small.accepted, small.dropped) == (1, 1)
    assert not small.put(sample(0), value=float("nan"))
    small.close()


def test_counters_survive_a_restart(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path, capacity_bytes=3300)
    for i in range(6):
        outbox.put(sample(i, num_bytes=1000), value=float(i))
    outbox.flush(WAIT_S)
    outbox.peek(0, 1)
    outbox.ack(1)
    outbox.flush(WAIT_S)
    counters, stream = outbox.counters, outbox.stream
    outbox.close()
    again = open_outbox(tmp_path, capacity_bytes=3300)
    assert (again.counters, again.stream) == (counters, stream)
    assert_balanced(again)
    again.close()


@pytest.mark.parametrize("seed", range(4))
def test_the_counters_balance_at_every_step_of_a_random_life(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    outbox = open_outbox(tmp_path, capacity_bytes=5000)
    handed: dict[int, bytes] = {}
    for i in range(120):
        step = rng.random()
        if step < 0.5:
            outbox.put(sample(i, num_bytes=rng.randint(1, 900)), value=rng.random())
        elif step < 0.6:
            outbox.put(receipt(i), value=0.0)
        elif step < 0.75:
            for sequence, data in outbox.peek(rng.randint(0, outbox.last_sequence), rng.randint(1, 3000)):
                assert handed.setdefault(sequence, data) == data, "a handed-out message has changed"
        elif step < 0.85:
            outbox.ack(rng.randint(0, outbox.last_sequence + 1))
        elif step < 0.9:
            outbox.flush(WAIT_S)
        elif step < 0.93:
            outbox.close()
            outbox = open_outbox(tmp_path, capacity_bytes=5000)
        assert_balanced(outbox)
    assert sorted(handed) == list(range(1, len(handed) + 1)), "sequences have a gap"
    outbox.close()


def test_a_full_disk_drops_and_counts_samples_keeps_receipts_and_recovers_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(outbox_module, "RETRY_S", 0.02)
    disk = FullDisk()
    outbox = open_outbox(tmp_path, connect=disk.connect)
    outbox.put(sample(0), value=1.0)
    outbox.flush(WAIT_S)
    disk.fill()
    for i in range(1, 6):
        outbox.put(sample(i, num_bytes=20_000), value=1.0)
    outbox.put(receipt(9), value=0.0)
    with outbox._state:
        assert outbox._state.wait_for(lambda: outbox.dropped >= 5, WAIT_S)
    assert outbox.last_error is not None
    assert "full" in outbox.last_error
    assert_balanced(outbox)
    disk.free()
    assert outbox.flush(WAIT_S)
    assert outbox.last_error is None
    assert [frame_id for _, frame_id in frame_ids(outbox)] == [0, -9]
    assert_balanced(outbox)
    assert sum("cannot be written" in record.message for record in caplog.records) == 1, "logged once"
    outbox.close()


def _sqlite_error(code: int) -> sqlite3.Error:
    error = sqlite3.OperationalError(f"code {code}")
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (OSError(30, "Read-only file system"), "make its folder writable"),
        (OSError(28, "No space left on device"), "free some space"),
        (_sqlite_error(sqlite3.SQLITE_READONLY), "make its folder writable"),
        (_sqlite_error(sqlite3.SQLITE_CANTOPEN), "make its folder writable"),
        (_sqlite_error(sqlite3.SQLITE_FULL), "free some space"),
    ],
    ids=str,
)
def test_the_advice_is_for_what_is_wrong(
    tmp_path: Path, error: Exception, advice: str, caplog: pytest.LogCaptureFixture
) -> None:
    def connect(path: Path) -> sqlite3.Connection:
        raise error

    outbox = open_outbox(tmp_path, connect=connect)
    assert advice in str(outbox.last_error)
    assert "until then nothing is sent" in caplog.text
    outbox.close()


def test_a_disk_that_cannot_be_read_for_once_is_no_error_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = open_outbox(tmp_path)
    outbox.put(sample(0), value=1.0)
    outbox.flush(WAIT_S)
    with monkeypatch.context() as patch:
        patch.setattr(outbox._file, "hand_out", _fails)
        with pytest.raises(StorageError, match="for once"):
            outbox.peek(0, 1000)
    with outbox._state:
        assert outbox._state.wait_for(lambda: outbox.last_error is None, WAIT_S), "the writer has tried the disk"
    assert len(outbox.peek(0, 1000)) == 1
    outbox.close()


def _fails(*_: object) -> None:
    raise sqlite3.OperationalError("for once")


def test_a_folder_that_cannot_be_written_leaves_the_device_running(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file where a folder should be")
    outbox = open_outbox(tmp_path / "file")
    assert outbox.last_error is not None
    outbox.put(sample(0), value=1.0)
    with outbox._state:
        assert outbox._state.wait_for(lambda: outbox.dropped == 1, WAIT_S)
    with pytest.raises(StorageError):
        outbox.peek(0, 100)
    (tmp_path / "file").unlink()
    outbox.put(sample(1), value=1.0)
    assert outbox.flush(WAIT_S)
    assert frame_ids(outbox) == [(1, 1)]
    assert_balanced(outbox)
    outbox.close()


def test_put_does_not_wait_for_the_disk(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    with outbox._disk:  # a disk that hangs
        done = threading.Event()

        def put_many() -> None:
            for i in range(200):
                outbox.put(sample(i), value=1.0)
            done.set()

        threading.Thread(target=put_many, daemon=True).start()
        assert done.wait(WAIT_S)
        assert outbox.accepted == outbox.queued == 200
    outbox.flush(WAIT_S)
    assert len(outbox.peek(0, 10**9)) == 200
    outbox.close()


def test_memory_in_front_of_a_hanging_disk_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "QUEUE_BYTES", 5000)
    outbox = open_outbox(tmp_path)
    with outbox._disk:
        outbox.put(receipt(1), value=0.0)
        taken = [outbox.put(sample(i, num_bytes=900), value=float(10 - i)) for i in range(10)]
        assert taken[0]
        assert not taken[-1]
        assert sum(row.num_bytes for row in outbox._waiting) <= 5000
        assert_balanced(outbox)
    outbox.close()


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda path: path.write_bytes(b"not a database at all" * 300), id="other-content"),
        pytest.param(lambda path: path.write_bytes(path.read_bytes()[:5000]), id="truncated"),
        pytest.param(lambda path: _scribble(path), id="scribbled"),
        pytest.param(lambda path: _other_schema(path), id="other-schema"),
    ],
)
def test_a_damaged_file_is_set_aside_and_a_new_stream_begins(
    tmp_path: Path, damage: object, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = open_outbox(tmp_path)
    for i in range(20):
        outbox.put(sample(i, num_bytes=1000), value=1.0)
    outbox.flush(WAIT_S)
    stream = outbox.stream
    outbox.close()
    damage(tmp_path / "outbox.db")  # type: ignore[operator]
    again = open_outbox(tmp_path)
    assert again.stream != stream
    assert list(tmp_path.glob("outbox.db.damaged-*"))
    assert "is damaged" in caplog.text
    again.put(sample(1), value=1.0)
    assert again.flush(WAIT_S)
    assert frame_ids(again) == [(1, 1)]
    assert_balanced(again)
    again.close()


def test_of_many_damaged_files_the_newest_two_are_kept(tmp_path: Path) -> None:
    for number in range(1, 13):
        (tmp_path / "outbox.db").write_bytes(b"broken %d " % number * 300)
        (tmp_path / "outbox.db-wal").write_bytes(b"%d" % number)
        open_outbox(tmp_path).close()
    kept = sorted(tmp_path.glob("outbox.db.damaged-*"))
    assert {path.name.removesuffix("-wal") for path in kept} == {"outbox.db.damaged-11", "outbox.db.damaged-12"}
    assert (tmp_path / "outbox.db.damaged-12").read_bytes().startswith(b"broken 12 ")


def _scribble(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4096:] = b"\x5a" * (len(data) - 4096)
    path.write_bytes(bytes(data))


def _other_schema(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()


def test_damage_found_while_running_drops_and_counts_and_starts_anew(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    for i in range(3):
        outbox.put(sample(i), value=1.0)
    outbox.flush(WAIT_S)
    stream = outbox.stream
    error = sqlite3.DatabaseError("database disk image is malformed")
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    with outbox._disk:
        outbox._note(error)
    assert_balanced(outbox)
    outbox.put(sample(9), value=1.0)
    outbox.flush(WAIT_S)
    assert outbox.stream != stream
    assert (outbox.dropped, outbox.queued) == (3, 1)
    outbox.close()
    again = open_outbox(tmp_path)
    assert_balanced(again)
    assert again.dropped == 3
    again.close()


def test_damage_on_a_disk_that_became_read_only_does_not_stop_the_outbox_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "RETRY_S", 0.02)
    outbox = open_outbox(tmp_path)
    outbox.put(sample(0), value=1.0)
    outbox.flush(WAIT_S)
    damaged = sqlite3.DatabaseError("database disk image is malformed")
    damaged.sqlite_errorcode = sqlite3.SQLITE_CORRUPT

    def fail(*_: object, **__: object) -> None:
        raise damaged

    def read_only(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as broken:
        broken.setattr(outbox._file, "commit", fail)
        broken.setattr(os, "replace", read_only)
        outbox.put(sample(1), value=1.0)
        with outbox._state:
            assert outbox._state.wait_for(lambda: outbox.dropped >= 1, WAIT_S)
    outbox.put(sample(2), value=1.0)
    assert outbox.flush(WAIT_S)
    assert outbox.last_error is None
    assert 2 in [frame_id for _, frame_id in frame_ids(outbox)]
    assert_balanced(outbox)
    outbox.close()


def test_a_second_process_or_device_on_the_same_file_is_refused(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    with pytest.raises(StorageError, match="another process"):
        open_outbox(tmp_path)
    outbox.close()


ANOTHER = """
import sys
from littoral.edge.outbox import Outbox
Outbox(sys.argv[1], capacity_bytes=1000).close()
"""


def test_a_second_device_that_was_refused_leaves_the_file_locked_for_other_processes(tmp_path: Path) -> None:
    """Closing any descriptor of a file drops all locks of the process on it: so says POSIX."""

    def another() -> subprocess.CompletedProcess[str]:
        arguments = [sys.executable, "-c", ANOTHER, str(tmp_path / "outbox.db")]
        return subprocess.run(arguments, capture_output=True, text=True, check=False)

    outbox = open_outbox(tmp_path)
    with pytest.raises(StorageError, match="another process"):
        open_outbox(tmp_path)
    assert "another process uses" in another().stderr
    outbox.close()
    assert another().returncode == 0, "the control"


def test_a_renewed_stream_numbers_what_is_queued_anew_in_the_same_order(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    for i in range(4):
        outbox.put(sample(i), value=1.0)
    outbox.flush(WAIT_S)
    outbox.peek(0, 1)
    outbox.ack(1)
    outbox.flush(WAIT_S)
    stream = outbox.stream
    outbox.renew_stream()
    assert outbox.stream != stream
    assert frame_ids(outbox) == [(1, 1), (2, 2), (3, 3)]
    assert_balanced(outbox)
    outbox.close()


def test_a_closed_outbox_counts_what_still_comes_as_dropped(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    outbox.close()
    assert not outbox.put(sample(0), value=1.0)
    assert_balanced(outbox)
    with pytest.raises(StorageError, match="closed"):
        outbox.peek(0, 1)


# The byte budget.


def budget() -> ByteBudget:
    config = BudgetConfig(bytes_per_1000_frames=0, burst_bytes=1_000_000, scene_burst_bytes=5_000)
    return ByteBudget(config, max_sample_bytes=1_000, frame_bytes=900)


def spend(outbox: Outbox, spent: ByteBudget, frame_id: int) -> None:
    """Put a sample that was chosen within the budget; what it did not take is not given back yet."""
    assert spent.take()
    assert outbox.put(sample(frame_id), value=1.0)


def level_left(folder: Path) -> float:
    outbox, left = open_outbox(folder), budget()
    outbox.keep_budget(left)
    outbox.close()
    return left.level_bytes


def test_the_budgets_level_is_kept_with_the_samples_that_it_paid_for(tmp_path: Path) -> None:
    outbox, spent = open_outbox(tmp_path), budget()
    outbox.keep_budget(spent)
    assert spent.level_bytes == 1_000_000, "a new outbox knows of no earlier run"
    spend(outbox, spent, 0)
    assert outbox.flush(WAIT_S)
    copy = shutil.copytree(tmp_path, tmp_path.with_name(f"{tmp_path.name}-killed"))
    assert level_left(copy) == 999_000
    spent.settle(100)
    outbox.close()
    assert level_left(tmp_path) == 999_900, "a device that is stopped loses nothing"


def test_handing_out_and_a_new_stream_leave_the_level_alone(tmp_path: Path) -> None:
    outbox, spent = open_outbox(tmp_path), budget()
    outbox.keep_budget(spent)
    spend(outbox, spent, 0)
    assert outbox.flush(WAIT_S)
    outbox.peek(0, 10**6)
    outbox.renew_stream()
    copy = shutil.copytree(tmp_path, tmp_path.with_name(f"{tmp_path.name}-killed"))
    outbox.close()
    assert level_left(copy) == 999_000


def test_a_level_that_cannot_be_read_counts_as_all_spent(tmp_path: Path) -> None:
    def refuse(path: Path) -> sqlite3.Connection:
        raise OSError("no such disk")

    outbox, left = open_outbox(tmp_path, connect=refuse), budget()
    outbox.keep_budget(left)
    outbox.close()
    assert left.level_bytes == -5_000


def test_a_file_of_before_budgets_were_kept_gives_a_full_one(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    outbox.put(sample(0), value=1.0)
    outbox.close()
    assert level_left(tmp_path) == 1_000_000


def test_a_budget_beyond_what_the_file_can_hold_stops_no_commit(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    endless = ByteBudget(BudgetConfig(burst_bytes=1e30), max_sample_bytes=1_000, frame_bytes=900)
    outbox.keep_budget(endless)
    spend(outbox, endless, 0)
    assert outbox.flush(WAIT_S)
    assert outbox.queued == 1
    outbox.close()


SPENDER = """
import sys
from littoral.core.budget import BudgetConfig, ByteBudget
from littoral.edge.outbox import Outbox
from littoral.wire.messages import Sample
config = BudgetConfig(bytes_per_1000_frames=0, burst_bytes=1_000_000, scene_burst_bytes=5_000)
budget = ByteBudget(config, max_sample_bytes=1_000, frame_bytes=900)
outbox = Outbox(sys.argv[1], capacity_bytes=10**9, clock=lambda: 0.0)
outbox.keep_budget(budget)
for i in range(10**9):
    sample = Sample(frame_id=i, version=0, predicted=0, entropy_nats=0.0, coding="raw", image=b"x" * 50, scene=0)
    if budget.take():
        budget.settle(outbox.put(sample, value=1.0))
    if i % 7 == 0:
        assert outbox.flush(10)
        print(i, flush=True)
"""


def test_whenever_a_device_is_killed_all_that_it_may_have_sent_is_paid_for(tmp_path: Path) -> None:
    for lines in (3, 9, 30):
        process = subprocess.Popen([sys.executable, "-c", SPENDER, str(tmp_path / "outbox.db")], stdout=subprocess.PIPE)
        assert process.stdout is not None
        for _ in range(lines):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    outbox, left = open_outbox(tmp_path), budget()
    outbox.keep_budget(left)
    sizes = [len(data) for _, data in outbox.peek(0, 10**9)]
    outbox.close()
    assert len(sizes) > 7 * (2 + 8 + 29)
    assert left.level_bytes <= 1_000_000 - sum(sizes)


def test_only_the_owner_can_read_the_file(tmp_path: Path) -> None:
    outbox = open_outbox(tmp_path)
    outbox.put(sample(0), value=1.0)
    outbox.flush(WAIT_S)
    assert {os.stat(path).st_mode & 0o077 for path in tmp_path.iterdir()} == {0}
    outbox.close()


KILLED = """
import sys
from littoral.edge.outbox import Outbox
from littoral.wire.messages import Sample
outbox = Outbox(sys.argv[1], capacity_bytes=10**9, clock=lambda: 0.0)
for i in range(int(sys.argv[2]), 10**9):
    sample = Sample(frame_id=i, version=0, predicted=0, entropy_nats=0.0, coding="raw", image=b"x" * 50, scene=0)
    outbox.put(sample, value=1.0)
    if i % 7 == 0:
        assert outbox.flush(10)
        print("durable", i, flush=True)
    if i % 21 == 0:
        for sequence, data in outbox.peek(0, 10**9)[-1:]:
            print("sent", sequence, data.hex(), flush=True)
"""


def test_what_was_flushed_or_handed_out_survives_kill_9(tmp_path: Path) -> None:
    path, first = tmp_path / "outbox.db", 0
    for lines in (7, 22):
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(path), str(first)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        said = [process.stdout.readline().decode().split() for _ in range(lines)]
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        outbox = open_outbox(tmp_path)
        there = frame_ids(outbox)
        durable = max(int(words[1]) for words in said if words[0] == "durable")
        assert [frame_id for _, frame_id in there][: durable + 1] == list(range(durable + 1))
        assert [sequence for sequence, _ in there] == list(range(1, len(there) + 1))
        data = dict(outbox.peek(0, 10**9))
        for words in said:
            if words[0] == "sent":
                assert data[int(words[1])].hex() == words[2]
        assert_balanced(outbox)
        first = len(there)
        outbox.close()
