"""The device's end of a session as a state machine: bytes and events in, actions out; no I/O, no clock, no thread.

    closed ── on_connected ──▶ waiting-challenge ── Challenge ──▶ waiting-welcome ── Welcome ──▶ open
       ▲                              │                                  │                        │
       └──────── on_disconnected, or anything the wire format or the state does not allow ────────┘

Durable messages keep the sequence that the outbox gave them. In a session they are sent in that order, each once,
beginning after ``Welcome.acked_sequence``; nothing is skipped, and nothing leaves the outbox before the cloud's
cumulative `Ack`. A message whose ack was lost is either covered by the next Welcome or sent again, and the cloud knows
it by (device, stream, sequence).

Requests (`Offload`) go at any time in an open session, need no credit, are never sent again, and end in exactly one
action: `Answered`, or `RequestFailed` when their time is up or the session ends. An answer to a request that is not
pending is counted and ignored: it came too late, twice, or from a cloud that makes things up. So are `Labels` that the
device did not say it takes. A picture is sent only in a session whose Welcome says that the cloud answers such.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from littoral.errors import LinkError, LinkRefused, ProtocolError
from littoral.wire.envelope import decode_frame, encode_frame, frame_type
from littoral.wire.messages import (
    MAX_DEADLINE_MS,
    MAX_SPLIT,
    NONCE_BYTES,
    TAKES_LABELS,
    TAKES_PICTURES,
    Ack,
    Challenge,
    Credit,
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

State = Literal["waiting-challenge", "waiting-welcome", "open", "closed"]


@dataclass(frozen=True)
class Send:
    """Send these bytes as one binary message. ``purpose`` is what they are counted under."""

    data: bytes
    purpose: str


@dataclass(frozen=True)
class Opened:
    """The session is open; the receiver verifies the envelope in the Welcome before it trusts anything else."""

    welcome: Welcome


@dataclass(frozen=True)
class AckedUpTo:
    """The cloud has committed every durable message up to and including ``sequence``; the outbox may forget them."""

    sequence: int


@dataclass(frozen=True)
class GotVersion:
    """A version came. Nothing of it was checked but its outer form."""

    version: Version


@dataclass(frozen=True)
class GotLabels:
    """The teacher's answers to samples came. Nothing of them was checked but their outer form."""

    labels: bytes


@dataclass(frozen=True)
class Close:
    """End the connection. ``retry_after_ms`` is what the cloud asked for: None if nothing, 0 for "not by yourself"."""

    error: LinkError
    retry_after_ms: int | None = None


@dataclass(frozen=True)
class Answered:
    """The cloud's word on a pending request, ``ok`` or not. Nothing of it was checked but its outer form."""

    answer: OffloadAnswer


@dataclass(frozen=True)
class RequestFailed:
    """A request has ended without the cloud's word.

    ``code`` is ``away`` (no session, or it has ended), ``timeout``, ``busy`` (as many are pending as may be), or
    ``no-pictures`` (this cloud does not say that it answers pictures, and was not sent one).
    """

    request: int
    code: Literal["away", "timeout", "busy", "no-pictures"]


Action = Send | Opened | AckedUpTo | GotVersion | GotLabels | Answered | RequestFailed | Close

MAX_REQUESTS = 8
"""Requests of one device that may be pending; the cloud has the same limit (`littoral.cloud.hub.Limits`)."""

MAX_RETRY_AFTER_MS = 3_600_000
"""No cloud sends a device away for longer than an hour: nobody could call it back."""

_DURABLE_PURPOSE = {Sample.TYPE: "sample", Receipt.TYPE: "receipt", Scene.TYPE: "scene"}


