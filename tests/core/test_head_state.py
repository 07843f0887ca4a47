"""A personal head's saved state: it comes back whole, and what was not written by one is refused."""

from __future__ import annotations

import hashlib
import io
import struct

import numpy as np
import pytest
from head_cases import MOMENTS, SHIPPED, K, new_head, show, user

from littoral.core.head_state import from_bytes, read_state, to_bytes, write_state
from littoral.core.heads import LinearHead
from littoral.core.personal import PersonalConfig, PersonalHead
from littoral.errors import HeadStateError

CONFIG = PersonalConfig(max_days=2, memory_frames=12, held_frames=6)
FRAMES = user(160, seed=3)
DAY_AT = struct.calcsize("<6sH32s32sQQBBHIIIQ")


def written() -> tuple[PersonalHead, bytes]:
    head = PersonalHead(SHIPPED, affine_version=3, seed=1, config=CONFIG, moments=MOMENTS)
    show(head, FRAMES, labelled=0.5)
    head.refresh()
    return head, to_bytes(head)


HEAD, DATA = written()


def read(data: bytes) -> PersonalHead:
    return from_bytes(data, shipped=SHIPPED, config=CONFIG, moments=MOMENTS)


def sealed(data: bytes) -> bytes:
    """With a hash that is right."""
    return data[:-32] + hashlib.sha256(data[:-32]).digest()


def test_a_head_comes_back_as_it_was_and_goes_on_as_it_would_have() -> None:
    head, back = written()[0], read(DATA)
    assert to_bytes(back) == DATA
    np.testing.assert_array_equal(back.matrix(), head.matrix())
    assert back.personal_serves == head.personal_serves
    for h in (head, back):
        for i in range(40):
            h.observe(FRAMES.features[i], day=3 + i // 20, affine_version=3, label=int(FRAMES.labels[i]))
        h.remove_day(3)
    assert to_bytes(head) == to_bytes(back)


@pytest.mark.parametrize("fit", ["onehot", "logits", "lda", "sgd"])
def test_an_empty_head_comes_back_too(fit: str) -> None:
    head = new_head(fit=fit)
    back = from_bytes(to_bytes(head), shipped=SHIPPED, config=head.config, moments=MOMENTS)
    assert to_bytes(back) == to_bytes(head)


def test_it_is_written_and_read_in_small_pieces() -> None:
    pieces: list[bytes] = []
    write_state(HEAD, pieces.append)
    assert b"".join(pieces) == DATA
    file = io.BytesIO(DATA)
    back = read_state(file.read, shipped=SHIPPED, config=CONFIG, moments=MOMENTS)
    assert to_bytes(back) == DATA


def test_every_damaged_byte_and_every_cut_is_refused() -> None:
    rng = np.random.default_rng(0)
    for place in [*range(DAY_AT + 20), *rng.integers(0, len(DATA), 60), len(DATA) - 1]:
        damaged = bytearray(DATA)
        damaged[place] ^= 1 << int(rng.integers(8))
        with pytest.raises(HeadStateError):
            read(bytes(damaged))
    for length in (0, 1, DAY_AT, *rng.integers(0, len(DATA), 20), len(DATA) - 1):
        with pytest.raises(HeadStateError, match=r"ends too early|hash"):
            read(DATA[:length])
    with pytest.raises(HeadStateError, match="follows"):
        read(DATA + b"\0")


def test_a_byte_changed_anywhere_and_sealed_again_is_refused_or_makes_a_head_that_is_sound() -> None:
    rng = np.random.default_rng(1)
    refused = 0
    for _ in range(40):
        changed = bytearray(DATA)
        changed[int(rng.integers(len(DATA) - 32))] = int(rng.integers(256))
        try:
            back = read(sealed(bytes(changed)))
        except HeadStateError:
            refused += 1
            continue
        back.observe(FRAMES.features[0], day=1 << 20, affine_version=back.affine_version, label=0)
        back.refresh()
        read(to_bytes(back))
    assert refused > 3


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda head: head.evidence.days[0].gram.__setitem__(0, np.nan), "not finite"),
        (lambda head: head.evidence.days[0].gram.__setitem__(0, -1), "sums of a day"),
        (lambda head: head.evidence.days[0].gram.__setitem__(slice(1, 6), 1e19), "no head can be fitted"),
        (lambda head: head.evidence.days[0].weights_K.__setitem__(0, -1), "weights of a day"),
        (lambda head: head.evidence.days[0].shares.shares_K.__setitem__(0, 3), "class shares"),
        (lambda head: setattr(head.evidence.days[0], "sureness", 2.0), "counts of a day"),
        (lambda head: head.evidence.days.reverse(), "out of order"),
        (lambda head: setattr(head.evidence.days[1], "last_day", 9), "several days"),
        (lambda head: setattr(head.evidence, "days", head.evidence.days * 2), "more than this configuration"),
        (lambda head: head.memory.features.__setitem__(0, np.inf), "not finite"),
        (lambda head: head.memory.targets.__setitem__(0, 1), "no distribution"),
        (lambda head: head.memory.weights.__setitem__(0, 1e6), "weight is impossible"),
        (lambda head: head.memory.labels.__setitem__(0, K), "does not exist"),
        (lambda head: head.held.answers.__setitem__(0, K), "does not exist"),
        (lambda head: head.memory.seen_K.__setitem__(slice(None), 0), "more frames of a class"),
        (lambda head: setattr(head.held, "next", 6), "next held-back"),
    ],
)
def test_a_hostile_state_with_the_right_hash_is_refused(change: object, why: str) -> None:
    head = written()[0]
    change(head)  # type: ignore[operator]
    with pytest.raises(HeadStateError, match=why) as refusal:
        read(to_bytes(head))
    assert refusal.value.code == "damaged"


def test_a_state_is_tied_to_its_shipped_head_and_to_its_configuration() -> None:
    other = LinearHead(weights_KD=SHIPPED.weights_KD, bias_K=SHIPPED.bias_K + np.float32(1e-3))
    with pytest.raises(HeadStateError) as refusal:
        from_bytes(DATA, shipped=other, config=CONFIG, moments=MOMENTS)
    assert refusal.value.code == "other-head"
    for wrong in ({"config": PersonalConfig()}, {"config": CONFIG, "source_shares_K": np.array([0.1, 0.2, 0.3, 0.4])}):
        with pytest.raises(HeadStateError) as refusal:
            from_bytes(DATA, shipped=SHIPPED, moments=MOMENTS, **wrong)
        assert refusal.value.code == "other-config"
