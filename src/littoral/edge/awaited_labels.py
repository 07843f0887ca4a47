"""What a device remembers of the samples that it uploaded, until the teacher's answers come: bounded, and not for ever.

    sent ── answered ── taken, once               a second answer, or one to a sample that is not known, finds nothing
      ├── taught otherwise, by the user or an offload ── its answer is of use no more for heads
      ├── keep_s later, or the room is wanted ── forgotten
      └── another affine version ── features follow by the heads' own maps, or the frame is forgotten

In memory alone: a device that starts anew has forgotten what its samples of before looked like. No clock: seconds are
given. For one thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from littoral.core.arrays import FloatArray
from littoral.edge.recent import SeenFrame

_FRAME_BYTES = 512
"""What an entry takes beside its features and scores, with room to spare."""
_MOST_TAUGHT = 256
"""Frames remembered that something else taught, so that a sample that is coded only then finds its frame among them."""


class _Sent(NamedTuple):
    frame: SeenFrame
    at_s: float
    is_taught: bool = False

    @property
    def num_bytes(self) -> int:
        scores = self.frame.logits_K
        return self.frame.features.nbytes + (0 if scores is None else scores.nbytes) + _FRAME_BYTES


class Heard(NamedTuple):
    """A sample's answer came; ``is_taught``: something else had taught its frame before."""

    frame_id: int
    is_taught: bool


class AwaitedLabels:
    """Frames whose samples are on their way, by `littoral.core.sample_labels.sample_key`; the oldest gives way.

    Args:
        keep_s: A frame is forgotten after so long, answered or not.
        most: So many frames.
        most_bytes: Of all of them.
    """

    def __init__(self, *, keep_s: float = 1800.0, most: int = 256, most_bytes: int = 131_072) -> None:
        if not (keep_s > 0 and most >= 1 and most_bytes >= 1):
            raise ValueError(f"expected keep_s > 0, most and most_bytes >= 1, got {keep_s}, {most} and {most_bytes}")
        self._keep_s, self._most, self._most_bytes = keep_s, most, most_bytes
        self._sent: dict[bytes, _Sent] = {}
        self._ready: deque[_Sent] = deque()
        self._taught: deque[int] = deque(maxlen=_MOST_TAUGHT)
        self.num_bytes = 0
        self.on_forgotten: Callable[[int], None] = lambda frame_id: None
        """Told of each frame that goes without an answer."""

    def __len__(self) -> int:
        """Of those without an answer and those that are ready."""
        return len(self._sent) + len(self._ready)

    def put(self, key: bytes, frame: SeenFrame, now_s: float) -> None:
        """A sample is on its way; one with the same picture before it is forgotten, and so is what is too old."""
        self.expire(now_s)
        self._forget(key)
        sent = _Sent(replace(frame, logits_K=None), now_s, frame.frame_id in self._taught)
        self._sent[key] = sent
        self.num_bytes += sent.num_bytes
        self._make_room()

    def taught(self, frame_id: int) -> None:
        """Somebody else's word on a frame teaches."""
        self._taught.append(frame_id)
        for key, sent in self._sent.items():
            if sent.frame.frame_id == frame_id:
                self._sent[key] = sent._replace(is_taught=True)

    def answer(self, key: bytes, scores_K: FloatArray, now_s: float) -> Heard | None:
        """An answer came; if nothing else had taught its frame it is ready. None: unknown, too old, or a second one."""
        self.expire(now_s)
        sent = self._sent.pop(key, None)
        if sent is None:
            return None
        self.num_bytes -= sent.num_bytes
        if not sent.is_taught:
            ready = sent._replace(frame=sent.frame.taught_by_cloud(scores_K))
            self._ready.append(ready)
            self.num_bytes += ready.num_bytes
            self._make_room()
        return Heard(sent.frame.frame_id, sent.is_taught)

    def take(self) -> SeenFrame | None:
        """The next frame that is ready, with the answer in the place of the network's own word."""
        if not self._ready:
            return None
        sent = self._ready.popleft()
        self.num_bytes -= sent.num_bytes
        return sent.frame

    @property
    def num_ready(self) -> int:
        """Frames that `take` has."""
        return len(self._ready)

    def expire(self, now_s: float) -> None:
        """Forget what is too old."""
        for key in [key for key, sent in self._sent.items() if sent.at_s < now_s - self._keep_s]:
            self._forget(key)
        while self._ready and self._ready[0].at_s < now_s - self._keep_s:
            self.take()

    def rewrite(self, change: Callable[[SeenFrame], SeenFrame | None]) -> bool:
        """Change every frame; None forgets it. Whether any was forgotten."""
        before = len(self)
        for key, sent in list(self._sent.items()):
            if (frame := change(sent.frame)) is None:
                self._forget(key)
            else:
                self._sent[key] = sent._replace(frame=frame)
        ready = [(sent, change(sent.frame)) for sent in self._ready]
        self._ready = deque(sent._replace(frame=frame) for sent, frame in ready if frame is not None)
        self.num_bytes -= sum(sent.num_bytes for sent, frame in ready if frame is None)
        return len(self) < before

    def _make_room(self) -> None:
        while len(self) > self._most or self.num_bytes > self._most_bytes:
            if self._sent:
                self._forget(next(iter(self._sent)))
            else:
                self.take()

    def _forget(self, key: bytes) -> None:
        if (sent := self._sent.pop(key, None)) is not None:
            self.num_bytes -= sent.num_bytes
            self.on_forgotten(sent.frame.frame_id)
