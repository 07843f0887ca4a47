"""A row is played as its stream says, and scored on what the method never sees."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from littoral.bench.adapt import make
from littoral.bench.adapt.lives import Life, LifeStore, life_file, tidy_lives
from littoral.bench.adapt.loopback import Pipe
from littoral.bench.adapt.material import check_data, missing_data
from littoral.bench.adapt.orders import ORDERS, steps_of
from littoral.bench.adapt.play import Step, play
from littoral.bench.adapt.row import Row
from littoral.bench.adapt.table import flat_row
from littoral.bench.method import Costs, Setup
from littoral.errors import LittoralError

FIELDS = {"table": "quick", "method": "m", "teacher": None, "seed": 0, "frames": 24, "batch": 10}
NAMES = ("contrast", "fog", "brightness", "impulse_noise")


def row(order: str, **changes: Any) -> Row:
    values = {**FIELDS, "stream": order, "order": order, "corruptions": NAMES, **changes}
    return Row(**values)


@pytest.fixture
def material(tmp_path: Path) -> Any:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (96, 32, 32, 3), dtype=np.uint8)
    return SimpleNamespace(test=(frames, np.arange(96) % 10), work=tmp_path)


@pytest.mark.parametrize("order", sorted(ORDERS))
def test_every_order_plays_as_many_frames_as_it_says(order: str, material: Any) -> None:
    asked = row(order, devices=8 if order == "fleet" else 1)
    steps = list(steps_of(asked, material))
    assert sum(len(step.labels) for step in steps) == asked.num_frames
    assert max(len(step.labels) for step in steps) <= 10
    assert {step.device for step in steps} == set(range(asked.devices))
    assert sum(step.fresh for step in steps) == (3 if order == "per_shift" else 0)


def test_another_seed_plays_the_shifts_in_another_order(material: Any) -> None:
    shifts = [list(dict.fromkeys(s.shift for s in steps_of(row("continual", seed=seed), material))) for seed in (0, 1)]
    assert shifts[0] != shifts[1]
    assert sorted(shifts[0]) == sorted(shifts[1]) == sorted(NAMES)


class Counting:
    """Answers 1 to everything; every frame costs a pass, every batch a sample."""

    made = 0

    def __init__(self, setup: Setup) -> None:
        Counting.made += 1
        self.costs = Costs(notes={"largest_max": float(Counting.made), "all": 1.0})
        self.closed = 0

    def answer(self, frames: np.ndarray, *, device: int = 0) -> np.ndarray:
        self.costs.forward_frames += len(frames)
        self.costs.uploads += 1
        return np.ones(len(frames), np.int64)

    def close(self) -> None:
        self.closed += 1


def steps(*labels: list[int], **changes: Any) -> list[Step]:
    values = {"shift": "fog", **changes}
    return [Step(frames=np.zeros((len(y), 2, 2, 3), np.uint8), labels=np.array(y), **values) for y in labels]


def test_right_answers_are_counted_by_shift_and_costs_over_all_lives(setup: Callable[..., Setup]) -> None:
    Counting.made = 0
    played = steps([1, 1, 0]) + steps([1, 2], shift="snow", fresh=True) + steps([1], shift="snow")
    result = play(row("per_shift"), setup(), Counting, played)
    assert Counting.made == 2
    assert result["by_shift"] == {"fog": [3, 2], "snow": [3, 2]}
    assert result["accuracy"] == pytest.approx(66.667)
    assert (result["uploads"], result["forward_passes"]) == (3, 1.0)
    assert result["notes"] == {"largest_max": 2.0, "all": 2.0}
    assert result["cloud_clock"] == "processor"
    assert result["trace"] == {"0": [["fog", 3, 2, 1], ["snow", 3, 2, 3]]}


def test_a_trace_tells_batches_of_64_frames_apart_and_sums_smaller_ones(setup: Callable[..., Setup]) -> None:
    batches = [played for size in (64, 64, 16, 40, 64) for played in steps([1] * size)]
    trace = play(row("recurring"), setup(), Counting, batches)["trace"]["0"]
    assert [stretch[1:] for stretch in trace] == [[64, 64, 1], [64, 64, 2], [120, 120, 5]]


THREE_LIVES = (
    steps([1, 1, 0]) + steps([1, 2], shift="snow", fresh=True) + steps([1], shift="snow") + steps([0], fresh=True)
)


class Spending(Counting):
    """Takes time to make."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        time.sleep(0.02)
        sum(range(200_000))


def played(setup: Setup, path: Path, steps: Iterable[Step] = THREE_LIVES, made_by: str = "a") -> dict[str, Any]:
    """The result of a row, and how many methods were made for it."""
    Counting.made = 0
    result = play(row("per_shift"), setup, Spending, steps, kept=LifeStore(path, made_by))
    return {**result, "made": Counting.made}


def told(result: Mapping[str, Any]) -> dict[str, Any]:
    """What does not hang on time, nor on which of several methods it was."""
    return {
        name: value for name, value in result.items() if name not in ("play_seconds", "took_before", "made", "notes")
    }


def stopped(after: int) -> Iterator[Step]:
    yield from THREE_LIVES[:after]
    raise KeyboardInterrupt


def test_a_row_that_was_stopped_goes_on_at_the_life_that_it_was_at(setup: Callable[..., Setup], tmp_path: Path) -> None:
    whole = played(setup(), tmp_path / "whole.json")
    assert "took_before" not in whole
    path = tmp_path / "lives" / "row.json"
    for _ in range(2):  # also the second time: what is there is not lost
        with pytest.raises(KeyboardInterrupt):
            played(setup(), path, stopped(after=2))
    result = played(setup(), path)
    assert (told(result), result["made"]) == (told(whole), 2)
    assert result["notes"]["all"] == 3.0
    assert result["play_seconds"] >= 0.06, "all three lives'"
    before = result["took_before"]
    assert result["play_seconds"] - 0.03 > before["seconds"] >= 0.02
    assert before["cpu_seconds"] > 0
    again = played(setup(), path)
    assert (told(again), again["made"]) == (told(whole), 0), "the row was not stored, so its lives are still there"


