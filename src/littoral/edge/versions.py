"""The affine versions on a device's disk, and which of them to serve after any power cut.

    versions/<number>.version   one signed version: magic, crc32, and its three parts
    versions/state.json         which is installed, which to go back to, the highest seen, what is being tried, and
                                which are remembered for the worlds that they are for
    versions/state.backup.json  the same, written after it: for the day on which the disk damages one of the two

A version's file is written under another name, synced and renamed before the state names it; the state itself is
replaced by a rename. So whatever a power cut leaves, the state names a whole file, or the one before does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import math
import os
import struct
import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from littoral.bundle import SignedVersion
from littoral.core.recall import NO_DOMAIN
from littoral.core.scenes import SOURCE, Memory, Remembered
from littoral.errors import StorageError

log = logging.getLogger("littoral.edge.versions")

MAX_VERSION = 2**63 - 1
STATE_FILE = "state.json"
BACKUP_FILE = "state.backup.json"
MAX_REASONS = 32
_MAGIC = b"LVR1"
_HEADER = struct.Struct("<4sIIII")  # magic, crc32 of all that follows, length of manifest, signature, payload


@dataclass(frozen=True, kw_only=True)
class VersionState:
    """What ``state.json`` holds.

    Attributes:
        installed: The version to serve; `SOURCE` when none is.
        previous: The version to go back to: the last one that was trusted, or that served well for long enough.
        highest_seen: No version up to this one is taken.
        pending: A version that is being built and probed, or None. After a power cut it says what was interrupted.
        attempts: How often ``pending`` was begun.
        trusted: The installed version got through its watch.
        baseline_nats: The mean entropy before the installed version, which its watch compares with; None if unknown.
        boots: How often the device started with an installed version that is not trusted yet; starts after which the
            source's values served are taken off again.
        waits: The world was near the source's when last seen, so that its values served whatever is installed.
        bundle: The bundle that the versions are for, in hexadecimal; "" if unknown.
        cohort: The cohort that they are of; "" if unknown.
        reasons: Version -> why it was rejected or reverted, newest last.
        remembered: The versions that can be recalled, the least recently used first.
    """

    installed: int = SOURCE
    previous: int = SOURCE
    highest_seen: int = 0
    pending: int | None = None
    attempts: int = 0
    trusted: bool = True
    baseline_nats: float | None = None
    boots: int = 0
    waits: bool = False
    bundle: str = ""
    cohort: str = ""
    reasons: dict[str, str] = field(default_factory=dict)
    remembered: Memory = ()

    def because(self, version: int, reason: str) -> VersionState:
        """With a reason noted; the oldest are forgotten over `MAX_REASONS`."""
        reasons = {key: text for key, text in self.reasons.items() if key != str(version)}
        reasons[str(version)] = reason[:300]
        return replace(self, reasons=dict(list(reasons.items())[-MAX_REASONS:]))


def private(path: str, flags: int) -> int:
    """Opens a file for `open`; one that is made so only its owner can read."""
    return os.open(path, flags, 0o600)


class Files:
    """The steps that touch the disk; a test puts a power cut between any two of them."""

    def write(self, path: Path, data: bytes) -> None:
        """Write a file that only its owner can read; what a power cut leaves of it is anyone's guess until `sync`."""
        with open(path, "wb", opener=private) as file:
            file.write(data)

    def append(self, path: Path, data: bytes) -> None:
        """Write more of a file; likewise."""
        with path.open("ab") as file:
            file.write(data)

    def sync(self, path: Path) -> None:
        """Make a file's content, or a folder's names, survive a power cut."""
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Give a file its name, in place of the one that had it."""
        os.replace(source, target)

    def remove(self, path: Path) -> None:
        """Remove a file if it is there."""
        path.unlink(missing_ok=True)

    def replace(self, path: Path, data: bytes) -> None:
        """Make this a file's content, durably: a power cut leaves the old one or the new one.

        Raises:
            StorageError: the disk does not take it; the old one stands.
        """
        temporary = path.with_name(path.name + ".new")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.write(temporary, data)
            self.sync(temporary)
            self.rename(temporary, path)
            self.sync(path.parent)
        except OSError as error:
            with contextlib.suppress(OSError):
                self.remove(temporary)
            raise StorageError(f"{path} cannot be written ({error}); free some space on its disk") from error


class VersionStore:
    """The versions in a state folder. Not for two threads at once.

    Args:
        state_dir: The device's folder; a folder ``versions`` is made in it.
        files: The disk.

    A state that cannot be read is not an error: the device then serves its source and `state` says why.
    """

    def __init__(self, state_dir: Path | str, *, files: Files | None = None) -> None:
        self.folder = Path(state_dir) / "versions"
        self._files = files or Files()
        with contextlib.suppress(OSError):  # a disk that cannot be written still leaves the source to serve
            self.folder.mkdir(parents=True, exist_ok=True)
        self.state = self._read_state()

    def _read_state(self) -> VersionState:
        reason = ""
        for name in (STATE_FILE, BACKUP_FILE):
            path = self.folder / name
            try:
                state = _parse_state(path.read_bytes())
            except FileNotFoundError:
                continue
            except (OSError, ValueError, RecursionError) as error:
                reason = f"{path} cannot be read ({error})"
                log.error("%s; the device goes on with what else is there", reason)
                continue
            return state.because(SOURCE, reason) if reason else state
        return VersionState().because(SOURCE, reason) if reason else VersionState()

    def save(self, state: VersionState) -> None:
        """Make ``state`` the state, durably.

        Raises:
            StorageError: the disk does not take it; the old state stands.
        """
        data = json.dumps(dataclasses.asdict(state), allow_nan=False).encode()
        self._files.replace(self.folder / STATE_FILE, data)
        self.state = state
        try:
            self._files.replace(self.folder / BACKUP_FILE, data)
        except StorageError as error:
            log.warning("%s", error)

    def stage(self, version: int, signed: SignedVersion) -> None:
        """Put a version's file in its place, durably; nothing refers to it yet.

        Raises:
            StorageError: the disk does not take it.
        """
        self._files.replace(self._path(version), _pack(signed))

    def load(self, version: int) -> SignedVersion:
        """Read a version's file.

        Raises:
            StorageError: missing or damaged.
        """
        try:
            return _unpack(self._path(version).read_bytes())
        except (OSError, ValueError) as error:
            raise StorageError(f"version {version} cannot be read from the disk ({error})") from error

    def tidy(self) -> None:
        """Remove the files that the state does not name. A disk that fails here is tried again next time."""
        state = self.state
        numbers = {state.installed, state.previous, state.pending or SOURCE, *(e.version for e in state.remembered)}
        keep = {self._path(number).name for number in numbers}
        with contextlib.suppress(OSError):
            for path in list(self.folder.iterdir()):
                if path.suffix in (".version", ".new") and path.name not in keep:
                    self._files.remove(path)

    def _path(self, version: int) -> Path:
        return self.folder / f"{version}.version"


def _pack(signed: SignedVersion) -> bytes:
    parts = (signed.manifest, signed.signature, signed.payload)
    body = b"".join(parts)
    return _HEADER.pack(_MAGIC, zlib.crc32(body), *(len(part) for part in parts)) + body


def _unpack(data: bytes) -> SignedVersion:
    if len(data) < _HEADER.size:
        raise ValueError(f"only {len(data)} bytes")
    magic, crc, manifest_bytes, signature_bytes, payload_bytes = _HEADER.unpack_from(data)
    body = data[_HEADER.size :]
    if magic != _MAGIC or len(body) != manifest_bytes + signature_bytes + payload_bytes or zlib.crc32(body) != crc:
        raise ValueError("its length or checksum does not match")
    at = manifest_bytes + signature_bytes
    return SignedVersion(manifest=body[:manifest_bytes], signature=body[manifest_bytes:at], payload=body[at:])


def _parse_state(data: bytes) -> VersionState:
    raw = json.loads(data)
    known = {f.name for f in dataclasses.fields(VersionState)}
    if not isinstance(raw, dict) or {*raw, "remembered", "waits"} != known:  # written by 0.1.0, it has none
        raise ValueError("not the fields of a state")
    pending, baseline = raw["pending"], raw["baseline_nats"]
    good = (
        all(_is_count(raw[name]) for name in ("installed", "previous", "highest_seen", "attempts", "boots"))
        and (pending is None or _is_count(pending))
        and isinstance(raw["trusted"], bool)
        and isinstance(raw.get("waits", False), bool)
        and (baseline is None or (isinstance(baseline, float) and math.isfinite(baseline)))
        and isinstance(raw["bundle"], str)
        and isinstance(raw["cohort"], str)
        and isinstance(raw["reasons"], dict)
        and all(isinstance(text, str) for text in raw["reasons"].values())
    )
    if not good:
        raise ValueError("a field of the state has another type or range")
    return VersionState(**{**raw, "remembered": _parse_memory(raw.get("remembered", []))})


def _parse_memory(raw: Any) -> Memory:
    known = {f.name for f in dataclasses.fields(Remembered)}
    if not isinstance(raw, list) or not all(isinstance(entry, dict) and set(entry) == known for entry in raw):
        raise ValueError("what is remembered is not a list of versions")
    for entry in raw:
        nats = entry["entropy_nats"]
        good = (
            all(_is_count(entry[name]) for name in ("version", "domain"))
            and entry["version"] != SOURCE
            and entry["domain"] != NO_DOMAIN
            and isinstance(entry["fingerprint"], str)
            and isinstance(entry["trusted"], bool)
            and (nats is None or (isinstance(nats, float) and math.isfinite(nats)))
        )
        if not good:
            raise ValueError("a remembered version has a field of another type or range")
    if len({entry["version"] for entry in raw}) != len(raw):
        raise ValueError("a version is remembered twice")
    return tuple(Remembered(**entry) for entry in raw)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_VERSION
