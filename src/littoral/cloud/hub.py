"""What the gateway's sessions share: who is connected, the versions to send, the limits, the counters.

All of it is touched from the gateway's event loop only, except the methods that say otherwise. Nothing here is needed
after a restart.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from littoral.bundle import Manifest
from littoral.cloud.intake import MAX_AUDITED
from littoral.cloud.keys import SignedEnvelope
from littoral.cloud.labels import LabelDesk, LabelOf
from littoral.cloud.ledger import Ledger, ShippedVersion
from littoral.cloud.metrics import Metrics
from littoral.cloud.repeats import Repeats
from littoral.cloud.seen import write_seen
from littoral.cloud.store import Store
from littoral.cloud.tails import RunsTail, TailConfig, Tails
from littoral.errors import StorageError
from littoral.wire.link import MAX_REQUESTS
from littoral.wire.messages import Status

if TYPE_CHECKING:
    from littoral.cloud.session import Session

RATE_WINDOW_S = 120
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a peer may take of us."""

    credit_bytes: int = 262_144
    """Unacknowledged bytes of a device in flight; one frame beyond it its socket is not read."""
    hello_timeout_s: float = 10.0
    """From the challenge to a signed Hello."""
    send_timeout_s: float = 30.0
    """For a peer to take what we send."""
    idle_timeout_s: float = 300.0
    """Between two messages of a device; its Status counts."""
    max_sessions: int = 10_000
    max_handshakes: int = 512
    """Sessions that have not yet proved who they are."""
    max_watchers: int = 32
    """Open dashboards."""
    max_requests: int = MAX_REQUESTS
    """Offloaded requests of a device in flight."""


@dataclass(frozen=True, kw_only=True)
class Refused:
    """What the cloud told a device that proved who it is. ``at`` is in seconds since the epoch."""

    at: float
    code: str
    message: str


@dataclass
class Presence:
    """What is known of a device since this process started. Times are seconds since the epoch."""

    online: bool = False
    last_seen: float | None = None
    status: Status | None = None
    takes_labels: bool = True
    """As its newest Hello said."""
    told_behind: bool = False
    num_audited: int = 0
    """Lines of the audit that its sessions wrote."""
    refused: Refused | None = None
    """Why its last session was refused or ended by us; None since one has opened."""


_UNSEEN = Presence()