class DeviceLink:
    """One device's session with the cloud, through any number of connections.

    Args:
        device_id, bundle_digest, outbox_stream: What the device claims to be, all covered by the signature.
        highest_version: Gives the highest affine version seen so far, asked at each Hello.
        sign: Signs the bytes of `hello_message` with the device key.
        max_requests: How many requests may be pending.
        takes: As in the `Hello`.
    """

    def __init__(
        self,
        *,
        device_id: str,
        bundle_digest: bytes,
        outbox_stream: int,
        highest_version: Callable[[], int],
        sign: Callable[[bytes], bytes],
        max_requests: int = MAX_REQUESTS,
        takes: int = 0,
    ) -> None:
        self.outbox_stream = outbox_stream
        self._device_id = device_id
        self._bundle_digest = bundle_digest
        self._highest_version = highest_version
        self._sign = sign
        self._max_requests, self._takes = max_requests, takes
        self._pending: dict[int, float] = {}
        self._highest_request = 0
        self.ignored_answers = 0
        """Answers to requests that were not pending."""
        self.ignored_labels = 0
        """Messages of labels that nobody takes."""
        self.takes_pictures = False
        """Whether the cloud of this session answers pictures."""
        self.state: State = "closed"
        self._forget_flight()

    def _forget_flight(self) -> None:
        self._credit_bytes = 0
        self._in_flight: deque[tuple[int, int]] = deque()
        self.in_flight_bytes = 0
        self.acked_sequence = 0
        self.sent_sequence = 0
        """The last sequence sent, or acknowledged by the Welcome, in this session: `offer` what comes after it."""

    # What happens to the link.

    def on_connected(self) -> list[Action]:
        """A connection stands; the cloud speaks first."""
        actions = self.on_disconnected()
        self.state = "waiting-challenge"
        return actions

    def on_disconnected(self) -> list[Action]:
        """The connection is gone; what was in flight may or may not have arrived. Pending requests fail at once."""
        self._forget_flight()
        self.state, self.takes_pictures = "closed", False
        failed, self._pending = self._pending, {}
        return [RequestFailed(request, "away") for request in failed]

    def on_bytes(self, data: bytes) -> list[Action]:
        """One binary message came from the cloud. Never raises for what is in it."""
        if self.state == "closed":
            return []
        try:
            return self._on_message(from_frame(decode_frame(data)))
        except ProtocolError as error:
            return self._close(error)

    def _on_message(self, message: Message) -> list[Action]:
        if isinstance(message, Refusal):
            refused = LinkRefused(message.code, f"the cloud refuses this device ({message.code}): {message.message}")
            return self._close(refused, message.retry_after_ms)
        if self.state == "waiting-challenge":
            return self._on_challenge(expect(message, Challenge))
        if self.state == "waiting-welcome":
            return self._on_welcome(expect(message, Welcome))
        if isinstance(message, Ack):
            return self._on_ack(message.sequence)
        if isinstance(message, Credit):
            self._credit_bytes = message.credit_bytes
            return []
        if isinstance(message, OffloadAnswer):
            if self._pending.pop(message.request, None) is None:
                self.ignored_answers += 1
                return []
            return [Answered(message)]
        if isinstance(message, Labels):
            if not self._takes & TAKES_LABELS:
                self.ignored_labels += 1
                return []
            return [GotLabels(message.labels)]
        return [GotVersion(expect(message, Version))]

    def _on_challenge(self, challenge: Challenge) -> list[Action]:
        if len(challenge.nonce) != NONCE_BYTES:
            raise ProtocolError(f"a challenge of {len(challenge.nonce)} bytes came, expected {NONCE_BYTES}")
        claim = hello_message(challenge.nonce, self._device_id, self._bundle_digest, self.outbox_stream)
        hello = Hello(
            device_id=self._device_id,
            bundle_digest=self._bundle_digest,
            highest_version=self._highest_version(),
            outbox_stream=self.outbox_stream,
            signature=self._sign(claim),
            takes=self._takes,
        )
        self.state = "waiting-welcome"
        return [_send(hello, "hello")]

    def _on_welcome(self, welcome: Welcome) -> list[Action]:
        self.state = "open"
        self._credit_bytes = welcome.credit_bytes
        self.takes_pictures = bool(welcome.takes & TAKES_PICTURES)
        self.acked_sequence = self.sent_sequence = welcome.acked_sequence
        return [Opened(welcome), AckedUpTo(welcome.acked_sequence)]

    def _on_ack(self, sequence: int) -> list[Action]:
        if sequence > self.sent_sequence:
            raise ProtocolError(f"an ack of {sequence} came, only messages up to {self.sent_sequence} were sent")
        while self._in_flight and self._in_flight[0][0] <= sequence:
            self.in_flight_bytes -= self._in_flight.popleft()[1]
        if sequence <= self.acked_sequence:
            return []
        self.acked_sequence = sequence
        return [AckedUpTo(sequence)]

    def _close(self, error: LinkError, retry_after_ms: int | None = None) -> list[Action]:
        return [*self.on_disconnected(), Close(error, retry_after_ms)]

    # What the device wants to say.

    @property
    def credit_left_bytes(self) -> int:
        """How many bytes of credit are left; 0 when the link is not open or the cloud says hold.

        A message is sent while any credit is left, so the last one may overdraw it and a large one is never stuck.
        """
        return max(0, self._credit_bytes - self.in_flight_bytes) if self.state == "open" else 0

    def offer(self, durable: Sequence[tuple[int, bytes]]) -> list[Action]:
        """Send what the credit allows of these messages.

        Args:
            durable: ``(sequence, frame bytes)`` in order, without a gap after `sent_sequence`. What this session has
                sent already is passed over.
        Raises:
            ValueError: the next sequence is not the one after `sent_sequence`; the outbox broke its promise.
        """
        actions: list[Action] = []
        for sequence, data in durable:
            if sequence <= self.sent_sequence:
                continue
            if self.credit_left_bytes <= 0:
                break
            if sequence != self.sent_sequence + 1:
                raise ValueError(f"message {sequence} was offered after {self.sent_sequence}; a link never skips")
            self.sent_sequence = sequence
            self._in_flight.append((sequence, len(data)))
            self.in_flight_bytes += len(data)
            actions.append(Send(data, _DURABLE_PURPOSE.get(frame_type(data), "durable")))
        return actions

    @property
    def num_pending(self) -> int:
        """Requests that have not ended."""
        return len(self._pending)

    def offload(self, request: Offload, *, expires_ms: float) -> list[Action]:
        """Ask the cloud to finish a frame, now or never.

        Args:
            request: Numbered higher than every one before it, through all sessions, so that an answer is to one only.
            expires_ms: When the device gives up, on the clock of `expire`.
        Raises:
            ValueError: the number was used, or a field is out of its range.
            ProtocolError: the payload makes a larger frame than a peer reads.
        """
        if request.request <= self._highest_request:
            raise ValueError(f"request {request.request} came after {self._highest_request}; numbers only rise")
        if not (1 <= request.deadline_ms <= MAX_DEADLINE_MS and 0 <= request.split <= MAX_SPLIT):
            raise ValueError(
                f"a request needs a deadline of 1 to {MAX_DEADLINE_MS} ms and a split point of 0 to {MAX_SPLIT}, got "
                f"{request.deadline_ms} and {request.split}"
            )
        sent = _send(request, "offload")
        self._highest_request = request.request
        if self.state != "open":
            return [RequestFailed(request.request, "away")]
        if request.coding and not self.takes_pictures:
            return [RequestFailed(request.request, "no-pictures")]
        if len(self._pending) >= self._max_requests:
            return [RequestFailed(request.request, "busy")]
        self._pending[request.request] = expires_ms
        return [sent]

    def expire(self, now_ms: float) -> list[Action]:
        """Give up the requests whose time is up."""
        over = [request for request, expires_ms in self._pending.items() if expires_ms <= now_ms]
        for request in over:
            del self._pending[request]
        return [RequestFailed(request, "timeout") for request in over]

    def report(self, status: Status) -> list[Action]:
        """Send the device's counters if the link is open; they are not kept otherwise."""
        return [_send(status, "status")] if self.state == "open" else []


