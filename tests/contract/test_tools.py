"""The repository's own tools: which PyTorch `make setup` takes, and pages that match their results."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PIN = "torch==2.13.0"


def load_tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"_tool_{name}", ROOT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


setup_env, make_docs = load_tool("setup_env"), load_tool("make_docs")
check_arm, portable_checks = load_tool("check_arm"), load_tool("portable_checks")


@pytest.mark.parametrize(
    ("choice", "platform", "has_gpu", "cpu"),
    [
        ("", "linux", False, True),
        ("", "linux", True, False),
        ("", "darwin", False, False),
        ("", "win32", False, False),
        ("cpu", "linux", True, True),
        ("cpu", "darwin", False, False),
        ("cuda", "linux", False, False),
        ("default", "linux", False, False),
    ],
)
def test_the_cpu_build_is_taken_on_linux_without_a_gpu(choice: str, platform: str, has_gpu: bool, cpu: bool) -> None:
    assert setup_env.wants_cpu_build({"LITTORAL_TORCH": choice}, platform=platform, has_gpu=has_gpu) is cpu


def test_an_unknown_choice_of_build_is_refused() -> None:
    with pytest.raises(setup_env.SetupFailed, match="expected one of cpu, cuda, default"):
        setup_env.wants_cpu_build({"LITTORAL_TORCH": "rocm"}, platform="linux", has_gpu=False)


@pytest.mark.parametrize(
    ("works", "steps"),
    [
        ({"torch==2.13.0+cpu"}, ["torch==2.13.0+cpu"]),
        ({"uv", PIN}, ["torch==2.13.0+cpu", "uv", PIN]),
        ({"uv"}, ["torch==2.13.0+cpu", "uv", PIN]),
        (set(), ["torch==2.13.0+cpu", "uv"]),
    ],
    ids=["pip has it", "uv has it", "uv cannot reach it", "nothing can be reached"],
)
def test_pip_is_asked_first_then_uv(works: set[str], steps: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[list[str]] = []

    def run(title: str, command: list[str]) -> bool:
        asked.append(command)
        return command[-1] in works

    setup_env.install_torch(PIN, None, cpu=True, run=run)
    assert [command[-1] for command in asked] == steps
    with_uv = [command for command in asked if command[-1] == PIN]
    assert all("--torch-backend" in command for command in with_uv), "the bare pin goes to uv alone"
    assert ("3 GB" in capsys.readouterr().err) is (steps[-1] not in works)


@pytest.mark.parametrize(("installed", "cpu"), [("2.13.0+cpu", True), (None, False), ("2.13.0", False)])
def test_nothing_is_asked_when_the_build_is_there_or_pip_may_choose(installed: str | None, cpu: bool) -> None:
    def run(title: str, command: list[str]) -> bool:
        raise AssertionError(command)

    setup_env.install_torch(PIN, installed, cpu=cpu, run=run)


def test_the_constraints_pin_torch_without_a_local_label() -> None:
    assert setup_env.read_pin((ROOT / "constraints.txt").read_text(), "torch").count("+") == 0


def test_what_emulated_machines_are_asked_holds_here_and_a_difference_is_seen() -> None:
    shown, said = portable_checks.look(None)
    counted = [name for name, value in shown.items() if type(value) is int and value > 0]
    assert {"golden_payloads", "golden_messages", "payload_round_trips", "other_byte_order_seen"} <= set(counted)
    other = {"machine": "another", "said": {**said, "frames": {**said["frames"], "0/0": "ff"}}}
    with pytest.raises(portable_checks.Wrong, match="frames 0/0 here and on another"):
        portable_checks.look(other)


@pytest.mark.parametrize(
    ("packages", "old"),
    [
        (["python3-numpy_1%3a2.4.6+ds-5+b1_arm64.deb", "python3-msgpack_1.2.1-1_arm64.deb"], []),
        (["python3-numpy_1%3a2.2.4+ds-1_arm64.deb", "python3-msgpack_1.0.3-3+b5_arm64.deb"], ["msgpack 1.0.3"]),
        (["python3-numpy_1%3a1.24.2-1+deb12u1_s390x.deb", "libc6_2.36-9_s390x.deb"], ["numpy 1.24.2"]),
    ],
    ids=["forky", "trixie", "bookworm"],
)
def test_a_debian_with_older_packages_than_ours_is_told_from_the_others(packages: list[str], old: list[str]) -> None:
    assert check_arm.below(packages) == old


RESULT: dict[str, Any] = {
    "schema": 1,
    "config": {"frames": 100},
    "seeds": [0, 1],
    "commit": "abc",
    "versions": {"numpy": "2"},
    "machine": {"cores": 2},
    "rows": [{"phase": "clean", "accuracy": 0.98761}, {"phase": "dark | wet", "bytes": 12345}],
    "summary": {"gain": 0.1},
}


def write_result(root: Path, document: Any) -> None:
    folder = root / "benchmarks" / "results"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "demo.json").write_text(json.dumps(document))


def test_a_page_is_written_from_its_result_and_checks(tmp_path: Path) -> None:
    write_result(tmp_path, RESULT)
    assert make_docs.main([], tmp_path) == 0
    page = (tmp_path / "docs" / "results" / "demo.md").read_text()
    assert page.startswith("<!-- Generated by tools/make_docs.py from benchmarks/results/demo.json.")
    assert (
        "| phase | accuracy | bytes |\n| --- | --- | --- |\n| clean | 0.9876 |  |\n| dark \\| wet |  | 12,345 |" in page
    )
    assert make_docs.main(["--check"], tmp_path) == 0


def test_a_stale_page_fails_the_check_and_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_result(tmp_path, RESULT)
    make_docs.main([], tmp_path)
    page = tmp_path / "docs" / "results" / "demo.md"
    page.write_text("edited by hand")
    assert make_docs.main(["--check"], tmp_path) == 1
    assert "demo.md does not match" in capsys.readouterr().err
    assert page.read_text() == "edited by hand"


def test_a_page_without_a_result_fails_the_check_and_is_removed(tmp_path: Path) -> None:
    page = tmp_path / "docs" / "results" / "gone.md"
    page.parent.mkdir(parents=True)
    page.write_text("old")
    assert make_docs.main(["--check"], tmp_path) == 1
    assert make_docs.main([], tmp_path) == 0
    assert not page.exists()


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "lacks schema"),
        ({**RESULT, "rows": [1]}, "rows should be"),
        ({**RESULT, "summary": []}, "summary should be"),
    ],
)
def test_a_file_that_is_no_result_is_refused(
    tmp_path: Path, document: Any, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_result(tmp_path, document)
    assert make_docs.main([], tmp_path) == 1
    assert message in capsys.readouterr().err


def test_the_committed_pages_match_the_committed_results() -> None:
    assert make_docs.main(["--check"]) == 0


def test_a_readme_gets_its_table_between_the_marks_and_is_checked(tmp_path: Path) -> None:
    summary = {f"{who}_accuracy": 90.0 for who in ("frozen", "littoral", "teacher")}
    summary |= {"upload_ratio": 0.3, "uplink_bytes": 1e6, "downlink_bytes": 1e5, "frames": 100}
    summary |= {"versions_installed": 7, "versions_rejected": 0}
    row = {"phase": "dim", "frozen_accuracy": 10.0, "littoral_accuracy": 95.0, "teacher_accuracy": 98.0}
    keys = {"schema": 1, "config": {}, "commit": "c", "versions": {}, "machine": {}}
    rows = [{**row, "seed": 1}, {**row, "seed": 2, "littoral_accuracy": 96.0}]
    write_result(tmp_path, {**keys, "seeds": [1, 2], "rows": rows, "summary": summary})
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- demo -->\nold\n<!-- /demo -->\nafter\n")
    assert make_docs.main([], tmp_path) == 0
    text = readme.read_text()
    assert "| dim | 10.0 | 95.5 | 98.0 |" in text
    assert text.startswith("before\n<!-- demo -->\n| right")
    assert text.endswith("\n<!-- /demo -->\nafter\n")
    assert make_docs.main(["--check"], tmp_path) == 0
    readme.write_text(text.replace("95.5", "99.9"))
    assert make_docs.main(["--check"], tmp_path) == 1, "a figure that no run gave"


def test_the_readmes_table_says_who_answered_where_the_run_routed(tmp_path: Path) -> None:
    mix = {"exit_share": 12.4, "finish_share": 60.2, "offload_share": 27.4}
    summary = {f"{who}_accuracy": 90.0 for who in ("frozen", "littoral", "teacher")}
    summary |= {"upload_ratio": 0.3, "uplink_bytes": 1e6, "downlink_bytes": 1e5, "frames": 100}
    summary |= {"versions_installed": 7, "versions_rejected": 0, **mix, "latency_ms": 9.6, "outage_seconds": 5.0}
    summary |= {"outage_frames": 20, "outage_unanswered": 0, "outage_degraded": 3, "outage_accuracy": 93.3}
    row = {"phase": "dim", "frozen_accuracy": 10.0, "littoral_accuracy": 95.0, "teacher_accuracy": 98.0, **mix}
    made = make_docs.demo_table({"seeds": [1, 2], "rows": [row, {**row, "exit_share": 13.4}], "summary": summary})
    assert "| dim | 10.0 | 95.0 | 98.0 | 13 / 60 / 27 |" in made
    assert "27 % came from the cloud, after 10 ms" in made
    assert "stood still for 5 s, 20 frames came: 0 were not answered, 3 answers said" in made
    columns = {line.count("|") for line in made.splitlines() if line.startswith("|")}
    assert columns == {6}


def adapt_row(method: str, seed: int, **changes: Any) -> dict[str, Any]:
    costs = {"uplink_bytes": 3_000_000, "downlink_bytes": 9_000, "upload_ratio": 0.08, "cloud_seconds_per_1000": 2.0}
    passes = {"forward_passes": 1.5, "backward_passes": 0.0}
    row = {"table": "headline", "method": method, "stream": "continual", "teacher": "resnet56_augmix", "devices": 1}
    return {
        **row,
        "seed": seed,
        "frames": 150_000,
        "frames_per_shift": 10_000,
        "accuracy": 60.0 + seed,
        **costs,
        **passes,
        **changes,
    }


def adapt_document(missing: list[str]) -> dict[str, Any]:
    rows = [adapt_row("product", 0), adapt_row("product", 1), adapt_row("source", 0, uplink_bytes=0, teacher=None)]
    rows += [adapt_row("roid", 0, table="wide", frames=30_000), {"table": "special", "method": "push_size"}]
    summary = {"product_minus_parity_points": None, "units_done": 5, "units_planned": 9}
    return {**RESULT, "config": {"missing": missing}, "rows": rows, "summary": summary}


def test_the_readme_says_on_which_streams_the_product_is_behind() -> None:
    ahead = [
        adapt_row(name, 0, table="wide", stream="mixed", accuracy=right)
        for name, right in (("product", 66.0), ("parity_paper", 65))
    ]
    behind = [{**row, "accuracy": 131.0 - row["accuracy"]} for row in ahead]
    made = adapt_document([])
    told = {
        name: make_docs.README_TABLES["adapt"]({**made, "rows": made["rows"] + rows})
        for name, rows in (("ahead", ahead), ("behind", behind))
    }
    assert "It is behind" not in told["ahead"]
    assert "these streams: the worlds mixed at random (65.0 against 66.0)." in told["behind"]


def test_the_page_of_adapt_has_its_plot_and_says_what_is_missing(tmp_path: Path) -> None:
    folder = tmp_path / "benchmarks" / "results"
    folder.mkdir(parents=True)
    (folder / "adapt.json").write_text(json.dumps(adapt_document(["wide sar/mixed (4)"])))
    readme = tmp_path / "README.md"
    readme.write_text("<!-- adapt -->\n<!-- /adapt -->\n")
    assert make_docs.main([], tmp_path) == 0
    assert "| ROID, trained on the device | 60.0 |" in readme.read_text()
    page = (tmp_path / "docs" / "results" / "adapt.md").read_text()
    assert "5 of 9 rows are there. Missing: wide sar/mixed (4)." in page
    assert "| continual | resnet56_augmix | product | 2 | 60.50 (1.00) | 8.0 | 20.0 |" in page
    drawn = tmp_path / "docs" / "results" / "adapt.svg"
    assert ">product 60.5</text>" in drawn.read_text()
    assert make_docs.main(["--check"], tmp_path) == 0
    drawn.write_text("<svg/>")
    assert make_docs.main(["--check"], tmp_path) == 1
    (folder / "adapt.json").write_text(json.dumps(adapt_document([])))
    assert make_docs.main([], tmp_path) == 0
    assert "All 9 rows are there." in (tmp_path / "docs" / "results" / "adapt.md").read_text()
