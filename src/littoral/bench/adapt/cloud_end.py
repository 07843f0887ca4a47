"""The cloud of a bench in this process: the real record, sessions, cohort, gate and worker, without a port.

Sessions are `littoral.cloud.session.Session` over a socket in memory. Their event loop runs only inside `deliver` and
`work`, until nothing is left to do, so that the same frames give the same answers in the same order.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from starlette.websockets import WebSocket, WebSocketDisconnect

from littoral.bundle import Bundle, SigningKey
from littoral.cloud.adapt import Worker
from littoral.cloud.cohort import Cohort, Outcome
from littoral.cloud.domains import DomainConfig, DomainRule
from littoral.cloud.executors import InlineExecutor
from littoral.cloud.gate import Gate, Verdict
from littoral.cloud.hub import Hub, Limits
from littoral.cloud.jobs import AdaptConfig
from littoral.cloud.keys import Keys
from littoral.cloud.ledger import Ledger
from littoral.cloud.session import Session
from littoral.cloud.store import Store
from littoral.core.arrays import Frame
from littoral.edge.identity import Identity
from littoral.errors import LinkError
from littoral.wire.envelope import decode_frame
from littoral.wire.messages import Ack, from_frame

COHORT = "default"
_FOREVER_S = 1e8
_TURNS = 12
"""How often a loop is let run on after it had nothing more to say."""
_PATIENCE_S = 120.0


def seeded_key(seed: int, name: str) -> SigningKey:
    """A key that depends on nothing else: a bench's versions are the same bytes every time."""
    return SigningKey(hashlib.sha256(f"littoral bench {seed} {name}".encode()).digest())


def _unasked(payload: bytes, *, recent_frames: Frame, witnesses: Mapping[str, Frame], base_payload: bytes) -> Verdict:
    """No gate."""
    return Verdict(passed=True, reason="not asked", report={})


class MemorySocket:
    """What a `Session` uses of a WebSocket."""

    def __init__(self) -> None:
        self.incoming: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.outgoing: list[bytes] = []
        self.acked = 0
        self.num_sent = 0
        self.closed = False
        self.news = asyncio.Event()

    async def accept(self) -> None:
        """There is no handshake of HTTP."""

    async def receive(self) -> dict[str, Any]:
        data = await self.incoming.get()
        if data is None:
            return {"type": "websocket.disconnect", "code": 1000}
        return {"type": "websocket.receive", "bytes": data}

    async def send_bytes(self, data: bytes) -> None:
        if self.closed:
            raise WebSocketDisconnect(1000)
        frame = decode_frame(data)
        if frame.type == Ack.TYPE:
            self.acked = max(self.acked, cast("Ack", from_frame(frame)).sequence)
        self.outgoing.append(data)
        self.num_sent += 1
        self.news.set()

    async def close(self, code: int = 1000) -> None:
        self.closed = True
        self.news.set()


