"""A fleet that moves to the cloud of another bundle: who belongs to it goes along, what it learned does not.

Each bundle has a state folder of its own, since versions are deltas to one bundle's values. The new cloud takes the
keys, by which devices know it, and who is enrolled, shut out or put apart. The old one may run on for those devices
that have the old bundle still.
"""

from __future__ import annotations

import sqlite3
from concurrent.futures import Future
from pathlib import Path

from littoral.bundle.files import replace_file
from littoral.cloud.admin import open_record
from littoral.cloud.keys import KEY_FILES, KEYS_FOLDER
from littoral.cloud.schema import note
from littoral.cloud.store import RECORD_FILE, Store
from littoral.errors import LittoralError

_TABLES = {
    "devices": ("id", "name", "public_key", "cohort", "enrolled_at", "revoked_at", "quarantined_at"),
    "tokens": ("sha256", "created_at", "redeemed_at", "device_id"),
    "streams": ("device_id", "stream", "acked_sequence"),
}
"""Written in this order and read in the other, since the old cloud may run: what names a device is read before it."""
_META = "fleet_from"


def take_keys(state_dir: Path, old: Path) -> None:
    """Copy the keys of another cloud's state folder into one that has none.

    Raises:
        LittoralError: there are other keys already, or the old ones are not there.
    """
    if state_dir.resolve() == old.resolve():
        raise LittoralError(f"{old} is this cloud's own state folder; give the fleet's new bundle a folder of its own")
    (state_dir / KEYS_FOLDER).mkdir(parents=True, exist_ok=True, mode=0o700)
    for name in KEY_FILES:
        here, there = state_dir / KEYS_FOLDER / name, old / KEYS_FOLDER / name
        try:
            key = there.read_bytes()
        except OSError as error:
            raise LittoralError(f"{there} cannot be read ({error.strerror}); give a cloud's state folder") from error
        if not here.exists():
            replace_file(here, key, mode=0o600)
        elif here.read_bytes() != key:
            raise LittoralError(f"{here} is another key than {there}; take a fleet into a new state folder")


def has_fleet(state_dir: Path) -> bool:
    """Whether a state folder has taken a fleet: then the old one is not asked again, and may be gone."""
    if not (state_dir / RECORD_FILE).exists():
        return False
    with open_record(state_dir) as record:
        return bool(record.read("SELECT 1 FROM meta WHERE key = ?", _META))


def take_fleet(store: Store, old: Path, *, cohort: str) -> Future[int]:
    """Copy devices, tokens and how far outboxes are committed into a record that has no device yet.

    Once: a second call changes nothing, and the future gives 0 in place of the number of devices. It raises
    `LittoralError` where there are devices that are not from there.

    Raises:
        StorageError: there is no record in the old folder.
        LittoralError: its devices are of another cohort.
    """
    with open_record(old) as record:
        rows = {t: record.read(f"SELECT {', '.join(_TABLES[t])} FROM {t}") for t in reversed(_TABLES)}
        audit = record.read("SELECT at, kind, subject, detail FROM audit WHERE kind LIKE 'device-%' ORDER BY id")
    if others := {row["cohort"] for row in rows["devices"]} - {cohort}:
        raise LittoralError(f"the devices in {old} are of cohort {min(others)!r}, this cloud is for {cohort!r}")

    def work(db: sqlite3.Connection) -> int:
        if db.execute("SELECT 1 FROM meta WHERE key = ?", (_META,)).fetchone():
            return 0
        if db.execute("SELECT 1 FROM devices").fetchone():
            raise LittoralError("this record has devices of its own; take a fleet into a new state folder")
        for table, names in _TABLES.items():
            into = f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"
            db.executemany(into, [tuple(row) for row in rows[table]])
        for row in audit:
            note(db, *row)
        db.execute("INSERT INTO meta (key, value) VALUES (?, ?)", (_META, str(old)))
        return len(rows["devices"])

    return store.write(work)
