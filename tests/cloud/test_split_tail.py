"""The cloud's half of a split: what the student would have said, and one bad payload spoils no other's answer."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from littoral.bundle import Bundle
from littoral.cloud import tail as tail_module
from littoral.cloud.tail import Tail
from littoral.core.arrays import FloatArray
from littoral.core.codec import encode
from littoral.edge.encoder import SplitEncoder
from littoral.edge.session import Model, open_session
from littoral.errors import BundleError, ModelOutputError, PayloadError
from littoral.models.factory import load_model


@pytest.fixture(scope="module")
def bundle(split_bundle: Path) -> Bundle:
    return Bundle.open(split_bundle, require_cloud=True)


def inputs(bundle: Bundle, index: int) -> list[np.ndarray]:
    """What the split's encoder takes of each probe frame."""
    frames = bundle.probe[0]
    if (number := bundle.manifest.splits[index].segment) is None:
        return [frame[None] for frame in frames]
    segment = bundle.manifest.segments[number]
    session = open_session(bundle.read(segment.file), segment.tensors, bundle.weights)
    return [session.run([segment.output], {segment.input: frame[None]})[0] for frame in frames]


def arrays(answers: list) -> FloatArray:
    assert all(isinstance(answer, np.ndarray) for answer in answers), answers
    return np.stack(answers)


@pytest.mark.parametrize("index", [0, 1], ids=["frames", "segment"])
def test_the_finest_level_is_answered_as_the_student_would_and_the_coarsest_is_not(bundle: Bundle, index: int) -> None:
    encoder, tail = SplitEncoder(bundle, index), Tail(bundle, index, device="cpu")
    own = Model(bundle).run(bundle.probe[0])
    off = []
    for level in (0, 2):
        came = arrays(tail.answer([encoder.encode(value, level) for value in inputs(bundle, index)]))
        assert (came.dtype, came.shape) == (np.float32, own.shape)
        off.append(np.abs(came - own).max() / np.abs(own).max())
        if level == 2:
            assert (came.argmax(1) == own.argmax(1)).all()
    assert off[1] < 0.02 < off[0]


def test_a_batch_of_mixed_levels_is_answered_as_each_alone(bundle: Bundle) -> None:
    encoder, tail = SplitEncoder(bundle, 1), Tail(bundle, 1, device="cpu")
    payloads = [encoder.encode(value, number % 3) for number, value in enumerate(inputs(bundle, 1)[:9])]
    together = arrays(tail.answer(payloads))
    alone = arrays([tail.answer([payload])[0] for payload in payloads])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)
    assert len(np.unique(together.round(3), axis=0)) == 9


def test_hostile_payloads_in_a_batch_do_not_touch_the_others(bundle: Bundle) -> None:
    encoder, tail = SplitEncoder(bundle, 1), Tail(bundle, 1, device="cpu")
    good = [encoder.encode(value, 1) for value in inputs(bundle, 1)[:3]]
    of_other_tables = SplitEncoder(bundle, 0).encode(bundle.probe[0][:1], 1)
    flipped = bytes([*good[0][:-1], good[0][-1] ^ 1])
    answers = tail.answer([b"", good[0], flipped, good[1], of_other_tables, b"L" * 100_000, good[2]])
    bad = {position: answer for position, answer in enumerate(answers) if isinstance(answer, PayloadError)}
    assert {position: error.code for position, error in bad.items()} == {
        0: "damaged", 2: "damaged", 4: "other-tables", 5: "too-large",
    }  # fmt: skip
    np.testing.assert_allclose(arrays([answers[1], answers[3], answers[6]]), arrays(tail.answer(good)), rtol=1e-4)


def test_symbols_that_blow_the_network_up_fail_alone(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Valid bytes of enormous symbols, for a network that an ordinary frame takes to the edge of float32."""

    def steep(spec, tensors):
        return load_model(spec, {n: v * np.float32(1e30) if n == "tail.head.weight" else v for n, v in tensors.items()})

    monkeypatch.setattr(tail_module, "load_model", steep)
    encoder, tail = SplitEncoder(bundle, 1), Tail(bundle, 1, device="cpu")
    huge = encode(np.full(tail.codec.tables.shape(0), 2**31 - 1, np.int32), tail.codec.tables, level=0)
    answers = tail.answer([huge, encoder.encode(inputs(bundle, 1)[0], 2)])
    assert isinstance(answers[0], ModelOutputError)
    assert isinstance(answers[1], np.ndarray)


def test_no_payloads_no_answers(bundle: Bundle) -> None:
    assert Tail(bundle, device="cpu").answer([]) == []


def test_a_split_that_is_not_there_or_lacks_its_network_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="has 2"):
        Tail(bundle, 2)
    device_copy = Path(shutil.copytree(bundle.path, tmp_path / "b", ignore=shutil.ignore_patterns("cloud")))
    with pytest.raises(BundleError, match=r"split-0\.safetensors cannot be read"):
        Tail(Bundle.open(device_copy))


def test_a_network_that_is_not_made_for_these_tables_fails_when_it_is_opened(
    bundle: Bundle,
) -> None:
    splits = bundle.manifest.splits
    mixed = dataclasses.replace(splits[1], model=splits[0].model)
    other = dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, splits=(splits[0], mixed)))
    with pytest.raises(BundleError, match="does not take the symbols of split point 1, 3 levels of"):
        Tail(other, 1, device="cpu")
