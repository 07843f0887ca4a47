"""``littoral edge`` gives the cloud a moment before the first frame that the cloud is to answer."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from littoral.cli import edge

ASKING = ["--offload=1", "--picture=png", "--route"]


class Away:
    """A device whose session opens at its nth look, or never."""

    def __init__(self, opens_at: int | None) -> None:
        self.looks, self.opens_at = 0, opens_at
        self.bundle = SimpleNamespace(manifest=SimpleNamespace(class_names=()))

    def status(self) -> Any:
        self.looks += 1
        cloud = "connected" if self.looks == self.opens_at else "away"
        return SimpleNamespace(cloud=cloud, link_error="the cloud cannot be reached")


def answer(device: Away, option: str) -> list[int]:
    """How often the device had looked when the first frame was asked for."""
    parser, looked = argparse.ArgumentParser(), []

    def items() -> Iterator[Any]:
        looked.append(device.looks)
        yield from ()

    edge.add(parser.add_subparsers())
    args = parser.parse_args(["edge", "bundle", "folder", *([option] if option else [])])
    assert edge._answer_all(device, items(), args) == 0  # type: ignore[arg-type]
    return looked


@pytest.mark.parametrize("option", ASKING)
def test_frames_wait_for_the_session(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(Away(3), option) == [3]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("option", ASKING)
def test_without_a_session_it_is_said_and_the_device_answers(
    option: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(edge, "FIRST_SESSION_S", 0.05)
    assert len(answer(Away(None), option)) == 1
    assert "after 0.05 s (the cloud cannot be reached); the device answers until" in capsys.readouterr().err


def test_who_asks_nothing_waits_for_nothing() -> None:
    assert answer(Away(None), "") == [0]
