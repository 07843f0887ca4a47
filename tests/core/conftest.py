"""Which coder a test runs with."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from codec_cases import ACCELERATORS

from littoral.core import rans_fast


@pytest.fixture(scope="class")  # set up for each test, and Hypothesis runs one many times within it
def use_reference(request: pytest.FixtureRequest) -> Iterator[bool]:
    """False while the parameter's accelerator alone can be imported."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ACCELERATORS:
            if name != request.param:
                patch.setitem(sys.modules, name, None)
        patch.setattr(rans_fast, "MANY_SLOTS", 0)
        yield request.param == "reference"