class CloudEnd:
    """One cohort's cloud.

    Args:
        folder: For the record; better in memory than on a disk.
        guarded: False ships whatever the worker makes: the negative control.
        torch_device: ``cpu`` or ``cuda``.
    """

    def __init__(
        self,
        bundle: Bundle,
        folder: Path,
        *,
        config: AdaptConfig,
        domains: DomainConfig,
        seed: int,
        guarded: bool = True,
        torch_device: str = "cpu",
    ) -> None:
        self.bundle, self.seconds, self.num_shipped, self.num_held = bundle, 0.0, 0, 0
        self.num_quarantined = 0
        self._seed, self._num_devices, self._now, self._new_samples = seed, 0, 0.0, False
        self._keys = Keys(release=seeded_key(seed, "release"), cohort=seeded_key(seed, "cohort"))
        rule = DomainRule.of(bundle.manifest, domains)
        self._store = Store(folder, bundle_digest=bundle.digest, rule=rule)
        ledger = Ledger(self._store, COHORT)
        self._hub = Hub(
            store=self._store,
            ledger=ledger,
            manifest=bundle.manifest,
            bundle_digest=bundle.digest,
            release_key=self._keys.release.public.hex,
            envelope=self._keys.envelope(bundle, COHORT),
            limits=Limits(idle_timeout_s=_FOREVER_S, send_timeout_s=_FOREVER_S, hello_timeout_s=_FOREVER_S),
            clock=self._clock,
        )
        worker = Worker(bundle, config, device=torch_device)
        self._executor = InlineExecutor(worker)
        self._cohort = Cohort(
            bundle=bundle,
            ledger=ledger,
            executor=self._executor,
            check=Gate(bundle, worker).check if guarded else _unasked,
            key=self._keys.cohort,
            config=config,
            domains=replace(domains, reissue_interval_s=0.0),  # of this clock no interval would ever pass
            on_version=self._on_version,
            clock=self._clock,
        )
        self._loop = asyncio.new_event_loop()
        self._hub.loop = self._loop
        self._sessions: list[tuple[MemorySocket, asyncio.Task[None]]] = []

    def enrol(self) -> Identity:
        """A new device's identity, its key made of the seed and its number."""
        number = self._num_devices
        self._num_devices += 1
        key, secret = seeded_key(self._seed, f"device {number}"), hashlib.sha256(f"token {number}".encode()).digest()
        self._store.add_token(secret, now=0.0).result()
        device = self._store.redeem(
            secret, public_key=key.public, name=f"device-{number}", cohort=COHORT, now=float(number)
        ).result()
        return Identity(
            device_id=device.id,
            cohort=COHORT,
            cloud_url="ws://localhost",
            release_key=self._keys.release.public,
            key=key,
        )

    def connect(self) -> SessionEnd:
        """Open a session; the challenge waits in it."""
        socket = MemorySocket()
        session = Session(cast("WebSocket", socket), self._hub)
        self._sessions.append((socket, self._loop.create_task(session.run())))
        self._settle()
        return SessionEnd(self, socket)

    def deliver(self, socket: MemorySocket, frames: Sequence[bytes]) -> None:
        """Hand a device's frames to its session, and wait until what is durable was committed and acknowledged."""
        if not frames:
            return
        begun = time.process_time()
        last = max(decode_frame(data).sequence for data in frames)
        for data in frames:
            socket.incoming.put_nowait(data)
        self._loop.run_until_complete(self._until_acked(socket, last))
        self._settle()
        self._new_samples |= last > 0
        self.seconds += time.process_time() - begun

    def work(self) -> bool:
        """Do all jobs that there are; True if a version was made."""
        if not self._new_samples:
            return False
        begun, made = time.process_time(), False
        while self._cohort.step() is not None:
            made = True
        self._new_samples = False
        if made:
            self._settle()
        self.seconds += time.process_time() - begun
        return made

    def newest(self) -> tuple[bytes, bytes] | None:
        """The newest shipped version's payload and the adaptation state behind it."""
        shipped = self._hub.ledger.newest_shipped().values()
        if not shipped:
            return None
        newest = max(shipped, key=lambda version: version.version)
        return newest.signed.payload, self._hub.ledger.state(newest.version)

    def close(self) -> None:
        """End the sessions and close the record. Idempotent."""
        if self._loop.is_closed():
            return
        for socket, _ in self._sessions:
            socket.incoming.put_nowait(None)
        tasks = [task for _, task in self._sessions]
        if tasks:
            self._loop.run_until_complete(asyncio.wait(tasks, timeout=_PATIENCE_S))
        for task in tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                self._loop.run_until_complete(task)
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()
        self._executor.close()
        self._store.close()

    # -- inside --------------------------------------------------------------------------------------------------------

    def _clock(self) -> float:
        """A clock that goes by calls: what is written down has an order and no hour."""
        self._now += 1e-3
        return self._now

    def _on_version(self, outcome: Outcome) -> None:
        if outcome.shipped:
            self.num_shipped += 1
        else:
            self.num_held += 1
        self.num_quarantined += len(outcome.quarantined)
        self._hub.version_made(outcome.domain, shipped=outcome.shipped, quarantined=outcome.quarantined)

    async def _until_acked(self, socket: MemorySocket, sequence: int) -> None:
        async with asyncio.timeout(_PATIENCE_S):
            while socket.acked < sequence:
                if socket.closed:
                    raise LinkError(f"the cloud ended a session: {from_frame(decode_frame(socket.outgoing[-1]))}")
                socket.news.clear()
                await socket.news.wait()

    def _settle(self) -> None:
        """Let the sessions run until they have nothing more to say, the record's writer included."""
        self._loop.run_until_complete(self._turns())
        self._store.write(lambda db: None).result()
        self._loop.run_until_complete(self._turns())

    async def _turns(self) -> None:
        quiet, before = 0, -1
        while quiet < _TURNS:
            now = sum(socket.num_sent for socket, _ in self._sessions)
            quiet = quiet + 1 if now == before else 0
            before = now
            await asyncio.sleep(0)


class SessionEnd:
    """The cloud's end of one device's session."""

    def __init__(self, cloud: CloudEnd, socket: MemorySocket) -> None:
        self._cloud, self._socket = cloud, socket

    def deliver(self, frames: Sequence[bytes]) -> None:
        self._cloud.deliver(self._socket, frames)

    def collect(self) -> list[bytes]:
        """What the cloud said since the last call."""
        out, self._socket.outgoing = self._socket.outgoing, []
        return out
