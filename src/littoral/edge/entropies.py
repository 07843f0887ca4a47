"""How unsure a device's answers are, and by what they were given: what the watch over a version is told."""

from __future__ import annotations

from typing import NamedTuple


class Told(NamedTuple):
    """What some frames told, and by which rule they were answered: a version, and whether by the device's own
    statistics."""

    mean_nats: float
    num_frames: int
    rule: tuple[int, bool]


class Entropies:
    """Adds up entropies since they were last taken, of answers that one version gave by statistics of one kind.

    `add` and `take` are for the thread that answers, `serve` and `charged` for the one in the background.

    Args:
        version: What serves.
        own: By statistics that are the device's own, or there are none to be had. The source's are of another world:
            a network may be as sure as it is wrong under them, and how sure it is says nothing of a version.
    """

    def __init__(self, version: int, *, own: bool) -> None:
        self._rule = self._of = (version, own)
        self.sum_nats, self.num_frames = 0.0, 0

    def serve(self, version: int, *, own: bool) -> None:
        """Answers from now on are given by this."""
        if (rule := (version, own)) != self._rule:
            self._rule = rule

    def add(self, entropy_nats: float) -> None:
        """Of one answer."""
        if self._of is not self._rule:
            self._of, self.sum_nats, self.num_frames = self._rule, 0.0, 0
        self.sum_nats += entropy_nats
        self.num_frames += 1

    def take(self) -> Told:
        """All since the last time."""
        told = Told(self.sum_nats / max(self.num_frames, 1), self.num_frames, self._of)
        self.sum_nats, self.num_frames = 0.0, 0
        return told

    def charged(self, told: Told) -> tuple[float, int]:
        """The mean in nats, and of how many frames it counts for what serves: none if these were answered by other."""
        return told.mean_nats, told.num_frames if told.rule == self._rule and told.rule[1] else 0
