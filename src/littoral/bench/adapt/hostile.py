"""A hostile device: enrolled like the others, with keys of its own, and out to spoil what they learn.

It has recorded every world of its fleet. It opens a scene of each, with that world's honest fingerprint, and from then
on sends poisoned frames (`littoral.bench.adapt.poison`) into all of these domains at once, far more than an honest
device's budget allows. What it was told to send by its own selection it forgets.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from littoral.bench.adapt.loopback import PEEK_BYTES, LoopbackLink
from littoral.bench.adapt.poison import PoisonConfig, poison
from littoral.bundle import Bundle
from littoral.core.arrays import Frame
from littoral.core.recall import encode_fingerprint
from littoral.edge.session import FingerprintModel
from littoral.wire.envelope import encode_frame
from littoral.wire.messages import Sample, Scene, to_frame

FLOOD = 32
"""Samples that it sends into each world in one go: a job's."""
ROUNDS = 4
"""So often it does so while an honest device of the table plays a batch of 64 frames and sends some 25 samples."""


@dataclass(frozen=True, kw_only=True)
class World:
    """What a hostile device has prepared for one world."""

    fingerprint: bytes
    """As an honest device would send it."""
    frames: Frame
    """Poisoned, uint8 ``(N, H, W, C)``."""
    labels: tuple[int, ...]
    """What it says of them."""


def prepare_worlds(
    bundle: Bundle, recordings: Sequence[Frame], *, seed: int, config: PoisonConfig | None = None
) -> tuple[World, ...]:
    """Poison for each recorded world; a function of its arguments.

    Args:
        bundle: Opened with ``require_cloud``.
        recordings: Of each world frames uint8 ``(N, H, W, C)`` as its devices see them.
    """
    model = FingerprintModel(bundle)
    num_classes = bundle.manifest.num_classes
    return tuple(
        World(
            fingerprint=encode_fingerprint(model.fingerprint(frames)),
            frames=poison(bundle, frames, seed=seed + number, config=config),
            labels=tuple(index % num_classes for index in range(len(frames))),
        )
        for number, frames in enumerate(recordings)
    )


class HostileLink(LoopbackLink):
    """A `LoopbackLink` that sends what it likes.

    Args:
        worlds: What goes where; at least one, each with a frame.
        flood: Samples into each world, per round.
        rounds: How often it sends per batch of its stream.
    """

    def __init__(
        self, *args: Any, worlds: Sequence[World], flood: int = FLOOD, rounds: int = ROUNDS, **options: Any
    ) -> None:
        if not worlds or any(len(world.frames) == 0 for world in worlds):
            raise ValueError("a hostile device needs a world with a frame to poison; give it recordings")
        super().__init__(*args, **options)
        self.rounds = rounds
        self._worlds, self._flood = worlds, flood
        self._queue: deque[tuple[int, bytes]] = deque()
        self._last_sequence = self._turn = 0

    def exchange(self, tick: int) -> None:
        """One round of the flood."""
        self._forget_own()
        self._fill()
        super().exchange(tick)

    def _durable(self, after_sequence: int, room: int) -> list[tuple[int, bytes]]:
        out = []
        for sequence, data in self._queue:
            if sequence > after_sequence and room > 0:
                out.append((sequence, data))
                room -= len(data)
        return out

    def _acked(self, sequence: int) -> None:
        while self._queue and self._queue[0][0] <= sequence:
            self._queue.popleft()

    def _forget_own(self) -> None:
        outbox = self._ports.outbox
        while own := outbox.peek(outbox.acked_sequence, PEEK_BYTES):
            outbox.ack(own[-1][0])

    def _fill(self) -> None:
        if not self._last_sequence:
            for number, world in enumerate(self._worlds, start=1):
                self._put(Scene(scene=number, version=0, fingerprint=world.fingerprint))
        for _ in range(self._flood):
            for number, world in enumerate(self._worlds, start=1):
                index = self._turn % len(world.frames)
                self._put(
                    Sample(
                        frame_id=self._turn,
                        version=0,
                        predicted=world.labels[index],
                        entropy_nats=0.0,
                        coding="raw",
                        image=world.frames[index].tobytes(),
                        scene=number,
                    )
                )
            self._turn += 1

    def _put(self, message: Scene | Sample) -> None:
        self._last_sequence += 1
        frame = to_frame(message, stream=self._link.outbox_stream, sequence=self._last_sequence)
        self._queue.append((self._last_sequence, encode_frame(frame)))
