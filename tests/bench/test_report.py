"""The report of a made-up run: everything is in it, nothing is fetched, and no name becomes markup."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="the report needs the bench extra")
pytest.importorskip("torch", reason="the loop needs the cloud extra")

from littoral.bench.play import DemoConfig, DemoResult, DeviceTrack
from littoral.bench.report import WINDOW, rolling_percent, write_report
from littoral.bench.streams.digits import PHASES, Stream

PER_PHASE = 30


def track(name: str, seed: int, *, history: bool = True) -> DeviceTrack:
    rng = np.random.default_rng(seed)
    n = PER_PHASE * len(PHASES)
    labels = rng.integers(0, 10, n)
    stream = Stream(
        frames=np.zeros((n, 16, 16, 1), np.uint8), labels=labels, phase=np.repeat(np.arange(len(PHASES)), PER_PHASE)
    )
    answers = np.where(rng.random(n) < 0.8, labels, -1)
    made = DeviceTrack(name, stream, np.zeros(n, np.int64), answers, np.arange(n) // 40, answered=n)
    if history:
        made.history = [(50, 10, 3_000, 500), (150, 40, 12_000, 2_000)]
    return made


def result(*tracks: DeviceTrack, **summary: Any) -> DemoResult:
    scores = {"frozen_accuracy": 50.0, "littoral_accuracy": 80.0, "teacher_accuracy": 90.0}
    document = {
        "rows": [{"seed": 0, "phase": name, "frames": PER_PHASE, **scores} for name, _ in PHASES],
        "commit": "<b>commit</b>",
        "machine": {"processor": "<i>made up</i>", "cores": 2},
        "versions": {"python": "3"},
        "summary": {
            **scores,
            "frames": 300,
            "upload_ratio": 0.25,
            "uplink_bytes": 12_345,
            "downlink_bytes": 678,
            "versions_installed": 9,
            "versions_rejected": 1,
            **summary,
        },
    }
    teacher = [one.stream.labels for one in tracks]
    bundle: Any = None
    return DemoResult(DemoConfig(frames_per_phase=PER_PHASE), bundle, tracks, teacher, {}, document)


def page_of(made: DemoResult, folder: Path) -> str:
    write_report(made, folder / "report.html")
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    hostile = track("<script>x</script> $a_b$", 2)
    return page_of(result(track("device-1", 1), hostile), tmp_path_factory.mktemp("report"))


def test_every_phase_is_in_the_table_and_in_the_plots(page: str) -> None:
    for name, _ in PHASES:
        assert f"<td>{name}</td>" in page
        assert len(re.findall(rf"<text[^>]*>{re.escape(name)}</text>", page)) == 3, "text in each plot, not outlines"


def test_the_numbers_of_the_summary_are_shown(page: str) -> None:
    for shown in ("80.0 %", "50.0 %", "25 %", "12 kB", "+30 points", "about 49 kB"):
        assert shown in page


def test_each_plot_says_what_it_measures_and_what_to_see(page: str) -> None:
    assert page.count("<figcaption>") == 3
    for label in ("right, %", "kB since the start", "frames that each device has seen", "phase of the stream"):
        assert f">{label}</text>" in page


def test_nothing_is_fetched_and_the_page_is_small(page: str) -> None:
    rest = re.sub(r'xmlns(:xlink)?="http://www\.w3\.org/[0-9a-z/]+"', "", page)
    assert "http" not in rest
    assert not re.search(r"<(script|img|link|iframe|metadata)\b|@import|url\((?!#)", rest)
    assert len(page) < 1_000_000


def test_names_are_text(page: str) -> None:
    for markup in ("<script>", "<b>commit", "<i>made up"):
        assert markup not in page
    assert "&lt;script&gt;x&lt;/script&gt; $a_b$" in page


def test_the_same_run_gives_the_same_bytes(page: str, tmp_path: Path) -> None:
    assert page == page_of(result(track("device-1", 1), track("<script>x</script> $a_b$", 2)), tmp_path)


def test_a_device_that_never_spoke_and_sent_nothing_can_be_reported(tmp_path: Path) -> None:
    page = page_of(result(track("device-1", 1, history=False), upload_ratio=0.0, uplink_bytes=0), tmp_path)
    assert "0 kB" in page
    assert "nan" not in page.lower()


def test_the_mean_starts_anew_with_each_phase() -> None:
    per_phase = 2 * WINDOW
    right = np.repeat([1.0, 0.0], per_phase)
    rolled = rolling_percent(right, per_phase)
    assert np.isnan(rolled[:10]).all()
    assert np.isnan(rolled[per_phase : per_phase + 10]).all()
    assert rolled[per_phase - 1] == pytest.approx(100)
    assert np.nanmax(rolled[per_phase:]) == pytest.approx(0), "nothing of the phase before"
