"""Promises 1 and 2 with real processes: kill -9 the cloud while devices send, start it again, and count.

What a device was told is acknowledged is in the record, once; the devices answer every frame meanwhile; and
``accepted = acked + queued + dropped`` holds at the end.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from littoral.bench.processes import CloudProcess, DeviceProcess
from littoral.bundle import Bundle
from littoral.cloud.admin import new_token
from littoral.cloud.store import RECORD_FILE

FRAMES_BEFORE, FRAMES_AWAY, FRAMES_AFTER = 150, 100, 100
SEND_ALL = (
    "--published",
    "--entropy-max",
    "1",
    "--entropy-min",
    "0",
    "--diversity-margin",
    "2",
    "--status-every",
    "0.05",
)


@dataclass
class Told:
    """What a device printed."""

    answered: int = 0
    away: int = 0
    status: dict[str, Any] = field(default_factory=dict)

    def hear(self, line: dict[str, Any]) -> None:
        if line["type"] == "answer":
            self.answered += 1
            self.away += line["cloud"] == "away"
        elif line["type"] == "status":
            self.status = line


@dataclass
class Rig:
    """A cloud and two devices; `record` opens the cloud's database."""

    bundle: Path
    folder: Path
    cloud: CloudProcess
    devices: list[DeviceProcess]
    told: list[Told]
    frames: np.ndarray

    def device(self, index: int) -> DeviceProcess:
        """Start a device, or start it again; `told` hears it."""
        return DeviceProcess(
            self.bundle,
            self.folder / f"device-{index}",
            name=f"device-{index}",
            cloud_url=self.cloud.url,
            token=new_token(self.cloud.state),
            options=SEND_ALL,
            on_line=self.told[index].hear,
        )

    def play(self, start: int, count: int) -> None:
        for frame in self.frames[start : start + count]:
            for device in self.devices:
                device.play(frame)

    def wait_for(self, what: Any, seconds: float = 30.0) -> None:
        """Play on the spot until a condition on what the devices told holds: a status comes with the next answer."""

        deadline = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < deadline, [told.status for told in self.told]
            for device in self.devices:
                device.play(self.frames[0])
            time.sleep(0.02)

    def missing(self) -> list[str]:
        """Messages that a device counts as acknowledged and the record does not hold exactly once."""
        found = []
        for index, (told, device_id) in enumerate(zip(self.told, self.device_ids(), strict=True)):
            kept = stored_sequences(self.folder / "cloud", device_id)
            expected = list(range(1, told.status["acked"] + 1))
            if kept[: len(expected)] != expected:
                found.append(f"device {index}: {len(expected)} acked, the record holds {len(kept)}")
        return found

    def device_ids(self) -> list[str]:

        folders = [self.folder / f"device-{index}" for index in range(len(self.devices))]
        return [json.loads((folder / "enrolment.json").read_text())["device_id"] for folder in folders]


def stored_sequences(state: Path, device_id: str) -> list[int]:
    """Sequences of all durable messages of a device in the record, in order, with repeats if there were any."""
    with closing(sqlite3.connect(state / RECORD_FILE)) as db:
        rows = db.execute(
            "SELECT sequence FROM samples WHERE device_id = ?1 UNION ALL "
            "SELECT sequence FROM receipts WHERE device_id = ?1 UNION ALL "
            "SELECT sequence FROM scenes WHERE device_id = ?1 ORDER BY sequence",
            (device_id,),
        ).fetchall()
    return [sequence for (sequence,) in rows]


@pytest.fixture
def rig(tiny_bundle: Path, tmp_path: Path) -> Iterator[Rig]:
    bundle = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, bundle)
    shape = Bundle.open(bundle).manifest.input.shape
    count = FRAMES_BEFORE + FRAMES_AWAY + FRAMES_AFTER
    frames = np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)
    rig = Rig(bundle, tmp_path, CloudProcess(bundle, tmp_path / "cloud"), [], [], frames)
    for index in range(3):
        rig.told.append(Told())
        rig.devices.append(rig.device(index))
    yield rig
    for device in rig.devices:
        end(device)
    rig.cloud.kill()


def end(device: DeviceProcess) -> None:
    """Kill it if it lives, and close its pipes."""
    if device.process.poll() is None:
        device.kill()
    for pipe in (device.process.stdin, device.process.stdout):
        assert pipe is not None
        pipe.close()


@pytest.mark.slow
def test_killing_the_cloud_and_a_device_loses_nothing_that_was_acked_or_kept_and_the_others_go_on(rig: Rig) -> None:
    """The cloud is killed, then the last device while it is away; both come back.

    With its negative control at the end: the count sees a message that was acknowledged and is gone.
    """
    rig.play(0, FRAMES_BEFORE)
    rig.wait_for(lambda: all(told.status.get("acked", 0) > 50 for told in rig.told))
    port = rig.cloud.port
    rig.cloud.kill()
    acked_at_kill = [told.status["acked"] for told in rig.told]
    assert rig.missing() == []

    rig.wait_for(lambda: all(told.status["cloud"] == "away" for told in rig.told))
    answered = [told.answered for told in rig.told]
    rig.play(FRAMES_BEFORE, FRAMES_AWAY)
    rig.wait_for(lambda: all(t.answered >= a + FRAMES_AWAY for t, a in zip(rig.told, answered, strict=True)))

    rig.wait_for(lambda: rig.told[-1].status["queued"] > 50)
    kept = rig.told[-1].status["queued"]
    end(rig.devices[-1])
    rig.told[-1] = Told()
    survivors = rig.told[:-1]

    rig.cloud = CloudProcess(rig.bundle, rig.folder / "cloud", port=port)
    rig.devices[-1] = rig.device(len(rig.devices) - 1)
    rig.play(FRAMES_BEFORE + FRAMES_AWAY, FRAMES_AFTER)
    rig.wait_for(lambda: all(told.status.get("cloud") == "connected" for told in rig.told))
    more = list(zip(survivors, acked_at_kill, strict=False))
    rig.wait_for(lambda: all(told.status["acked"] > acked + FRAMES_AWAY for told, acked in more))
    rig.wait_for(lambda: rig.told[-1].status["acked"] >= kept)
    assert [device.finish() for device in rig.devices] == [0, 0, 0]

    assert rig.missing() == []
    for told in survivors:
        status = told.status
        assert status["accepted"] == status["acked"] + status["queued"] + status["dropped"]
        assert told.answered == status["frames"]
        assert told.away > 0

    rig.cloud.kill()
    with closing(sqlite3.connect(rig.folder / "cloud" / RECORD_FILE)) as db, db:
        db.execute("DELETE FROM samples WHERE device_id = ? AND sequence = 7", (rig.device_ids()[0],))
    assert len(rig.missing()) == 1
