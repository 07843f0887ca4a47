"""Bytes as a budget: so many for every frame that is seen, spent on the frames that are worth most.

A token bucket in bytes says what may be spent; a controller says what it is worth spending on, as a threshold on the
score of a frame: the quantile of recent scores that spends what is due. There is no clock: time is counted in frames.

    level    -reserve ......... 0 ........ aim ........ burst
              │ only in the      │          │            └ what silence saves up
              │ frames after a   │          └ where the controller steers to: above it more is sent, below it less
              └ scene opened     └ nothing is sent below it

Whatever the schedule, what was spent in any stretch of n frames is at most ``burst + reserve + n * bytes_per_frame``;
over restarts too, where the next run goes on with the level that the last one left (`ByteBudget.resume`).

Source: the debt controller and the quantile over a window of recent frames are those of WISE-ATTA's pacing, in bytes
in place of queries. Departures: a reserve for the frames after a scene opens, borrowed and paid back.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from dataclasses import dataclass

_MEAN_KEEP = 0.9


@dataclass(frozen=True, kw_only=True)
class BudgetConfig:
    """What may be sent up. Samples count, with their envelope; receipts, scenes and what TCP adds do not."""

    bytes_per_1000_frames: float | None = None
    """None is 12 % of what the frames have as raw bytes."""
    burst_bytes: float | None = None
    """The most that silence saves up; None is what 1,000 frames give. At least one raw frame in any case."""
    scene_burst_bytes: float | None = None
    """What may be borrowed in the frames after a scene opened, and is paid back afterwards; None is what 1,000 frames
    give."""
    scene_burst_frames: int = 512
    """For how many frames after a scene opened it may be borrowed."""
    horizon_frames: int = 256
    """Within about how many frames what is saved up or owed is spent or paid back; sooner where the bucket is small."""
    window_frames: int = 256
    """Over how many recent frames the quantile is taken."""

    def __post_init__(self) -> None:
        sizes = (self.bytes_per_1000_frames, self.burst_bytes, self.scene_burst_bytes)
        if any(size is not None and not 0 <= size < float("inf") for size in sizes):
            raise ValueError(f"a budget is finite and at least 0 bytes, got {sizes}")
        if min(self.horizon_frames, self.window_frames) < 1 or self.scene_burst_frames < 0:
            raise ValueError(
                "horizon_frames >= 1, window_frames >= 1 and scene_burst_frames >= 0 must hold, got "
                f"{self.horizon_frames}, {self.window_frames} and {self.scene_burst_frames}"
            )


DEFAULT_SHARE = 0.12
"""Of the raw bytes of all frames: the budget when none is given."""


class ByteBudget:
    """The bucket and the controller of one device.

    Args:
        max_sample_bytes: The most that one sample can take on the wire. So much is set aside when a sample is chosen,
            and what it did not take is given back (`settle`), since it is coded only later.
        frame_bytes: Of a raw frame, for the default budget.
    """

    def __init__(self, config: BudgetConfig, *, max_sample_bytes: int, frame_bytes: int) -> None:
        per_1000 = config.bytes_per_1000_frames
        self.bytes_per_frame = DEFAULT_SHARE * frame_bytes if per_1000 is None else per_1000 / 1000
        saved = 1000 * self.bytes_per_frame
        self.burst_bytes = max(saved if config.burst_bytes is None else config.burst_bytes, float(max_sample_bytes))
        self.reserve_bytes = saved if config.scene_burst_bytes is None else config.scene_burst_bytes
        self.level_bytes = self.burst_bytes
        self.spent_bytes = 0
        """Of the samples whose size is known."""
        # A small bucket is full soon, and what comes then is lost: when it is full, three times the usual is due.
        soon = self.burst_bytes / 4 / max(self.bytes_per_frame, 1e-9)
        self._horizon = max(min(float(config.horizon_frames), soon), 1.0)
        self._max, self._config = max_sample_bytes, config
        self._aside = 0
        """What is set aside for samples whose size is not known yet."""
        self._mean = float(max_sample_bytes)
        self._settled = False
        self._recent: deque[float] = deque()
        self._sorted: list[float] = []
        self._scene_frames = 0

    @property
    def in_scene_burst(self) -> bool:
        """Whether the reserve may be used."""
        return self._scene_frames > 0

    @property
    def aim_bytes(self) -> float:
        """The level that the controller steers to."""
        return -self.reserve_bytes if self.in_scene_burst else self.burst_bytes / 2

    @property
    def share(self) -> float:
        """The share of the frames that should be sent now, 0 to 1."""
        due = self.bytes_per_frame + (self.level_bytes - self.aim_bytes) / self._horizon
        return min(max(due / self._mean, 0.0), 1.0)

    @property
    def threshold(self) -> float:
        """The score from which a frame is worth sending; infinite when nothing is due, 0 while little is known."""
        share, known = self.share, len(self._sorted)
        if share <= 0:
            return float("inf")
        wanted = round(share * known)
        if share >= 1 or (wanted == 0 and known < self._config.window_frames):
            return 0.0
        return self._sorted[known - max(wanted, 1)]  # less than one frame of the window: the best that came

    def resume(self, level_bytes: float | None) -> None:
        """Go on with the level of an earlier run; None when there was none. Before the first frame."""
        if level_bytes is not None:
            self.level_bytes = min(max(level_bytes, -self.reserve_bytes), self.burst_bytes)

    def see(self, score: float) -> None:
        """A frame went by: what it gives, and what it was worth; 0 for one that is not to be sent."""
        self._give(self.bytes_per_frame)
        if self.in_scene_burst:
            self._scene_frames -= 1
        self._recent.append(score)
        insort(self._sorted, score)
        if len(self._recent) > self._config.window_frames:
            del self._sorted[bisect_left(self._sorted, self._recent.popleft())]

    def take(self) -> bool:
        """Set aside what a sample may take at most; False when there is not so much."""
        floor = -self.reserve_bytes if self.in_scene_burst else 0.0
        if self.level_bytes - self._max < floor:
            return False
        self.level_bytes -= self._max
        self._aside += self._max
        return True

    def settle(self, num_bytes: int | None) -> None:
        """A sample that was taken turned out to have so many bytes; None when it was not sent after all."""
        self._aside = max(self._aside - self._max, 0)
        if num_bytes is None:
            self._give(self._max)
            return
        self._give(self._max - num_bytes)
        self.spent_bytes += num_bytes
        keep = _MEAN_KEEP if self._settled else 0.0
        self._mean = keep * self._mean + (1 - keep) * max(num_bytes, 1)
        self._settled = True

    def _give(self, num_bytes: float) -> None:
        """Fill the bucket. What is set aside is in it too: given back later, it would be a second bucket otherwise."""
        self.level_bytes = min(self.level_bytes + num_bytes, self.burst_bytes - self._aside)

    def open_scene(self) -> None:
        """The world changed: what is sent now is worth more than what is sent later."""
        self._scene_frames = self._config.scene_burst_frames
