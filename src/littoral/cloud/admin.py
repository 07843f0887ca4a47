"""What an operator does to a state folder, whether its cloud runs or not."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from littoral.cloud.keys import Keys, make_token
from littoral.cloud.store import EnrolledDevice, Store


@contextmanager
def open_record(state_dir: Path | str) -> Iterator[Store]:
    """The record of a state folder, beside its cloud if that runs.

    Raises:
        StorageError: there is none, or it cannot be opened.
    """
    store = Store(Path(state_dir), bundle_digest=None)
    try:
        yield store
    finally:
        store.close()


def new_token(state_dir: Path | str) -> str:
    """Make a one-time enrolment token. It is shown once; the record keeps only its hash.

    Raises:
        StorageError: there is no record, or it cannot be written.
        BundleError: the release key, by which a device knows this cloud, is not there.
    """
    with open_record(state_dir) as store:
        token, digest = make_token(Keys.load(Path(state_dir)).release.public)
        store.add_token(digest, now=time.time()).result()
        return token


def revoke(state_dir: Path | str, device_id: str, *, reason: str = "") -> bool:
    """Shut a device out for good; its open session ends with the next thing it sends. False when it already was.

    Raises:
        ValueError: no such device is enrolled.
        StorageError: there is no record, or it cannot be written.
    """
    with open_record(state_dir) as store:
        return bool(store.revoke(device_id, reason=reason, now=time.time()).result())


def release(state_dir: Path | str, device_id: str, *, reason: str = "") -> bool:
    """End a device's quarantine: from its next scene on it shares again. False when there was none.

    Raises:
        ValueError: no such device is enrolled.
        StorageError: there is no record, or it cannot be written.
    """
    with open_record(state_dir) as store:
        return bool(store.release(device_id, reason=reason, now=time.time()).result())


def list_devices(state_dir: Path | str) -> list[EnrolledDevice]:
    """All enrolled devices, revoked ones too, oldest first."""
    with open_record(state_dir) as store:
        return store.devices()
