"""Data sets from their own homes: resumed, limited in size, checked, unpacked safely. Standard library only."""

from __future__ import annotations

import hashlib
import os
import shutil
import ssl
import tarfile
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from littoral.bench.datasets import Archive, DataSet
from littoral.errors import FetchError, StorageError

Progress = Callable[[int, int], None]
"""Told the bytes that are there and those that are wanted at most."""

_BLOCK = 1 << 20
_TIMEOUT_S = 60.0
_UNPACKED_AT_MOST = 3
"""Times the archive's own size: the sets are hardly compressible, a bomb is."""
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def fetch(
    data_set: DataSet,
    folder: Path,
    *,
    parts: tuple[str, ...] = (),
    say: Callable[[str], None] = lambda _line: None,
    progress: Progress = lambda _done, _total: None,
) -> list[Path]:
    """Download and unpack what is missing of a data set.

    Args:
        folder: Where data sets lie; made if missing. Half a download stays there and is gone on with next time.
        parts: Names of archives; empty for all.
        say: Told what is being done, a line at a time.
        progress: Told how far a download is.
    Returns:
        What was unpacked; empty if all was there.
    Raises:
        ValueError: a part of no such name.
        FetchError: the home cannot be reached, or sends something else than it published.
        StorageError: the folder cannot hold it.
    """
    known = {archive.part for archive in data_set.archives}
    strangers = sorted(set(parts) - known)
    if strangers:
        raise ValueError(f"{data_set.name} has no part {strangers[0]!r}; there are {', '.join(sorted(known))}")
    if not parts and data_set.is_in(folder):
        return []
    made: list[Path] = []
    for archive in data_set.missing_from(folder):
        if parts and archive.part not in parts:
            continue
        try:
            (folder / data_set.into).mkdir(parents=True, exist_ok=True)
            say(f"downloading {archive.url}")
            file = download(archive, folder, progress=progress)
            say(f"unpacking {file.name}")
            made += unpack(file, folder / data_set.into, max_bytes=_UNPACKED_AT_MOST * file.stat().st_size)
        except OSError as error:
            raise StorageError(f"{folder} cannot hold {archive.file}: {error}; give another folder") from error
        absent = [name for name in archive.holds if not (folder / data_set.into / name).exists()]
        if absent:
            raise FetchError(f"{archive.file} came as published, but holds no {absent[0]}; tell us, its layout changed")
        file.unlink()
    return made


def download(archive: Archive, folder: Path, *, progress: Progress = lambda _done, _total: None) -> Path:
    """The archive's file in the folder, whole and checked; half a one is gone on with.

    Raises:
        FetchError: see `fetch`.
        OSError: the folder cannot hold it.
    """
    whole, half = folder / archive.file, folder / f".{archive.file}.part"
    if whole.is_file():
        if _md5(whole) == archive.md5:
            return whole
        whole.unlink()
    have = half.stat().st_size if half.is_file() else 0
    if not (have and _md5(half) == archive.md5):  # whole already, but stopped before it got its name
        _receive(archive, half, have, progress)
    found = _md5(half)
    if found != archive.md5:
        half.unlink()
        raise FetchError(f"{archive.url} sent {found} where {archive.md5} is published; it was removed; fetch it again")
    os.replace(half, whole)
    return whole


