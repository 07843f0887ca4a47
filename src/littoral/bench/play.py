"""The whole loop on this machine: a cloud and two devices as separate processes, on a drifting stream of digits.

This process plays the frames, holds the labels, and keeps score; the others never see a label.
"""

from __future__ import annotations

import dataclasses
import json
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from littoral.bench.digits import MEASURE_BATCH, build_digits
from littoral.bench.document import make_document
from littoral.bench.processes import CloudProcess, DeviceProcess
from littoral.bench.streams.digits import DRIFT_PHASES, PHASES, Stream, drifting_stream
from littoral.bench.yardsticks import frozen_answers, teacher_answers
from littoral.bundle import Bundle
from littoral.cloud.admin import new_token
from littoral.cloud.jobs import AdaptConfig, as_dict
from littoral.errors import LittoralError

_UNANSWERED = -1


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """How the demo is played."""

    seed: int = 0
    devices: int = 2
    frames_per_phase: int = 1200
    frames_per_second: float = 50.0
    """Per device."""
    kill_cloud: bool = False
    """Kill the cloud with SIGKILL in the middle of the stream, and start it again two seconds later."""


@dataclass
class DeviceTrack:
    """What the scorer knows of one device; the reading thread writes, the view reads."""

    name: str
    stream: Stream
    frozen: NDArray[np.int64]
    answers: NDArray[np.int64]
    versions: NDArray[np.int64]
    played: int = 0
    answered: int = 0
    errors: int = 0
    status: dict[str, Any] = field(default_factory=dict)
    history: list[tuple[int, int, int, int]] = field(default_factory=list)
    """(frames, samples, bytes up, bytes down) at each status."""

    def hear(self, line: dict[str, Any]) -> None:
        """Take in a line that the device printed."""
        if line["type"] == "answer":
            self.answers[line["frame_id"] - 1] = line["label"]
            self.versions[line["frame_id"] - 1] = line["version"]
            self.answered = line["frame_id"]
        elif line["type"] == "status":
            self.status = line
            self.history.append((line["frames"], line["selected"], line["bytes_up"], line["bytes_down"]))
        else:
            self.errors += 1


@dataclass(frozen=True)
class DemoResult:
    """All that was seen: enough for the table, the plots and the document."""

    config: DemoConfig
    bundle: Bundle
    tracks: Sequence[DeviceTrack]
    teacher: Sequence[NDArray[np.int64]]
    """The adapted teacher's answers, one array a device."""
    fleet: dict[str, Any]
    document: dict[str, Any]


Progress = Callable[[str], None]
View = Callable[[Sequence[DeviceTrack]], None]


def play_demo(
    config: DemoConfig, out: Path, *, say: Progress, view: View, step: Progress = lambda _line: None
) -> DemoResult:
    """Train, build, start, play, score.

    Args:
        out: Folder for the bundle and for the processes' state.
        say: Told what is being done, a line at a time.
        view: Shown the tracks a few times a second while the stream plays.
        step: Told what is being done at the moment, for a line that moves.
    Raises:
        LittoralError: a process did not start or went away.
    """
    bundle = build_digits(out / "bundle", config.seed, say, step)
    step("making the streams")
    tracks = []
    for device in range(config.devices):
        stream = drifting_stream(config.seed, device=device, frames_per_phase=config.frames_per_phase)
        unanswered = np.full(len(stream.frames), _UNANSWERED, dtype=np.int64)
        frozen = frozen_answers(bundle, stream.frames)
        tracks.append(DeviceTrack(f"device-{device + 1}", stream, frozen, unanswered, unanswered.copy()))
    say("starting the cloud and the devices, each a process")
    step("waiting for the cloud")
    fleet = _play(config, bundle, out, tracks, say, view)
    say("the yardstick: the teacher itself, adapted on every frame")
    teacher = _teacher(bundle, tracks, step)
    return DemoResult(config, bundle, tracks, teacher, fleet, _document(config, tracks, teacher))


def _play(
    config: DemoConfig, bundle: Bundle, out: Path, tracks: Sequence[DeviceTrack], say: Progress, view: View
) -> dict[str, Any]:
    """Start the processes, play the streams, end the processes; what the cloud said of its fleet last."""
    cloud = CloudProcess(bundle.path, out / "cloud", seed=config.seed)
    devices: list[DeviceProcess] = []
    try:
        for track in tracks:
            devices.append(
                DeviceProcess(
                    *(bundle.path, out / track.name),
                    name=track.name,
                    cloud_url=cloud.url,
                    token=new_token(cloud.state),
                    options=("--stride", "1", "--measure-batch", str(MEASURE_BATCH), "--status-every", "0.5"),
                    on_line=track.hear,
                )
            )
        say(f"cloud at {cloud.url} - open it in a browser while the stream plays")
        players = [_Player(track, device, config) for track, device in zip(tracks, devices, strict=True)]
        for player in players:
            player.start()
        killed_at = tracks[0].stream.frames.shape[0] // 2 if config.kill_cloud else None
        while any(player.is_alive() for player in players):
            view(tracks)
            time.sleep(0.2)
            if killed_at is not None and tracks[0].played >= killed_at:
                killed_at = None
                cloud = _kill_and_restart(cloud, bundle, out, config, say)
        if broken := [player.error for player in players if player.error is not None]:
            raise broken[0]
        for device in devices:
            device.finish()
        view(tracks)
        return _fleet(cloud.url)
    finally:
        for device in devices:
            if device.process.poll() is None:
                device.kill()
        cloud.stop()


