"""What the log says of things that go on: once, and again after an hour."""

from __future__ import annotations

import logging
import sqlite3

import pytest
from cohort_bench import Bench

from littoral.bundle import Bundle
from littoral.cloud import cohort, repeats
from littoral.cloud.repeats import AGAIN_S, Repeats
from littoral.cloud.store import Store
from littoral.cloud.writer import GroupWriter
from littoral.errors import StorageError


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_line_is_written_once_and_again_after_an_hour_with_how_often_it_was_not() -> None:
    clock = Clock()
    said = Repeats(clock)
    assert [said.news("porch", "revoked") for _ in range(3)] == ["", None, None]
    assert said.news("porch", "storage") == "", "of another thing"
    assert said.news("pier", "revoked") == "", "of another device"
    clock.now += AGAIN_S
    assert said.news("porch", "revoked") == " (2 times more since this was last written)"
    clock.now += AGAIN_S
    assert said.news("porch", "revoked") == ""


def test_what_is_over_is_news_the_next_time() -> None:
    said = Repeats(Clock())
    assert not said.over("record")
    assert [said.news("record", "full"), said.news("record", "locked"), said.news("other")] == ["", "", ""]
    assert said.over("record")
    assert [said.news("record", "full"), said.news("record", "locked"), said.news("other")] == ["", "", None]


def test_strangers_without_end_take_no_memory_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeats, "MAX_KEPT", 10)
    said = Repeats(Clock())
    for number in range(100):
        assert said.news(str(number)) == ""
    assert len(said._kept) == 10
    assert said.news("99") is None


def test_a_record_that_cannot_be_written_is_told_of_once_and_that_it_can_be_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    writer = GroupWriter(sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False))

    def full(db: sqlite3.Connection) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    for _ in range(5):
        with pytest.raises(StorageError, match="free space"):
            writer.submit(full).result()
    writer.submit(lambda db: None).result()
    writer.submit(lambda db: None).result()
    writer.close()
    assert [record.getMessage() for record in caplog.records] == [
        "the record could not be written: database or disk is full",
        "the record can be written again",
    ]


def test_a_cohort_whose_steps_fail_says_each_reason_once(
    store: Store, opened: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cohort, "RETRY_S", 0.0)
    bench = Bench(store, opened)
    errors: list[Exception] = [*[StorageError("full")] * 5, *[RuntimeError("odd")] * 5]

    def step() -> None:
        if not errors:
            bench.cohort._stop.set()
            return
        raise errors.pop(0)

    monkeypatch.setattr(bench.cohort, "step", step)
    bench.cohort._run()
    assert [record.getMessage() for record in caplog.records] == [
        "cohort default: full; trying again every 0 s",
        "cohort default: a step failed (odd); trying again every 0 s",
    ]
    assert [bool(record.exc_info) for record in caplog.records] == [False, True]
