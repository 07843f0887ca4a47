"""The page of the split table says what was measured, what was not, and why."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import make_docs  # noqa: E402 -- a script, not a package
import split_page  # noqa: E402


def row(kind: str, method: str, variant: str, **values: Any) -> dict[str, Any]:
    return {"kind": kind, "method": method, "variant": variant, "seed": 0, "commit": "abc", **values}


CODEC = {"test_frames": 2_000}


def document(missing: list[str]) -> dict[str, Any]:
    split = {"bytes_p95": 130.0, "encoder_macs": 10_000_000, "segment_macs": 0, "steps": 15_620}
    few = {"subset_bytes": 64.0, "subset_accuracy": 88.0}
    rows = [
        row("split", "product", "pixels", level=0, bytes=60.0, accuracy=88.4, **split, **few),
        row("split", "product", "pixels", level=1, bytes=110.0, accuracy=91.0, **split),
        row("split", "product", "pixels", level=1, bytes=90.0, accuracy=90.0, **(split | {"seed": 1})),
        row("codec", "webp", "teacher", quality=30, bytes=256.0, bytes_without_header=200.0, accuracy=87.0, **CODEC),
        row("codec", "webp", "teacher", quality=60, bytes=400.0, bytes_without_header=344.0, accuracy=89.0, **CODEC),
        row("codec", "avif", "teacher", skipped="this Pillow was built without avif"),
        row("fixed", "device_only", "resnet20", accuracy=91.7, subset_accuracy=91.2, network_macs=40_000_000),
        row("fixed", "cloud_lossless", "resnet56", accuracy=93.39, subset_accuracy=92.95, network_macs=125_000_000),
        row("local_only", "local_only", "9-full", accuracy=84.3, network_macs=9_000_000, steps=7_800),
        row("timing", "timing", "pixels", level=1, student_ms=1.0, segment_ms=0.0, encoder_ms=0.4, coder_ms=0.1,
            encode_ms=0.5),
        row("leakage", "leakage", "pixels", level=None, psnr_db=12.0, ssim=0.1),
        row("dense_fixed", "device_only", "cgnet", accuracy=64.3, bytes=0.0),
        row("dense_fixed", "cloud_lossless", "cgnet", accuracy=64.3, bytes=90_000.0),
        row("dense_codec", "webp", "cgnet", quality=30, bytes=9_000.0, bytes_without_header=8_700.0, accuracy=57.0),
        row("dense_split", "dense", "cgnet-features", level=1, bytes=1_500.0, bytes_p95=1_900.0, accuracy=57.5,
            encoder_macs=94_000_000, segment_macs=1_711_000_000),
    ]  # fmt: skip
    summary = {
        "product_best_top1": 90.5,
        "seg_bytes_over_webp": None,
        "seg_bytes_over_webp_reason": "measured elsewhere",
        "units_done": 8,
        "units_planned": 9,
    }
    return {
        "schema": 1,
        "table": "split",
        "config": {"quick": False, "missing": missing, "teacher": ["resnet56"]},
        "seeds": [0, 1],
        "commit": "abc",
        "versions": {},
        "machine": {},
        "rows": rows,
        "summary": summary,
    }


def test_the_page_of_split_has_its_curves_its_reasons_and_what_is_missing(tmp_path: Path) -> None:
    folder = tmp_path / "benchmarks" / "results"
    folder.mkdir(parents=True)
    (folder / "split.json").write_text(json.dumps(document(["split parity/beta0.32"])))
    readme = tmp_path / "README.md"
    readme.write_text("<!-- split -->\n<!-- /split -->\n")
    assert make_docs.main([], tmp_path) == 0
    told = readme.read_text()
    assert "| 0 | 88.4 | 60 | 262 |" in told, "between 200 and 344 over the logarithm, on the frames of the pictures"
    assert "| 1 | 90.5 | 100 | none is |" in told
    assert "without the 56 bytes of a blank frame's file; a split's are with its header." in told
    assert "The device alone is right on 91.7 %" in told
    page = (tmp_path / "docs" / "results" / "split.md").read_text()
    assert "8 of 9 units are there. Missing: split parity/beta0.32." in page
    assert "| product | pixels | 0 | 1 | 15,620 | 88.40 | 60.0 | 130 | 88.00 | 64.0 | 10 | 0 |  |" in page
    assert "| product | pixels | 1 | 2 | 15,620 | 90.50 (1.00) | 100.0 (20.0) | 130 |  |  | 10 | 0 | 0.50 |" in page
    assert "| local_only | 9-full | 1 | 7,800 | 84.30 |  | 9 |" in page
    assert "| device_only | resnet20 | 1 |  | 91.70 | 91.20 | 40 |" in page
    assert "On these the cloud given the frame without loss is right on 92.95 %, on all on 93.39." in page
    assert "| product_best_top1 | 90.5 | right, %, of all test frames, at the best level |" in page
    assert "| seg_bytes_over_webp_reason | measured elsewhere |" in page
    assert "this Pillow was built without avif" in page
    assert "| pixels | the mean frame | 12 | 0.1 |" in page
    drawn = tmp_path / "docs" / "results" / "split.svg"
    assert ">product, from pixels</text>" in drawn.read_text()
    assert ">webp, no header</text>" in drawn.read_text()
    assert ">device_only 91.2</text>" in drawn.read_text()
    assert ">local_only 9.0 MMAC * 84.3</text>" in drawn.read_text(), "known on all frames alone"
    assert "| product, trained | level 1 | 57.50 | 1,500 | 1900 |  | 94 | 1,711 |" in page
    assert "YOLOX-nano" not in page, "of a network without rows there is nothing to say"
    dense = (tmp_path / "docs" / "results" / "split-cgnet.svg").read_text()
    assert all(f">{words}</text>" in dense for words in ("product, trained", "WebP", "device only 64.3"))
    assert make_docs.main(["--check"], tmp_path) == 0
    drawn.write_text("<svg/>")
    assert make_docs.main(["--check"], tmp_path) == 1


def test_the_curves_are_all_of_the_codecs_frames() -> None:
    drawn = split_page.curves(document([])["rows"])
    assert drawn["product, from pixels"][0] == (64.0, 88.0)
    assert drawn["webp, no header"] == [(200.0, 87.0), (344.0, 89.0)]
    assert split_page.flats(document([])["rows"]) == {
        "device_only": 91.2,
        "cloud_lossless": 92.95,
        "local_only 9.0 MMAC *": 84.3,
    }


def test_the_readme_says_what_share_of_its_network_the_device_runs_before_it_sends() -> None:
    made = document([])
    made["summary"] |= {"encoder_macs_over_resnet20": 0.147, "device_macs_over_resnet20": 0.711}
    assert "an encoder (71% of the whole network's work)" in split_page.readme_table(made, make_docs.table)


def test_what_was_trained_shortly_stands_apart_in_a_table_and_a_picture_of_its_own() -> None:
    split = {"bytes_p95": 130.0, "encoder_macs": 10_000_000, "segment_macs": 0, "steps": 3_124, "epochs": 4}
    side = [
        row("compared", "product", "pixels", level=1, bytes=70.0, accuracy=86.5, **split),
        row("compared", "parity", "beta0.08", level=0, bytes=700.0, accuracy=85.5, **split),
    ]
    told = page_of(side)
    assert "## Side by side" in told
    assert "and 4 epochs each" in told
    assert "(split-side-by-side.svg)" in told
    assert "| product | pixels | 1 | 1 | 3,124 | 86.50 | 70.0 | 130 |  |  | 10 | 0 |  |" in told, "never measured in ms"
    assert "| product | pixels | 1 | 2 | 15,620 | 90.50 (1.00) |" in told, "the long training's rows are as they were"
    made = document([])
    assert "split-side-by-side.svg" not in split_page.plots(made)
    made["rows"] += side
    drawn = split_page.plots(made)
    assert ">parity</text>" in drawn["split-side-by-side.svg"]
    assert ">parity</text>" not in drawn["split.svg"]
    assert "Side by side" not in page_of([])


def test_a_dense_device_that_sends_nothing_is_said_to_be_better_only_where_it_is() -> None:
    words = "sends nothing is right on 64.3: more than every split here, which reach 57.5 at most"
    assert words in page_of([])
    better = row("dense_split", "dense", "cgnet-features", level=2, bytes=9_000.0, accuracy=64.4)
    assert "more than every split here" not in page_of([better])


def test_the_figure_over_the_link_is_told_apart_from_the_link() -> None:
    rows = [row("link", "link", "x-40ms", way="split", level=0, bits_per_second=1e6, tail_ms=2.0, test_frames=1_000)]
    parts = {f"link_{part}_split_over_webp": over for part, over in (("latency", 0.82), ("road", 1.2), ("work", 0.5))}
    page = page_of(rows, **parts)
    assert "The summary's 0.82 of WebP's time is link and work together" in page
    assert "the split has 1.20, of the work at both ends 0.50" in page
    assert "So what it gains is work, not time on the link." in page
    assert "not time on the link" not in page_of(rows, **parts | {"link_road_split_over_webp": 0.9})
    assert "is link and work together: of" not in page_of(rows)
    assert "Right answers are of the first 1,000 test frames." in page


TIMES = {"student_ms": 1.0, "segment_ms": 0.4, "encoder_ms": 0.4, "coder_ms": 0.1, "encode_ms": 0.5, "level": 0}
BUSY = "Measured on a machine that was busy with other programs"


def page_of(rows: list[dict[str, Any]], **summary: Any) -> str:
    made = document([])
    made["rows"], made["summary"] = [*made["rows"], *rows], made["summary"] | summary
    return make_docs.page("split", made)


@pytest.mark.parametrize(
    ("took", "busy"),
    [
        ({"seconds": 110.0, "cpu_seconds": 23.0}, True),
        ({"seconds": 129.0, "cpu_seconds": 100.0}, False),
        ({"seconds": 110.0}, False),
        ({"seconds": 110.0, "cpu_seconds": 23.0, "measured_seconds": 5.0, "measured_cpu_seconds": 4.9}, False),
        ({"seconds": 110.0, "cpu_seconds": 100.0, "measured_seconds": 5.0, "measured_cpu_seconds": 2.0}, True),
    ],
    ids=["busy", "alone", "not known", "busy before", "busy while it measured"],
)
def test_times_of_a_machine_that_was_busy_say_so(took: dict[str, float], busy: bool) -> None:
    page = page_of([row("timing", "timing", "layer2.1", **TIMES, **took)])
    assert (f"{BUSY}: layer2.1." in page) == busy


def test_rows_over_the_link_say_whether_the_cloud_had_to_wait_for_a_processor() -> None:
    link = {"way": "split", "level": 0, "bits_per_second": 1e6, "tail_ms": 21.0}
    old = page_of([row("link", "link", "x-40ms", **link)])
    assert "Whether other programs kept the machine busy was not recorded: x-40ms." in old
    assert "tail_cpu_ms" not in old
    assert f"{BUSY}: x-40ms." in page_of([row("link", "link", "x-40ms", **link, tail_cpu_ms=3.0)])
    alone = page_of([row("link", "link", "x-40ms", **link, tail_cpu_ms=20.0)])
    assert BUSY not in alone
    assert "not recorded" not in alone


def test_the_page_says_where_a_shape_of_what_sends_nothing_is_missing() -> None:
    words = "so the better one is not known"
    assert f"Of the planned shapes not all are trained (1 of 2), {words}" in page_of(
        [], points_over_local_only_at_equal_macs_shapes="1 of 2"
    )
    assert words not in page_of([], points_over_local_only_at_equal_macs=4.98)
    assert "`local_only` starts from nothing" in page_of([])
    fewer = page_of([], points_over_local_only_at_equal_macs_steps="7,800 of 15,620")
    assert "fewer steps (7,800 of 15,620), which flatters the product" in fewer
    assert "flatters the product" not in page_of([])


def test_rows_of_another_codec_than_the_split_s_say_so() -> None:
    rows = [row("leakage", "leakage", "x", level=0, psnr_db=1.0, ssim=0.1)]
    words = "Their codec is another than that of the split's own rows, or it is not known which: x."
    assert words in page_of(rows, leakage_x_codec="another")
    assert words not in page_of(rows, robust_x_codec="another")


def test_many_missing_units_are_named_at_the_end_of_the_page(tmp_path: Path) -> None:
    folder = tmp_path / "benchmarks" / "results"
    folder.mkdir(parents=True)
    (folder / "split.json").write_text(json.dumps(document([f"split x/{number}" for number in range(9)])))
    assert make_docs.main([], tmp_path) == 0
    page = (tmp_path / "docs" / "results" / "split.md").read_text()
    first, last = page.split("## What is missing")
    assert "8 of 9 units are there. The others are named [at the end](#what-is-missing)" in first
    assert "split x/8" not in first
    assert "- split x/8\n" in last


def test_a_quick_run_says_that_its_accuracies_mean_nothing(tmp_path: Path) -> None:
    quick = document([])
    quick["config"]["quick"] = True
    folder = tmp_path / "benchmarks" / "results"
    folder.mkdir(parents=True)
    (folder / "split.json").write_text(json.dumps(quick))
    assert make_docs.main([], tmp_path) == 0
    page = (tmp_path / "docs" / "results" / "split.md").read_text()
    assert "Its numbers mean nothing.** All 9 units are there." in page
