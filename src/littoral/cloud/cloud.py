"""The public class: a bundle, a state folder and a port make a cloud."""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from types import FrameType, TracebackType
from typing import Literal, Self

import numpy as np

from littoral.bundle import Bundle
from littoral.bundle.files import replace_file
from littoral.cloud.cohort import Check, Cohort, Outcome
from littoral.cloud.domains import DomainConfig, DomainRule
from littoral.cloud.executors import Adapter, InlineExecutor
from littoral.cloud.hub import Hub, Limits
from littoral.cloud.jobs import AdaptConfig
from littoral.cloud.keys import Keys, make_token
from littoral.cloud.ledger import Ledger
from littoral.cloud.listener import Listener, allow_descriptors, listen
from littoral.cloud.lock import hold
from littoral.cloud.moving import has_fleet, take_fleet, take_keys
from littoral.cloud.reissue import pass_over
from littoral.cloud.store import RECORD_FILE, Store
from littoral.cloud.tails import RunsTail, TailConfig
from littoral.cloud.witnesses import WitnessConfig
from littoral.core.codec import encode
from littoral.errors import LittoralError

STATE_FILE = "cloud.json"

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CloudConfig:
    """Where a cloud listens, whom it serves, and what a device may take of it."""

    host: str = "127.0.0.1"
    port: int = 8600
    """0 for any free port; `Cloud.url` tells which."""
    cohort: str = "default"
    device: str = "auto"
    """Where torch runs: ``auto``, ``cpu``, ``cuda``."""
    credit_bytes: int = 262_144
    idle_timeout_s: float = 300.0
    max_sessions: int = 10_000
    max_record_bytes: int | None = None
    """The most that the record may grow to; None for as much as the disk holds."""
    release_key: Path | None = None
    """The file of the release key that signed the bundle: copied into a new state folder, else held against its key."""
    fleet_from: Path | None = None
    """The state folder of the cloud whose keys and devices this one begins with (`littoral.cloud.moving`)."""
    first_version: int = 1
    """The next version's number is this at least: after the record was restored from an older copy, one more than the
    highest that a device has seen (`littoral.cloud.reissue.pass_over`)."""
    keep_images: bool = False
    """Keep also the images that no job and no replay needs any more (docs/adr/0038)."""
    tls_certificate: Path | None = None
    """PEM chain; with ``tls_key`` the port speaks TLS."""
    tls_key: Path | None = None
    adapt: AdaptConfig = field(default_factory=AdaptConfig)
    domains: DomainConfig = field(default_factory=DomainConfig)
    witnesses: WitnessConfig = field(default_factory=WitnessConfig)
    tails: TailConfig = field(default_factory=TailConfig)

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65_535:
            raise ValueError(f"a port is 0 to 65535, got {self.port}")
        if not self.cohort or len(self.cohort) > 64 or not self.cohort.isprintable():
            raise ValueError(f"a cohort's name has 1 to 64 printable characters, got {self.cohort!r:.80}")
        if self.max_record_bytes is not None and self.max_record_bytes < 1:
            raise ValueError(f"max_record_bytes is at least 1, got {self.max_record_bytes}")
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("TLS needs both tls_certificate and tls_key")

    @property
    def limits(self) -> Limits:
        return Limits(
            credit_bytes=self.credit_bytes, idle_timeout_s=self.idle_timeout_s, max_sessions=self.max_sessions
        )


WorkerFactory = Callable[[Bundle, CloudConfig], tuple[Adapter, Check]]
TailFactory = Callable[[Bundle, CloudConfig], Mapping[int | None, RunsTail]]


def make_worker(bundle: Bundle, config: CloudConfig) -> tuple[Adapter, Check]:
    """The worker and the gate of a real cloud: torch models of the bundle."""
    from littoral.cloud.adapt import Worker  # here, so that who brings a factory of his own need not wait for torch
    from littoral.cloud.gate import Gate

    worker = Worker(bundle, config.adapt, device=config.device)
    return worker, Gate(bundle, worker).check


