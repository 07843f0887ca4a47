"""When each device was last here, in the record: a cloud that was started again still says who is silent since when.

Written with what a device sends, and when its session ends. Of one whose session is open while the cloud is killed it
is what it sent last.
"""

from __future__ import annotations

import sqlite3
from concurrent.futures import Future
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from littoral.cloud.store import Store


def mark_seen(db: sqlite3.Connection, device_id: str, at: float) -> None:
    """Write it down, in the writer's transaction. ``at`` is in seconds since the epoch."""
    db.execute("INSERT OR REPLACE INTO seen (device_id, at) VALUES (?, ?)", (device_id, at))


def write_seen(store: Store, device_id: str, *, now: float) -> Future[None]:
    """Write it down by itself."""
    return store.write(lambda db: mark_seen(db, device_id, now))


def last_seen(store: Store) -> dict[str, float]:
    """Seconds since the epoch per device id, of those that were here.

    Raises:
        StorageError: the record cannot be read.
    """
    return {row["device_id"]: row["at"] for row in store.read("SELECT device_id, at FROM seen")}