class _Player(threading.Thread):
    """Plays a stream to a device at its pace."""

    def __init__(self, track: DeviceTrack, device: DeviceProcess, config: DemoConfig) -> None:
        super().__init__(name=f"plays-{track.name}", daemon=True)
        self._track, self._device, self._interval_s = track, device, 1 / config.frames_per_second
        self.error: LittoralError | None = None

    def run(self) -> None:
        due = time.monotonic()
        for frame in self._track.stream.frames:
            time.sleep(max(due - time.monotonic(), 0))
            due += self._interval_s
            try:
                self._device.play(frame)
            except LittoralError as error:
                self.error = error
                return
            self._track.played += 1


def _kill_and_restart(
    cloud: CloudProcess, bundle: Bundle, out: Path, config: DemoConfig, say: Progress
) -> CloudProcess:
    port = cloud.port
    say("kill -9 to the cloud; the devices go on")
    cloud.kill()
    time.sleep(2.0)
    again = CloudProcess(bundle.path, out / "cloud", seed=config.seed, port=port)
    say("the cloud is back")
    return again


def _fleet(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{url}/v1/fleet", timeout=10) as answer:
        fleet: dict[str, Any] = json.loads(answer.read())
    return fleet


def _teacher(bundle: Bundle, tracks: Sequence[DeviceTrack], step: Progress) -> list[NDArray[np.int64]]:
    """The devices' streams taken in turns, as the cloud would have seen them had everything been sent."""
    stacked = np.stack([track.stream.frames for track in tracks], axis=1)
    frames = stacked.reshape(-1, *stacked.shape[2:])

    def on_batch(done: int) -> None:
        step(f"the teacher: {done / len(frames):.0%} of {len(frames)} frames")

    answers = teacher_answers(bundle, frames, AdaptConfig(), on_batch)
    return list(answers.reshape(-1, len(tracks)).T)


def accuracy(answers: NDArray[np.int64], labels: NDArray[np.int64]) -> float:
    """In percent; a frame without an answer is a wrong one."""
    return 100 * float((answers == labels).mean())


def _document(
    config: DemoConfig, tracks: Sequence[DeviceTrack], teacher: Sequence[NDArray[np.int64]]
) -> dict[str, Any]:
    labels = np.concatenate([track.stream.labels for track in tracks])
    phase = np.concatenate([track.stream.phase for track in tracks])
    by_row = {
        "frozen": np.concatenate([track.frozen for track in tracks]),
        "littoral": np.concatenate([track.answers for track in tracks]),
        "teacher": np.concatenate(teacher),
    }
    rows: list[dict[str, Any]] = []
    for index, (name, _) in enumerate(PHASES):
        at = phase == index
        scores = {f"{who}_accuracy": round(accuracy(a[at], labels[at]), 2) for who, a in by_row.items()}
        rows.append({"seed": config.seed, "phase": name, "frames": int(at.sum()), **scores})
    drift = np.isin(phase, DRIFT_PHASES)
    back = phase == len(PHASES) - 1
    total = {key: sum(int(track.status.get(key, 0)) for track in tracks) for key in _COUNTERS}
    summary = {f"{who}_accuracy": round(accuracy(a[drift], labels[drift]), 2) for who, a in by_row.items()}
    summary |= {f"{who}_return_accuracy": round(accuracy(a[back], labels[back]), 2) for who, a in by_row.items()}
    summary |= {
        "upload_ratio": round(total["selected"] / max(total["frames"], 1), 4),
        "uplink_bytes": total["bytes_up"],
        "downlink_bytes": total["bytes_down"],
        "versions_installed": total["versions_installed"],
        "versions_rejected": total["versions_rejected"],
        "versions_reverted": total["versions_reverted"],
        "frames": total["frames"],
        "frames_measured": total["measured_frames"],
        "samples_acked": total["acked"],
        "samples_queued": total["queued"],
        "samples_dropped": total["dropped"],
        "errors": sum(track.errors for track in tracks),
    }
    settings = {**dataclasses.asdict(config), "phases": [name for name, _ in PHASES], "adapt": as_dict(AdaptConfig())}
    return make_document(table="demo", config=settings, seeds=[config.seed], rows=rows, summary=summary)


_COUNTERS = (
    *("frames", "selected", "measured_frames", "acked", "queued", "dropped"),
    *("bytes_up", "bytes_down", "versions_installed", "versions_rejected", "versions_reverted"),
)
