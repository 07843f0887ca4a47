"""Envelopes and versions: who may change what, and how far."""

from __future__ import annotations

import dataclasses
import json
import math
import struct
import zlib
from typing import Any

import numpy as np
import pytest

from littoral.bundle.signing import PublicKey, SigningKey
from littoral.bundle.update import (
    ENVELOPE_PURPOSE,
    MAX_ENVELOPE_BYTES,
    MAX_MANIFEST_BYTES,
    VERSION_PURPOSE,
    Envelope,
    SignedVersion,
    VersionManifest,
)
from littoral.core.affine import NormLayer, encode_delta
from littoral.errors import UpdateRejected

RELEASE, COHORT_KEY, STRANGER = SigningKey(b"R" * 32), SigningKey(b"C" * 32), SigningKey(b"S" * 32)
DIGEST = b"\xab" * 32
LAYERS = [NormLayer(name="bn", kind="batch", num_channels=3, eps=1e-5)]
SOURCE = {"bn.weight": np.ones(3, np.float32), "bn.bias": np.zeros(3, np.float32)}
ENVELOPE = Envelope(
    cohort="harbour",
    cohort_key=COHORT_KEY.public.hex,
    bundle_digest=DIGEST.hex(),
    max_delta={"bn.weight": 0.5, "bn.bias": 0.25},
)


def payload(weight: float = 0.1, bias: float = 0.1) -> bytes:
    delta = {"bn.weight": np.full(3, weight, np.float32), "bn.bias": np.full(3, bias, np.float32)}
    return encode_delta(delta, LAYERS)


def make(**changes: Any) -> SignedVersion:
    arguments = {
        "key": COHORT_KEY, "cohort": "harbour", "bundle_digest": DIGEST, "version": 4, "payload": payload(), **changes,
    }  # fmt: skip
    return SignedVersion.make(**arguments)


def resigned(**changes: Any) -> SignedVersion:
    """A version whose manifest was changed and signed again by the right key."""
    good = make()
    manifest = json.dumps({**json.loads(good.manifest), **changes}).encode()
    return dataclasses.replace(good, manifest=manifest, signature=COHORT_KEY.sign(VERSION_PURPOSE, manifest))


def code_of(signed: SignedVersion, envelope: Envelope = ENVELOPE) -> str:
    try:
        signed.verify(envelope)
        signed.affine(envelope, SOURCE, LAYERS)
    except UpdateRejected as error:
        return error.code
    return "taken"


def verify_envelope(data: bytes, signature: bytes | None = None, trust: PublicKey = RELEASE.public) -> Envelope:
    signature = RELEASE.sign(ENVELOPE_PURPOSE, data) if signature is None else signature
    return Envelope.verify(data, signature, trust=trust, bundle_digest=DIGEST)


def test_a_good_version_gives_its_claim_and_its_values() -> None:
    signed = make()
    assert code_of(signed) == "taken"
    claim = signed.verify(ENVELOPE)
    assert (claim.version, claim.cohort, claim.payload_bytes) == (4, "harbour", len(signed.payload))
    values = signed.affine(ENVELOPE, SOURCE, LAYERS)
    np.testing.assert_allclose(values["bn.weight"], 1.1, atol=1e-3)
    np.testing.assert_allclose(values["bn.bias"], 0.1, atol=1e-3)


def test_a_version_says_in_which_domain_it_was_learned() -> None:
    claim = make(domain=3, fingerprint=b"\x00\x38\x00\x3c").verify(ENVELOPE)
    assert (claim.domain, claim.fingerprint) == (3, "0038003c")
    assert (make().verify(ENVELOPE).domain, make().verify(ENVELOPE).fingerprint) == (0, "")


def test_the_fingerprint_of_a_wide_first_layer_fits_into_a_manifest() -> None:
    assert make(domain=3, fingerprint=bytes(4 * 1024)).verify(ENVELOPE).domain == 3


