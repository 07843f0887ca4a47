"""Bytes against mIoU and AP50: what a network makes of pictures that were sent as files, and of nothing sent at all.

A row is a mapping that JSON can hold. Accuracies are in percent, sizes in bytes of a frame, times in seconds of one
core. The network's own data is in lossy files already (`littoral.bench.dense_data`): "as they are" means as these
decode, not what a camera saw, and a codec at its finest pays for the artefacts of the one before.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from littoral.bench.dense_data import Boxed, Segmented, letterboxed
from littoral.bench.split.codecs import PictureCodec, Sizes, blank_bytes, codec_of, decode_picture
from littoral.bench.split.dense_networks import DenseNetwork
from littoral.core.arrays import Frame
from littoral.core.boxes import Letterbox
from littoral.core.metrics import AveragePrecision, BoxTruth, MeanIoU
from littoral.core.tasks import Segmentation

Row = dict[str, Any]
Outputs = Callable[[Frame], NDArray[np.float32]]
QUALITIES = (1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95)
QUICK_QUALITIES = (1, 10, 30, 60, 90)


@dataclass(frozen=True, kw_only=True)
class Sent:
    """What went for one frame, and the frame that came of it."""

    frame: Frame
    num_bytes: int
    header_bytes: int = 0
    """Of these, what a blank frame costs too."""


def prepared(network: DenseNetwork, frame: Frame) -> Frame:
    """A frame brought to the network's input by the device, which is what it sends.

    Bringing it there first is in the codecs' favour: a file of the whole frame would be larger.
    """
    height, width = network.input.height, network.input.width
    if frame.shape[:2] == (height, width):
        return frame
    if network.letterboxed:
        return letterboxed(frame, _letterbox(network, frame))
    return np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR))


def picture_rows(
    network: DenseNetwork,
    data: Segmented | Boxed,
    codec: PictureCodec,
    qualities: Sequence[int],
    *,
    say: Callable[[str], None] | None = None,
) -> Iterable[Row]:
    """The unmodified network on pictures of each quality, one row after another as they are done."""
    for quality in qualities:

        def send(frame: Frame, quality: int = quality) -> Sent:
            file = codec.encode(frame, quality)
            return Sent(
                frame=decode_picture(file), num_bytes=len(file), header_bytes=blank_bytes(codec, quality, frame)
            )

        row = {"method": codec.name, "quality": quality if codec.lossy else None, **_measure(network, data, send)}
        if say is not None:
            say(f"{network.name}, {codec.name} {quality}: {row['bytes']:.0f} B, {_headline(row)}")
        yield row


def device_only_row(network: DenseNetwork, data: Segmented | Boxed) -> Row:
    """The network on the device: nothing is sent. Which is also what the cloud says of frames sent without loss."""
    measured = _measure(network, data, lambda frame: Sent(frame=frame, num_bytes=0))
    return {"method": "device_only", "quality": None, **measured}


def cloud_only_row(network: DenseNetwork, data: Segmented | Boxed, *, codec: str = "webp_lossless") -> Row:
    """All to the cloud, without loss."""
    return {**next(iter(picture_rows(network, data, codec_of(codec), (0,)))), "method": "cloud_only"}


def _measure(network: DenseNetwork, data: Segmented | Boxed, send: Callable[[Frame], Sent]) -> Row:
    """Send every frame, run the network on what came of it, count."""
    metric: Any = network.task.metric()
    sizes, headers = [], []
    codec_seconds = network_seconds = 0.0
    for frame, truth in zip(data.frames, data.truths, strict=True):
        began = time.process_time()
        sent = send(prepared(network, frame))
        middle = time.process_time()
        count(metric, network, network.outputs(sent.frame[None]), frame, truth)
        codec_seconds, network_seconds = codec_seconds + middle - began, network_seconds + time.process_time() - middle
        sizes.append(sent.num_bytes)
        headers.append(sent.header_bytes)
    return {
        "network": network.name,
        "task": network.task.name,
        "frames": len(sizes),
        **Sizes.of(sizes).columns(),
        "bytes_without_header": round(float(np.mean(sizes)) - float(np.mean(headers)), 2),
        **scores(metric),
        "codec_cpu_seconds": round(codec_seconds, 2),
        "network_cpu_seconds": round(network_seconds, 2),
    }


def count(metric: Any, network: DenseNetwork, outputs: NDArray[np.float32], frame: Frame, truth: Any) -> None:
    """Count the output for one frame against its truth.

    Boxes are compared where both lie on the frame; where the network's input has another ratio, in the input, which
    comes to the same since an overlap does not change when an axis is scaled.
    """
    task = network.task
    if isinstance(task, Segmentation):
        metric.update(task.answers(outputs), [truth])
        return
    (found,) = task.answers(outputs)
    if network.letterboxed:
        metric.update([found.to_frame(_letterbox(network, frame))], [truth])
        return
    height, width = frame.shape[:2]
    factors = np.array([network.input.width / width, network.input.height / height] * 2, dtype=np.float32)
    metric.update([found], [BoxTruth(truth.boxes_N4 * factors, truth.labels_N, truth.crowd_N)])


def scores(metric: MeanIoU | AveragePrecision) -> Row:
    """The metric's figures, in percent."""
    if isinstance(metric, MeanIoU):
        return {"miou": _percent(metric.value()), "pixel_accuracy": _percent(metric.pixel_accuracy())}
    return {
        "ap50": _percent(metric.at_iou_50()),
        "ap75": _percent(metric.at_iou_75()),
        "ap": _percent(metric.value()),
    }


