# ruff: noqa: T201 -- a script that shows what it does
"""Updates that must not be installed. Each attack makes a version or an envelope, and says what it must be refused as.

The attacker of the first list has the network but no key; of the second, the cohort key (a stolen cloud); nobody has
the release key. Run as a script to see each one bounce.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import struct
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attacks.target import (
    BOUND,
    COHORT_KEY,
    RELEASE,
    STRANGER,
    Target,
    make_bundle,
    make_envelope,
    make_payload,
    make_version,
    sign_envelope,
)
from littoral.bundle import Bundle, Envelope, SignedVersion
from littoral.bundle.update import ENVELOPE_PURPOSE, VERSION_PURPOSE
from littoral.errors import UpdateRejected

Attack = Callable[[Bundle], SignedVersion]


def _claim(bundle: Bundle, payload: bytes, **changes: Any) -> SignedVersion:
    """A version signed with the stolen cohort key whose manifest claims what the attacker likes."""
    claim = {
        **json.loads(make_version(bundle, 9).manifest),
        "payload_sha256": hashlib.sha256(payload).hexdigest(),
        "payload_bytes": len(payload),
        **changes,
    }
    manifest = json.dumps(claim).encode()
    return SignedVersion(manifest=manifest, signature=COHORT_KEY.sign(VERSION_PURPOSE, manifest), payload=payload)


def _patched(bundle: Bundle, offset: int, data: bytes, *, mend: bool = True) -> bytes:
    """A payload with other bytes at an offset, its checksum mended so that only the content is wrong."""
    payload = bytearray(make_payload(bundle))
    payload[offset : offset + len(data)] = data
    if mend:
        payload[8:12] = struct.pack("<I", zlib.crc32(payload[12:]))
    return bytes(payload)


WITHOUT_A_KEY: dict[str, tuple[Attack, str]] = {
    "signed by a stranger": (lambda b: make_version(b, 9, key=STRANGER), "unsigned"),
    "signature of zeros": (lambda b: dataclasses.replace(make_version(b, 9), signature=bytes(64)), "unsigned"),
    "no signature": (lambda b: dataclasses.replace(make_version(b, 9), signature=b""), "unsigned"),
    "signature of the version before": (
        lambda b: dataclasses.replace(make_version(b, 9), signature=make_version(b, 8).signature),
        "unsigned",
    ),
    "number raised in the manifest": (
        lambda b: dataclasses.replace(
            make_version(b, 1), manifest=make_version(b, 1).manifest.replace(b'"version":1', b'"version":9')
        ),
        "unsigned",
    ),
    "payload swapped": (lambda b: dataclasses.replace(make_version(b, 9), payload=make_payload(b, -0.4)), "truncated"),
    "payload cut short": (
        lambda b: dataclasses.replace(make_version(b, 9), payload=make_payload(b)[:-1]),
        "truncated",
    ),
    "payload made longer": (
        lambda b: dataclasses.replace(make_version(b, 9), payload=make_payload(b) + bytes(1)),
        "truncated",
    ),
    "replay of an older version": (lambda b: make_version(b, 1), "older"),
    "version of another cohort": (lambda b: make_version(b, 9, cohort="lagoon"), "other-cohort"),
    "version of another bundle": (lambda b: _claim(b, make_payload(b), bundle_digest="00" * 32), "other-bundle"),
    "envelope in place of a version": (
        lambda b: SignedVersion(
            manifest=sign_envelope(make_envelope(b))[0], signature=sign_envelope(make_envelope(b))[1], payload=b""
        ),
        "unsigned",
    ),
    "manifest of a gigabyte of nothing": (
        lambda b: SignedVersion(manifest=b"[" * 100_000, signature=bytes(64), payload=b""),
        "unsigned",
    ),
}

WITH_THE_COHORT_KEY: dict[str, tuple[Attack, str]] = {
    "values far away": (lambda b: make_version(b, 9, change=100.0), "out-of-bounds"),
    "values just outside": (lambda b: make_version(b, 9, change=BOUND * 1.01), "out-of-bounds"),
    "step of infinity": (lambda b: _claim(b, _patched(b, 12, struct.pack("<f", math.inf))), "malformed"),
    "step of NaN": (lambda b: _claim(b, _patched(b, 12, struct.pack("<f", math.nan))), "malformed"),
    "step below zero": (lambda b: _claim(b, _patched(b, 12, struct.pack("<f", -1.0))), "malformed"),
    "step that overflows": (
        lambda b: _claim(b, _patched(b, 12, struct.pack("<f", 3.4e38))),
        "malformed",
    ),
    "count of four billion tensors": (lambda b: _claim(b, _patched(b, 4, b"\xff\xff\xff\xff")), "malformed"),
    "checksum wrong": (lambda b: _claim(b, _patched(b, 20, b"\x55", mend=False)), "malformed"),
    "payload empty": (lambda b: _claim(b, b""), "malformed"),
    "payload of ten megabytes": (lambda b: _claim(b, bytes(10_000_000)), "malformed"),
    "payload a pickle": (lambda b: _claim(b, b"\x80\x04cos\nsystem\n(S'true'\ntR."), "malformed"),
    "version zero": (lambda b: _claim(b, make_payload(b), version=0), "malformed"),
    "version below zero": (lambda b: _claim(b, make_payload(b), version=-9), "malformed"),
    "version so high that none can follow": (lambda b: _claim(b, make_payload(b), version=10**30), "malformed"),
    "version as text": (lambda b: _claim(b, make_payload(b), version="9"), "malformed"),
    "schema of the future": (lambda b: _claim(b, make_payload(b), schema=2), "malformed"),
    "field smuggled in": (lambda b: _claim(b, make_payload(b), run="rm"), "malformed"),
    "manifest too large": (lambda b: _claim(b, make_payload(b), cohort="x" * 20_000), "malformed"),
    "domain below zero": (lambda b: _claim(b, make_payload(b), domain=-1), "malformed"),
    "fingerprint that is not hexadecimal": (lambda b: _claim(b, make_payload(b), fingerprint="../.."), "malformed"),
}

ENVELOPES: dict[str, tuple[Callable[[Bundle], tuple[bytes, bytes]], str]] = {
    "signed by a stranger": (lambda b: sign_envelope(make_envelope(b), STRANGER), "unsigned"),
    "signed by the cohort key for itself": (
        lambda b: sign_envelope(make_envelope(b, bound=1e9), COHORT_KEY),
        "unsigned",
    ),
    "bounds widened after signing": (
        lambda b: (make_envelope(b, bound=1e9).to_bytes(), sign_envelope(make_envelope(b))[1]),
        "unsigned",
    ),
    "of another bundle": (
        lambda b: sign_envelope(dataclasses.replace(make_envelope(b), bundle_digest="00" * 32)),
        "other-bundle",
    ),
    "bound of infinity": (lambda b: sign_envelope(make_envelope(b, bound=math.inf)), "malformed"),
    "not JSON": (lambda b: (b"\xff", RELEASE.sign(ENVELOPE_PURPOSE, b"\xff")), "malformed"),
}


def make_target(folder: Path) -> Target:
    """A device that serves version 5."""
    bundle = make_bundle(folder / "bundle")
    target = Target(bundle, folder / "state")
    target.updater.set_envelope(make_envelope(bundle))
    target.updater.receive(make_version(bundle, 5, change=0.2))
    assert target.version == 5
    return target


def attack_with_version(target: Target, attack: Attack) -> str:
    """Send it; the code it is refused with, or ``installed``."""
    receipt = target.updater.receive(attack(target.bundle))
    return "silence" if receipt is None else receipt.code or receipt.outcome


def attack_with_envelope(bundle: Bundle, attack: Callable[[Bundle], tuple[bytes, bytes]]) -> str:
    """Offer it to a device that trusts the release key; the code it is refused with, or ``taken``."""
    data, signature = attack(bundle)
    try:
        Envelope.verify(data, signature, trust=RELEASE.public, bundle_digest=bundle.digest)
    except UpdateRejected as error:
        return error.code
    return "taken"


def main() -> None:
    """Show each attack and what became of it."""
    with tempfile.TemporaryDirectory() as folder:
        target = make_target(Path(folder))
        for name, (attack, expected) in {**WITHOUT_A_KEY, **WITH_THE_COHORT_KEY}.items():
            print(f"version   {name:42} {attack_with_version(target, attack):14} expected {expected}")
        for name, (offer, expected) in ENVELOPES.items():
            print(f"envelope  {name:42} {attack_with_envelope(target.bundle, offer):14} expected {expected}")
        print(f"the device serves version {target.version}")


if __name__ == "__main__":
    main()
