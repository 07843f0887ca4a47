"""What the workers of one run share: made by the first that needs it, kept in the run's own temporary folder."""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]


def run_folder(factory: pytest.TempPathFactory) -> Path:
    """The same folder for all workers of a run, and another one for each run."""
    own = factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@contextlib.contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Others wait for whoever works on a path. Its end, however it comes, lets the next one in."""
    if fcntl is None:  # two at once do the same work, no more
        yield
        return
    with path.with_suffix(".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def made_once(path: Path, make: Callable[[], Any]) -> Any:
    """What a file of this run holds, else what ``make`` gives, put there for the others."""
    with one_at_a_time(path):
        if path.exists():
            return pickle.loads(path.read_bytes())  # noqa: S301  # our own, of this run
        made = make()
        draft = path.with_suffix(f".{os.getpid()}")
        draft.write_bytes(pickle.dumps(made))
        draft.replace(path)
        return made


def keep_the_exporters_operators() -> None:
    """Let torch read its table of ONNX operators once: half of what a small network's export takes is to read it again.

    The table is the same for each export and nothing here adds to it. Where torch keeps it elsewhere, exports are slow.
    """
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        read = ONNXRegistry.from_torchlib
    except (ImportError, AttributeError):
        return
    if not isinstance(ONNXRegistry.__dict__["from_torchlib"], staticmethod):
        ONNXRegistry.from_torchlib = staticmethod(functools.cache(read))  # type: ignore[assignment]
