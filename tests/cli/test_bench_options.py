"""Options of ``littoral bench`` are honoured or refused while the command line is read; none is passed over."""

from __future__ import annotations

import sys

import pytest

from littoral.cli import bench as command
from littoral.cli.main import build_parser, main


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["demo", "--seeds", ""], "--seeds: '' is no list of different whole numbers from 0 on, such as 1,2,3"),
        (["demo", "--seeds", "1,x"], "--seeds: '1,x' is no list"),
        (["demo", "--seeds", "-1"], "--seeds: '-1' is no list"),
        (["demo", "--seeds", "2,2"], "--seeds: '2,2' is no list of different"),
        (["demo", "--frames", "0"], "--frames: '0' is no whole number from 1 on"),
        (["demo", "--fps", "nan"], "--fps: 'nan' is no number above 0"),
        *(
            (["adapt", "--list", f"--jobs={jobs}"], f"--jobs: '{jobs}' is no whole number from 1 on")
            for jobs in (0, -3)
        ),
        (["exits", "--budget-minutes=-1"], "--budget-minutes: '-1' is no number from 0 on"),
        *(
            (["loop", "--list", f"--device-ms={speed}"], f"--device-ms: '{speed}' is no number above 0")
            for speed in ("-8", "0", "nan")
        ),
        (["split", "--epochs", "1"], "--epochs: '1' is no whole number from 2 on"),
        (["adapt", "--list", "--out", "x.json"], "littoral bench adapt: --list makes no document"),
        (["loop", "--list", "--budget-minutes", "3"], "littoral bench loop: --list makes no unit"),
        (["split", "--quick", "--epochs", "3"], "leave out one of --quick and --epochs"),
        (["loop", "--quick", "--epochs", "3"], "leave out one of --quick and --epochs"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_asked_for_ends_with_2_and_says_what_can(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "littoral.bench.demo", None)  # nothing is measured, whatever is taken
    monkeypatch.setattr(command, "_table", lambda args: pytest.fail("the table was made"))
    try:
        status: object = main(["bench", *words])
    except SystemExit as ended:
        status = ended.code
    out, err = capsys.readouterr()
    assert (status, out) == (2, "")
    assert told in err


def test_what_can_be_asked_for_is_taken() -> None:
    parse = build_parser().parse_args
    assert parse(["bench", "demo"]).seeds == [1, 2, 3]
    assert parse(["bench", "demo", "--seeds", "7"]).seeds == [7]
    assert parse(["bench", "loop", "--device-ms", "0.5", "--jobs", "1", "--epochs", "1"]).device_ms == 0.5
    assert parse(["bench", "split", "--budget-minutes", "0"]).budget_minutes == 0
