"""Keys and signatures: one purpose per signature, one owner per key file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from littoral.bundle.signing import SIGNATURE_BYTES, PublicKey, SigningKey

GOLDEN_SIGNATURE = (
    "718f8288e72daddd92b851a767dfa4b375f156d8f87f52701540f2c9800083e9"
    "ec19437f5413a55408b68030c61f687cc192643a37f06b0c84b772faa6961c0d"
)
KEY, OTHER = SigningKey(bytes(range(32))), SigningKey(b"o" * 32)


def test_golden_signature_never_changes() -> None:
    """A device in the field must be able to check what a later cloud signs."""
    assert KEY.public.hex == "03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8"
    assert KEY.public.fingerprint == "56475aa75463474c"
    assert KEY.sign("version", b"data").hex() == GOLDEN_SIGNATURE


@given(st.binary(max_size=100))
def test_a_signature_is_good_for_its_data_purpose_and_key_only(data: bytes) -> None:
    signature = KEY.sign("version", data)
    assert len(signature) == SIGNATURE_BYTES
    assert KEY.public.verifies("version", data, signature)
    assert not KEY.public.verifies("envelope", data, signature)
    assert not KEY.public.verifies("version", data + b"\0", signature)
    assert not OTHER.public.verifies("version", data, signature)


def test_a_purpose_cannot_be_moved_into_the_data() -> None:
    signature = KEY.sign("a", b"b")
    assert not KEY.public.verifies("a\0b", b"", signature)


def test_every_flipped_bit_of_a_signature_is_refused() -> None:
    signature = KEY.sign("version", b"data")
    for bit in range(8 * SIGNATURE_BYTES):
        flipped = bytearray(signature)
        flipped[bit // 8] ^= 1 << bit % 8
        assert not KEY.public.verifies("version", b"data", bytes(flipped))


@pytest.mark.parametrize("signature", [b"", b"x", bytes(SIGNATURE_BYTES), bytes(65)], ids=len)
def test_what_is_no_signature_is_refused(signature: bytes) -> None:
    assert not KEY.public.verifies("version", b"data", signature)


@pytest.mark.parametrize("text", ["", "00", "zz" * 32, "00" * 31, "00" * 33])
def test_what_is_no_public_key_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"hexadecimal|32 bytes"):
        PublicKey.from_hex(text)


@pytest.mark.parametrize("raw", [bytes(32), b"\xff" * 32, b"\x01" + bytes(31)], ids=["zero", "ones", "identity"])
def test_a_weird_public_key_verifies_nothing_and_raises_nothing(raw: bytes) -> None:
    assert not PublicKey(raw).verifies("version", b"data", KEY.sign("version", b"data"))


def test_a_key_file_is_made_once_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "new" / "device.key"
    made = SigningKey.load_or_make(path)
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert SigningKey.load_or_make(path).public == made.public
    assert [p.name for p in path.parent.iterdir()] == ["device.key"]


def test_a_half_written_key_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "device.key.new").write_bytes(b"half")
    SigningKey.load_or_make(tmp_path / "device.key")
    assert not (tmp_path / "device.key.new").exists()


def test_two_generated_keys_differ() -> None:
    assert SigningKey.generate().public != SigningKey.generate().public


def test_a_private_key_does_not_show_itself() -> None:
    raw = b"k" * 32
    key = SigningKey(raw)
    assert key.public.fingerprint in repr(key)
    assert raw.hex() not in repr(key)
    assert repr(raw) not in repr(vars(key))