def test_golden_bytes_of_a_manifest_and_an_envelope_never_change() -> None:
    assert ENVELOPE.to_bytes() == (
        b'{"bundle_digest":"' + DIGEST.hex().encode() + b'","cohort":"harbour","cohort_key":"'
        + COHORT_KEY.public.hex.encode() + b'","max_delta":{"bn.bias":0.25,"bn.weight":0.5},"schema":1}'
    )  # fmt: skip
    manifest = VersionManifest(
        cohort="c", bundle_digest="d", version=1, payload_sha256="e", payload_bytes=2, domain=3, fingerprint="0038003c"
    )
    assert manifest.to_bytes() == (
        b'{"bundle_digest":"d","cohort":"c","domain":3,"fingerprint":"0038003c","payload_bytes":2,'
        b'"payload_sha256":"e","schema":1,"version":1}'
    )


@pytest.mark.parametrize(
    ("signed", "code"),
    [
        pytest.param(make(key=STRANGER), "unsigned", id="another-key"),
        pytest.param(make(key=RELEASE), "unsigned", id="the-release-key-signs-no-versions"),
        pytest.param(dataclasses.replace(make(), signature=b""), "unsigned", id="no-signature"),
        pytest.param(dataclasses.replace(make(), manifest=make(version=5).manifest), "unsigned", id="other-manifest"),
        pytest.param(make(cohort="lagoon"), "other-cohort", id="another-cohort"),
        pytest.param(make(bundle_digest=b"x" * 32), "other-bundle", id="another-bundle"),
        pytest.param(dataclasses.replace(make(), payload=payload()[:-1]), "truncated", id="shorter-payload"),
        pytest.param(dataclasses.replace(make(), payload=payload(0.2)), "truncated", id="another-payload"),
        pytest.param(dataclasses.replace(make(), payload=b""), "truncated", id="no-payload"),
        pytest.param(make(payload=b""), "malformed", id="signed-empty-payload"),
        pytest.param(make(payload=bytes(len(payload()))), "malformed", id="signed-zeros"),
        pytest.param(make(payload=payload(weight=0.6)), "out-of-bounds", id="gamma-too-far"),
        pytest.param(make(payload=payload(bias=-0.3)), "out-of-bounds", id="beta-too-far"),
        pytest.param(resigned(version="4"), "malformed", id="version-as-text"),
        pytest.param(resigned(version=True), "malformed", id="version-as-truth"),
        pytest.param(resigned(more=1), "malformed", id="unknown-field"),
        pytest.param(resigned(domain="3"), "malformed", id="domain-as-text"),
        pytest.param(resigned(domain=-1), "malformed", id="domain-below-zero"),
        pytest.param(resigned(fingerprint=7), "malformed", id="fingerprint-as-a-number"),
        pytest.param(resigned(fingerprint="zz"), "malformed", id="fingerprint-not-hexadecimal"),
        pytest.param(resigned(fingerprint="00 00"), "malformed", id="fingerprint-with-a-gap"),
        pytest.param(resigned(cohort="x" * MAX_MANIFEST_BYTES), "malformed", id="large-manifest"),
    ],
)
def test_a_version_that_is_not_as_it_should_be_is_refused(signed: SignedVersion, code: str) -> None:
    assert code_of(signed) == code


def test_every_flipped_bit_of_manifest_signature_and_payload_is_refused() -> None:
    good = make()
    for name in ("manifest", "signature", "payload"):
        data = getattr(good, name)
        for position in range(len(data)):
            flipped = data[:position] + bytes([data[position] ^ 0x10]) + data[position + 1 :]
            assert code_of(dataclasses.replace(good, **{name: flipped})) in ("unsigned", "truncated")


@pytest.mark.parametrize("manifest", [b"", b"[]", b"{}", b"\xff", b'"text"', b"null"], ids=repr)
def test_a_signed_manifest_without_sense_is_malformed(manifest: bytes) -> None:
    signed = SignedVersion(manifest=manifest, signature=COHORT_KEY.sign(VERSION_PURPOSE, manifest), payload=b"")
    assert code_of(signed) == "malformed"


