"""The page on the payload says what the code does."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from littoral.core.codec import decode, encode
from littoral.core.codec_slots import MAX_PAYLOAD_BYTES
from littoral.core.codec_tables import (
    MAX_LEVELS,
    MAX_SYMBOLS,
    ChannelPrior,
    CodecTables,
    FrequencyTable,
)

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "reference" / "payload.md").read_text(encoding="utf-8")


def example_tables() -> CodecTables:
    prior = ChannelPrior(pmf=np.array([1.0, 2.0, 1.0]), first_value=-1)
    return CodecTables(height=1, width=4, levels=(FrequencyTable.from_priors([prior], max_bytes=100),))


def golden_tensors(kind: str) -> dict[str, NDArray[Any]]:
    golden = json.loads((Path(__file__).resolve().parents[1] / "golden" / f"codec-{kind}.json").read_text())
    return {name: np.array(value["values"], value["type"]) for name, value in golden["tensors"].items()}


def test_the_example_payload_is_what_the_code_writes_and_reads() -> None:
    block = re.search(r"^```hex\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert block is not None
    octets = [re.match(r"((?:[0-9a-f]{2} )*[0-9a-f]{2})(?: |$)", line) for line in block[1].splitlines()]
    example = bytes.fromhex("".join(match[1] for match in octets if match))
    tables, symbols = example_tables(), np.array([[[0, 1, 0, -3]]])
    for use_reference in (True, False):
        assert encode(symbols, tables, level=0, use_reference=use_reference) == example
        np.testing.assert_array_equal(decode(example, tables, use_reference=use_reference).symbols, symbols)
    assert f"are {len(example)} bytes" in PAGE
    assert all(str(count) in PAGE for count in tables.levels[0].counts.tolist())


def test_every_tensor_of_the_tables_is_on_the_page() -> None:
    kinds = (example_tables(), *(CodecTables.from_tensors(golden_tensors(kind)) for kind in ("contexts", "groups")))
    tensors = {name for tables in kinds for name in tables.to_tensors() if not name.startswith("level1")}
    names = {name.replace("level0", "level<i>") for name in tensors}
    assert set(re.findall(r"^\| `((?:grid|level)[^`]*)` \|", PAGE, re.MULTILINE)) == names


def test_the_limits_are_stated() -> None:
    assert f"a level, from 0 to {MAX_LEVELS - 1} at most" in " ".join(PAGE.split())
    assert f"1 to {MAX_PAYLOAD_BYTES:,}" in PAGE
    assert f"At most {MAX_SYMBOLS:,} symbols" in PAGE
