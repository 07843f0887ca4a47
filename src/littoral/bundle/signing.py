"""Ed25519 keys and signatures. A signature always covers a purpose string, so one document never passes for another.

release key   signs bundles and envelopes (who may change what, and how far); a cloud needs it at each start
cohort key    signs affine versions, inside the envelope that the release key signed for it
device key    made on the device; answers the cloud's challenge
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from littoral.bundle.files import replace_file

SIGNATURE_BYTES = 64
KEY_BYTES = 32


def _message(purpose: str, data: bytes) -> bytes:
    return b"littoral/" + purpose.encode() + b"\0" + hashlib.sha256(data).digest()


@dataclass(frozen=True)
class PublicKey:
    """A 32-byte Ed25519 public key."""

    raw: bytes

    def __post_init__(self) -> None:
        if len(self.raw) != KEY_BYTES:
            raise ValueError(f"an Ed25519 public key has {KEY_BYTES} bytes, got {len(self.raw)}")

    @classmethod
    def from_hex(cls, text: str) -> PublicKey:
        try:
            return cls(bytes.fromhex(text))
        except ValueError as error:
            raise ValueError(f"{text!r:.80} is not a public key: {2 * KEY_BYTES} hexadecimal digits") from error

    @property
    def hex(self) -> str:
        return self.raw.hex()

    @property
    def fingerprint(self) -> str:
        """The first 16 hexadecimal digits of the key's SHA-256: what a token carries and a person compares."""
        return hashlib.sha256(self.raw).hexdigest()[:16]

    def verifies(self, purpose: str, data: bytes, signature: bytes) -> bool:
        """True when this key signed ``data`` for ``purpose``."""
        if len(signature) != SIGNATURE_BYTES:
            return False
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, _message(purpose, data))
        except InvalidSignature:
            return False
        return True


class SigningKey:
    """A private Ed25519 key; shows only its fingerprint."""

    def __init__(self, raw: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(raw)
        self.public = PublicKey(
            self._key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        )

    def __repr__(self) -> str:
        return f"SigningKey({self.public.fingerprint})"

    @classmethod
    def generate(cls) -> SigningKey:
        return cls(os.urandom(KEY_BYTES))

    @classmethod
    def load_or_make(cls, path: Path) -> SigningKey:
        """Read the key at ``path``, or make one there that only its owner can read.

        Raises:
            ValueError: what is there is no key.
        """
        if not path.exists():
            cls.generate().save(path)
        return cls.load(path)

    @classmethod
    def load(cls, path: Path) -> SigningKey:
        """Read the key at ``path``.

        Raises:
            OSError: it cannot be read.
            ValueError: what is there is no key.
        """
        try:
            return cls(bytes.fromhex(path.read_text().strip()))
        except ValueError as error:
            raise ValueError(
                f"{path} is no key of {2 * KEY_BYTES} hexadecimal digits ({error}); restore it from a backup, or "
                "remove it and have a new one made"
            ) from error

    def save(self, path: Path) -> None:
        """Write the key to a file that only its owner can read; the folder is made if missing."""
        path.parent.mkdir(parents=True, exist_ok=True)
        raw = self._key.private_bytes(
            serialization.Encoding.Raw, serialization.PrivateFormat.Raw, serialization.NoEncryption()
        )
        replace_file(path, raw.hex().encode(), mode=0o600)

    def sign(self, purpose: str, data: bytes) -> bytes:
        """The 64-byte signature of ``data`` for ``purpose``."""
        return self._key.sign(_message(purpose, data))
