"""The local endpoint: an image goes in, JSON comes out, and what is wrong is told in JSON."""

from __future__ import annotations

import http.client
import io
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from littoral.bundle import Bundle
from littoral.edge.device import Device
from littoral.edge.device_config import DeviceConfig
from littoral.edge.http import Endpoint, is_here
from littoral.edge.sources import MAX_IMAGE_BYTES
from littoral.errors import LittoralError, ModelOutputError


@pytest.fixture(scope="module")
def tiny(tiny_bundle: Path) -> Bundle:
    return Bundle.open(tiny_bundle)


@pytest.fixture(scope="module")
def device(tiny: Bundle) -> Iterator[Device]:
    with Device(tiny, config=DeviceConfig(adapt_statistics=False)) as device:
        yield device


@pytest.fixture(scope="module")
def endpoint(device: Device) -> Iterator[Endpoint]:
    endpoint = Endpoint(device)
    thread = threading.Thread(target=endpoint.serve)
    thread.start()
    yield endpoint
    endpoint.close()
    thread.join(10)
    assert not thread.is_alive()


def ask(endpoint: Endpoint, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(endpoint.host, endpoint.port, timeout=20)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        assert answer.headers["Content-Type"] == "application/json"
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def png(frame: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(frame[..., 0]).save(out, format="PNG")
    return out.getvalue()


@pytest.mark.parametrize("coding", ["raw", "png"])
def test_a_frame_is_answered_as_the_device_answers(tiny: Bundle, endpoint: Endpoint, coding: str) -> None:
    frames, labels = tiny.probe
    for frame, label in zip(frames[:4], labels[:4], strict=True):
        code, answer = ask(endpoint, "POST", "/infer", frame.tobytes() if coding == "raw" else png(frame))
        assert code == 200
        assert (answer["label"], answer["name"]) == (label, tiny.manifest.class_names[label])
        assert set(answer) == {
            "frame_id", "label", "name", "confidence", "entropy_nats", "version", "cloud", "latency_ms",
            "source", "degraded", "reason", "exit_index", "way", "compute_share",
        }  # fmt: skip


@pytest.mark.parametrize(("method", "path"), [("POST", "/infer"), ("GET", "/status")])
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://page.example"},
        {"Origin": "null", "Content-Type": "text/plain"},
        {"Host": "page.example:8080"},
        {"Host": "127.0.0.1.page.example"},
        {"Host": "[::1"},
        {"Host": ""},
    ],
    ids=["another-site", "a-sandboxed-page", "a-name-made-to-point-here", "a-name-like-it", "no-host", "empty-host"],
)
def test_a_web_page_learns_nothing_and_shows_the_device_nothing(
    device: Device, endpoint: Endpoint, headers: dict[str, str], method: str, path: str
) -> None:
    before, frame = device.status().frames, np.zeros((16, 16, 1), np.uint8)
    code, answer = ask(endpoint, method, path, frame.tobytes() if method == "POST" else None, **headers)
    assert (code, list(answer)) == (403, ["error"])
    assert device.status().frames == before


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:1", "LOCALHOST", "192.0.2.7:80", "[::1]:8080"])
def test_a_program_may_call_the_device_by_any_address(endpoint: Endpoint, host: str) -> None:
    assert ask(endpoint, "GET", "/status", Host=host)[0] == 200


def test_a_device_that_is_given_a_name_is_called_by_it() -> None:
    assert is_here("camera.local:80", "camera.local")
    assert not is_here("camera.local:80", "127.0.0.1")


def test_the_status_is_the_devices(device: Device, endpoint: Endpoint) -> None:
    code, status = ask(endpoint, "GET", "/status")
    assert (code, status) == (200, json.loads(json.dumps(device.status()._asdict())))


