"""The fleet as one JSON document: what ``GET /v1/fleet`` gives, and what the dashboard shows."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

from littoral.cloud.hub import Hub, Presence
from littoral.cloud.ledger import VersionEntry
from littoral.cloud.seen import last_seen
from littoral.cloud.store import EnrolledDevice
from littoral.core.recall import NO_DOMAIN

FLEET_SCHEMA = 1
MAX_VERSIONS = 200


def measure_fleet(hub: Hub) -> None:
    """Bring the metrics that tell of now up to date. May be called from any thread.

    Raises:
        StorageError: the record cannot be read.
    """
    num_bytes, room_bytes = hub.store.size()
    hub.metrics.set_state(fleet_document(hub), record_bytes=num_bytes, room_bytes=room_bytes)


def fleet_document(hub: Hub) -> dict[str, Any]:
    """Devices with presence and counters, domains, the newest versions with verdicts, totals, bytes by purpose.

    Times are seconds since the epoch. May be called from any thread: it reads the hub, never writes.

    Raises:
        StorageError: the record cannot be read.
    """
    receipts, reverts, apart = hub.store.last_receipts(), hub.store.last_reverts(), hub.store.quarantines()
    presence, seen = dict(hub.presence), last_seen(hub.store)
    devices = [
        {
            **_device(d, presence.get(d.id, Presence(last_seen=seen.get(d.id)))),
            "quarantined_for": apart.get(d.id, ""),
            "last_receipt": receipts.get(d.id),
            "last_revert": reverts.get(d.id),
        }
        for d in hub.store.devices()
    ]
    versions = [_version(entry) for entry in hub.ledger.history(limit=MAX_VERSIONS)]
    return {
        "schema": FLEET_SCHEMA,
        "now": hub.clock(),
        "started_at": hub.started_at,
        "cohort": hub.ledger.cohort,
        "bundle": {"name": hub.manifest.name, "digest": hub.bundle_digest.hex()},
        "release_key": hub.release_key,
        "head_version": versions[-1]["version"] if versions else 0,
        "shipped_version": hub.shipped_version,
        "totals": {
            "devices": len(devices),
            "online": sum(d["online"] for d in devices),
            "quarantined": sum(d["quarantined_at"] is not None for d in devices),
            "samples": sum(d["samples"] for d in devices),
            "sample_bytes": sum(d["sample_bytes"] for d in devices),
            "labels_sent": hub.metrics.num_labels["sent"],
            "pictures": hub.metrics.num_pictures,
        },
        "last_sample_at": hub.store.last_sample_at(hub.ledger.cohort),
        "link_bytes": {direction: dict(totals) for direction, totals in hub.metrics.num_bytes.items()},
        "samples_per_second": hub.rates(),
        "devices": devices,
        "domains": _domains(hub, devices),
        "versions": versions,
    }


def _domains(hub: Hub, devices: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Domain 0, where devices are before their first scene, and then each that the cohort knows or has devices in."""
    num_devices = Counter(device["domain"] for device in devices if device["revoked_at"] is None)
    waiting = {entry.domain: entry.num_samples for entry in hub.ledger.head().waiting}
    newest = {domain: shipped.version for domain, shipped in hub.newest.items()}
    known = {entry.number: entry for entry in hub.ledger.domains()}
    shown = [number for number, entry in known.items() if entry.known or num_devices[number]]
    return [
        {
            "domain": number,
            "own_of": known[number].own_of if number in known else None,
            "scenes": known[number].num_scenes if number in known else 0,
            "devices": num_devices[number],
            "shipped_version": newest.get(number, 0),
            "waiting": waiting.get(number, 0),
        }
        for number in [NO_DOMAIN, *shown]
    ]


def _device(device: EnrolledDevice, presence: Presence) -> dict[str, Any]:
    return {
        "id": device.id,
        "name": device.name,
        "enrolled_at": device.enrolled_at,
        "revoked_at": device.revoked_at,
        "quarantined_at": device.quarantined_at,
        "online": presence.online,
        "last_seen": presence.last_seen,
        "refused": dataclasses.asdict(presence.refused) if presence.refused and not presence.online else None,
        "status": dataclasses.asdict(presence.status) if presence.status else None,
        "samples": device.num_samples,
        "sample_bytes": device.sample_bytes,
        "malformed": device.num_malformed,
        "domain": device.domain,
    }


def _version(entry: VersionEntry) -> dict[str, Any]:
    return {
        "version": entry.version,
        "domain": entry.domain,
        "base_version": entry.base_version,
        "status": entry.status,
        "reason": entry.reason,
        "payload_bytes": entry.payload_bytes,
        "report": entry.report,
        "verdict": entry.verdict,
        "samples": entry.num_samples,
        "created_at": entry.created_at,
    }
