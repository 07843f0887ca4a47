"""What people see while the demo plays, from made-up tracks."""

from __future__ import annotations

import io

import numpy as np
import pytest

pytest.importorskip("rich", reason="the live view needs the bench extra")
pytest.importorskip("torch", reason="the loop needs the cloud extra")

from rich.console import Console

from littoral.bench import live
from littoral.bench.live import LiveView, panel, recent_accuracy, track_line
from littoral.bench.play import DeviceTrack
from littoral.bench.streams.digits import PHASES, Stream

PER_PHASE = 20
FRAMES = PER_PHASE * len(PHASES)
STATUS = {
    "type": "status",
    "version": 31,
    "frames": 60,
    "selected": 1_234,
    "cloud": "connected",
    "bytes_up": 4_567_890,
    "bytes_down": 654_321,
}


def track(answered: int = 0, **status: object) -> DeviceTrack:
    labels = np.arange(FRAMES) % 10
    phase = np.repeat(np.arange(len(PHASES)), PER_PHASE)
    stream = Stream(frames=np.zeros((FRAMES, 16, 16, 1), np.uint8), labels=labels, phase=phase)
    answers = np.full(FRAMES, -1)
    made = DeviceTrack("device-1", stream, np.zeros(FRAMES, np.int64), answers, answers.copy(), num_early=2)
    for frame in range(answered):  # of four one leaves early, two finish, and one goes to the cloud
        source, exit_index = ("cloud", 3) if frame % 4 == 0 else ("device", 1 if frame % 4 == 1 else 3)
        line = {"type": "answer", "frame_id": frame + 1, "label": int(labels[frame]), "version": 0}
        made.hear(
            line
            | {"source": source, "exit_index": exit_index, "latency_ms": 1.5, "degraded": False, "compute_share": 1.0}
        )
    if status:
        made.hear({**STATUS, **status})
    return made


def shown(made: DeviceTrack, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    console.print(panel([made]))
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def test_before_the_first_answer_there_is_a_dash_and_no_nan() -> None:
    assert np.isnan(recent_accuracy(track()))
    for text in (track_line(track()), shown(track())):
        assert "nan" not in text
        assert "–" in text
        assert "starting" in text


def test_a_line_names_device_phase_score_version_bytes_and_link() -> None:
    line = track_line(track(answered=50, version=31))
    for part in ("device-1", " 50%", PHASES[2][0], "100 %", "10 %", "version 31", "4568 kB up"):
        assert part in line
    assert "exit 26 %, finish 48 %, offload 26 %" in line
    assert line.endswith("connected")


@pytest.mark.parametrize(
    ("answered", "cloud", "said"),
    [(50, "connected", "connected"), (50, "away", "away"), (FRAMES, "away", "done"), (FRAMES, "connected", "done")],
)
def test_away_is_said_during_the_stream_and_done_at_its_end(answered: int, cloud: str, said: str) -> None:
    made = track(answered=answered, cloud=cloud)
    assert track_line(made).endswith(said)
    assert said in shown(made)


def test_the_panel_fits_80_columns_and_says_how_far_the_stream_is() -> None:
    text = shown(track(answered=50, version=31))
    assert max(map(len, text.splitlines())) <= 80
    assert f"{PHASES[2][0]} (phase 3 of 5)" in text
    assert "50%" in text
    assert "…" not in text, "a cell was cut"
    row = next(line for line in text.splitlines() if "device-1" in line)
    assert row.split()[5:11] == ["26", "%", "48", "%", "26", "%"]


def test_a_full_panel_fits_80_columns_too() -> None:
    made = track(answered=FRAMES, version=131, bytes_up=1_234_567_890)
    made.ways[:] = 2
    text = shown(made)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text, "a cell was cut"
    assert "100 %" in text


def test_only_the_last_answers_count() -> None:
    made = track(answered=FRAMES)
    made.answers[:10] = -1
    assert recent_accuracy(made) == pytest.approx(100 * (FRAMES - 10) / FRAMES)


def test_piped_output_has_whole_lines_and_no_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_LINE_EVERY_S", 0.0)
    monkeypatch.setattr(live, "_STEP_EVERY_S", 0.0)
    file = io.StringIO()
    with LiveView(console=Console(file=file, width=40)) as view:
        view.say("x" * 100)
        view.step("epoch 1/6")
        view.show([track(answered=50, version=31)])
    lines = file.getvalue().splitlines()
    assert len(lines) == 3
    assert "\x1b" not in file.getvalue()
    assert "x" * 100 in lines[0]
    assert lines[1].endswith("epoch 1/6")
    assert lines[2].endswith("connected")


def test_piped_output_leaves_out_what_comes_too_often() -> None:
    file = io.StringIO()
    with LiveView(console=Console(file=file)) as view:
        for epoch in range(50):
            view.step(f"epoch {epoch}")
            view.show([track()])
    assert file.getvalue() == ""


def test_a_terminal_shows_the_step_and_drops_it_when_it_is_over() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None)
    with LiveView(console=console) as view:
        view.step("the teacher: 12% of 100 frames")
        assert "12%" in _rendered(view)
        view.show([track(answered=50, version=31)])
        view.step("the teacher: 99% of 100 frames")
        assert "99%" in _rendered(view)
        assert "version" in _rendered(view)
    assert "99%" not in _rendered(view)
    assert "device-1" in _rendered(view)


def test_quiet_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with LiveView(quiet=True) as view:
        view.say("a line")
        view.step("a step")
        view.show([track()])
    assert capsys.readouterr() == ("", "")


def _rendered(view: LiveView) -> str:
    console = Console(file=io.StringIO(), width=80)
    assert view._live is not None
    console.print(view._live.renderable)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text
