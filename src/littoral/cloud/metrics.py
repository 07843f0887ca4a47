"""Counters for Prometheus, and the same byte totals for the dashboard. Labels by cohort, never by device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

Direction = Literal["up", "down"]
_BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)


class Metrics:
    """One cloud's metrics in a registry of their own."""

    def __init__(self, cohort: str) -> None:
        self.cohort = cohort
        self.registry = CollectorRegistry()
        self.num_bytes: dict[Direction, dict[str, int]] = {"up": {}, "down": {}}
        self._bytes = Counter(
            "littoral_link_bytes", "Message bytes by direction and purpose", ["cohort", "direction", "purpose"],
            registry=self.registry,
        )  # fmt: skip
        self._samples = Counter(
            "littoral_samples", "Samples committed, duplicates not counted", ["cohort"], registry=self.registry
        )
        self._scenes = Counter("littoral_scenes", "Scenes committed", ["cohort"], registry=self.registry)
        self._malformed = Counter(
            "littoral_malformed", "Durable messages acknowledged and dropped", ["cohort", "purpose"],
            registry=self.registry,
        )  # fmt: skip
        self.num_labels = {"sent": 0, "dropped": 0}
        self._labels = Counter(
            "littoral_labels", "Teacher's answers to samples, by what became of them", ["cohort", "outcome"],
            registry=self.registry,
        )  # fmt: skip
        self._refusals = Counter("littoral_refusals", "Sessions refused", ["cohort", "code"], registry=self.registry)
        self._versions = Counter("littoral_versions", "Versions made", ["cohort", "status"], registry=self.registry)
        self._quarantined = Counter(
            "littoral_quarantined", "Devices put apart because versions made with their samples harmed others",
            ["cohort"], registry=self.registry,
        )  # fmt: skip
        self._online = Gauge("littoral_devices_online", "Open sessions", ["cohort"], registry=self.registry)
        self._shipped = Gauge("littoral_shipped_version", "The newest shipped", ["cohort"], registry=self.registry)
        self._domains = Gauge("littoral_domains", "Domains with a shipped version", ["cohort"], registry=self.registry)
        self._commit = Histogram(
            "littoral_commit_seconds", "From a batch of durable messages to their synced commit", ["cohort"],
            registry=self.registry,
        )  # fmt: skip
        self._offloads = Counter("littoral_offloads", "Requests by what they were answered with", ["cohort", "code"],
            registry=self.registry,
        )  # fmt: skip
        self.num_pictures = 0
        self._pictures = Counter(
            "littoral_pictures", "Requests, of all, whose payload is a picture", ["cohort"], registry=self.registry
        )
        self._batch_size = Histogram(
            "littoral_tail_batch_size", "Requests that a tail ran together", ["cohort"], buckets=_BATCH_SIZES,
            registry=self.registry,
        )  # fmt: skip
        self._tail_queue = Histogram(
            "littoral_tail_queue_seconds", "From a request's arrival to its batch", ["cohort"], buckets=_SECONDS,
            registry=self.registry,
        )  # fmt: skip
        self._tail_compute = Histogram(
            "littoral_tail_compute_seconds", "One batch of a tail, decoding included", ["cohort"], buckets=_SECONDS,
            registry=self.registry,
        )  # fmt: skip

    def count_bytes(self, direction: Direction, purpose: str, num_bytes: int) -> None:
        totals = self.num_bytes[direction]
        totals[purpose] = totals.get(purpose, 0) + num_bytes
        self._bytes.labels(self.cohort, direction, purpose).inc(num_bytes)

    def count_samples(self, count: int) -> None:
        self._samples.labels(self.cohort).inc(count)

    def count_scenes(self, count: int) -> None:
        self._scenes.labels(self.cohort).inc(count)

    def count_malformed(self, purpose: str) -> None:
        self._malformed.labels(self.cohort, purpose).inc()

    def count_labels(self, outcome: Literal["sent", "dropped"], count: int) -> None:
        """Dropped: their device takes none, or did not come for them in time."""
        self.num_labels[outcome] += count
        self._labels.labels(self.cohort, outcome).inc(count)

    def count_refusal(self, code: str) -> None:
        self._refusals.labels(self.cohort, code).inc()

    def count_version(self, status: str) -> None:
        self._versions.labels(self.cohort, status).inc()

    def count_quarantined(self, count: int) -> None:
        self._quarantined.labels(self.cohort).inc(count)

    def set_online(self, count: int) -> None:
        self._online.labels(self.cohort).set(count)

    def set_shipped(self, version: int, num_domains: int) -> None:
        self._shipped.labels(self.cohort).set(version)
        self._domains.labels(self.cohort).set(num_domains)

    def observe_commit(self, seconds: float) -> None:
        self._commit.labels(self.cohort).observe(seconds)

    def count_offload(self, code: str) -> None:
        """Only codes that we make ourselves: a label's values must be few."""
        self._offloads.labels(self.cohort, code).inc()

    def count_picture(self) -> None:
        """A request came whose payload is a picture; what it is answered with is counted as of any other."""
        self.num_pictures += 1
        self._pictures.labels(self.cohort).inc()

    def observe_batch(self, queue_ms: Sequence[float], compute_ms: float) -> None:
        """A batch has run; ``queue_ms`` has one value for each of its requests."""
        self._batch_size.labels(self.cohort).observe(len(queue_ms))
        self._tail_compute.labels(self.cohort).observe(compute_ms / 1000)
        for value in queue_ms:
            self._tail_queue.labels(self.cohort).observe(value / 1000)

    def exposition(self) -> bytes:
        """The text that a Prometheus server reads."""
        return generate_latest(self.registry)