class Hub:
    """The gateway's memory.

    Args:
        on_recorded: Called when new samples or scenes were committed.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        *,
        store: Store,
        ledger: Ledger,
        manifest: Manifest,
        bundle_digest: bytes,
        release_key: str,
        envelope: SignedEnvelope,
        limits: Limits,
        on_recorded: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.store, self.ledger, self.manifest, self.bundle_digest = store, ledger, manifest, bundle_digest
        self.release_key, self.envelope, self.limits = release_key, envelope, limits
        self.on_recorded, self.clock = on_recorded, clock
        self.metrics = Metrics(ledger.cohort)
        self.tails = Tails({}, manifest.make_task(), TailConfig(), self.metrics)
        self.labels = LabelDesk()
        self.said = Repeats()
        self.sessions: dict[str, Session] = {}
        self.presence: dict[str, Presence] = {}
        self.num_handshakes = 0
        self.num_watchers = 0
        self.started_at = clock()
        self.newest: dict[int, ShippedVersion] = {}
        """By domain."""
        self._look_for_versions()
        self.stopping = asyncio.Event()
        self.loop: asyncio.AbstractEventLoop | None = None
        self._rates: collections.deque[list[int]] = collections.deque(maxlen=RATE_WINDOW_S)

    def serve_tails(self, tails: Mapping[int | None, RunsTail], config: TailConfig) -> Tails:
        """Answer requests for these split points, and under None pictures, from now on. Before the first session."""
        most = self.manifest.input.num_bytes
        self.tails = Tails(tails, self.manifest.make_task(), config, self.metrics, max_picture_bytes=most)
        return self.tails

    def begin(self) -> None:
        """The event loop runs. What the cohort shipped while there was none is known from the record."""
        self.loop = asyncio.get_running_loop()
        self._look_for_versions()

    # -- sessions ----------------------------------------------------------------------------------------------------

    def join(self, device_id: str, session: Session) -> None:
        """A device proved who it is. A session that it already has gives way."""
        old = self.sessions.get(device_id)
        if old is not None:
            old.end()
        self.sessions[device_id] = session
        presence = self.see(device_id)
        presence.online, presence.refused = True, None
        self.metrics.set_online(len(self.sessions))

    def takes_labels(self, device_id: str, takes: bool) -> None:
        """What a device's Hello says of labels; what waits for one that takes none is dropped."""
        self.see(device_id).takes_labels = takes
        if not takes:
            self._count_dropped(lambda: self.labels.forget(device_id))

    def behind(self, device_id: str, highest_version: int) -> str:
        """What to tell a person when a device has seen more than the record has shipped; of each device once."""
        presence = self.see(device_id)
        if presence.told_behind or highest_version <= self.shipped_version:
            return ""
        if highest_version <= self.ledger.newest_number():  # numbers may be passed over
            return ""
        presence.told_behind = True
        return (
            f"device {device_id} has seen version {highest_version}, this record's newest is {self.shipped_version}: "
            "if that is true the record is an older copy, and the device takes nothing before a higher number. To go "
            f"on at once, start the cloud with --first-version {highest_version + 1}"
        )

    def leave(self, device_id: str, session: Session) -> None:
        """A session ended; if another one took its place nothing changes."""
        if self.sessions.get(device_id) is session:
            del self.sessions[device_id]
            presence = self.see(device_id)
            presence.online = False
            if presence.refused is None:
                with contextlib.suppress(StorageError):  # it is closed already
                    write_seen(self.store, device_id, now=self.clock())
            self.metrics.set_online(len(self.sessions))

    def refused(self, device_id: str, code: str, message: str) -> None:
        """A device that proved who it is was told no; kept for people."""
        self.see(device_id).refused = Refused(at=self.clock(), code=code, message=message)

    def see(self, device_id: str) -> Presence:
        """The device's presence, its ``last_seen`` set to now."""
        presence = self.presence.setdefault(device_id, Presence())
        presence.last_seen = self.clock()
        return presence

    def may_audit(self, device_id: str) -> bool:
        """Whether a device's session may write one more line of the audit; so that none fills the record with them."""
        presence = self.see(device_id)
        presence.num_audited += 1
        return presence.num_audited <= MAX_AUDITED

    def stop(self) -> None:
        """End all sessions and event streams."""
        self.stopping.set()
        for session in self.sessions.values():
            session.end()

    # -- what happens ------------------------------------------------------------------------------------------------

    @property
    def shipped_version(self) -> int:
        """The newest shipped of all domains; 0 for none."""
        return max((shipped.version for shipped in self.newest.values()), default=0)

    def recorded(self, *, num_samples: int, num_scenes: int) -> None:
        """Samples and scenes were committed."""
        if num_scenes:
            self.metrics.count_scenes(num_scenes)
        if num_samples:
            self._count_samples(num_samples)
        if num_scenes or num_samples:
            self.on_recorded()

    def _count_samples(self, num_samples: int) -> None:
        self.metrics.count_samples(num_samples)
        second = int(self.clock())
        if not self._rates or self._rates[-1][0] != second:
            self._rates.append([second, 0])
        self._rates[-1][1] += num_samples

    def rates(self) -> list[int]:
        """Samples committed in each of the last ``RATE_WINDOW_S`` seconds, the newest last."""
        by_second = {second: count for second, count in list(self._rates)}
        now = int(self.clock())
        return [by_second.get(second, 0) for second in range(now - RATE_WINDOW_S + 1, now + 1)]

    def labels_made(self, labels: Sequence[LabelOf]) -> None:
        """The teacher answered samples. May be called from any thread."""
        if labels and self.loop is not None and not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._labels_made, labels)

    def _labels_made(self, labels: Sequence[LabelOf]) -> None:
        wanted = [each for each in labels if self.presence.get(each.device_id, _UNSEEN).takes_labels]
        self.metrics.count_labels("dropped", len(labels) - len(wanted))
        for device_id in self._count_dropped(lambda: self.labels.put(wanted, self.clock())):
            if (session := self.sessions.get(device_id)) is not None:
                session.taught.set()

    def next_labels(self, device_id: str) -> tuple[bytes, int] | None:
        """The next message of labels for a device, and how many are in it; the caller says when they are sent."""
        return self._count_dropped(lambda: self.labels.take(device_id, self.clock()))

    def _count_dropped(self, work: Callable[[], T]) -> T:
        before = self.labels.num_dropped
        result = work()
        self.metrics.count_labels("dropped", self.labels.num_dropped - before)
        return result

    def version_made(self, domain: int, *, shipped: bool, quarantined: Sequence[str] = ()) -> None:
        """The cohort made a version of a domain, and put devices apart with it. May be called from any thread."""
        self.metrics.count_version("shipped" if shipped else "held")
        self.metrics.count_quarantined(len(quarantined))
        if self.loop is not None and not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._version_made, domain, shipped, quarantined)

    def _version_made(self, domain: int, shipped: bool, quarantined: Sequence[str]) -> None:
        for device_id in quarantined:
            if (session := self.sessions.get(device_id)) is not None:
                session.follow()
        if shipped and (newest := self.ledger.newest_shipped_of(domain)) is not None:
            self.newest[domain] = newest
            self._count_shipped()
            for session in self.sessions.values():
                if session.domain == domain:
                    session.news.set()

    def _look_for_versions(self) -> None:
        self.newest = self.ledger.newest_shipped()
        self._count_shipped()

    def _count_shipped(self) -> None:
        self.metrics.set_shipped(self.shipped_version, len(self.newest))
