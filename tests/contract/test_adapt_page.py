"""The page of the adaptation table says what its numbers are, and holds no two clocks against each other."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from littoral.bench.adapt.plan import full_plan
from littoral.bench.adapt.summary import KEYS, summarise

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import adapt_page  # noqa: E402 -- scripts, not a package
import make_docs  # noqa: E402


def row(method: str, **changes: Any) -> dict[str, Any]:
    costs = {"uplink_bytes": 3_000_000, "downlink_bytes": 9_000, "upload_ratio": 0.08, "cloud_seconds_per_1000": 2.0}
    return {
        "table": "headline", "method": method, "stream": "continual", "teacher": "resnet56_augmix", "devices": 1,
        "seed": 0, "frames": 150_000, "frames_per_shift": 10_000, "accuracy": 60.0, "forward_passes": 1.5,
        "backward_passes": 0.0, **costs, **changes,
    }  # fmt: skip


def page(*rows: dict[str, Any], **changes: Any) -> str:
    document: dict[str, Any] = {
        "schema": 1, "table": "adapt", "config": {"missing": []}, "seeds": [0], "commit": "abc", "versions": [],
        "machine": {"cores": 2}, "rows": list(rows), "summary": {"units_done": 1, "units_planned": 1}, **changes,
    }  # fmt: skip
    return make_docs.page("adapt", document)


def cell_of(text: str, method: str) -> str:
    """The last cell of a method's line in the headline's table."""
    line = next(line for line in text.splitlines() if line.startswith(f"| continual | resnet56_augmix | {method} |"))
    return line.rsplit("|", 2)[1].strip()


def test_cloud_seconds_that_are_wall_time_are_not_shown_beside_processor_time() -> None:
    clocked = {"cloud_clock": "processor"}
    old = page(row("product"), row("parity_paper"), row("roid", cloud_seconds_per_1000=0.0))
    assert [cell_of(old, method) for method in ("product", "parity_paper", "roid")] == ["2.00", "", "0.00"]
    assert cell_of(page(row("parity_paper", **clocked)), "parity_paper") == "2.00"
    assert cell_of(page(row("parity_paper", **clocked), row("parity_paper", seed=1)), "parity_paper") == ""


def test_the_versions_of_the_rows_are_shown_set_by_set() -> None:
    sets = [{"units": 3, "numpy": "1"}, {"units": 4, "numpy": "2", "torch": "5"}]
    text = page(row("product"), versions=sets)
    assert "| rows | numpy | torch |\n| --- | --- | --- |\n| 3 | 1 |  |\n| 4 | 2 | 5 |" in text
    assert "## Versions" not in page(row("product")), "older rows know none"
    assert "| numpy | 9 |" in page(row("product"), versions={"numpy": "9"}), "one process, one set"


def test_what_failed_is_named_with_its_reason() -> None:
    failed = [{"unit": "roid/mixed", "text": "ValueError: no such weights"}]
    text = page(row("product"), config={"missing": [], "failed": failed, "student": "resnet20"})
    assert "| roid/mixed | ValueError: no such weights |" in text
    assert "| failed |" not in text
    assert "## What failed" not in page(row("product"), config={"missing": [], "failed": []})


def test_every_key_that_people_quote_is_explained_and_what_lacks_a_number_says_why() -> None:
    text = page(row("product"), summary=summarise(full_plan(), {}))
    for key in KEYS:
        (line,) = [line for line in text.splitlines() if line.startswith(f"| {key} |")]
        assert not line.endswith("|  |"), f"{key} is not explained"
        assert f"| {key}_reason | " in text


def test_the_page_says_what_seeds_share_what_the_ceiling_is_and_what_a_hostile_device_does() -> None:
    summary = {"teacher_gap_closed_fraction": 0.74, "units_done": 1, "units_planned": 1}
    text = page(row("product"), row("product", stream="hostile_mild", devices=8), summary=summary)
    assert "the same noise, snow and blur lie on a frame in every seed" in text
    assert "by the same step as the published cloud's, continual; that is no upper bound" in text
    assert "poison" in text
    assert "`hostile_mild`: the same in good weather" in text


def test_the_readme_compares_methods_on_the_seeds_that_all_of_them_have() -> None:
    made = [("roid", 0, 60.0), ("roid", 1, 80.0), ("product", 0, 70.0), ("source", 0, 50.0)]
    rows = [row(name, table="wide", seed=seed, accuracy=right) for name, seed, right in made]
    document = {"rows": rows, "summary": {"units_done": 4, "units_planned": 9}, "config": {"missing": []}}
    text = adapt_page.readme_table(document, make_docs.table)
    assert "| ROID, trained on the device | 60.0 |" in text
    assert "Seeds: 0, so" in text
