"""The drifting streams: seeded, disjoint from training, and *labels never travel*.

That last promise has a negative control: a stream that paints its label into a pixel is caught by the same check.
"""

from __future__ import annotations

import dataclasses
import io
import struct
import typing
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="the digits need the bench extra")
pytest.importorskip("torch", reason="the loop needs the cloud extra")

from littoral.bench import processes
from littoral.bench.play import DemoConfig, DeviceTrack, _Player
from littoral.bench.processes import DeviceProcess
from littoral.bench.streams import digits
from littoral.bench.streams.digits import (
    HELD_OUT_IMAGES,
    PHASES,
    SIDE,
    Stream,
    drifting_stream,
    held_out_frames,
    robust_frames,
    source_frames,
    split_digits,
)
from littoral.bundle import InputSpec
from littoral.edge.sources import from_frames
from littoral.wire.messages import Labels, Message, Receipt, Sample, Scene, Status

PER_PHASE = 12
MakeStream = Callable[[], Stream]


def make_stream(seed: int = 0, device: int = 0) -> Stream:
    return drifting_stream(seed, device=device, frames_per_phase=PER_PHASE)


# -- seeded, and disjoint ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda s: source_frames(s, copies=1),
        lambda s: robust_frames(s, copies=1),
        lambda s: held_out_frames(s, clean=1, varied=1),
    ],
    ids=["source", "robust", "held out"],
)
def test_training_frames_come_from_the_seed_alone(make: Callable[[int], tuple[np.ndarray, np.ndarray]]) -> None:
    first, again, other = make(3), make(3), make(4)
    assert first[0].tobytes() == again[0].tobytes()
    assert first[1].tobytes() == again[1].tobytes()
    assert first[0].tobytes() != other[0].tobytes()
    assert first[0].dtype == np.uint8
    assert first[0].shape == (len(first[1]), SIDE, SIDE, 1)


def test_a_stream_comes_from_seed_and_device_alone() -> None:
    first, again = make_stream(), make_stream()
    for field in ("frames", "labels", "phase"):
        assert getattr(first, field).tobytes() == getattr(again, field).tobytes()
    assert first.frames.tobytes() != make_stream(seed=1).frames.tobytes()
    assert first.frames.tobytes() != make_stream(device=1).frames.tobytes()


def test_the_phases_come_one_after_another() -> None:
    stream = make_stream()
    assert stream.frames.shape == (PER_PHASE * len(PHASES), SIDE, SIDE, 1)
    assert stream.phase.tolist() == [index for index in range(len(PHASES)) for _ in range(PER_PHASE)]


@pytest.mark.parametrize("seed", range(3))
def test_source_and_stream_halves_share_no_image(seed: int) -> None:
    (source, _), (stream, _) = split_digits(seed)
    everything, _ = digits._digits()
    assert len(source) + len(stream) == len(everything)
    in_both = {i.tobytes() for i in source} & {i.tobytes() for i in stream}
    known_twice = len(everything) - len({i.tobytes() for i in everything})
    assert len(in_both) <= known_twice, "only images that the data set itself holds twice"
    assert known_twice == 0


def all_shifts(images: np.ndarray, labels: np.ndarray) -> dict[bytes, int]:
    """Every frame that the jitter makes of these images, without its tilt, and its label."""
    return {
        np.roll(digits.to_frames(image[None])[0], shift, axis=(0, 1)).tobytes(): int(label)
        for image, label in zip(images, labels, strict=True)
        for shift in [(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1)]
    }


def test_a_streams_frames_are_those_of_its_half_and_none_that_is_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits, "_turn", lambda images, angles: images)  # shifts alone can be undone exactly
    _, (images, labels) = split_digits(0)
    played = all_shifts(images[HELD_OUT_IMAGES:], labels[HELD_OUT_IMAGES:])
    held_out = all_shifts(images[:HELD_OUT_IMAGES], labels[:HELD_OUT_IMAGES])
    stream = drifting_stream(0, device=0, frames_per_phase=300)
    for frame, label in zip(stream.frames[:300], stream.labels, strict=False):
        assert played[frame.tobytes()] == label
        assert frame.tobytes() not in held_out
    frames, truths = held_out_frames(0, clean=2, varied=0)
    assert [held_out[frame.tobytes()] for frame in frames] == truths.tolist()


# -- labels never travel -------------------------------------------------------------------------------------------


