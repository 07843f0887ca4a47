"""What an operator does to a state folder, whether its cloud runs or not."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from littoral.bundle import Bundle
from littoral.cloud.keys import Keys, make_token
from littoral.cloud.ledger import Ledger, VersionEntry
from littoral.cloud.lock import hold
from littoral.cloud.roll_back import back_to, sign_version, source_payload
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


def list_versions(state_dir: Path | str, *, cohort: str = "default") -> list[VersionEntry]:
    """All versions of a cohort, shipped and held, oldest first."""
    with open_record(state_dir) as store:
        return Ledger(store, cohort).history()


def roll_back(
    bundle: Path | str, state_dir: Path | str, domain: int, *, to: int = 0, cohort: str = "default", reason: str = ""
) -> int:
    """Have a domain's devices go back, while its cloud is stopped; the number of the version that takes them there.

    Args:
        bundle: The one that the state folder's cloud serves.
        to: A shipped version of the domain before its newest, or 0, the source's values.
        reason: Kept in the record.
    Raises:
        ValueError: the domain has no shipped version, or ``to`` is none that it can go back to.
        LittoralError: a cloud uses the state folder.
        BundleError: it is not the record's bundle, or a key is missing.
        StorageError: there is no record, or it cannot be written.
    """
    state_dir, opened = Path(state_dir), Bundle.open(bundle)
    with open_record(state_dir):
        pass  # there is one; else the folder would be made
    stop = "stop it, roll back, and start it again: devices go on answering meanwhile"
    with hold(state_dir, otherwise=stop), closing(Store(state_dir, bundle_digest=opened.digest)) as store:
        ledger = Ledger(store, cohort)
        sign = functools.partial(sign_version, ledger, Keys.load(state_dir).cohort, opened.digest)
        source, now = source_payload(opened), time.time()
        number = back_to(ledger, domain, to=to, source=source, sign=sign, reason=reason, now=now).result()
        assert number is not None  # nobody else makes versions while the folder is held
        return number
