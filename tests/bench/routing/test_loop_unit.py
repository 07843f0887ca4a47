"""A unit plays all policies, chooses prices on calibration frames alone, and a table is made of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loop_world import small_halves, unit_of
from made_once import made_once, run_folder

from littoral.bench.exits.plan import full_plan as full_plan_of_exits
from littoral.bench.exits.plan import quick_plan as quick_plan_of_exits
from littoral.bench.exits.table import ExitTable
from littoral.bench.exits.unit import ExitUnit
from littoral.bench.routing import fitted
from littoral.bench.routing.choose import NEAR
from littoral.bench.routing.contenders import DEFAULT_SETTING, FAMILIES, SETTINGS
from littoral.bench.routing.fitted import FittedSets
from littoral.bench.routing.make import played_unit, trace_of
from littoral.bench.routing.plan import full_plan, quick_plan
from littoral.bench.routing.run import StreamConfig
from littoral.bench.routing.table import LoopTable, kept_traces
from littoral.bench.routing.traces import KINDS
from littoral.bench.rows import TableRequest, chosen_by_name
from littoral.bench.store import UnitStore
from littoral.core.route_plan import Prices

Made = Callable[..., dict[str, Any]]


def told(done: int, of: int, text: str = "") -> None:
    pass


@pytest.fixture(autouse=True)
def fewer_frames_to_choose_exits_by(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sixth of the drawn calibration frames, as the table takes a part of its own."""
    monkeypatch.setattr(fitted, "EXIT_CHOICE_FRAMES", 150)


@pytest.fixture
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A unit's result, played once a run, with what was fitted for the first kept for the others as a worker does."""
    folder = run_folder(tmp_path_factory)

    def played(kind: str, trace: str, stream: str, kept: dict[str, FittedSets]) -> tuple[dict[str, FittedSets], Any]:
        unit, given = unit_of(kind, trace, stream), small_halves(drift=stream == "drift")
        result = played_unit(unit, given, trace_of(unit, Path()), told, kept=kept)
        return kept, {**result, "times": {}, "shares_right": {}}

    def make(kind: str, trace: str, stream: str = "clean") -> dict[str, Any]:
        kept, first = made_once(folder / "loop-first.pickle", lambda: played("policies", "fixed", "clean", {}))
        if (kind, trace, stream) == ("policies", "fixed", "clean"):
            return first
        path = folder / f"loop-{kind}-{trace}-{stream}.pickle"
        return made_once(path, lambda: played(kind, trace, stream, kept))[1]

    return make


def test_every_policy_that_the_table_promises_plays_and_the_rows_are_flat(made: Made) -> None:
    points = made("policies", "fixed")["points"]
    assert {point["family"] for point in points} == set(FAMILIES)
    names = [point["policy"] for point in points]
    assert len(set(names)) == len(names)
    assert {"always webp 95", "always split layer2.1 2", "device only", "oracle, by look"} <= set(names)
    assert {setting.name for setting in SETTINGS} <= set(names)
    assert all(not isinstance(value, (list, dict)) for point in points for value in point.values())
    device = next(point for point in points if point["policy"] == "device only")
    assert device["latency_ms"] == pytest.approx(22, rel=0.02)  # no exit is paid for
    assert device["accuracy"] > 1  # percent


@pytest.mark.slow
def test_prices_are_chosen_without_a_look_at_the_stream(made: Made) -> None:
    unit, given = unit_of("policies", "fixed"), small_halves()
    wrong = {
        exits: replace(table, labels_N=(table.labels_N + 1) % 6, cloud_answers_NW=table.cloud_answers_NW * 0)
        for exits, table in given.stream.items()
    }
    other = played_unit(unit, replace(given, stream=wrong), trace_of(unit, Path()), told)
    assert other["chosen"] == made("policies", "fixed")["chosen"]
    assert other["points"] != made("policies", "fixed")["points"]


