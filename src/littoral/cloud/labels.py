"""Labels on their way from the teacher to the devices: kept for a while, in memory, and sent at most once.

A device that is away gets them when it comes back, if that is soon. A cloud that restarts has none any more: a label is
worth something while its device still knows the frame.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from littoral.core.sample_labels import MAX_LABELS, encode_labels


@dataclass(frozen=True, kw_only=True)
class LabelOf:
    """A label for a device: `littoral.core.sample_labels.sample_key` and `encode_label`."""

    device_id: str
    key: bytes
    label: bytes


class LabelDesk:
    """What waits for each device. No clock: seconds are given.

    Args:
        keep_s: What waited longer goes.
        per_device: Of one device so many wait; the oldest gives way.
        in_all: Of all devices; then the device that was given something longest ago loses what waits for it.
    """

    def __init__(self, *, keep_s: float = 600.0, per_device: int = 256, in_all: int = 65_536) -> None:
        if not (keep_s > 0 and per_device >= 1 and in_all >= per_device):
            raise ValueError(f"expected keep_s > 0 and 1 <= per_device <= in_all, got {keep_s}, {per_device}, {in_all}")
        self._keep_s, self._per_device, self._in_all = keep_s, per_device, in_all
        self._waiting: dict[str, deque[tuple[float, LabelOf]]] = {}
        self._num = 0
        self.num_dropped = 0

    def __len__(self) -> int:
        return self._num

    def __contains__(self, device_id: str) -> bool:
        """Something waits for a device."""
        return device_id in self._waiting

    def put(self, labels: Iterable[LabelOf], now: float) -> set[str]:
        """Take labels in; the devices that have something waiting by them."""
        devices = set()
        for each in labels:
            queue = self._waiting.pop(each.device_id, None) or deque()
            self._waiting[each.device_id] = queue  # at the end: given something last
            queue.append((now, each))
            self._num += 1
            if len(queue) > self._per_device:
                queue.popleft()
                self._drop(1)
            while self._num > self._in_all:
                oldest = next(iter(self._waiting))
                self._drop(len(self._waiting.pop(oldest)))
            devices.add(each.device_id)
        return devices & self._waiting.keys()

    def take(self, device_id: str, now: float) -> tuple[bytes, int] | None:
        """The next message's bytes for a device and how many labels are in it; None where nothing waits."""
        queue = self._waiting.get(device_id, deque())
        while queue and queue[0][0] < now - self._keep_s:
            queue.popleft()
            self._drop(1)
        labels = [queue.popleft()[1] for _ in range(min(len(queue), MAX_LABELS))]
        self._num -= len(labels)
        if not queue:
            self._waiting.pop(device_id, None)
        return (encode_labels([(each.key, each.label) for each in labels]), len(labels)) if labels else None

    def forget(self, device_id: str) -> None:
        """A device takes no labels."""
        self._drop(len(self._waiting.pop(device_id, ())))

    def _drop(self, count: int) -> None:
        self._num -= count
        self.num_dropped += count
