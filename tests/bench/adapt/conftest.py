"""A small world for the product: the tiny bundle, and its frames in a worse light."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the bench needs its extra")
pytest.importorskip("starlette", reason="the bench needs its extra")
pytest.importorskip("onnxruntime", reason="the bench needs its extra")

from littoral.bench.method import Setup
from littoral.bundle import Bundle


@pytest.fixture(scope="session")
def small(tiny_bundle: Path) -> Bundle:
    return Bundle.open(tiny_bundle, require_cloud=True)


@pytest.fixture
def setup(small: Bundle) -> Callable[..., Setup]:
    """A setup with the tiny bundle; changes by keyword."""

    def nothing() -> Any:
        raise AssertionError("the product takes its networks from the bundle")

    def make(**changes: Any) -> Setup:
        frames = small.load_tensors(small.manifest.replay_file)["frames"]
        values = {"seed": 0, "batch_size": 16, "source_frames": frames, **changes}
        return Setup(bundle=small, student=nothing, teacher=nothing, **values)

    return make


@pytest.fixture(scope="session")
def world(small: Bundle) -> tuple[np.ndarray, np.ndarray]:
    """Probe frames at a third of their contrast, noisy, and the labels that the source model gave the clear ones."""
    frames, labels = small.probe
    rng = np.random.default_rng(1)
    picked = rng.integers(0, len(frames), 256)
    dim = 90 + 0.33 * frames[picked].astype(np.float32) + rng.normal(0, 6, (256, *frames.shape[1:]))
    return np.clip(dim, 0, 255).astype(np.uint8), labels[picked]
