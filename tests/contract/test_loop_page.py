"""The page of the loop table has every policy, the frontier and what is missing, and one picture for one document."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import make_docs  # noqa: E402 -- a script, not a package

from littoral.bench.routing.averages import averaged  # noqa: E402
from littoral.bench.routing.contenders import FAMILIES  # noqa: E402


def row(policy: str, family: str, accuracy: float, latency_ms: float, num_bytes: float, **more: Any) -> dict[str, Any]:
    shares = {f"{name}_rate": 0.25 for name in ("exit", "finish", "cloud", "degraded")}
    late = {f"latency_ms_p{p}": latency_ms for p in (50, 95, 99)}
    return {
        "kind": "policies", "trace": "wifi-walk", "stream": "clean", "seed": 0, "device_ms": 8.0, "phase": "all",
        "policy": policy, "family": family, "is_real": family != "oracle", "num_frames": 10, "accuracy": accuracy,
        "timely_accuracy": accuracy, "latency_ms": latency_ms, "bytes_per_frame": num_bytes, "deadline_hits": 0.999,
        "device_ms_per_frame": 7.5, "commit": "abc", **shares, **late, **more,
    }  # fmt: skip


def document(missing: list[str]) -> dict[str, Any]:
    once = [
        row("device only", "device only", 91.7, 8.0, 0.0),
        row("always webp 95", "cloud only", 92.8, 42.0, 740.0),
        row("ours, default prices", "ours", 93.4, 10.0, 30.0),
        row("ours, as right as webp 95", "ours", 92.7, 9.0, 20.0),
        row("oracle, by look", "oracle", 94.0, 9.0, 20.0),
    ]
    drifted = row("ours, default prices", "ours", 70.0, 10.0, 90.0, stream="drift", phase="contrast")
    rows = averaged([*once, *({**each, "seed": 1, "accuracy": each["accuracy"] + 0.2} for each in once), drifted])
    rows.append({"kind": "drift", "exit_rate_recovery_fraction": 0.95, "commit": "abc"})
    summary = {"policies_that_dominate_ours": 0, "deadline_hits_outage": None, "webp_quality": "webp 95"}
    summary["deadline_hits_outage_reason"] = "the units that it needs are not there"
    stream = {"device_ms": 8.0, "period_ms": 50.0, "deadline_ms": 200.0}
    words = {"policies_that_dominate_ours": "pairs"}
    return {
        "schema": 1, "table": "loop", "config": {"missing": missing, "words": words, "stream": stream}, "seeds": [0, 1],
        "commit": "abc", "versions": {}, "machine": {}, "rows": rows,
        "summary": summary | {"units_done": 2, "units_planned": 3},
    }  # fmt: skip


def written(folder: Path, missing: list[str]) -> str:
    results = folder / "benchmarks" / "results"
    results.mkdir(parents=True, exist_ok=True)
    (results / "loop.json").write_text(json.dumps(document(missing)))
    assert make_docs.main([], folder) == 0
    return (folder / "docs" / "results" / "loop.md").read_text()


def test_the_page_says_what_is_missing_and_has_policies_with_their_spread(tmp_path: Path) -> None:
    page = written(tmp_path, ["policies fixed clean seed 0"])
    assert "2 of 3 units are there. Missing: policies fixed clean seed 0." in page
    assert "| policies_that_dominate_ours | 0 | pairs |" in page
    assert "| deadline_hits_outage_reason | the units that it needs are not there |" in page
    assert "| always webp 95 | 92.90 ± 0.14 | 99.90 % | 42.0 ± 0.0 |" in page
    assert "| wifi-walk | clean | 8 | webp 95 | 92.90 | -0.10 | 42.0 | 9.0 | 0.21 | 0.027 |" in page
    assert "| ours, default prices | contrast | 70.00 |" in page
    assert "## wifi-walk, clean" in page
    assert "All 3 units" in written(tmp_path, [])
    assert make_docs.main(["--check"], tmp_path) == 0


def test_the_picture_shows_each_family_and_names_each_point(tmp_path: Path) -> None:
    written(tmp_path, [])
    picture = (tmp_path / "docs" / "results" / "loop.svg").read_text()
    titles = [each.text for each in ElementTree.fromstring(picture).iter("{http://www.w3.org/2000/svg}title")]
    assert titles.count("ours, default prices") == 2  # against time, and against bytes
    assert {"device only", "cloud only", "ours", "oracle"} <= set(titles)
    assert set(titles) & set(FAMILIES) == {"device only", "cloud only", "ours", "oracle"}


def test_the_readme_says_where_a_fixed_rule_is_better_than_the_router() -> None:
    made = document([])
    assert "does not win here" not in make_docs.README_TABLES["loop"](made)
    made["rows"] += averaged([row("below 0.9 png", "offload by confidence", 93.6, 9.5, 20.0)])
    assert "the router does not win here: *below 0.9 png* is no less right" in make_docs.README_TABLES["loop"](made)


def test_the_readme_has_the_thresholds_that_reach_webp_s_accuracy_and_what_ours_takes_of_them() -> None:
    made = document([])
    below = [row(f"below {share} webp 95", "offload by confidence", 92.8, 9.5, 30.0) for share in (0.7, 0.9)]
    made["rows"] += averaged(below)
    made["summary"]["latency_over_cheapest_rule_equal_accuracy"] = 1.4
    readme = make_docs.README_TABLES["loop"](made)
    assert "| below 0.7 webp 95 | 92.8 | 9.5 |" in readme
    assert "| below 0.9 webp 95 | 92.8 | 9.5 |" in readme
    assert "*ours, as right as webp 95* takes 1.40 times the time on its worst link." in readme
    made["summary"]["bytes_over_cheapest_rule_equal_accuracy"] = 5.3
    assert "1.40 times the time and 5.3 times its bytes on its worst link." in make_docs.README_TABLES["loop"](made)


def test_the_page_says_how_near_prices_had_to_come_and_which_rule_is_cheapest() -> None:
    made = document([])
    assert "as WebP at this quality." in make_docs.page("loop", made)
    made["config"]["near_points"] = 0.5
    made["summary"]["cheapest_rules"] = "lte-drive: below 0.7 webp 95 (1.40 of its time)"
    page = make_docs.page("loop", made)
    assert "as WebP at this quality, less 0.5 points at most." in page
    assert "what ours takes of theirs: lte-drive: below 0.7 webp 95 (1.40 of its time)." in page


def test_the_readme_gets_its_lines(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# L\n<!-- loop -->\nold\n<!-- /loop -->\nend\n")
    written(tmp_path, [])
    readme = (tmp_path / "README.md").read_text()
    assert "| ours, default prices | 93.5 | 10.0 | 10 | 30 | 25% / 25% / 25% |" in readme
    assert "old" not in readme
    assert readme.endswith("<!-- /loop -->\nend\n")