def _receive(archive: Archive, half: Path, have: int, progress: Progress) -> None:
    if have >= archive.max_bytes:
        half.unlink()
        have = 0
    headers = {"User-Agent": "littoral", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    _check_url(archive.url)
    opener = urllib.request.build_opener(_SafeRedirects())  # checks certificates, as urllib does by default
    try:
        with opener.open(urllib.request.Request(archive.url, headers=headers), timeout=_TIMEOUT_S) as answer:
            if have and not (answer.status == 206 and _starts_at(answer.headers, have)):
                have = 0  # the home does not resume: from the beginning
            _check_room(archive, half.parent, have, answer.headers)
            with half.open("ab" if have else "wb") as file:
                _copy(answer, file, have, archive, progress)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing after what we have: the half is longer than the file
            half.unlink(missing_ok=True)
        raise FetchError(
            f"{archive.url} answered {error.code} {error.reason}; try again later, or see its home"
        ) from error
    except urllib.error.URLError as error:
        raise FetchError(
            f"{archive.url} cannot be reached: {error.reason}; is this machine online? If it cannot be, "
            "download the file elsewhere and unpack it here ('littoral data list' says where)"
        ) from error
    except (TimeoutError, ConnectionError, HTTPException, ssl.SSLError) as error:
        what = str(error) or type(error).__name__
        raise FetchError(
            f"{archive.url} broke off: {what}; run the command again, it goes on where it stopped"
        ) from error


def _copy(answer: Any, file: IO[bytes], have: int, archive: Archive, progress: Progress) -> None:
    start, length = have, answer.headers.get("Content-Length")
    while block := answer.read(_BLOCK):
        have += len(block)
        if have > archive.max_bytes:
            raise FetchError(
                f"{archive.url} sends more than the {archive.max_bytes} bytes of the published file; stopped"
            )
        file.write(block)
        progress(have, archive.max_bytes)
    if length is not None and have - start < int(length):
        raise ConnectionError(f"{have - start} of {length} bytes came")


def _check_room(archive: Archive, folder: Path, have: int, headers: HTTPMessage) -> None:
    length = headers.get("Content-Length")
    coming = int(length) if length and length.isdigit() else 0
    if have + coming > archive.max_bytes:
        wanted = f"the published file has at most {archive.max_bytes}"
        raise FetchError(
            f"{archive.url} offers {have + coming} bytes, {wanted}; not taken; see its home for what changed"
        )
    free = shutil.disk_usage(folder).free
    if coming > free:
        raise StorageError(f"{folder} has {free} bytes free, {archive.file} needs {coming} more, and as much to unpack")


def _starts_at(headers: HTTPMessage, have: int) -> bool:
    return str(headers.get("Content-Range", "")).startswith(f"bytes {have}-")


def _check_url(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        raise FetchError(f"{url} is not https; data sets are taken over https only")


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """A home may send us on, but not to a road that anyone can write on."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        _check_url(newurl)
        if req.type == "https" and not newurl.startswith("https:"):
            raise FetchError(f"{req.full_url} sends us on to {newurl}, which is not https; not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def unpack(file: Path, folder: Path, *, max_bytes: int) -> list[Path]:
    """Unpack a tar beside its place, then move what it holds there; all of it or nothing.

    Args:
        max_bytes: What it may hold unpacked.
    Returns:
        What lies in ``folder`` now.
    Raises:
        FetchError: it is no tar, holds too much, a path or link that leads out of it, or what is no file or folder.
        StorageError: what it holds would replace what is there.
        OSError: the folder cannot hold it.
    """
    if not hasattr(tarfile, "data_filter"):
        raise FetchError("this Python unpacks without a guard; use 3.11.4 or newer")
    with tempfile.TemporaryDirectory(dir=folder, prefix=".unpacking-") as temporary:
        try:
            with tarfile.open(file) as tar:
                total = 0
                for member in tar:
                    total += member.size
                    if total > max_bytes:
                        raise FetchError(f"{file.name} unpacks to more than {max_bytes} bytes; not unpacked")
                    tar.extract(member, temporary, filter="data")
        except (tarfile.TarError, EOFError) as error:
            raise FetchError(f"{file.name} is not a tar that can be unpacked safely: {error}") from error
        entries = sorted(Path(temporary).iterdir())
        for entry in entries:
            if (folder / entry.name).exists():
                raise StorageError(
                    f"{folder / entry.name} is there already and not whole; move it away, and fetch again"
                )
        for entry in entries:
            entry.rename(folder / entry.name)
    return [folder / entry.name for entry in entries]
