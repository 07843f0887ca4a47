"""The same over the wire that ships: a `Device`, a `Cloud`, and the emulated link between them."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from littoral.bench.split.link import LinkSpec, Relay
from littoral.bundle import Bundle
from littoral.cloud.cloud import Cloud, CloudConfig
from littoral.core.arrays import Frame
from littoral.edge.device import Device
from littoral.edge.device_config import DeviceConfig
from littoral.edge.link import CloudLink, LinkConfig
from littoral.edge.offload_config import OffloadConfig
from littoral.errors import LinkError
from littoral.wire.messages import OffloadAnswer

_DEADLINE_MS = 10_000.0
_CONNECT_S = 30.0
_WARM = 4


class _TimedLink(CloudLink):
    """Keeps what the cloud says that the last request spent there."""

    spent: OffloadAnswer | None = None

    def offload(self, payload: bytes, *, done: Callable[[Any], None], **more: Any) -> None:
        def told(outcome: Any) -> None:
            self.spent = outcome if isinstance(outcome, OffloadAnswer) else None
            done(outcome)

        self.sent_bytes, self.sent_s = len(payload), time.perf_counter()
        super().offload(payload, done=told, **more)

    sent_bytes = 0
    sent_s = 0.0


def whole_point(
    bundle_folder: Path,
    frames: Frame,
    *,
    level: int,
    rounds: int,
    spec: LinkSpec,
    tell: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """`device.infer` when the cloud answers: the median of the whole and of its parts in milliseconds.

    ``road_ms`` is what is neither the device's nor the cloud's: both ways of the link, and the wire at both ends.

    Args:
        bundle_folder: Has one split point; it is copied, since a cloud signs it.
        tell: Hears how many rounds are done.
    Raises:
        LinkError: the device got no session, or the cloud left a frame to it.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(bundle_folder, folder / "bundle")
        config = CloudConfig(port=0)
        with Cloud(folder / "bundle", folder / "cloud", config) as cloud:
            port = urlsplit(cloud.url).port
            assert port is not None
            with Relay(spec, forward_to=port) as relay:
                url = cloud.url.replace(f":{port}", f":{relay.port}")
                link = _TimedLink(url, token=cloud.new_token(), config=LinkConfig(close_timeout_s=0.2))
                offload = OffloadConfig(mode="always", level=level, deadline_ms=_DEADLINE_MS)
                device_config = DeviceConfig(adapt_statistics=False, offload=offload)
                bundle = Bundle.open(folder / "bundle")
                with Device(bundle, state_dir=folder / "device", link=link, config=device_config) as device:
                    _wait_for(link)
                    times = []
                    for i in range(rounds + _WARM):
                        times.append(_timed(device, link, frames[i % len(frames)]))
                        tell(max(0, i + 1 - _WARM))
                    device.close(0.0)
    steps = np.array([[t[key] for key in ("latency_ms", "encode_ms", "queue_ms", "tail_ms")] for t in times[_WARM:]])
    latency, encode, queue, tail = np.median(steps, axis=0)
    return {
        "way": "split, device to cloud",
        "latency_ms": round(float(latency), 3),
        "latency_ms_p95": round(float(np.percentile(steps[:, 0], 95)), 3),
        "encode_ms": round(float(encode), 3),
        "queue_ms": round(float(queue), 3),
        "tail_ms": round(float(tail), 3),
        "road_ms": round(float(np.median(steps[:, 0] - steps[:, 1:].sum(axis=1))), 3),
        "bytes": round(float(np.mean([t["bytes"] for t in times[_WARM:]])), 1),
        "rounds": rounds,
        "level": level,
        "bits_per_second": spec.bits_per_second,
        "round_trip_ms": spec.round_trip_ms,
    }


def _timed(device: Device, link: _TimedLink, frame: Frame) -> dict[str, float]:
    started = time.perf_counter()
    answer = device.infer(frame)
    took = 1e3 * (time.perf_counter() - started)
    if answer.source != "cloud" or link.spent is None:
        raise LinkError(f"the cloud did not answer ({answer.reason}); is the machine too busy to measure?")
    return {
        "latency_ms": took,
        "encode_ms": 1e3 * (link.sent_s - started),
        "queue_ms": link.spent.queue_ms,
        "tail_ms": link.spent.compute_ms,
        "bytes": float(link.sent_bytes),
    }


def _wait_for(link: CloudLink) -> None:
    until = time.monotonic() + _CONNECT_S
    while not link.connected:
        if time.monotonic() > until:
            raise LinkError(f"the device got no session in {_CONNECT_S:g} s ({link.last_error})")
        time.sleep(0.02)
