"""What the cloud may send to a device: an affine version, signed by a cohort key, inside a signed envelope.

    release key ── signs ──▶ Envelope(cohort, cohort key, bundle, how far each tensor may move)
    cohort key  ── signs ──▶ VersionManifest(cohort, bundle, version, payload's SHA-256) + payload

`SignedVersion.verify` holds all the rules that need no memory; that a version is newer than what was seen is the
updater's to check.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from littoral.bundle.signing import PublicKey, SigningKey
from littoral.core.affine import NormLayer, apply_delta, decode_delta, violations
from littoral.core.arrays import FloatArray, Tensors
from littoral.core.recall import NO_DOMAIN
from littoral.errors import UpdateRejected

ENVELOPE_PURPOSE = "envelope"
VERSION_PURPOSE = "version"
MAX_MANIFEST_BYTES = 16_384
MAX_ENVELOPE_BYTES = 262_144


def _canonical(document: Any) -> bytes:
    return json.dumps(dataclasses.asdict(document), sort_keys=True, separators=(",", ":")).encode()


def _document(data: bytes, fields: dict[str, type], what: str, limit: int) -> dict[str, Any]:
    if len(data) > limit:
        raise UpdateRejected("malformed", f"{what} has {len(data)} bytes, at most {limit} are read")
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UpdateRejected("malformed", f"{what} is not JSON ({error})") from error
    if not isinstance(raw, dict) or set(raw) != set(fields):
        raise UpdateRejected("malformed", f"{what} should have the fields {sorted(fields)}")
    for key, kind in fields.items():
        if not isinstance(raw[key], kind) or (kind is int and isinstance(raw[key], bool)):
            raise UpdateRejected("malformed", f"{what}: {key} is {type(raw[key]).__name__}, expected {kind.__name__}")
    return raw


def _is_hexadecimal(text: str) -> bool:
    try:
        return bytes.fromhex(text).hex() == text
    except ValueError:
        return False


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """What a cohort key may change on a bundle, and how far. Signed by the release key."""

    schema: int = 1
    cohort: str
    cohort_key: str
    bundle_digest: str
    max_delta: dict[str, float]

    def to_bytes(self) -> bytes:
        return _canonical(self)

    @classmethod
    def verify(cls, data: bytes, signature: bytes, *, trust: PublicKey, bundle_digest: bytes) -> Envelope:
        """Parse an envelope that ``trust`` signed for this bundle.

        Raises:
            UpdateRejected: ``unsigned``, ``malformed`` or ``other-bundle``.
        """
        if not trust.verifies(ENVELOPE_PURPOSE, data, signature):
            raise UpdateRejected(
                "unsigned",
                f"the envelope is not signed by the release key {trust.fingerprint} "
                "that this device trusts; enrol the device again if the key was changed",
            )
        raw = _document(
            data,
            {"schema": int, "cohort": str, "cohort_key": str, "bundle_digest": str, "max_delta": dict},
            "the envelope",
            MAX_ENVELOPE_BYTES,
        )
        if not all(isinstance(v, (int, float)) and math.isfinite(v) and v >= 0 for v in raw["max_delta"].values()):
            raise UpdateRejected("malformed", "the envelope: every bound must be a finite number, not negative")
        envelope = cls(**raw)
        try:
            PublicKey.from_hex(envelope.cohort_key)
        except ValueError as error:
            raise UpdateRejected("malformed", f"the envelope's cohort key is not a key: {error}") from error
        if envelope.bundle_digest != bundle_digest.hex():
            raise UpdateRejected(
                "other-bundle",
                f"the envelope is for bundle {envelope.bundle_digest[:12]}…, this device "
                f"runs {bundle_digest.hex()[:12]}…; install the matching bundle",
            )
        return envelope


@dataclass(frozen=True, kw_only=True)
class VersionManifest:
    """What an affine version claims about itself. ``version`` grows by the cohort; 0 is the source.

    ``domain`` is the domain that it was learned in and ``fingerprint`` that domain's centre in hexadecimal
    (`littoral.core.recall.encode_fingerprint`); 0 and "" where there are no fingerprints.
    """

    schema: int = 1
    cohort: str
    bundle_digest: str
    version: int
    payload_sha256: str
    payload_bytes: int
    domain: int
    fingerprint: str

    def to_bytes(self) -> bytes:
        return _canonical(self)


@dataclass(frozen=True, kw_only=True)
class SignedVersion:
    """A version as it crosses the wire and lies on a device's disk: manifest, signature, payload, all bytes."""

    manifest: bytes
    signature: bytes
    payload: bytes

    @classmethod
    def make(
        cls,
        *,
        key: SigningKey,
        cohort: str,
        bundle_digest: bytes,
        version: int,
        payload: bytes,
        domain: int = NO_DOMAIN,
        fingerprint: bytes = b"",
    ) -> SignedVersion:
        """Sign a coded delta (`littoral.core.affine.encode_delta`) as version ``version`` of a cohort."""
        manifest = VersionManifest(
            cohort=cohort,
            bundle_digest=bundle_digest.hex(),
            version=version,
            payload_sha256=hashlib.sha256(payload).hexdigest(),
            payload_bytes=len(payload),
            domain=domain,
            fingerprint=fingerprint.hex(),
        ).to_bytes()
        return cls(manifest=manifest, signature=key.sign(VERSION_PURPOSE, manifest), payload=payload)

    def verify(self, envelope: Envelope) -> VersionManifest:
        """Check signature, cohort, bundle and payload; every rule that needs no memory.

        Raises:
            UpdateRejected: ``unsigned``, ``malformed``, ``other-cohort``, ``other-bundle`` or ``truncated``.
        """
        key = PublicKey.from_hex(envelope.cohort_key)
        if not key.verifies(VERSION_PURPOSE, self.manifest, self.signature):
            raise UpdateRejected("unsigned", f"the version is not signed by the cohort key {key.fingerprint}")
        fields = {
            "schema": int,
            "cohort": str,
            "bundle_digest": str,
            "version": int,
            "payload_sha256": str,
            "payload_bytes": int,
            "domain": int,
            "fingerprint": str,
        }
        claim = VersionManifest(**_document(self.manifest, fields, "the version's manifest", MAX_MANIFEST_BYTES))
        if claim.domain < NO_DOMAIN or not _is_hexadecimal(claim.fingerprint):
            raise UpdateRejected(
                "malformed",
                f"version {claim.version}: a domain is 0 or more and a fingerprint hexadecimal, "
                f"got {claim.domain} and {claim.fingerprint!r:.40}",
            )
        if claim.cohort != envelope.cohort:
            raise UpdateRejected(
                "other-cohort",
                f"version {claim.version} is for cohort {claim.cohort!r}, this device is in {envelope.cohort!r}",
            )
        if claim.bundle_digest != envelope.bundle_digest:
            raise UpdateRejected(
                "other-bundle",
                f"version {claim.version} starts from bundle {claim.bundle_digest[:12]}…, this "
                f"device runs {envelope.bundle_digest[:12]}…; install the matching bundle",
            )
        if len(self.payload) != claim.payload_bytes or hashlib.sha256(self.payload).hexdigest() != claim.payload_sha256:
            raise UpdateRejected(
                "truncated",
                f"version {claim.version}: the payload of {len(self.payload)} bytes is not the one "
                f"that was signed ({claim.payload_bytes} bytes); it will be asked for again",
            )
        return claim

    def affine(self, envelope: Envelope, source: Tensors, layers: Sequence[NormLayer]) -> dict[str, FloatArray]:
        """Decode the payload and hold it against the envelope.

        Raises:
            UpdateRejected: ``malformed``, ``not-finite`` or ``out-of-bounds``.
        """
        try:
            delta = decode_delta(self.payload, layers)
        except ValueError as error:
            raise UpdateRejected("malformed", f"the version's payload cannot be decoded: {error}") from error
        values = apply_delta(source, delta, layers)
        if found := violations(values, source, envelope.max_delta):
            raise UpdateRejected("out-of-bounds", "the version leaves its envelope: " + "; ".join(found[:3]))
        return values
