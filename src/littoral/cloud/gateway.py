"""The HTTP and WebSocket face of the cloud. Stateless: whatever matters is in the record before anyone is told.

WS   /v1/session               a device's session
POST /v1/enrol                 trade a one-time token for membership
GET  /v1/artefacts/{sha256}    a shipped version's payload
GET  /v1/fleet                 devices and versions as JSON
GET  /v1/events                the dashboard's sections, once a second, as server-sent events
GET  /                         the dashboard
GET  /metrics  /healthz
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from littoral.bundle import PublicKey
from littoral.cloud.dashboard import render_page, render_sections
from littoral.cloud.fleet import fleet_document, measure_fleet
from littoral.cloud.hub import Hub
from littoral.cloud.keys import token_digest
from littoral.cloud.session import Session
from littoral.errors import LinkRefused, StorageError

MAX_ENROL_BYTES = 4_096
MAX_NAME_CHARS = 64
BODY_TIMEOUT_S = 10.0
EVENT_INTERVAL_S = 1.0
_SECURITY = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store"}


class RequestError(Exception):
    """A request that cannot be served; becomes JSON ``{"code", "message"}`` with a status."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


def make_app(hub: Hub) -> Starlette:
    """The ASGI application over a hub."""
    gateway = _Gateway(hub)
    return Starlette(
        routes=[
            WebSocketRoute("/v1/session", gateway.session),
            Route("/v1/enrol", gateway.enrol, methods=["POST"]),
            Route("/v1/artefacts/{sha256}", gateway.artefact),
            Route("/v1/fleet", gateway.fleet),
            Route("/v1/events", gateway.events),
            Route("/metrics", gateway.metrics),
            Route("/healthz", gateway.health),
            Route("/", gateway.dashboard),
        ],
        exception_handlers={
            RequestError: _on_request_error,
            LinkRefused: _on_link_refused,
            StorageError: _on_storage_error,
        },
    )


class _Gateway:
    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    async def session(self, socket: WebSocket) -> None:
        await Session(socket, self._hub).run()

    async def enrol(self, request: Request) -> Response:
        token, name, public_key = _enrol_fields(await _read_json(request))
        try:
            digest = token_digest(token)
        except ValueError as error:
            raise LinkRefused("bad-token", str(error)) from error
        hub = self._hub
        future = hub.store.redeem(digest, public_key=public_key, name=name, cohort=hub.ledger.cohort, now=hub.clock())
        device = await asyncio.wrap_future(future)
        return JSONResponse(
            {
                "device_id": device.id,
                "cohort": device.cohort,
                "release_key": hub.release_key,
                "bundle_digest": hub.bundle_digest.hex(),
            },
            headers=_SECURITY,
        )

    async def artefact(self, request: Request) -> Response:
        try:
            digest = bytes.fromhex(request.path_params["sha256"])
        except ValueError as error:
            raise RequestError(400, "bad-request", "an artefact is named by 64 hexadecimal digits") from error
        payload = self._hub.ledger.payload(digest)
        if payload is None:
            raise RequestError(404, "not-found", "no shipped version has a payload of this SHA-256")
        headers = {"ETag": f'"{digest.hex()}"', "Cache-Control": "public, max-age=31536000, immutable"}
        self._hub.metrics.count_bytes("down", "artefact", len(payload))
        return Response(payload, media_type="application/octet-stream", headers={**_SECURITY, **headers})

    async def fleet(self, request: Request) -> Response:
        return JSONResponse(await asyncio.to_thread(fleet_document, self._hub), headers=_SECURITY)

    async def metrics(self, request: Request) -> Response:
        with contextlib.suppress(StorageError):  # then these stay as they were, and the others are told all the same
            await asyncio.to_thread(measure_fleet, self._hub)
        return Response(self._hub.metrics.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def health(self, request: Request) -> Response:
        return PlainTextResponse("ok\n", headers=_SECURITY)

    async def dashboard(self, request: Request) -> Response:
        nonce = secrets.token_urlsafe(16)
        policy = (
            f"default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; connect-src 'self'; "
            "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        page = render_page(await asyncio.to_thread(fleet_document, self._hub), nonce)
        return HTMLResponse(page, headers={**_SECURITY, "Content-Security-Policy": policy})

    async def events(self, request: Request) -> Response:
        if self._hub.num_watchers >= self._hub.limits.max_watchers:
            raise RequestError(503, "busy", "as many dashboards are open as this cloud serves; close one")
        return StreamingResponse(self._event_stream(), media_type="text/event-stream", headers=_SECURITY)

    async def _event_stream(self) -> AsyncIterator[str]:
        hub = self._hub
        hub.num_watchers += 1
        try:
            while not hub.stopping.is_set():
                document = await asyncio.to_thread(fleet_document, hub)
                yield f"data: {json.dumps(render_sections(document))}\n\n"
                try:
                    await asyncio.wait_for(hub.stopping.wait(), EVENT_INTERVAL_S)
                except TimeoutError:
                    continue
        finally:
            hub.num_watchers -= 1


async def _read_json(request: Request) -> object:
    """A small JSON body; its size is checked while it is read."""
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_ENROL_BYTES:
                    raise RequestError(413, "too-large", f"an enrolment has at most {MAX_ENROL_BYTES} bytes")
    except ClientDisconnect as error:  # it would be logged with its trace, which is longer than the request
        raise RequestError(400, "bad-request", "the connection ended before the body did") from error
    except TimeoutError as error:
        raise RequestError(408, "timeout", f"the body did not arrive within {BODY_TIMEOUT_S:g} s") from error
    try:
        parsed: object = json.loads(bytes(body))
    except (ValueError, RecursionError) as error:
        raise RequestError(400, "bad-request", "the body is not JSON") from error
    return parsed


def _enrol_fields(document: object) -> tuple[str, str, PublicKey]:
    fields = document if isinstance(document, dict) else {}
    token, name, key = (fields.get(field) for field in ("token", "name", "public_key"))
    if not isinstance(token, str) or not isinstance(name, str) or not isinstance(key, str):
        raise RequestError(400, "bad-request", "an enrolment is a JSON object with text token, name and public_key")
    if not 0 < len(name) <= MAX_NAME_CHARS or not name.isprintable():
        raise RequestError(400, "bad-request", f"a device's name has 1 to {MAX_NAME_CHARS} printable characters")
    try:
        return token, name, PublicKey.from_hex(key)
    except ValueError as error:
        raise RequestError(400, "bad-request", "public_key is 64 hexadecimal digits (Ed25519)") from error


def _problem(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse(
        {"code": code, "message": message}, status_code=status, headers={**_SECURITY, **(headers or {})}
    )


async def _on_request_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return _problem(error.status, error.code, str(error))


async def _on_link_refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, LinkRefused)
    return _problem(403, error.code, str(error))


async def _on_storage_error(request: Request, error: Exception) -> Response:
    return _problem(503, "storage", "the cloud's record cannot be used now; try again later", {"Retry-After": "10"})