def _send(message: Message, purpose: str) -> Send:
    return Send(encode_frame(to_frame(message)), purpose)


class Backoff:
    """Full-jitter exponential back-off: the n-th wait is uniform in ``0 .. min(longest_s, first_s * 2**n)``.

    Args:
        first_s: The ceiling of the first wait in seconds.
        longest_s: No ceiling is above this.
        rng: Where the jitter comes from.
    """

    def __init__(self, *, rng: random.Random, first_s: float = 1.0, longest_s: float = 120.0) -> None:
        if not 0 < first_s <= longest_s:
            raise ValueError(f"back-off needs 0 < first_s <= longest_s, got {first_s} and {longest_s}")
        self._rng = rng
        self._first_s = first_s
        self._longest_s = longest_s
        self._failures = 0

    def reset(self) -> None:
        """A session was opened: the next wait is short again."""
        self._failures = 0

    def next_wait_s(self, retry_after_ms: int | None = None) -> float | None:
        """Seconds to wait before the next attempt; None means stop, a person must act.

        Args:
            retry_after_ms: What the cloud asked for. It is waited for in full, up to `MAX_RETRY_AFTER_MS`, and the
                jitter comes on top, so a fleet that was sent away together does not come back together. 0 gives None.
        """
        if retry_after_ms == 0:
            return None
        ceiling_s = min(self._longest_s, self._first_s * 2.0 ** min(self._failures, 32))
        self._failures += 1
        return min(retry_after_ms or 0, MAX_RETRY_AFTER_MS) / 1000 + self._rng.uniform(0.0, ceiling_s)
