"""A domain goes back to a version before, or to the source's values, because an operator says so.

What ships is a version like any other: a new number, since a device takes only what is above the highest that it has
seen; the payload of the version that it goes back to; signed anew. The next job of the domain starts from the source's
values, or from that version's state where the record has it still. The samples stay: if a device is at fault, shut that
out, too.
"""

from __future__ import annotations

import sqlite3
from concurrent.futures import Future

from littoral.bundle import Bundle, SignedVersion, SigningKey
from littoral.cloud.ledger import Ledger, NewVersion, head_version
from littoral.cloud.reissue import Sign
from littoral.core.affine import diff, encode_delta
from littoral.core.recall import encode_fingerprint


def source_payload(bundle: Bundle) -> bytes:
    """The coded delta that changes nothing of the source's values."""
    layers, source = bundle.manifest.norm_layers, bundle.source_affine
    return encode_delta(diff(source, source, layers), layers)


def sign_version(
    ledger: Ledger, key: SigningKey, bundle_digest: bytes, payload: bytes, version: int, domain: int
) -> SignedVersion:
    """A version of a domain, signed by the cohort's key, with the domain's centre of now."""
    centre = next((entry.centre for entry in ledger.domains() if entry.number == domain), None)
    return SignedVersion.make(
        key=key,
        cohort=ledger.cohort,
        bundle_digest=bundle_digest,
        version=version,
        payload=payload,
        domain=domain,
        fingerprint=b"" if centre is None else encode_fingerprint(centre),
    )


def back_to(
    ledger: Ledger, domain: int, *, to: int, source: bytes, sign: Sign, reason: str, now: float
) -> Future[int | None]:
    """Compare and set: record the next version, in which the domain goes back to ``to``; its number.

    The future gives None when the head moved on meanwhile. A job that was begun is done again after it; one that
    started from what is taken back starts from the new version. No cloud may run on the record: it would not hear of
    it.

    Args:
        to: A shipped version of the domain before its newest, or 0, the source.
        source: The payload of the source's values (`source_payload`).
        reason: Kept in the record.
    Raises:
        ValueError: the domain has no shipped version, or ``to`` is none that it can go back to.
    """
    head = ledger.head()
    before = [e.version for e in ledger.history() if (e.domain, e.status) == (domain, "shipped")]
    if not before:
        raise ValueError(f"domain {domain} of cohort {ledger.cohort!r} has no shipped version to go back from")
    if to and to not in before[:-1]:
        older = ", ".join(map(str, before[:-1])) or "none"
        raise ValueError(
            f"domain {domain} cannot go back to version {to}: its older shipped ones are {older}; or 0, the source"
        )
    payload, number = ledger.payload_of(to) if to else source, head.version + 1
    new = NewVersion(
        status="shipped",
        reason=f"rolled back to {f'version {to}' if to else 'the source'}{f': {reason}' if reason else ''}",
        payload=payload,
        signed=sign(payload, number, domain),
        state=b"",
        report={},
        verdict={},
    )

    def work(db: sqlite3.Connection) -> int | None:
        if head_version(db, ledger.cohort) != head.version:
            return None
        made_by_a_job = "SELECT iif(job IS NULL, base_version, version) FROM versions WHERE cohort = ? AND version = ?"
        original = db.execute(made_by_a_job, (ledger.cohort, to)).fetchone()
        base = int(original[0]) if original else 0
        ledger.insert_version(db, new, version=number, domain=domain, base_version=base, job=None, now=now)
        db.execute(
            "UPDATE jobs SET head_version = ?1, base_version = iif(base_version > ?2 AND base_version IN"
            " (SELECT version FROM versions WHERE cohort = ?3 AND domain = ?4), ?1, base_version)"
            " WHERE cohort = ?3 AND head_version = ?5 AND status = 'open'",
            (number, to, ledger.cohort, domain, head.version),
        )
        return number

    return ledger.store.write(work)
