"""The whole loop on this machine: a cloud and two devices as separate processes, on a drifting stream of digits.

This process plays the frames, holds the labels, and keeps score; the others never see a label. It is the link too: a
relay between devices and cloud lets bytes through at a rate and holds them up, so that asking the cloud costs time. In
the middle of the stream the cloud stands still for some seconds, and the devices go on.
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

from littoral.bench.digits import DEVICE_MACS_PER_MS, MEASURE_BATCH, build_digits
from littoral.bench.document import make_document
from littoral.bench.mix import UNANSWERED, WAYS, Outage, bytes_between, shares, way_of, work_share
from littoral.bench.processes import CloudProcess, DeviceProcess
from littoral.bench.split.link import LinkSpec, Relay
from littoral.bench.streams.digits import DRIFT_PHASES, PHASES, Stream, drifting_stream
from littoral.bench.yardsticks import frozen_answers, teacher_answers
from littoral.bundle import Bundle
from littoral.bundle.route_tables import early_exits
from littoral.cloud.admin import new_token
from littoral.cloud.jobs import AdaptConfig, as_dict
from littoral.edge.answer import PICTURE
from littoral.errors import LittoralError


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """How the demo is played."""

    seed: int = 0
    devices: int = 2
    frames_per_phase: int = 1200
    frames_per_second: float = 50.0
    """Per device."""
    round_trip_ms: float = 8.0
    """Of the emulated link between a device and the cloud."""
    bits_per_second: float = 4e6
    """Of that link, each way."""
    device_macs_per_ms: float | None = DEVICE_MACS_PER_MS
    """How fast the devices compute: the network takes 7 ms. None: as this machine does, where it takes a fraction of
    one, and leaving early would save nothing that one could see."""
    deadline_ms: float = 150.0
    """Of an answer, from the frame's coming."""
    price_ms: float = 0.003
    """Of a millisecond until an answer, in wrong answers (`littoral.core.route_plan.Prices`)."""
    outage_s: float = 5.0
    """For so long the cloud stands still in the middle of the stream; 0: never."""
    kill_cloud: bool = False
    """It is killed with SIGKILL for so long, and started again, in the place of standing still."""


@dataclass
class DeviceTrack:
    """What the scorer knows of one device; the reading thread writes, the view reads."""

    name: str
    stream: Stream
    frozen: NDArray[np.int64]
    answers: NDArray[np.int64]
    versions: NDArray[np.int64]
    num_early: int = 0
    """The bundle's early exits."""
    played: int = 0
    answered: int = 0
    errors: int = 0
    status: dict[str, Any] = field(default_factory=dict)
    history: list[tuple[int, int, int, int]] = field(default_factory=list)
    """(frames, samples, bytes up, bytes down) at each status."""
    ways: NDArray[np.int8] = field(init=False)
    """Who answered each frame (`littoral.bench.mix.WAYS`)."""
    compute: NDArray[np.float32] = field(init=False)
    """The device's work for each, over that of the network without exits."""
    pictures: NDArray[np.bool_] = field(init=False)
    """Whether the cloud answered it from a picture."""
    latency_ms: NDArray[np.float32] = field(init=False)
    degraded: NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        count = len(self.answers)
        self.ways = np.full(count, UNANSWERED, dtype=np.int8)
        self.compute, self.latency_ms = np.zeros(count, dtype=np.float32), np.zeros(count, dtype=np.float32)
        self.degraded, self.pictures = np.zeros(count, dtype=bool), np.zeros(count, dtype=bool)

    def hear(self, line: dict[str, Any]) -> None:
        """Take in a line that the device printed."""
        if line["type"] == "answer":
            at = line["frame_id"] - 1
            self.answers[at], self.versions[at] = line["label"], line["version"]
            self.ways[at], self.compute[at] = way_of(line, self.num_early), line["compute_share"]
            self.latency_ms[at], self.degraded[at] = line["latency_ms"], line["degraded"]
            self.answered, self.pictures[at] = line["frame_id"], line.get("way") == PICTURE
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
    outage: Outage | None
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
    num_early = len(early_exits(bundle.manifest))
    step("making the streams")
    tracks = []
    for device in range(config.devices):
        stream = drifting_stream(config.seed, device=device, frames_per_phase=config.frames_per_phase)
        unanswered = np.full(len(stream.frames), UNANSWERED, dtype=np.int64)
        frozen = frozen_answers(bundle, stream.frames)
        name = f"device-{device + 1}"
        tracks.append(DeviceTrack(name, stream, frozen, unanswered, unanswered.copy(), num_early=num_early))
    say("starting the cloud and the devices, each a process")
    step("waiting for the cloud")
    outage, fleet = _play(config, bundle, out, tracks, say, view)
    say("the yardstick: the teacher itself, adapted on every frame")
    teacher = _teacher(bundle, tracks, step)
    document = _document(config, bundle, tracks, teacher, outage)
    return DemoResult(config, bundle, tracks, teacher, outage, fleet, document)