def make_tails(bundle: Bundle, config: CloudConfig) -> Mapping[int | None, RunsTail]:
    """The tails of a bundle's split points, by their numbers, and under None its teacher for pictures of frames.

    Each has run once, since the first run is slow.
    """
    made: dict[int | None, RunsTail] = {}
    if bundle.manifest.splits:
        from littoral.cloud.tail import Tail

        for index in range(len(bundle.manifest.splits)):
            tail = Tail(bundle, index, device=config.device)
            tables = tail.codec.tables
            tail.answer([encode(np.zeros(tables.shape(0), np.int32), tables, level=0)])
            made[index] = tail
    if bundle.manifest.teacher is not None and config.tails.pictures:
        from littoral.cloud.pictures import PictureTeacher

        made[None] = PictureTeacher(bundle, device=config.device)
    return made


class Cloud:
    """A cloud for one bundle and one cohort. Use as a context manager, or `start` and `stop`, or `serve`.

    Everything that matters is in ``state_dir``; a cloud that was killed goes on from there.

    Args:
        bundle: The bundle's directory, with its cloud part. Signed with our release key if it carries no signature.
        state_dir: Keys and record; locked while the cloud lives.
        worker_factory: Makes the adapter and the gate's check; not called where the bundle's task is not adapted.
        tail_factory: Makes what answers offloaded requests, of split points and, under None, pictures.
    Raises:
        LittoralError: the port or the state folder is in use.
        BundleError: the bundle is damaged, signed by another release key, or not the one of this state folder; or the
            state folder has a record and not the keys that its devices know, or another release key than the given.
        StorageError: the state folder cannot be written.
    """

    def __init__(
        self,
        bundle: Path | str,
        state_dir: Path | str,
        config: CloudConfig | None = None,
        *,
        worker_factory: WorkerFactory = make_worker,
        tail_factory: TailFactory = make_tails,
    ) -> None:
        self.config = config or CloudConfig()
        self.state_dir = Path(state_dir)
        self._worker_factory, self._tail_factory = worker_factory, tail_factory
        if worker_factory is make_worker:
            import littoral.cloud.adapt  # noqa: F401  # a PyTorch that is missing shows before anything is touched
        with ExitStack() as stack:
            self._socket = stack.enter_context(listen(self.config.host, self.config.port))
            stack.enter_context(hold(self.state_dir, otherwise="stop it, or give this one a folder of its own"))
            self.bundle = Bundle.open(bundle, require_cloud=True)
            old = self.config.fleet_from if not has_fleet(self.state_dir) else None
            if old is not None:
                take_keys(self.state_dir, old)
            has_record = (self.state_dir / RECORD_FILE).exists()
            if has_record:  # one of another bundle refuses this one here, before it is signed
                Store(self.state_dir, bundle_digest=self.bundle.digest).close()
            self._keys = Keys.for_bundle(
                self.state_dir, self.bundle, is_new=not has_record, release_key=self.config.release_key
            )
            self._store = Store(
                self.state_dir,
                bundle_digest=self.bundle.digest,
                max_bytes=self.config.max_record_bytes,
                rule=DomainRule.of(self.bundle.manifest, self.config.domains),
                keep_images=self.config.keep_images,
            )
            stack.callback(self._store.close)
            self._ledger = Ledger(self._store, self.config.cohort)
            if old is not None:
                num_taken = take_fleet(self._store, old, cohort=self.config.cohort).result()
                log.info("%d devices were taken from %s", num_taken, old)
            pass_over(self._ledger, self.config.first_version, now=time.time()).result()
            self._hub = Hub(
                store=self._store,
                ledger=self._ledger,
                manifest=self.bundle.manifest,
                bundle_digest=self.bundle.digest,
                release_key=self._keys.release.public.hex,
                envelope=self._keys.envelope(self.bundle, self.config.cohort),
                limits=self.config.limits,
            )
            self._close = stack.pop_all()
        self._address = str(self._socket.getsockname()[0]), int(self._socket.getsockname()[1])
        if self.config.tls_certificate is None and not ip_address(self._address[0]).is_loopback:
            log.warning(
                "no TLS: whoever is on the way to %s can read frames and forge answers; give a certificate and its "
                "key, or listen on 127.0.0.1 behind a proxy that has them",
                self.url,
            )
        self._state: Literal["new", "started", "stopped"] = "new"

    @property
    def url(self) -> str:
        """Where devices and browsers go, ``http://host:port``."""
        host, port = self._address
        scheme = "https" if self.config.tls_certificate else "http"
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"

    def new_token(self) -> str:
        """Make a one-time enrolment token. It is shown once; the record keeps only its hash."""
        token, digest = make_token(self._keys.release.public)
        self._store.add_token(digest, now=time.time()).result()
        return token

    def start(self) -> None:
        """Load the models, resume the cohort and listen, in background threads; returns when devices can connect.

        Raises:
            LittoralError: it was started or stopped before, or the listener could not be set up.
            BundleError: student and teacher answer for different classes.
        """
        if self._state != "new":
            raise LittoralError(f"this cloud was {self._state} before; make a new Cloud")
        self._state = "started"
        try:
            if self.bundle.manifest.adapts:
                self._start_cohort()
            else:
                log.warning(
                    "bundle %r is for %s: this cloud does not adapt it, and answers what devices offload",
                    self.bundle.manifest.name,
                    self.bundle.manifest.task,
                )
            self._close.callback(
                self._hub.serve_tails(self._tail_factory(self.bundle, self.config), self.config.tails).close
            )
            config = self.config
            allow_descriptors(config.limits)
            listener = Listener(self._hub, self._socket, certificate=config.tls_certificate, key=config.tls_key)
            self._close.callback(listener.stop)
            listener.start()
            self._write_state_file()
        except BaseException:
            self.stop()
            raise
        log.info("cloud for bundle %s, cohort %r at %s", self.bundle.short_digest, self.config.cohort, self.url)

    def _start_cohort(self) -> None:
        adapter, check = self._worker_factory(self.bundle, self.config)
        executor = InlineExecutor(adapter)
        self._close.callback(executor.close)
        cohort = Cohort(
            bundle=self.bundle,
            ledger=self._ledger,
            executor=executor,
            check=check,
            key=self._keys.cohort,
            config=self.config.adapt,
            domains=self.config.domains,
            witnesses=self.config.witnesses,
            on_version=self._on_version,
            on_labels=self._hub.labels_made,
            keep_images=self.config.keep_images,
        )
        self._hub.on_recorded = cohort.poke
        cohort.start()
        self._close.callback(cohort.stop)

    def stop(self) -> None:
        """End all sessions, finish the job that runs, and give up port and state folder. Idempotent."""
        self._state = "stopped"
        self._close.close()

    def serve(self, *, ready: Callable[[], None] = lambda: None) -> None:
        """Start, and block until SIGTERM or SIGINT; then stop cleanly. Call from the main thread.

        Args:
            ready: Called once devices can connect.
        """
        done = threading.Event()

        def on_signal(number: int, frame: FrameType | None) -> None:
            done.set()

        before = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            self.start()
            ready()
            done.wait()
        finally:
            self.stop()
            for number, handler in before.items():
                signal.signal(number, handler)

    def __enter__(self) -> Self:
        if self._state == "new":
            self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _on_version(self, outcome: Outcome) -> None:
        self._hub.version_made(outcome.domain, shipped=outcome.shipped, quarantined=outcome.quarantined)

    def _write_state_file(self) -> None:
        """Tell scripts that we listen, and where."""
        path = self.state_dir / STATE_FILE
        replace_file(path, json.dumps({"url": self.url, "pid": os.getpid()}).encode())
        self._close.callback(path.unlink, missing_ok=True)