@pytest.mark.parametrize(
    "left",
    [
        '{"made_by": "other", "lives": [{}]}', "no JSON", None, "3", '{"made_by": "a"}', '{"made_by": "a", "lives": 3}',
        '{"made_by": "a", "lives": [{}]}', '{"made_by": "a", "lives": [{"costs": {}, "odd": 1}]}',
    ],
)  # fmt: skip
def test_what_another_code_left_or_nobody_can_read_is_played_again(
    setup: Callable[..., Setup], tmp_path: Path, left: str | None
) -> None:
    path = tmp_path / "row.json"
    if left is not None:
        path.write_text(left)
    assert played(setup(), path)["made"] == 3
    assert played(setup(), path)["made"] == 0


def test_who_is_behind_on_the_same_row_takes_nothing_from_who_is_ahead(
    setup: Callable[..., Setup], tmp_path: Path
) -> None:
    path = tmp_path / "row.json"
    behind = LifeStore(path, "a")
    played(setup(), path)
    behind.save(0, Life())
    assert played(setup(), path)["made"] == 0


def test_a_stream_that_does_not_reset_leaves_nothing(setup: Callable[..., Setup], tmp_path: Path) -> None:
    play(row("continual"), setup(), Counting, steps([1, 0]) + steps([1]), kept=LifeStore(tmp_path / "row.json", "a"))
    assert not list(tmp_path.iterdir())


def test_a_row_is_made_with_its_lives_unless_the_code_was_changed_under_it(
    setup: Callable[..., Setup], material: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def made() -> tuple[str, int]:
        with pytest.raises(KeyboardInterrupt):
            make.make_row(asked, tmp_path, tmp_path, stop_in_the_second_life)
        file = life_file(tmp_path, asked)
        return (file.read_text() if file.exists() else ""), Counting.made

    def stop_in_the_second_life(done: int, of: int) -> None:
        if done > asked.frames:
            raise KeyboardInterrupt

    asked = row("per_shift", method="device_statistics")
    material.setup = lambda _row: setup()
    monkeypatch.setattr(make, "_materials", {(tmp_path, tmp_path): material})
    monkeypatch.setattr(make, "factory_of", lambda _row: Counting)
    monkeypatch.setattr(make, "_BEGAN", 0.0)
    Counting.made = 0
    assert made() == ("", 2), "every file has changed since"
    monkeypatch.setattr(make, "_BEGAN", time.time() + 60)
    text, count = made()
    assert (len(json.loads(text)["lives"]), count) == (1, 4)
    assert made() == (text, 5), "the first life was there"


def test_lives_go_when_their_row_is_there(tmp_path: Path) -> None:
    done, other = row("per_shift"), row("per_shift", seed=1)
    for each in (done, other):
        LifeStore(life_file(tmp_path, each), "a").save(0, Life())
    ours, theirs = (
        life_file(tmp_path, each).with_name(f".{life_file(tmp_path, each).name}.77.new") for each in (done, other)
    )
    ours.touch()
    theirs.touch()
    tidy_lives(tmp_path, [done])
    assert set((tmp_path / "lives").iterdir()) == {life_file(tmp_path, other), theirs}


def test_a_device_that_is_not_ours_is_not_scored(setup: Callable[..., Setup]) -> None:
    played = steps([1, 1]) + steps([2, 2], device=1)
    assert play(row("fleet"), setup(), Counting, played)["accuracy"] == 50.0
    assert play(row("fleet"), setup(), Counting, played, unscored=[1])["accuracy"] == 100.0


def test_a_document_row_is_flat(setup: Callable[..., Setup]) -> None:
    result = play(row("continual"), setup(), Counting, steps([1, 0]))
    flat = flat_row(row("continual"), {"result": result, "seconds": 1.0, "cpu_seconds": 1.0, "commit": "c"})
    assert not [key for key, value in flat.items() if isinstance(value, dict | list)]
    assert (flat["frames_per_shift"], flat["frames"], flat["all"]) == (24, 2, 1.0)


def test_without_data_it_says_what_is_missing_and_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(LittoralError, match=r"no data folder was given; .*--data, or set LITTORAL_DATA"):
        check_data(None)
    for name in missing_data(None)[1:]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(LittoralError, match=r"lacks cifar10/test\.npz; "):
        check_data(tmp_path)


def pipe(**changes: Any) -> Pipe:
    return Pipe(**{"loss": 0.0, "rng": np.random.default_rng(0), **changes})


def test_a_pipe_keeps_the_order_and_counts_every_attempt() -> None:
    lossy, came = pipe(loss=0.5), []
    for tick in range(20):
        lossy.put(bytes([tick]) * 3, tick=tick)
        came += lossy.turn(tick)
    for tick in range(20, 60):
        came += lossy.turn(tick)
    assert came == [bytes([tick]) * 3 for tick in range(20)]
    assert lossy.num_bytes > 20 * 3
    assert len(lossy) == 0


def test_a_pipe_with_a_delay_gives_a_frame_so_many_batches_later() -> None:
    late = pipe(delay_batches=2)
    late.put(b"a", tick=5)
    assert [late.turn(tick) for tick in (5, 6, 7)] == [[], [], [b"a"]]
    assert late.num_bytes == 1
