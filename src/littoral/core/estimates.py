"""Running estimates of times that a deadline is planned with. Times in milliseconds; no clock in here."""

from __future__ import annotations


class Ewma:
    """An exponentially weighted mean and mean deviation.

    Args:
        weight: Of a new value, in (0, 1]. The first value is taken whole.
    Source: Jacobson, SIGCOMM 1988, whose round-trip timer is a mean plus four deviations.
    """

    def __init__(self, weight: float = 0.2) -> None:
        if not 0 < weight <= 1:
            raise ValueError(f"0 < weight <= 1 must hold, got {weight}")
        self._weight = weight
        self.mean: float | None = None
        self.deviation = 0.0

    def add(self, value: float) -> None:
        """Take a value into account."""
        if self.mean is None:
            self.mean = value
            return
        error = value - self.mean
        self.mean += self._weight * error
        self.deviation += self._weight * (abs(error) - self.deviation)

    def high(self, deviations: float) -> float | None:
        """The mean and so many deviations; None before the first value."""
        return None if self.mean is None else self.mean + deviations * self.deviation


class RoadEstimate:
    """How long a message takes to the cloud and its answer back, as ``rtt_ms + num_bytes / bytes_per_ms``.

    A line through what was measured, older measurements weighing less. Where all messages had one length, nothing can
    be said about throughput, and all of the time is the round trip's.

    Args:
        weight: Of a new measurement, in (0, 1].
    """

    def __init__(self, weight: float = 0.1) -> None:
        self._weight = weight
        self._bytes = self._ms = self._bytes_bytes = self._bytes_ms = 0.0
        self.num_measured = 0

    def add(self, num_bytes: int, road_ms: float) -> None:
        """Take a measurement into account.

        Args:
            num_bytes: Sent.
            road_ms: From sending to the answer, without what the cloud says that it took; below 0 counts as 0.
        """
        self.num_measured += 1
        weight = max(self._weight, 1 / self.num_measured)  # the plain mean until there are enough
        road_ms = max(road_ms, 0.0)
        self._bytes += weight * (num_bytes - self._bytes)
        self._ms += weight * (road_ms - self._ms)
        self._bytes_bytes += weight * (num_bytes * num_bytes - self._bytes_bytes)
        self._bytes_ms += weight * (num_bytes * road_ms - self._bytes_ms)

    @property
    def mean_bytes(self) -> float:
        """Of what was measured; the line goes through it and `mean_ms`."""
        return self._bytes

    @property
    def mean_ms(self) -> float:
        """Of what was measured."""
        return self._ms

    @property
    def spread(self) -> float:
        """How far the lengths lay apart: their variance as a share of their mean square."""
        return 1 - self._bytes**2 / self._bytes_bytes if self._bytes_bytes else 0.0

    @property
    def _ms_per_byte(self) -> float:
        variance = self._bytes_bytes - self._bytes**2
        if variance <= 1e-4 * self._bytes_bytes:  # lengths that differ by less than a hundredth say nothing
            return 0.0
        slope = (self._bytes_ms - self._bytes * self._ms) / variance
        return min(max(slope, 0.0), self._ms / self._bytes if self._bytes else 0.0)

    @property
    def rtt_ms(self) -> float | None:
        """Of a message without a length; None before the first measurement."""
        return self._ms - self._ms_per_byte * self._bytes if self.num_measured else None

    @property
    def bytes_per_ms(self) -> float | None:
        """The throughput; None where nothing is known of it."""
        return 1 / self._ms_per_byte if self._ms_per_byte > 0 else None

    def predict_ms(self, num_bytes: int) -> float | None:
        """For a message of so many bytes; None before the first measurement."""
        return self._ms + self._ms_per_byte * (num_bytes - self._bytes) if self.num_measured else None


class BatchTimes:
    """How long a batch takes, by its size: an `Ewma` for each size that was run.

    A larger batch costs more, and less for each of its members. So every size that was run gives an upper bound for
    every other, and the least of them is what is predicted: one bad measurement of one size does not stay. Nor does
    one that is too good: a size that was not run for so many batches is forgotten.

    Args:
        first_guess_ms: Of any size, before anything was run.
        weight: Of a new measurement.
        deviations: How many of its deviations are added to a mean.
        memory: For how many batches after its last a size is remembered.
    """

    def __init__(
        self, *, first_guess_ms: float, weight: float = 0.2, deviations: float = 2.0, memory: int = 64
    ) -> None:
        self._first_guess_ms, self._weight, self._deviations = first_guess_ms, weight, deviations
        self._memory = memory
        self._num_batches = 0
        self._sizes: dict[int, Ewma] = {}
        self._last_run: dict[int, int] = {}

    def add(self, size: int, batch_ms: float) -> None:
        """A batch of ``size`` took so long."""
        self._num_batches += 1
        self._sizes.setdefault(size, Ewma(self._weight)).add(batch_ms)
        self._last_run[size] = self._num_batches
        for known in [k for k in self._sizes if self._num_batches - self._last_run[k] > self._memory]:
            del self._sizes[known]

    def restart(self, size: int, batch_ms: float) -> None:
        """Forget what was measured before: a batch of ``size`` took so long."""
        self._sizes = {}
        self.add(size, batch_ms)

    def predict_ms(self, size: int) -> float:
        """For a batch of this size; 0 for none."""
        if size <= 0:
            return 0.0
        highs = ((known, times.high(self._deviations) or 0.0) for known, times in self._sizes.items())
        return min((high_ms * max(size / known, 1.0) for known, high_ms in highs), default=self._first_guess_ms)
