"""The page of the exits table says what was measured and what is missing, and draws the same picture each time."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import make_docs  # noqa: E402 -- a script, not a package

from littoral.bench.exits.averaged import averaged, by_user  # noqa: E402


def row(method: str, labels: float, frames: int, at_half: float, **values: Any) -> dict[str, Any]:
    work = {f"right_{share}": at_half + share / 10 for share in (25, 35, 75)} | {"right_50": at_half}
    return {"kind": "users", "network": "resnet20", "stems": "trained", "users": "k4", "seed": 0, "commit": "abc",
            "user": 0, "style": "none", "hard": False, "method": method, "labels": labels, "frames": frames,
            "shipped_right": 80.0, "full_right": 88.0, "eq_compute": 0.5, "cert_d05_compute": 0.7,
            "cert_d05_right": 79.0, "cert_x_compute": 0.6, "cert_x_right": 82.0, **work, **values}  # fmt: skip


def document(missing: list[str]) -> dict[str, Any]:
    rows = [row("generic", 0.0, 0, 50.0), row("personal", 1.0, 200, 60.0), row("personal", 1.0, 1000, 70.0)]
    rows.append({"kind": "latency", "network": "resnet20", "way": "whole", "ms": 0.5, "full_ms": 0.5})
    for way, ms, right in (("equal accuracy", 0.125, 80.0), ("certified", 0.25, 82.0)):
        rows.append({"kind": "latency", "network": "resnet20", "way": f"personal, labels, {way}", "ms": ms,
                     "full_ms": 0.5, "right": right, "shipped_right": 80.0})  # fmt: skip
    rows = [*averaged(rows), *by_user(rows)]
    summary = {
        "network": "resnet20",
        "worst_user_points": -1.0,
        "seg_macs_ratio": None,
        "seg_macs_ratio_reason": "made elsewhere",
    }
    config = {"quick": False, "missing": missing, "words": {"worst_user_points": "of all users"}}
    return {
        "schema": 1, "table": "exits", "config": config, "seeds": [0], "commit": "abc", "versions": {}, "machine": {},
        "rows": rows, "summary": summary | {"units_done": 1, "units_planned": 2},
    }  # fmt: skip


def test_the_page_of_exits_has_its_tables_reasons_picture_and_what_is_missing(tmp_path: Path) -> None:
    folder = tmp_path / "benchmarks" / "results"
    folder.mkdir(parents=True)
    (folder / "exits.json").write_text(json.dumps(document(["risk resnet20"])))
    readme = tmp_path / "README.md"
    readme.write_text("<!-- exits -->\n<!-- /exits -->\n")
    assert make_docs.main([], tmp_path) == 0
    assert "| exits that follow the user, all frames labelled | 4.00 | 2.00 | 82.0 |" in readme.read_text()
    page = (tmp_path / "docs" / "results" / "exits.md").read_text()
    assert "1 of 2 units are there. Missing: risk resnet20." in page
    assert "| worst_user_points | -1 | of all users |" in page
    assert "| seg_macs_ratio_reason | made elsewhere |" in page
    assert "| personal | 1 | 1000 | 1 | 80.0 | 88.0 | 72.5 | 70.0 | 0.500 | 0.600 | 82.0 | +2.0 |" in page
    picture = (tmp_path / "docs" / "results" / "exits.svg").read_text()
    assert "personal, labels 88.0" in picture
    assert make_docs.main(["--check"], tmp_path) == 0


def test_a_number_without_words_stands_apart_and_leaves_no_cell_empty() -> None:
    page = make_docs.page("exits", document([]))
    summary = page.split("## Summary")[1].split("What has no number")[0]
    first, others = summary.split("More, without words of their own:")
    assert "| worst_user_points | -1 | of all users |" in first
    assert "|  |" not in first
    assert "| network | resnet20 |" in others
    made = document([])
    made["config"]["words"] = {}
    assert "| worst_user_points | -1 |\n" in make_docs.page("exits", made)
