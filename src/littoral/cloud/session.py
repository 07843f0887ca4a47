"""One device's session over a WebSocket: prove who you are, then send in order, be acknowledged, get versions.

Requests are answered beside that, each in a task of its own: they wait for no commit, and nothing waits for them.
An Ack leaves only after the commit of what it acknowledges was synced. Labels go, a short message at a time, when
nothing else does. Whatever breaks a rule ends the session with a Refusal that says why; nothing is answered by silence.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from typing import cast

from starlette.websockets import WebSocket, WebSocketDisconnect

from littoral.cloud.hub import Hub
from littoral.cloud.intake import DURABLE_TYPES, MAX_INTEGER, Entry, Malformed, check_message
from littoral.cloud.store import EnrolledDevice
from littoral.cloud.tails import offload_answer, refusal
from littoral.core.recall import NO_DOMAIN
from littoral.errors import FrameError, LinkRefused, ProtocolError, StorageError
from littoral.wire.envelope import CONTROL_STREAM, MAX_FRAME_BYTES, Frame, decode_frame, encode_frame
from littoral.wire.messages import (
    HELLO_PURPOSE,
    NONCE_BYTES,
    TAKES_LABELS,
    TAKES_PICTURES,
    Ack,
    Challenge,
    DurableMessage,
    Hello,
    Labels,
    Message,
    Offload,
    OffloadAnswer,
    Receipt,
    Refusal,
    Sample,
    Scene,
    Status,
    Version,
    Welcome,
    expect,
    from_frame,
    hello_message,
    to_frame,
)

PURPOSES: dict[type, str] = {
    Sample: "sample",
    Receipt: "receipt",
    Scene: "scene",
    Version: "version",
    Offload: "offload",
    OffloadAnswer: "answer",
    Labels: "labels",
}
RETRY_AFTER_MS = {"busy": 30_000, "storage": 10_000}
"""By Refusal code; the others need a person."""
PROTOCOL_RETRY_MS = 5_000
"""After bytes that broke the wire format: they may have been damaged on the way, so one may try again."""
QUIET_POLL_S = 0.02
"""How often labels that wait look whether the socket is free."""
INLINE_BODY_BYTES = 65_536
"""Images that are larger, coded or decoded, are decoded off the event loop: a blank one has few bytes, many pixels."""

log = logging.getLogger(__name__)


class Session:
    """The server's side of one connection."""

    def __init__(self, socket: WebSocket, hub: Hub) -> None:
        self._socket, self._hub = socket, hub
        self.news = asyncio.Event()
        """Set when there may be a newer version to send."""
        self.taught = asyncio.Event()
        """Set when there may be labels to send."""
        self._takes_labels = False
        self._device: EnrolledDevice | None = None
        self._who, self._is_proven = "(not known)", False
        """For people: who the Hello says that it is, and whether its signature holds."""
        self._stream = CONTROL_STREAM
        self._highest_version = 0
        self.domain = NO_DOMAIN
        """That of the device's newest committed scene: whose versions it gets."""
        self._pending: list[tuple[int, Entry]] = []
        self._in_flight_bytes = 0
        self._work, self._room = asyncio.Event(), asyncio.Event()
        self._room.set()
        self._end = asyncio.Event()
        self._sending = asyncio.Lock()
        self._offloads: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serve the connection to its end; raises nothing that the peer can cause."""
        await self._socket.accept()
        try:
            await self._serve()
        except LinkRefused as error:
            await self._refuse(error.code, str(error), RETRY_AFTER_MS.get(error.code, 0))
        except ProtocolError as error:
            await self._audit("protocol", str(error))
            await self._refuse("protocol", str(error), PROTOCOL_RETRY_MS)
        except StorageError as error:
            told = "the cloud cannot store what you send now"
            await self._refuse("storage", told, RETRY_AFTER_MS["storage"], why=str(error))
        except (WebSocketDisconnect, TimeoutError):
            pass
        finally:
            if self._device is not None:
                self._hub.leave(self._device.id, self)
            with contextlib.suppress(WebSocketDisconnect, RuntimeError, TimeoutError):
                async with asyncio.timeout(self._hub.limits.send_timeout_s):
                    await self._socket.close(1012 if self._hub.stopping.is_set() else 1000)

    def end(self) -> None:
        """End: the device has opened another session, or the cloud stops."""
        self._end.set()

    @property
    def _name(self) -> str:
        return self._device.id if self._device else self._who

    async def _serve(self) -> None:
        self._device = device = await self._handshake()
        self.domain = device.domain
        self._hub.join(device.id, self)
        log.info("device %s (%s): session open", device.id, device.name)
        if told := self._hub.behind(device.id, self._highest_version):
            log.warning("%s", told)
            await self._audit("record-behind", told)
        await self._send(
            Welcome(
                acked_sequence=self._hub.store.acked_sequence(device.id, self._stream),
                credit_bytes=self._hub.limits.credit_bytes,
                envelope=self._hub.envelope.data,
                envelope_signature=self._hub.envelope.signature,
                takes=TAKES_PICTURES if self._hub.tails.takes_pictures else 0,
            )
        )
        works = [self._read(), self._commit(), self._push(), self._watch()]
        tasks = [asyncio.create_task(work) for work in (*works, *([self._teach()] if self._takes_labels else []))]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            tasks += self._offloads
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    # -- who is there ------------------------------------------------------------------------------------------------

    async def _handshake(self) -> EnrolledDevice:
        hub = self._hub
        if hub.num_handshakes >= hub.limits.max_handshakes or len(hub.sessions) >= hub.limits.max_sessions:
            raise LinkRefused("busy", "this cloud has as many sessions as it takes; try again later")
        hub.num_handshakes += 1
        try:
            nonce = os.urandom(NONCE_BYTES)
            await self._send(Challenge(nonce=nonce))
            async with asyncio.timeout(hub.limits.hello_timeout_s):
                data = await self._receive()
        finally:
            hub.num_handshakes -= 1
        hello = expect(from_frame(decode_frame(data)), Hello)
        hub.metrics.count_bytes("up", "control", len(data))
        self._who = f"that says it is {hello.device_id!r:.80}"
        device = self._admit(hello, nonce)
        self._stream, self._highest_version = hello.outbox_stream, hello.highest_version
        self._takes_labels = bool(hello.takes & TAKES_LABELS)
        hub.takes_labels(device.id, self._takes_labels)
        return device

    def _admit(self, hello: Hello, nonce: bytes) -> EnrolledDevice:
        """The device that signed this Hello; `LinkRefused` says why not."""
        hub = self._hub
        device = hub.store.device(hello.device_id)
        if device is None or device.cohort != hub.ledger.cohort:
            raise LinkRefused("not-enrolled", "this cloud does not know the device; run 'littoral enrol redeem'")
        message = hello_message(nonce, hello.device_id, hello.bundle_digest, hello.outbox_stream)
        if not device.public_key.verifies(HELLO_PURPOSE, message, hello.signature):
            raise LinkRefused("bad-signature", "the Hello is not signed by the key that this device was enrolled with")
        self._who, self._is_proven = device.id, True
        if device.revoked_at is not None:
            raise LinkRefused(
                "revoked",
                f"device {device.id} was revoked; to have it back, remove "
                "device.key from its state folder and enrol it with a new token",
            )
        if hello.bundle_digest != hub.bundle_digest:
            raise LinkRefused(
                "other-bundle",
                f"this cloud serves bundle {hub.bundle_digest.hex()[:12]}…, the device runs "
                f"{hello.bundle_digest.hex()[:12]}…; install the matching bundle",
            )
        if hello.outbox_stream == CONTROL_STREAM:
            raise LinkRefused("protocol", "an outbox cannot have stream 0, which is control")
        return device

    # -- the five things that go on in a session -----------------------------------------------------------------------

    async def _read(self) -> None:
        while True:
            await self._room.wait()
            async with asyncio.timeout(self._hub.limits.idle_timeout_s):
                data = await self._receive()
            arrived_ms = asyncio.get_running_loop().time() * 1000
            frame = decode_frame(data)
            durable = DURABLE_TYPES.get(frame.type)
            message = from_frame(frame) if durable is None else None
            purpose = PURPOSES.get(type(message) if durable is None else durable, "control")
            self._hub.metrics.count_bytes("up", purpose, len(data))
            presence = self._hub.see(self._name)
            if isinstance(message, Status):
                self._check_revoked()  # else one that only reports would stay
                presence.status = message
            elif isinstance(message, Offload):
                await self._take_request(message, arrived_ms)
            elif durable is not None:
                if frame.stream != self._stream or not 0 < frame.sequence <= MAX_INTEGER:
                    raise ProtocolError(f"stream {frame.stream}, sequence {frame.sequence} is not of this outbox")
                entry = await self._entry(frame, purpose)  # meanwhile a commit may take what is pending
                self._pending.append((frame.sequence, entry))
                self._in_flight_bytes += len(data)
                # One frame more than a device with manners ever has in flight: requests are not held up behind it.
                if self._in_flight_bytes >= self._hub.limits.credit_bytes + MAX_FRAME_BYTES:
                    self._room.clear()
                self._work.set()
            else:
                raise ProtocolError(f"a {type(message).__name__} came, which only the cloud sends")

    async def _take_request(self, request: Offload, arrived_ms: float) -> None:
        """Begin to answer a request; one too many is refused before the next message is read."""
        self._check_revoked()
        if request.coding:
            self._hub.metrics.count_picture()
        if len(self._offloads) >= self._hub.limits.max_requests:
            message = f"a device may have {self._hub.limits.max_requests} requests in flight"
            return await self._send_answer(offload_answer(request, refusal("overloaded", message)))
        task = asyncio.create_task(self._answer(request, arrived_ms))
        self._offloads.add(task)
        task.add_done_callback(self._offloads.discard)

    async def _answer(self, request: Offload, arrived_ms: float) -> None:
        answer = await self._hub.tails.answer(request, device=self._name, arrived_ms=arrived_ms)
        with contextlib.suppress(WebSocketDisconnect, RuntimeError, TimeoutError):  # the reader sees it as well
            async with self._sending:
                due_ms = arrived_ms + request.deadline_ms
                if answer.code == "ok" and asyncio.get_running_loop().time() * 1000 > due_ms:
                    answer = offload_answer(request, refusal("late"))
                await self._send_answer(answer, locked=True)

    async def _send_answer(self, answer: OffloadAnswer, *, locked: bool = False) -> None:
        self._hub.metrics.count_offload(answer.code)
        await self._send(answer, locked=locked)

    async def _entry(self, frame: Frame, purpose: str) -> Entry:
        """What goes into the record for a durable frame: its message, or why it is none."""
        try:
            message = cast("DurableMessage", from_frame(frame))
            decoded_bytes = self._hub.manifest.input.num_bytes if isinstance(message, Sample) else 0
            if max(len(frame.body), decoded_bytes) <= INLINE_BODY_BYTES:
                check_message(message, self._hub.manifest)
            else:
                await asyncio.to_thread(check_message, message, self._hub.manifest)
        except (ProtocolError, FrameError) as error:
            if (more := self._hub.said.news(self._name, "malformed", purpose)) is not None:
                log.warning("device %s: a malformed %s is dropped: %s%s", self._name, purpose, error, more)
            return Malformed(kind=purpose, reason=str(error))
        return message

    async def _commit(self) -> None:
        assert self._device is not None
        store, metrics = self._hub.store, self._hub.metrics
        acked = 0
        while True:
            await self._work.wait()
            self._work.clear()
            batch, self._pending = self._pending, []
            num_bytes = self._in_flight_bytes
            begun = time.perf_counter()
            before = max(acked, store.acked_sequence(self._device.id, self._stream))
            future = store.record(
                self._device.id,
                self._stream,
                batch,
                now=self._hub.clock(),
                highest_version=min(self._highest_version, MAX_INTEGER),
            )
            acked = await asyncio.wrap_future(future)
            metrics.observe_commit(time.perf_counter() - begun)
            self._in_flight_bytes -= num_bytes
            self._room.set()
            await self._send(Ack(sequence=acked))
            self._recorded([entry for sequence, entry in batch if sequence > before])

    def _recorded(self, new: list[Entry]) -> None:
        """Follow the device into the domain of a new scene, and tell the hub what came."""
        num_scenes = sum(isinstance(entry, Scene) for entry in new)
        if num_scenes:
            self.follow()
        for entry in new:
            if isinstance(entry, Malformed):
                self._hub.metrics.count_malformed(entry.kind)
        self._hub.recorded(num_samples=sum(isinstance(entry, Sample) for entry in new), num_scenes=num_scenes)

    def follow(self) -> None:
        """Look into which domain the device is put now, and send that one's newest version."""
        device = self._hub.store.device(self._name)
        if device is not None and device.domain != self.domain:
            self.domain = device.domain
            self.news.set()

    async def _push(self) -> None:
        while True:
            newest = self._hub.newest.get(self.domain)
            if newest is not None and newest.version > self._highest_version:
                self._check_revoked()
                signed = newest.signed
                await self._send(Version(manifest=signed.manifest, signature=signed.signature, payload=signed.payload))
                self._highest_version = newest.version
            await self.news.wait()
            self.news.clear()

    async def _teach(self) -> None:
        while True:
            while self._name in self._hub.labels:
                await self._quiet()
                if (waiting := self._hub.next_labels(self._name)) is None:
                    break
                self._check_revoked()
                await self._send(Labels(labels=waiting[0]))
                self._hub.metrics.count_labels("sent", waiting[1])
            await self.taught.wait()
            self.taught.clear()

    async def _quiet(self) -> None:
        """Wait until nothing is being sent, answered, or about to be acknowledged."""
        await asyncio.sleep(0)
        while self._sending.locked() or self._offloads or self._in_flight_bytes:
            await asyncio.sleep(QUIET_POLL_S)

    def _check_revoked(self) -> None:
        """End the session if the device was revoked since it began."""
        device = self._hub.store.device(self._name)
        if device is None or device.revoked_at is not None:
            raise LinkRefused("revoked", f"device {self._name} was revoked")

    async def _watch(self) -> None:
        """Wait for a reason to end that does not come from the peer."""
        await self._end.wait()
        if not self._hub.stopping.is_set():
            raise LinkRefused(
                "busy",
                "another session of this device took over; if that goes on, a second device has a copy of this one's "
                "state folder: remove device.key from it and enrol it with a new token",
            )

    # -- bytes -------------------------------------------------------------------------------------------------------

    async def _receive(self) -> bytes:
        event = await self._socket.receive()
        if event["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(event.get("code", 1005))
        data = event.get("bytes")
        if not isinstance(data, bytes):
            raise ProtocolError("a text message came; frames are binary")
        return data

    async def _send(self, message: Message, *, locked: bool = False) -> None:
        data = encode_frame(to_frame(message))
        async with asyncio.timeout(self._hub.limits.send_timeout_s):
            async with contextlib.nullcontext() if locked else self._sending:
                await self._socket.send_bytes(data)
        self._hub.metrics.count_bytes("down", PURPOSES.get(type(message), "control"), len(data))

    async def _refuse(self, code: str, message: str, retry_after_ms: int, *, why: str = "") -> None:
        """Tell the peer that it is refused; ``why`` is for our log where the peer need not know it."""
        if (more := self._hub.said.news(self._who, code)) is not None:
            log.warning("device %s: refused (%s): %s%s", self._who, code, why or message, more)
        self._hub.metrics.count_refusal(code)
        if self._is_proven and self._hub.sessions.get(self._who, self) is self:  # else its next session serves already
            self._hub.refused(self._who, code, message)
        with contextlib.suppress(WebSocketDisconnect, RuntimeError, TimeoutError):
            await self._send(Refusal(code=code, message=message[:400], retry_after_ms=retry_after_ms))

    async def _audit(self, kind: str, detail: str) -> None:
        """Only what an authenticated device did is written down, and only so much: a stranger changes nothing."""
        if self._device is not None and self._hub.may_audit(self._device.id):
            with contextlib.suppress(StorageError):
                await asyncio.wrap_future(
                    self._hub.store.audit(kind, self._device.id, detail[:400], now=self._hub.clock())
                )