def test_the_exits_that_a_device_has_are_those_that_its_prices_pay_for() -> None:
    given = small_halves()
    tables = {exits: table.of(slice(None), given.ours) for exits, table in given.calibration.items()}
    dear_stems = {
        exits: replace(
            table, step_ms=tuple(step + 30 * (number < len(exits)) for number, step in enumerate(table.step_ms))
        )
        for exits, table in tables.items()
    }
    quick = replace(DEFAULT_SETTING, prices=Prices(ms=0.02, byte=0.0), risk=0.1)
    config = StreamConfig(in_flight=16)
    assert FittedSets(tables, config).exits_for(quick) != ()
    assert FittedSets(dear_stems, config).exits_for(quick) == ()


def test_with_nothing_getting_through_ours_answers_all_frames_in_time_and_says_that_it_is_degraded(made: Made) -> None:
    points = made("no-cloud", "outage")["points"]
    assert {point["family"] for point in points} == {"ours"}
    assert min(point["deadline_hits"] for point in points) == 1
    assert max(point["degraded_rate"] for point in points) > 0.1
    assert max(point["cloud_rate"] for point in points) == 0


@pytest.mark.slow
def test_a_stream_with_phases_has_a_row_for_each_phase_of_ours(made: Made) -> None:
    points = made("policies", "fixed", "drift")["points"]
    phases = {point["phase"] for point in points if point["family"] == "ours"}
    assert phases == {"all", "clean", "fog"}


def test_the_plan_has_every_trace_clean_and_under_drift_and_three_seeds() -> None:
    plan = full_plan()
    assert len({unit.key for unit in plan}) == len(plan)
    played = {(unit.trace, unit.stream, unit.seed) for unit in plan if unit.kind == "policies"}
    assert played == {(trace, stream, seed) for trace in KINDS for stream in ("clean", "drift") for seed in (0, 1, 2)}
    assert {unit.kind for unit in quick_plan()} == {"policies", "speed", "no-cloud"}
    assert {unit.seed for unit in chosen_by_name(plan, ["policies/wifi-walk/clean"])} == {0, 1, 2}
    with pytest.raises(ValueError, match="--only 'nothing' fits no unit"):
        chosen_by_name(plan, ["nothing"])
    assert full_plan(device_ms=30.0)[0].key != plan[0].key


def test_the_document_of_units_has_rows_summary_and_what_others_made(made: Made, tmp_path: Path) -> None:
    planned = [unit_of("policies", "fixed"), unit_of("no-cloud", "outage")]
    done = {
        unit.key: {"commit": "c" * 40, "result": made(unit.kind, unit.trace), "fingerprint": "f"} for unit in planned
    }
    exits = UnitStore[ExitUnit](tmp_path / "exits")
    drift = next(unit for unit in full_plan_of_exits() if unit.kind == "drift")
    exits.save(drift, "f", {"commit": "d" * 40, "result": {"exit_rate_recovery_fraction": 0.95, "points": [1]}})
    asked = TableRequest(data=None, work=tmp_path, rows=tmp_path / "loop", any_code=True)
    document = LoopTable().document(planned, done, asked)
    assert document["summary"]["exit_rate_recovery_fraction"] == 0.95
    assert document["summary"]["cloud_label_gain_points"] is None
    assert document["summary"]["cloud_label_gain_points_reason"].startswith("there are no rows of kind labels; ")
    assert document["rows"][-1] == {"exit_rate_recovery_fraction": 0.95, "kind": "drift", "commit": "d" * 12}
    assert document["config"]["missing"] == []
    assert document["config"]["near_points"] == 100 * NEAR
    assert document["config"]["of_other_code"] == [unit.name for unit in (*planned, drift)]
    assert all(row["num_seeds"] == 1 for row in document["rows"][:-1])


