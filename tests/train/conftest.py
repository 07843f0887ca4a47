"""The traced networks as a fixture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("torch", reason="tracing needs the cloud extra")
pytest.importorskip("onnxscript", reason="tracing needs the cloud extra")


from made_once import keep_the_exporters_operators, run_folder

keep_the_exporters_operators()


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """`traced.network`, by the names of its cases, from small_cnn to vit_tiny; each is traced once a run."""
    import traced

    traced.SHARED = run_folder(tmp_path_factory)
    return traced.network