def all_that_a_device_gets(make: MakeStream, folder: Path) -> tuple[object, ...]:
    """The command line and the environment of a device's process, and what the player writes into its pipe."""
    pipe, started = io.BytesIO(), []

    def popen(command: list[str], *, env: dict[str, str], **_: object) -> SimpleNamespace:
        started.append((command, env))
        return SimpleNamespace(stdin=pipe, stdout=())

    stream = make()
    nothing = np.full(len(stream.frames), -1)
    track = DeviceTrack("device-1", stream, nothing, nothing.copy(), nothing.copy())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes.subprocess, "Popen", popen)
        device = DeviceProcess(
            *(folder / "bundle", folder / "state"), name=track.name, cloud_url="", token="t", on_line=track.hear
        )
    player = _Player(track, device, DemoConfig(frames_per_second=1e9))
    player.run()
    assert player.error is None
    assert track.played == len(stream.frames)
    assert len(started) == 1
    return (*started, pipe.getvalue())


def garble_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same images, every label another."""
    images, labels = digits._digits()
    other = (labels + 1 + np.random.default_rng(0).integers(0, 9, len(labels))) % 10
    assert (other != labels).all()
    monkeypatch.setattr(digits, "_digits", lambda: (images, other))


def labels_travel(make: MakeStream, folder: Path) -> bool:
    """Whether anything that a device gets depends on a label."""
    before, told = all_that_a_device_gets(make, folder), make().labels
    with pytest.MonkeyPatch.context() as patch:
        garble_labels(patch)
        after = all_that_a_device_gets(make, folder)
        assert make().labels.tobytes() != told.tobytes(), (
            "what the scorer holds is garbled: the change is in the stream"
        )
    return before != after


def painted_stream() -> Stream:
    """The negative control: the label as the brightness of one corner."""
    stream = make_stream()
    frames = stream.frames.copy()
    frames[:, 0, 0, 0] = stream.labels
    return dataclasses.replace(stream, frames=frames)


def sorted_stream() -> Stream:
    """Another negative control: every frame is honest, but their order tells the label."""
    stream = make_stream()
    order = np.lexsort((stream.labels, stream.phase))
    return Stream(frames=stream.frames[order], labels=stream.labels[order], phase=stream.phase[order])


def test_nothing_that_a_device_gets_depends_on_a_label(tmp_path: Path) -> None:
    assert not labels_travel(make_stream, tmp_path)


@pytest.mark.parametrize("leaky", [painted_stream, sorted_stream], ids=["in a pixel", "in the order"])
def test_control_a_stream_that_tells_its_labels_is_caught(leaky: MakeStream, tmp_path: Path) -> None:
    assert labels_travel(leaky, tmp_path)


def test_the_pipe_carries_frames_and_nothing_else(tmp_path: Path) -> None:
    stream = make_stream()
    *_, sent = all_that_a_device_gets(make_stream, tmp_path)
    assert isinstance(sent, bytes)
    framed = b"".join(struct.pack("<I", frame.size) + frame.tobytes() for frame in stream.frames)
    assert sent == framed
    spec = InputSpec(height=SIDE, width=SIDE, channels=1, mean=(0.5,), std=(0.5,))
    heard = list(from_frames(io.BytesIO(sent), spec))
    assert len(heard) == len(stream.frames)
    for (_, frame), played in zip(heard, stream.frames, strict=True):
        assert isinstance(frame, np.ndarray)
        assert frame.tobytes() == played.tobytes()


def test_no_wire_message_has_a_field_for_a_label() -> None:
    """``predicted`` is the device's own answer: the tests above say that it is told nothing else."""
    what_the_cloud_answers = {
        (Status, "labels"),
        (Labels, "labels"),
    }  # how often, and what its teacher says: never a truth
    for kind in typing.get_args(Message):
        for field in dataclasses.fields(kind):
            if (kind, field.name) in what_the_cloud_answers:
                continue
            assert not any(word in field.name for word in ("label", "truth", "target", "answer_key")), (kind, field)
    of_a_frame = {field.name for field in dataclasses.fields(Sample)}
    assert of_a_frame == {"frame_id", "version", "predicted", "entropy_nats", "coding", "image", "scene"}
    for kind in (Receipt, Scene, Status):
        assert "predicted" not in {field.name for field in dataclasses.fields(kind)}
