"""A cloud and devices as real processes, started by their own command lines, with bytes between them."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from littoral.core.arrays import Frame
from littoral.errors import LittoralError

_START_TIMEOUT_S = 60.0


def _environment() -> dict[str, str]:
    """One core is shared by all: threads must not spin."""
    return {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def _command(*args: str, macs_per_ms: float | None = None) -> list[str]:
    if macs_per_ms is not None:
        return [sys.executable, "-m", "littoral.bench.slow_edge", str(macs_per_ms), *args]
    return [sys.executable, "-m", "littoral.cli.main", *args]


class CloudProcess:
    """``littoral cloud`` on a free loopback port (or a given one, to come back where it was)."""

    def __init__(self, bundle: Path, state: Path, *, seed: int = 0, port: int = 0) -> None:
        self.state = state
        state.mkdir(parents=True, exist_ok=True)
        self._log = state.with_suffix(".log")
        told = state / "cloud.json"
        told.unlink(missing_ok=True)
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                _command(
                    "cloud", str(bundle), "--state", str(state), "--port", str(port), "--seed", str(seed), "--json"
                ),
                stdout=subprocess.DEVNULL,
                stderr=log,
                env=_environment(),
            )
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not told.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise LittoralError(f"the cloud did not start: {self._log.read_text()[-500:]}")
            time.sleep(0.05)
        self.url: str = json.loads(told.read_text())["url"]

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def pause(self) -> None:
        """SIGSTOP: it stands still, with all its connections open, until `resume`."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Go on after `pause`."""
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """SIGTERM, and wait."""
        self.resume()  # one that stands still would not hear it
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """SIGKILL, and wait."""
        self.process.kill()
        self.process.wait()


class DeviceProcess:
    """``littoral edge`` fed with raw frames on a pipe. Only frames go in: there is no way for a label to.

    Args:
        macs_per_ms: How fast it computes (`littoral.bench.slow_edge`); None: as this machine does.
    """

    def __init__(
        self,
        bundle: Path,
        state: Path,
        *,
        name: str,
        cloud_url: str,
        token: str | None,
        options: tuple[str, ...] = (),
        macs_per_ms: float | None = None,
        on_line: Callable[[dict[str, Any]], None],
    ) -> None:
        state.mkdir(parents=True, exist_ok=True)
        self._on_line = on_line
        self._log = state.with_suffix(".log")
        enrolment = () if token is None else ("--token", token)
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                _command(
                    *("edge", str(bundle), "--stdin", "frames", "--json", "--state", str(state)),
                    *("--cloud", cloud_url, "--name", name, *enrolment, *options),
                    macs_per_ms=macs_per_ms,
                ),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=_environment(),
            )
        self._reader = threading.Thread(target=self._read, name=f"reads-{name}", daemon=True)
        self._reader.start()

    def play(self, frame: Frame) -> None:
        """Hand one frame to the device.

        Raises:
            LittoralError: the device has gone.
        """
        assert self.process.stdin is not None
        data = frame.tobytes()
        try:
            self.process.stdin.write(struct.pack("<I", len(data)) + data)
            self.process.stdin.flush()
        except BrokenPipeError as error:
            raise LittoralError(f"a device ended: {self._log.read_text()[-500:]}") from error

    def finish(self, timeout_s: float = 60.0) -> int:
        """Close the pipe and wait until the device has answered, flushed and gone; its exit status."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        status = self.process.wait(timeout_s)
        self._reader.join(timeout_s)
        return status

    def kill(self) -> None:
        """SIGKILL, and wait."""
        self.process.kill()
        self.process.wait()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._on_line(json.loads(line))
