"""The pages on the formats say what the code does."""

from __future__ import annotations

import dataclasses
import re
import typing
from pathlib import Path

import numpy as np
import pytest

from littoral.bundle import (
    Envelope,
    ExitPromise,
    ExitSpec,
    InputSpec,
    Manifest,
    ProbeSpec,
    Segment,
    SplitSpec,
    StatisticsSpec,
    TorchModel,
    VersionManifest,
)
from littoral.core.affine import NormLayer
from littoral.core.answers import decode_answer
from littoral.core.detections import Detections
from littoral.core.sample_labels import MAX_LABELS, MAX_LABELS_BYTES, decode_labels, encode_label, encode_labels
from littoral.core.tasks import Detection
from littoral.wire.envelope import MAX_FRAME_BYTES, decode_frame, encode_frame
from littoral.wire.messages import OFFLOAD_CODES, Ack, DurableMessage, Message, from_frame, to_frame

REFERENCE = Path(__file__).resolve().parents[2] / "docs" / "reference"
WIRE = (REFERENCE / "wire.md").read_text(encoding="utf-8")
BUNDLE = (REFERENCE / "bundle.md").read_text(encoding="utf-8")


def message_row(kind: type[Message]) -> str:
    """The row that the page must have for a message."""
    hints = typing.get_type_hints(kind)
    fields = ", ".join(f"{field.name}: {hints[field.name].__name__}" for field in dataclasses.fields(kind))
    kept = "yes" if kind in typing.get_args(DurableMessage) else "no"
    return rf"\| {kind.TYPE} \| `{kind.__name__}` \| (cloud|device) \| {kept} \| {re.escape(fields)} \|"


@pytest.mark.parametrize("kind", typing.get_args(Message), ids=lambda kind: kind.__name__)
def test_every_message_has_its_row_with_all_fields_in_order(kind: type[Message]) -> None:
    assert re.search(message_row(kind), WIRE)


def test_the_page_has_no_message_that_the_code_lacks() -> None:
    assert len(re.findall(r"^\| \d+ \| `\w+` \|", WIRE, re.MULTILINE)) == len(typing.get_args(Message))


def test_the_example_frame_is_what_the_code_writes_and_reads() -> None:
    block = re.search(r"^```hex\n(.*?)^```", WIRE, re.MULTILINE | re.DOTALL)
    assert block is not None
    octets = [re.match(r" *((?:[0-9a-f]{2} )*[0-9a-f]{2})(?: |$)", line) for line in block[1].splitlines()]
    example = bytes.fromhex("".join(match[1] for match in octets if match))
    assert example == encode_frame(to_frame(Ack(sequence=300)))
    assert from_frame(decode_frame(example)) == Ack(sequence=300)
    assert f"{len(example)} bytes" in WIRE


def test_the_example_answer_is_what_the_code_reads() -> None:
    block = re.search(r"^```text\n(41 03 .*?)^```", WIRE, re.MULTILINE | re.DOTALL)
    assert block is not None
    octets = [re.match(r"((?:[0-9a-f]{2} )+) ", line) for line in block[1].splitlines()]
    example = bytes.fromhex("".join(match[1] for match in octets if match))
    found = decode_answer(Detection(num_classes=2, input_height=8, input_width=8), example)
    assert isinstance(found, Detections)
    assert (found.boxes_N4.tolist(), found.scores_N.tolist(), found.labels_N.tolist()) == ([[1, 2, 3, 4]], [0.5], [1])


def test_the_example_labels_are_what_the_code_writes_and_reads() -> None:
    block = re.search(r"^```text\n(54 01 .*?)^```", WIRE, re.MULTILINE | re.DOTALL)
    assert block is not None
    octets = [re.match(r"((?:[0-9a-f]{2} )+) ", line) for line in block[1].splitlines()]
    example = bytes.fromhex("".join(match[1] for match in octets if match))
    assert example == encode_labels([(bytes(range(1, 9)), encode_label(np.eye(10)[7]))])
    (label,) = decode_labels(example, 10)
    assert (label.key, label.label) == (bytes(range(1, 9)), 7)
    for limit in (MAX_LABELS, f"{MAX_LABELS_BYTES:,}"):
        assert re.search(rf"at most {limit}\b", WIRE)


@pytest.mark.parametrize("code", OFFLOAD_CODES)
def test_every_code_of_an_answer_is_stated(code: str) -> None:
    assert re.search(rf"^\| (?:`[a-z-]+`, )*`{code}`", WIRE, re.MULTILINE)


def test_the_limit_of_a_frame_is_stated() -> None:
    assert f"{MAX_FRAME_BYTES:,} bytes" in WIRE


def fields_in(text: str) -> set[str]:
    """The names in the first column of a text's table."""
    return {name for row in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}


@pytest.mark.parametrize(
    ("kind", "start"),
    [
        (Manifest, "## bundle.json"),
        (InputSpec, "**InputSpec**"),
        (Segment, "**Segment**"),
        (NormLayer, "**NormLayer**"),
        (StatisticsSpec, "**StatisticsSpec**"),
        (ProbeSpec, "**ProbeSpec**"),
        (TorchModel, "**TorchModel**"),
        (SplitSpec, "**SplitSpec**"),
        (ExitSpec, "**ExitSpec**"),
        (ExitPromise, "**ExitPromise**"),
        (Envelope, "## Envelope"),
        (VersionManifest, "## Version"),
    ],
)
def test_every_field_of_a_document_is_in_its_table(kind: type, start: str) -> None:
    after = BUNDLE[BUNDLE.index(f"\n{start}\n") + len(start) + 2 :]
    table = re.split(
        r"^(?:## |\*\*Input|\*\*Seg|\*\*Norm|\*\*Stat|\*\*Probe|\*\*Torch|\*\*Split|\*\*Exit|\*\*Payload)",
        after,
        flags=re.MULTILINE,
    )[0]
    assert fields_in(table) == {field.name for field in dataclasses.fields(kind)}
