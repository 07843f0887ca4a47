"""A local HTTP endpoint for programs in other languages: an image goes in, JSON comes out.

POST /infer    an image file, or H * W * C raw bytes      -> the answer
GET  /status                                              -> the device's counters

It is for programs. A web page that is open in a browser on the same machine could reach it, too: what says that it
comes from a page, or calls this machine by another name than its own, is refused.
"""

from __future__ import annotations

import ipaddress
import json
import re
import threading
import urllib.parse
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from littoral.core.detections import Detections
from littoral.core.metrics import LabelMap
from littoral.edge.answer import Answer
from littoral.edge.dense import DenseAnswer
from littoral.edge.device import Device
from littoral.edge.sources import MAX_IMAGE_BYTES, decode_frame
from littoral.errors import FrameError, LittoralError, ModelOutputError

_BODY_TIMEOUT_S = 10.0
_LENGTH = re.compile("[0-9]{1,12}")


def answer_as_dict(answer: Answer | DenseAnswer, class_names: Sequence[str]) -> dict[str, Any]:
    """An answer for JSON.

    Everything but a classifier's scores, which a thousand classes would make long. In the place of a dense answer:
    ``boxes`` (corners in pixels), ``scores``, ``labels`` and ``names``, the surest first; or ``pixels``, the number of
    pixels of each class that there is, by name, the most first.
    """
    fields = answer._asdict()
    fields["latency_ms"] = round(answer.latency_ms, 4)
    if isinstance(answer, Answer):
        del fields["logits"]
        for name in ("confidence", "entropy_nats"):
            fields[name] = round(fields[name], 6)
        return fields
    found = fields.pop("answer")
    if not isinstance(found, Detections):
        return {**fields, "pixels": pixels_by_class(found, class_names)}
    return {
        **fields,
        "boxes": [[round(corner, 2) for corner in box] for box in found.boxes_N4.tolist()],
        "scores": [round(score, 4) for score in found.scores_N.tolist()],
        "labels": found.labels_N.tolist(),
        "names": [class_names[label] for label in found.labels_N],
    }


def pixels_by_class(labels_HW: LabelMap, class_names: Sequence[str]) -> dict[str, int]:
    """How many pixels a label map gives to each class that it has, the most first."""
    counts = np.bincount(labels_HW.ravel(), minlength=len(class_names))
    return {class_names[label]: int(counts[label]) for label in np.argsort(-counts, kind="stable") if counts[label]}


def is_here(host: str, *names: str) -> bool:
    """Whether a ``Host`` header has an address, ``localhost`` or one of ``names``.

    A page whose own name has been made to point here would say that name.
    """
    try:
        name = urllib.parse.urlsplit(f"//{host}").hostname or ""
        if name not in ("localhost", *names):
            ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class Endpoint:
    """Serves a device on a loopback port.

    Args:
        port: 0 for any free one; `port` tells.
    Raises:
        LittoralError: the port is in use.
    """

    def __init__(self, device: Device, *, host: str = "127.0.0.1", port: int = 0, resize: bool = False) -> None:
        lock = threading.Lock()  # a device answers one frame at a time

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = _BODY_TIMEOUT_S

            def do_GET(self) -> None:
                if not self._from_a_program():
                    return None
                if self.path != "/status":
                    return self._reply(404, {"error": f"there is no {self.path}; GET /status or POST /infer"})
                return self._reply(200, device.status()._asdict())

            def do_POST(self) -> None:
                if not self._from_a_program():
                    return None
                length = self.headers.get("Content-Length", "")
                if self.path != "/infer" or not _LENGTH.fullmatch(length) or int(length) > MAX_IMAGE_BYTES:
                    self.close_connection = True  # the body was not read
                    wanted = f"POST /infer with a Content-Length of at most {MAX_IMAGE_BYTES}, the image as the body"
                    code = 404 if self.path != "/infer" else 411 if "Content-Length" not in self.headers else 413
                    return self._reply(code, {"error": wanted})
                data = self.rfile.read(int(length))
                spec = device.bundle.manifest.input
                try:
                    frame = decode_frame(data, spec, "the image", resize=resize)
                    with lock:
                        answer = device.infer(frame)
                    return self._reply(200, answer_as_dict(answer, device.bundle.manifest.class_names))
                except FrameError as error:
                    return self._reply(400, {"error": str(error)})
                except ModelOutputError as error:
                    return self._reply(500, {"error": str(error)})

            def _from_a_program(self) -> bool:
                if "Origin" not in self.headers and is_here(self.headers.get("Host", "localhost"), host):
                    return True
                self.close_connection = True  # the body was not read
                told = "this is for programs and not for web pages; send no Origin, and an address or localhost as Host"
                self._reply(403, {"error": told})
                return False

            def _reply(self, code: int, document: dict[str, Any]) -> None:
                body = json.dumps(document).encode()
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Nothing: answers are not news."""

        try:
            self._server = ThreadingHTTPServer((host, port), Handler)
        except (OSError, OverflowError) as error:
            why = error.strerror if isinstance(error, OSError) else "ports are 0 to 65535"
            raise LittoralError(
                f"port {port} on {host} cannot be opened ({why}); stop what uses it, or give another with --http"
            ) from error
        self._server.daemon_threads = True
        self._served = False
        self.host, self.port = host, int(self._server.server_address[1])

    def serve(self) -> None:
        """Answer until `close` is called from another thread."""
        self._served = True
        self._server.serve_forever(poll_interval=0.2)

    def close(self) -> None:
        """End `serve` and give up the port."""
        if self._served:  # else it would wait for a loop that never ran
            self._server.shutdown()
        self._server.server_close()
