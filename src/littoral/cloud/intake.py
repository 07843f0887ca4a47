"""What a device sent, on its way into the record: held against the rules, then written in the writer's transaction."""

from __future__ import annotations

import hashlib
import sqlite3
import typing
from dataclasses import dataclass

from littoral.bundle import InputSpec, Manifest
from littoral.bundle.images import decode_image
from littoral.cloud.domains import DomainRule, assign_domain, domain_of_scene
from littoral.cloud.quarantine import learned_from
from littoral.cloud.schema import note
from littoral.core.arrays import Frame
from littoral.core.recall import NO_DOMAIN, decode_fingerprint, fingerprint_layer
from littoral.errors import FrameError
from littoral.wire.messages import DurableMessage, Receipt, Sample, Scene

MAX_INTEGER = 2**63 - 1
OUTCOMES = ("installed", "recalled", "remembered", "rejected", "reverted")
DURABLE_TYPES = {kind.TYPE: kind for kind in typing.get_args(DurableMessage)}
MAX_REASON_CHARS = 400
MAX_AUDITED = 1_000
"""Of a device's malformed messages so many are written into the audit; the others are only counted."""


@dataclass(frozen=True, kw_only=True)
class Malformed:
    """A durable message whose content breaks a rule: acknowledged, counted and audited, and nothing else of it kept.

    It arrived whole, so sending it again would not help; and were it refused it would block its outbox for ever.
    """

    kind: str
    reason: str


