"""Counters for Prometheus, and the same byte totals for the dashboard. Labels by cohort, never by device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

Direction = Literal["up", "down"]
_REFUSALS = ("not-enrolled", "bad-signature", "revoked", "other-bundle", "busy", "storage", "protocol")
_DURABLE = ("sample", "receipt", "scene")
_STATE = {
    "devices_enrolled": "Devices that may connect",
    "devices_refused": "Of them those that were refused since they were last let in",
    "devices_quarantined": "Of them those that learn alone",
    "samples_waiting": "Samples that no job has taken yet",
    "outbox_messages": "Messages that wait on the devices that are online, as they last said",
    "record_bytes": "The record's files",
    "record_room_bytes": "What can still be written: of the disk, or below the limit, and what the record uses again",
    "last_sample_timestamp_seconds": "When the newest sample came; absent before the first",
    "last_shipped_timestamp_seconds": "When the newest shipped version was made; absent before the first",
}
_BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)


class Metrics:
    """One cloud's metrics in a registry of their own."""

    def __init__(self, cohort: str) -> None:
        self.cohort = cohort
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
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

        self._state = {
            name: Gauge(f"littoral_{name}", text, ["cohort"], registry=self.registry) for name, text in _STATE.items()
        }
        self._begin_at_zero()

    def _begin_at_zero(self) -> None:
        """What an alert looks at is there from the start: no rate sees the first increase of a series that was not."""
        for counter, values in (
            (self._refusals, _REFUSALS),
            (self._malformed, _DURABLE),
            (self._versions, ("shipped", "held")),
            (self._labels, self.num_labels),
        ):
            for value in values:
                counter.labels(self.cohort, value)
        for metric in (self._samples, self._scenes, self._quarantined, self._pictures, self._online):
            metric.labels(self.cohort)

    def set_state(self, document: Mapping[str, Any], *, record_bytes: int, room_bytes: int) -> None:
        """What a fleet document (`littoral.cloud.fleet`) says of now."""
        devices = [device for device in document["devices"] if device["revoked_at"] is None]
        shipped = [version["created_at"] for version in document["versions"] if version["status"] == "shipped"]
        values = {
            "devices_enrolled": len(devices),
            "devices_refused": sum(device["refused"] is not None for device in devices),
            "devices_quarantined": sum(device["quarantined_at"] is not None for device in devices),
            "samples_waiting": sum(domain["waiting"] for domain in document["domains"]),
            "outbox_messages": sum(d["status"]["queued"] for d in devices if d["online"] and d["status"]),
            "record_bytes": record_bytes,
            "record_room_bytes": room_bytes,
            "last_sample_timestamp_seconds": document["last_sample_at"],
            "last_shipped_timestamp_seconds": max(shipped, default=None),
        }
        for name, value in values.items():
            if value is not None:
                self._state[name].labels(self.cohort).set(value)

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