@pytest.fixture
def exits_of_this_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading all sources takes a second."""
    monkeypatch.setattr(ExitTable, "fingerprint_of", lambda table, unit: "this code")


def save_drift(folder: Path, unit: ExitUnit, recovery: float, fingerprint: str = "f") -> None:
    result = {"exit_rate_recovery_fraction": recovery, "points": []}
    UnitStore[ExitUnit](folder).save(unit, fingerprint, {"commit": "d" * 40, "result": result})


def recovery_in(table: LoopTable, asked: TableRequest) -> tuple[float | None, str]:
    summary = table.document([], {}, asked)["summary"]
    key = "exit_rate_recovery_fraction"
    return summary[key], summary.get(f"{key}_reason", "")


@pytest.mark.usefixtures("exits_of_this_code")
def test_a_quick_run_s_rows_and_files_of_no_unit_are_not_taken_for_the_full_table_s(tmp_path: Path) -> None:
    full, quick = (next(u for u in plan() if u.kind == "drift") for plan in (full_plan_of_exits, quick_plan_of_exits))
    save_drift(tmp_path / "exits", full, 0.89)
    save_drift(tmp_path / "exits", quick, 0.11)
    (tmp_path / "exits" / "drift-1.json").write_text(json.dumps({"result": {"exit_rate_recovery_fraction": 0.2}}))
    (tmp_path / "exits" / "drift-2.json").write_text("no JSON")
    asked = TableRequest(data=None, work=tmp_path, rows=tmp_path / "loop", any_code=True)
    assert recovery_in(LoopTable(), asked) == (0.89, "")


@pytest.mark.usefixtures("exits_of_this_code")
def test_what_other_code_made_of_exits_counts_only_where_other_code_s_units_do(tmp_path: Path) -> None:
    one, other = [unit for unit in full_plan_of_exits() if unit.kind == "drift"][:2]
    save_drift(tmp_path / "exits", one, 0.8)
    save_drift(tmp_path / "exits", other, 0.9, "this code")
    asked = TableRequest(data=None, work=tmp_path, rows=tmp_path / "loop")
    assert recovery_in(LoopTable(), asked)[0] == 0.9
    assert recovery_in(LoopTable(), replace(asked, any_code=True))[0] == pytest.approx(0.85)


@pytest.mark.usefixtures("exits_of_this_code")
def test_rows_of_exits_are_found_where_bench_exits_keeps_them_and_the_reason_names_the_option(tmp_path: Path) -> None:
    drift = next(unit for unit in full_plan_of_exits() if unit.kind == "drift")
    asked = TableRequest(data=None, work=tmp_path / "bench-loop", any_code=True)
    value, why = recovery_in(LoopTable(), asked)
    assert value is None
    assert "--exits" in why
    save_drift(tmp_path / "bench-exits" / "rows", drift, 0.9)
    assert recovery_in(LoopTable(), asked) == (0.9, "")
    save_drift(tmp_path / "elsewhere", drift, 0.7)
    assert recovery_in(LoopTable(exits=tmp_path / "elsewhere"), asked) == (0.7, "")


def test_users_trace_files_are_kept_by_their_content_and_play(tmp_path: Path) -> None:
    file = tmp_path / "tunnel.csv"
    file.write_text("time_ms,up_kbit_s,down_kbit_s,one_way_ms,loss\n0,8000,8000,5,0\n500,0,0,5,0\n600,8000,8000,5,0\n")
    kept = kept_traces([file], tmp_path)
    unit = full_plan(traces=kept)[-1]
    assert unit.trace == "tunnel"
    assert trace_of(unit, tmp_path)(3).up_kbit_s.tolist() == [8000, 0, 8000]
    (tmp_path / "fixed.csv").write_text(file.read_text())
    with pytest.raises(ValueError, match="another trace that is called 'fixed'"):
        kept_traces([tmp_path / "fixed.csv"], tmp_path)


def test_an_oracle_that_only_looks_is_right_less_often_than_one_that_knows(made: Made) -> None:
    points = {point["policy"]: point for point in made("policies", "fixed")["points"]}
    assert points["oracle, by look"]["accuracy"] <= points["oracle, priced"]["accuracy"]
    assert points["oracle, priced"]["accuracy"] == pytest.approx(points["oracle, all"]["accuracy"], abs=1)
    assert not points["oracle, by look"]["is_real"]
    assert np.isfinite(points["oracle, by look"]["latency_ms"])