Entry = DurableMessage | Malformed


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where an entry comes from; ``stream`` as the record keeps it, with a sign."""

    device_id: str
    cohort: str
    stream: int
    sequence: int
    now: float


def check_message(message: DurableMessage, manifest: Manifest) -> None:
    """Every rule that the content of a durable message must keep.

    Raises:
        FrameError: which one it breaks.
    """
    if isinstance(message, Sample):
        if not manifest.adapts:
            raise FrameError(f"a sample came, but this bundle is for {manifest.task}, which this cloud does not adapt")
        if message.scene > MAX_INTEGER:
            raise FrameError(f"a sample says scene {message.scene}, which is out of range")
        check_sample(message, manifest.input, manifest.num_classes)
    elif isinstance(message, Scene):
        check_scene(message, manifest)
    elif message.outcome not in OUTCOMES or message.version > MAX_INTEGER:
        raise FrameError(f"a receipt says {message.outcome!r:.40} of version {message.version}")


def check_scene(scene: Scene, manifest: Manifest) -> None:
    """The rules of a `Scene`.

    Raises:
        FrameError: a number is out of range, or the fingerprint is not one of this bundle's.
    """
    if not 0 < scene.scene <= MAX_INTEGER or scene.version > MAX_INTEGER:
        raise FrameError(f"a scene has the number {scene.scene} and version {scene.version}; scenes count from 1")
    layer = fingerprint_layer(manifest.norm_layers)
    if layer is None:
        if scene.fingerprint:
            raise FrameError("a fingerprint came, but this bundle has no BatchNorm that it could be of")
        return
    try:
        decode_fingerprint(scene.fingerprint, layer)
    except ValueError as error:
        raise FrameError(str(error)) from error


def insert(
    db: sqlite3.Connection,
    entry: Entry,
    origin: Origin,
    *,
    rule: DomainRule | None,
    highest: int,
    keep_images: bool = False,
) -> None:
    """Write one entry.

    Args:
        rule: How a scene gets its domain; None: everything is of domain 0.
        highest: The highest version that the device has seen, as it says.
        keep_images: Also of a sample that nothing may be learned from.
    Raises:
        ValueError: a scene's fingerprint is not one of the rule's bundle.
    """
    if isinstance(entry, Sample):
        _insert_sample(db, entry, origin, keep_images)
    elif isinstance(entry, Scene):
        _insert_scene(db, entry, origin, rule, highest)
    elif isinstance(entry, Receipt):
        db.execute(
            "INSERT INTO receipts (device_id, stream, sequence, version, outcome, code, reason, received_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (*_where(origin), entry.version, entry.outcome, entry.code, entry.reason, origin.now),
        )
    else:
        _note_malformed(db, entry, origin)


def _note_malformed(db: sqlite3.Connection, entry: Malformed, origin: Origin) -> None:
    db.execute("UPDATE devices SET num_malformed = num_malformed + 1 WHERE id = ?", (origin.device_id,))
    count = db.execute("SELECT num_malformed FROM devices WHERE id = ?", (origin.device_id,)).fetchone()[0]
    if count <= MAX_AUDITED:
        said = f"{entry.kind} {origin.sequence}: {entry.reason}"[:MAX_REASON_CHARS]
        note(db, origin.now, "malformed", origin.device_id, said)


def _where(origin: Origin) -> tuple[str, int, int]:
    return origin.device_id, origin.stream, origin.sequence


def _insert_scene(db: sqlite3.Connection, scene: Scene, origin: Origin, rule: DomainRule | None, highest: int) -> None:
    domain = NO_DOMAIN
    if rule is not None:
        domain = assign_domain(
            db, rule, cohort=origin.cohort, device_id=origin.device_id, fingerprint=scene.fingerprint
        )
    domain, _ = learned_from(db, origin.cohort, origin.device_id, domain)
    newest = db.execute("SELECT coalesce(max(version), 0) FROM versions WHERE cohort = ?", (origin.cohort,)).fetchone()
    cursor = db.execute(
        "INSERT INTO scenes (device_id, stream, sequence, cohort, scene, domain, version, fingerprint,"
        " highest_version, received_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *_where(origin),
            origin.cohort,
            scene.scene,
            domain,
            scene.version,
            scene.fingerprint,
            min(highest, newest[0]),  # what does not exist nobody has seen: no claim can call for re-issues for ever
            origin.now,
        ),
    )
    db.execute(
        "UPDATE devices SET domain = ?, last_scene = ? WHERE id = ?", (domain, cursor.lastrowid, origin.device_id)
    )


def _insert_sample(db: sqlite3.Connection, sample: Sample, origin: Origin, keep_images: bool) -> None:
    digest = hashlib.sha256(sample.image).digest()
    domain = domain_of_scene(
        db, cohort=origin.cohort, device_id=origin.device_id, stream=origin.stream, scene=sample.scene
    )
    domain, teaches = learned_from(db, origin.cohort, origin.device_id, domain)
    db.execute(
        "INSERT INTO blobs (sha256, data) VALUES (?, ?)"
        " ON CONFLICT (sha256) DO UPDATE SET data = excluded.data WHERE length(data) = 0",  # it may have been given up
        (digest, sample.image if teaches or keep_images else b""),
    )
    db.execute(
        "INSERT INTO samples (device_id, stream, sequence, cohort, scene, domain, frame_id, version, predicted,"
        " entropy_nats, coding, sha256, received_at, withdrawn)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *_where(origin),
            origin.cohort,
            sample.scene,
            domain,
            sample.frame_id,
            sample.version,
            sample.predicted,
            sample.entropy_nats,
            sample.coding,
            digest,
            origin.now,
            int(not teaches),
        ),
    )
    db.execute(
        "UPDATE devices SET num_samples = num_samples + 1, sample_bytes = sample_bytes + ? WHERE id = ?",
        (len(sample.image), origin.device_id),
    )


def check_sample(sample: Sample, spec: InputSpec, num_classes: int) -> Frame:
    """Every rule that a sample's content must keep; gives the decoded frame.

    Raises:
        FrameError: the image is not a frame of this bundle, or a number is out of range.
    """
    if sample.predicted >= num_classes:
        raise FrameError(f"a sample says class {sample.predicted}, this bundle has {num_classes} classes")
    if sample.version > MAX_INTEGER or sample.frame_id > MAX_INTEGER:
        raise FrameError("a sample's version or frame_id is out of range")
    if sample.entropy_nats < 0:
        raise FrameError(f"a sample's entropy is {sample.entropy_nats:g} nats, it cannot be negative")
    return decode_image(sample.coding, sample.image, spec)