def test_a_tensor_that_the_envelope_does_not_name_must_not_change() -> None:
    narrow = dataclasses.replace(ENVELOPE, max_delta={"bn.weight": 0.5})
    assert code_of(make(), narrow) == "out-of-bounds"
    assert make(payload=payload(bias=0.0)).affine(narrow, SOURCE, LAYERS)


def test_a_payload_with_an_infinite_step_is_refused() -> None:
    data = bytearray(payload())
    data[12:16] = struct.pack("<f", math.inf)
    data[8:12] = struct.pack("<I", zlib.crc32(data[12:]))
    assert code_of(make(payload=bytes(data))) == "malformed"


def test_an_envelope_comes_back_as_it_was_signed() -> None:
    assert verify_envelope(ENVELOPE.to_bytes()) == ENVELOPE


def changed_envelope(**changes: Any) -> bytes:
    return json.dumps({**dataclasses.asdict(ENVELOPE), **changes}).encode()


@pytest.mark.parametrize(
    ("data", "code"),
    [
        pytest.param(changed_envelope(bundle_digest="00" * 32), "other-bundle", id="another-bundle"),
        pytest.param(changed_envelope(max_delta={"bn.weight": -1.0}), "malformed", id="negative-bound"),
        pytest.param(changed_envelope(max_delta={"bn.weight": math.inf}), "malformed", id="infinite-bound"),
        pytest.param(changed_envelope(max_delta={"bn.weight": math.nan}), "malformed", id="nan-bound"),
        pytest.param(changed_envelope(max_delta={"bn.weight": "0.5"}), "malformed", id="text-bound"),
        pytest.param(changed_envelope(max_delta=[1]), "malformed", id="bounds-as-a-list"),
        pytest.param(changed_envelope(cohort=7), "malformed", id="cohort-as-a-number"),
        pytest.param(changed_envelope(more=1), "malformed", id="unknown-field"),
        pytest.param(changed_envelope(cohort="x" * MAX_ENVELOPE_BYTES), "malformed", id="large"),
        pytest.param(b"", "malformed", id="empty"),
        pytest.param(b"[]", "malformed", id="list"),
    ],
)
def test_an_envelope_without_sense_is_refused_even_when_signed(data: bytes, code: str) -> None:
    with pytest.raises(UpdateRejected) as caught:
        verify_envelope(data)
    assert caught.value.code == code


@pytest.mark.parametrize(
    "signature",
    [
        pytest.param(b"", id="none"),
        pytest.param(STRANGER.sign(ENVELOPE_PURPOSE, ENVELOPE.to_bytes()), id="a-stranger's"),
        pytest.param(COHORT_KEY.sign(ENVELOPE_PURPOSE, ENVELOPE.to_bytes()), id="the-cohort-key's-own"),
        pytest.param(RELEASE.sign(VERSION_PURPOSE, ENVELOPE.to_bytes()), id="for-another-purpose"),
        pytest.param(RELEASE.sign(ENVELOPE_PURPOSE, ENVELOPE.to_bytes() + b" "), id="of-other-bytes"),
    ],
)
def test_an_envelope_that_the_trusted_key_did_not_sign_is_refused(signature: bytes) -> None:
    with pytest.raises(UpdateRejected, match="enrol the device again") as caught:
        verify_envelope(ENVELOPE.to_bytes(), signature)
    assert caught.value.code == "unsigned"


def test_a_message_says_what_came_and_what_was_expected() -> None:
    with pytest.raises(UpdateRejected, match="abababababab"):
        make(bundle_digest=b"\x01" * 32).verify(ENVELOPE)
    with pytest.raises(UpdateRejected, match=r"'lagoon'.*'harbour'"):
        make(cohort="lagoon").verify(ENVELOPE)