def accuracy_of(row: Row) -> float:
    """mIoU or AP50, whichever the row has."""
    return float(row["miou"] if "miou" in row else row["ap50"])


class DenseStore:
    """Rows as one JSON line each in a file; what is there already is not made again."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def rows(self) -> list[Row]:
        """Those that are whole."""
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        found = []
        for line in lines:
            try:
                found.append(json.loads(line))
            except ValueError:
                continue  # a line that a stop cut off
        return found

    def has(self, **what: Any) -> bool:
        """Whether a row has all of these values."""
        return any(all(row.get(key) == value for key, value in what.items()) for row in self.rows())

    def add(self, row: Row) -> None:
        """Put a row at the end, on the disk before it is said to be there."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        whole = self.path.read_bytes()[-1:] in (b"", b"\n") if self.path.exists() else True
        with self.path.open("ab") as file:
            file.write((b"" if whole else b"\n") + json.dumps(row).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


def keep_dense_rows(
    store: DenseStore,
    network: DenseNetwork,
    data: Segmented | Boxed,
    *,
    codecs: Sequence[str] = ("webp", "jpeg"),
    qualities: Sequence[int] = QUALITIES,
    say: Callable[[str], None] | None = None,
) -> list[Row]:
    """Device only, cloud only and every codec at every quality, those that are not in the store yet; all rows of it."""
    what = {"network": network.name, "frames": len(data.frames)}
    if not store.has(**what, method="device_only"):
        store.add(device_only_row(network, data))
    for codec in codecs:
        for quality in qualities:
            if not store.has(**what, method=codec, quality=quality):
                for row in picture_rows(network, data, codec_of(codec), (quality,), say=say):
                    store.add(row)
    if not store.has(**what, method="cloud_only"):
        store.add(cloud_only_row(network, data))
    return [row for row in store.rows() if all(row.get(key) == value for key, value in what.items())]


def _letterbox(network: DenseNetwork, frame: Frame) -> Letterbox:
    return Letterbox(
        frame_height=frame.shape[0],
        frame_width=frame.shape[1],
        input_height=network.input.height,
        input_width=network.input.width,
    )


def _headline(row: Row) -> str:
    return f"{'mIoU' if 'miou' in row else 'AP50'} {accuracy_of(row):.2f}"


def _percent(share: float) -> float:
    return round(100 * share, 3)
