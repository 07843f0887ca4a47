"""The traced networks as a fixture."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest

pytest.importorskip("torch", reason="tracing needs the cloud extra")
if find_spec("onnxscript") is None:  # not imported: it takes seconds, and a worker that traces nothing needs none of it
    pytest.skip("tracing needs the cloud extra", allow_module_level=True)

from made_once import run_folder


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """`traced.network`, by the names of its cases, from small_cnn to vit_tiny; each is traced once a run."""
    import traced

    traced.SHARED = run_folder(tmp_path_factory)
    return traced.network