@pytest.mark.parametrize(
    ("method", "path", "body", "code", "told"),
    [
        ("POST", "/infer", b"no image", 400, "is not a readable PNG"),
        ("POST", "/infer", b"\0" * 255, 400, "a raw frame has 256 bytes (16 x 16 x 1), 255 came"),
        ("POST", "/infer", b"", 400, "is not a readable PNG"),
        ("POST", "/infer", png(np.zeros((4, 4, 1), np.uint8)), 400, "the image is 4 x 4, the bundle takes 16 x 16"),
        ("POST", "/else", b"x", 404, "POST /infer with a Content-Length"),
        ("GET", "/", None, 404, "there is no /; GET /status or POST /infer"),
    ],
    ids=["no-image", "raw-too-short", "empty", "size", "post-elsewhere", "get-elsewhere"],
)
def test_what_is_wrong_is_told(
    endpoint: Endpoint, method: str, path: str, body: bytes | None, code: int, told: str
) -> None:
    came, answer = ask(endpoint, method, path, body)
    assert came == code
    assert told in answer["error"]


@pytest.mark.parametrize(
    "length",
    [str(MAX_IMAGE_BYTES + 1), "9" * 5000, "-1", "\xb2", "1.5", ""],
    ids=["too-large", "digits", "negative", "superscript", "fraction", "empty"],
)
def test_a_length_that_cannot_be_is_refused_without_reading(endpoint: Endpoint, length: str) -> None:
    connection = http.client.HTTPConnection(endpoint.host, endpoint.port, timeout=20)
    try:
        connection.putrequest("POST", "/infer")
        connection.putheader("Content-Length", length)
        connection.endheaders()
        answer = connection.getresponse()
        assert answer.status == 413
        assert f"at most {MAX_IMAGE_BYTES}" in json.loads(answer.read())["error"]
    finally:
        connection.close()


def test_a_body_of_unsaid_length_is_told_to_say_it(endpoint: Endpoint) -> None:
    connection = http.client.HTTPConnection(endpoint.host, endpoint.port, timeout=20)
    try:
        connection.putrequest("POST", "/infer")
        connection.putheader("Transfer-Encoding", "chunked")
        connection.endheaders()
        answer = connection.getresponse()
        assert answer.status == 411
        assert "the image as the body" in json.loads(answer.read())["error"]
    finally:
        connection.close()


def test_an_output_that_is_not_finite_is_the_servers_fault(
    tiny: Bundle, device: Device, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(frame: object) -> None:
        raise ModelOutputError("affine version 3 gave an output that is not finite")

    monkeypatch.setattr(device, "infer", broken)
    code, answer = ask(endpoint, "POST", "/infer", tiny.probe[0][0].tobytes())
    assert (code, answer) == (500, {"error": "affine version 3 gave an output that is not finite"})


def test_many_at_once_are_answered_one_at_a_time(tiny: Bundle, endpoint: Endpoint) -> None:
    frames, labels = tiny.probe
    answers: dict[int, Any] = {}

    def one(i: int) -> None:
        answers[i] = ask(endpoint, "POST", "/infer", frames[i].tobytes())[1]

    threads = [threading.Thread(target=one, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert [answers[i]["label"] for i in range(8)] == labels[:8].tolist()
    assert len({answer["frame_id"] for answer in answers.values()}) == 8


def test_one_connection_serves_many_frames(tiny: Bundle, endpoint: Endpoint) -> None:
    connection = http.client.HTTPConnection(endpoint.host, endpoint.port, timeout=20)
    try:
        for body, code in ((tiny.probe[0][0].tobytes(), 200), (b"bad", 400), (tiny.probe[0][1].tobytes(), 200)):
            connection.request("POST", "/infer", body)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == code
    finally:
        connection.close()


def test_a_port_in_use_is_one_error_that_says_what_to_do(device: Device) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            LittoralError, match=rf"port {port} on 127.0.0.1 cannot be opened .* give another with --http"
        ):
            Endpoint(device, port=port)


def test_a_port_that_is_none_is_the_same_error(device: Device) -> None:
    with pytest.raises(LittoralError, match=r"port 70000 on 127.0.0.1 cannot be opened \(ports are 0 to 65535\)"):
        Endpoint(device, port=70_000)


def test_an_endpoint_that_never_served_can_be_closed(device: Device) -> None:
    Endpoint(device).close()