def _play(
    config: DemoConfig, bundle: Bundle, out: Path, tracks: Sequence[DeviceTrack], say: Progress, view: View
) -> tuple[Outage | None, dict[str, Any]]:
    """Start the processes, play the streams, end the processes; what the cloud said of its fleet last."""
    cloud = CloudProcess(bundle.path, out / "cloud", seed=config.seed)
    spec = LinkSpec(bits_per_second=config.bits_per_second, round_trip_ms=config.round_trip_ms)
    devices: list[DeviceProcess] = []
    try:
        with Relay(spec, forward_to=cloud.port) as relay:
            for track in tracks:
                devices.append(
                    DeviceProcess(
                        *(bundle.path, out / track.name),
                        name=track.name,
                        cloud_url=f"http://127.0.0.1:{relay.port}",
                        token=new_token(cloud.state),
                        options=_options(config),
                        macs_per_ms=config.device_macs_per_ms,
                        on_line=track.hear,
                    )
                )
            say(f"cloud at {cloud.url} - open it in a browser while the stream plays")
            players = [_Player(track, device, config) for track, device in zip(tracks, devices, strict=True)]
            breaker = _Breaker(cloud, bundle.path, out, config, tracks, say)
            for player in players:
                player.start()
            while any(player.is_alive() for player in players):
                view(tracks)
                time.sleep(0.2)
                cloud = breaker.look()
            cloud = breaker.end()
            if broken := [player.error for player in players if player.error is not None]:
                raise broken[0]
            for device in devices:
                device.finish()
            view(tracks)
            return breaker.outage, _fleet(cloud.url)
    finally:
        for device in devices:
            if device.process.poll() is None:
                device.kill()
        cloud.stop()


def _options(config: DemoConfig) -> tuple[str, ...]:
    """Of ``littoral edge``: measure every frame, and route."""
    return (
        *("--stride", "1", "--measure-batch", str(MEASURE_BATCH), "--status-every", "0.5"),
        *("--exits", "--route", "--deadline", str(config.deadline_ms), "--price-ms", str(config.price_ms)),
    )


class _Breaker:
    """Takes the cloud away in the middle of the stream, and brings it back."""

    def __init__(
        self,
        cloud: CloudProcess,
        bundle: Path,
        out: Path,
        config: DemoConfig,
        tracks: Sequence[DeviceTrack],
        say: Progress,
    ) -> None:
        self.outage: Outage | None = None
        self._cloud, self._bundle, self._out, self._config = cloud, bundle, out, config
        self._tracks, self._say = tracks, say
        self._begun: tuple[float, list[int]] | None = None
        self._at = len(tracks[0].stream.frames) // 2

    def look(self) -> CloudProcess:
        """Do what is due; the cloud that there is."""
        if self.outage is None and self._begun is None and self._config.outage_s > 0:
            if self._tracks[0].played >= self._at:
                self._begin()
        elif self._begun is not None and time.monotonic() - self._begun[0] >= self._config.outage_s:
            self.end()
        return self._cloud

    def _begin(self) -> None:
        seconds = self._config.outage_s
        if self._config.kill_cloud:
            self._say(f"kill -9 to the cloud, for {seconds:g} s; the devices go on")
            self._cloud.kill()
        else:
            self._say(f"the cloud stands still for {seconds:g} s; the devices go on")
            self._cloud.pause()
        self._begun = time.monotonic(), [track.answered for track in self._tracks]

    def end(self) -> CloudProcess:
        """Bring it back if it is away."""
        if self._begun is None:
            return self._cloud
        if self._config.kill_cloud:
            port, seed = self._cloud.port, self._config.seed
            self._cloud = CloudProcess(self._bundle, self._out / "cloud", seed=seed, port=port)
        else:
            self._cloud.resume()
        since, first = self._begun
        bounds = tuple(zip(first, [track.answered for track in self._tracks], strict=True))
        self._begun, self.outage = None, Outage(frames=bounds, seconds=time.monotonic() - since)
        frames = sum(end - begin for begin, end in bounds)
        self._say(f"the cloud is back; {frames} frames were answered meanwhile")
        return self._cloud


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
    config: DemoConfig,
    bundle: Bundle,
    tracks: Sequence[DeviceTrack],
    teacher: Sequence[NDArray[np.int64]],
    outage: Outage | None,
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
        routed = _routed(tracks, index)
        rows.append({"seed": config.seed, "phase": name, "frames": int(at.sum()), **scores, **routed})
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
        **_routed(tracks),
        "late": sum(int((track.latency_ms > config.deadline_ms).sum()) for track in tracks),
    }
    if outage is not None:
        summary |= outage.summary(tracks)
    settings = {**dataclasses.asdict(config), "phases": [name for name, _ in PHASES], "adapt": as_dict(AdaptConfig())}
    return make_document(table="demo", config=settings, seeds=[config.seed], rows=rows, summary=summary)


def _routed(tracks: Sequence[DeviceTrack], phase: int | None = None) -> dict[str, Any]:
    """Who answered the frames of a phase, or all of them, and what that cost."""
    masks = [np.full(len(t.ways), True) if phase is None else t.stream.phase == phase for t in tracks]
    ways, compute, latency, degraded, pictures = (
        np.concatenate([part[mask] for part, mask in zip(parts, masks, strict=True)])
        for parts in zip(*((t.ways, t.compute, t.latency_ms, t.degraded, t.pictures) for t in tracks), strict=True)
    )
    spans = [np.flatnonzero(mask)[[0, -1]] for mask in masks]
    up = [bytes_between(t.history, int(span[0]), int(span[1]) + 1) for t, span in zip(tracks, spans, strict=True)]
    found = shares(ways)
    given = ways != UNANSWERED
    return {
        **{f"{name}_share": round(found[name], 2) for name in WAYS},
        "picture_share": round(100 * float(pictures[given].mean()), 2) if given.any() else 0.0,
        "latency_ms": round(float(latency[given].mean()), 3) if given.any() else 0.0,
        "uplink_bytes_per_frame": round(sum(up) / max(len(ways), 1), 1),
        "work_share": round(100 * work_share(ways, compute), 2),
        "degraded": int(degraded.sum()),
        "unanswered": int((~given).sum()),
    }


_COUNTERS = (
    *("frames", "selected", "measured_frames", "acked", "queued", "dropped"),
    *("bytes_up", "bytes_down", "versions_installed", "versions_rejected", "versions_reverted"),
)
