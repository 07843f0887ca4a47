"""A WebSocket connection that counts its bytes where they meet the socket: frames, masks, handshake and pings."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol, cast

from websockets.asyncio.client import ClientConnection

from littoral.wire.envelope import MAX_FRAME_BYTES

MAX_UNSENT_BYTES = 4 * MAX_FRAME_BYTES
"""Of what we send ourselves about one frame waits at a time."""


class Tally(Protocol):
    """Where the bytes are added up."""

    bytes_up: int
    bytes_down: int


class _CountedTransport:
    """An asyncio transport that counts what is written to it."""

    def __init__(self, transport: asyncio.Transport, tally: Tally) -> None:
        self._transport, self._tally = transport, tally

    def write(self, data: bytes) -> None:
        self._tally.bytes_up += len(data)
        self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class CountedConnection(ClientConnection):
    """A WebSocket whose bytes are counted where they meet the socket."""

    def __init__(self, *args: Any, tally: Tally, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._tally = tally

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        counted = _CountedTransport(cast(asyncio.Transport, transport), self._tally)
        super().connection_made(cast(asyncio.Transport, counted))

    def data_received(self, data: bytes) -> None:
        self._tally.bytes_down += len(data)
        super().data_received(data)
        if self.transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            self.transport.abort()  # it pings and reads no answer, which would fill the memory
