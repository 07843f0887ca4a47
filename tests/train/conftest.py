"""The traced networks as a fixture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("torch", reason="tracing needs the cloud extra")
pytest.importorskip("onnxscript", reason="tracing needs the cloud extra")


@pytest.fixture(scope="session")
def network() -> Callable[[str], Any]:
    """`traced.network`, by the names of its cases, from small_cnn to vit_tiny; each is traced once."""
    from traced import network

    return network
