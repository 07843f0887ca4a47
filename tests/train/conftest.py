"""The traced networks as a fixture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("torch", reason="tracing needs the cloud extra")
pytest.importorskip("onnxscript", reason="tracing needs the cloud extra")


@pytest.fixture(scope="session")
def network() -> Callable[[str], Any]:
    """`traced.network`: small_cnn, one_norm, group_norm, resnet20, resnet18, mobilenet_v2 or vit_tiny, each traced once."""
    from traced import network

    return network
