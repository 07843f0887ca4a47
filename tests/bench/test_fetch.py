"""Data sets from a home on this machine: whole, resumed, limited, checked, and unpacked where they cannot do harm."""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.client import HTTPMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from littoral.bench import fetch as fetching
from littoral.bench.datasets import DATA_SETS, Archive, DataSet, find
from littoral.bench.fetch import download, fetch, unpack
from littoral.errors import FetchError, StorageError


def tar(files: dict[str, bytes], change: Callable[[tarfile.TarInfo], object] = lambda info: None) -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as made:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            change(info)
            made.addfile(info, io.BytesIO(content))
    return held.getvalue()


guarded = pytest.mark.skipif(
    not hasattr(tarfile, "data_filter"), reason="this Python unpacks without a guard, so nothing is unpacked here"
)
GOOD = tar({"set/labels.npy": b"labels", "set/fog.npy": bytes(300_000)})


@dataclass
class Home:
    """A server of one file that does as a test tells it."""

    body: bytes = GOOD
    breaks_after: int | None = None
    """Bytes after which the connection ends, once."""
    resumes: bool = True
    promises: int | None = None
    """A Content-Length that is not the body's."""
    redirect: str | None = None
    status: int = 200
    asked: list[str | None] = field(default_factory=list)
    """The Range of each request."""
    url: str = ""


@pytest.fixture
def home() -> Iterator[Home]:
    """On 127.0.0.1, for as long as the test runs."""
    told = Home()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            told.asked.append(self.headers.get("Range"))
            if told.redirect is not None:
                self.send_response(302)
                self.send_header("Location", told.redirect)
                self.end_headers()
                return
            start = int(self.headers["Range"][6:-1]) if told.resumes and "Range" in self.headers else 0
            if start >= len(told.body) or told.status != 200:
                self.send_error(416 if start else told.status)
                return
            body = told.body[start:]
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(told.body) - 1}/{len(told.body)}")
            self.send_header("Content-Length", str(len(body) if told.promises is None else told.promises))
            self.end_headers()
            stop, told.breaks_after = told.breaks_after, None
            self.wfile.write(body if stop is None else body[:stop])

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    told.url = f"http://127.0.0.1:{server.server_address[1]}/set.tar"
    yield told
    server.shutdown()
    thread.join()
    server.server_close()


def archive(home: Home, **changes: object) -> Archive:
    made = Archive(
        part="all",
        url=home.url,
        md5=hashlib.md5(GOOD, usedforsecurity=False).hexdigest(),
        max_bytes=len(GOOD),
        holds=("set/labels.npy",),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def data_set(home: Home, **changes: object) -> DataSet:
    return DataSet(
        name="set", title="A set", home="here", licence="none", into="sets", archives=(archive(home, **changes),)
    )


@guarded
def test_a_data_set_is_downloaded_checked_and_unpacked(home: Home, tmp_path: Path) -> None:
    said: list[str] = []
    seen: list[tuple[int, int]] = []
    progress = lambda done, total: seen.append((done, total))  # noqa: E731
    made = fetch(data_set(home), tmp_path / "new", say=said.append, progress=progress)
    assert made == [tmp_path / "new" / "sets" / "set"]
    assert (made[0] / "labels.npy").read_bytes() == b"labels"
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["sets"]
    assert [line.split()[0] for line in said] == ["downloading", "unpacking"]
    assert seen[-1] == (len(GOOD), len(GOOD))


@guarded
def test_what_is_there_is_not_fetched_again(home: Home, tmp_path: Path) -> None:
    fetch(data_set(home), tmp_path)
    assert fetch(data_set(home), tmp_path) == []
    assert len(home.asked) == 1


@guarded
def test_a_download_that_broke_off_goes_on_where_it_stopped(home: Home, tmp_path: Path) -> None:
    home.breaks_after = 100_000
    with pytest.raises(FetchError, match=r"broke off: 100000 of \d+ bytes came; run the command again"):
        fetch(data_set(home), tmp_path)
    fetch(data_set(home), tmp_path)
    assert home.asked == [None, "bytes=100000-"]


def test_a_home_that_does_not_resume_is_asked_from_the_beginning(home: Home, tmp_path: Path) -> None:
    home.breaks_after, home.resumes = 100_000, False
    with pytest.raises(FetchError, match="broke off"):
        download(archive(home), tmp_path)
    assert download(archive(home), tmp_path).read_bytes() == GOOD


def test_half_of_another_file_is_thrown_away(home: Home, tmp_path: Path) -> None:
    half = tmp_path / ".set.tar.part"
    half.write_bytes(b"x" * 1000)
    with pytest.raises(FetchError, match="is published; it was removed"):
        download(archive(home), tmp_path)
    half.write_bytes(b"x" * (len(GOOD) - 1))
    with pytest.raises(FetchError, match="is published"):
        download(archive(home), tmp_path)
    half.write_bytes(b"x" * (len(GOOD) + 1))
    assert download(archive(home), tmp_path).read_bytes() == GOOD
    assert not half.exists()


def test_a_whole_half_only_wants_its_name(home: Home, tmp_path: Path) -> None:
    (tmp_path / ".set.tar.part").write_bytes(GOOD)
    assert download(archive(home), tmp_path).read_bytes() == GOOD
    assert download(archive(home), tmp_path).read_bytes() == GOOD
    assert home.asked == []


def test_another_file_than_the_published_one_is_refused(home: Home, tmp_path: Path) -> None:
    home.body = GOOD[:-1] + b"!"
    with pytest.raises(FetchError, match=f"where {archive(home).md5} is published"):
        fetch(data_set(home), tmp_path)
    assert not list(tmp_path.rglob("*.tar*"))
    assert not list(tmp_path.rglob("*.npy"))


def test_more_than_was_published_is_not_taken(home: Home, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"offers \d+ bytes, the published file has at most 1000; not taken"):
        download(archive(home, max_bytes=1000), tmp_path)
    home.promises = 900  # and sends more: the connection is read no further than that
    with pytest.raises(FetchError, match="is published"):
        download(archive(home, max_bytes=1000), tmp_path)


def test_what_has_no_length_is_stopped_at_the_limit(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "_check_room", lambda *args: None)
    with pytest.raises(FetchError, match="sends more than the 1000 bytes"):
        download(archive(home, max_bytes=1000), tmp_path)


def test_a_full_disk_is_seen_before_the_download(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(StorageError, match="has 10 bytes free"):
        fetch(data_set(home), tmp_path)


def test_a_folder_that_cannot_be_made_is_no_fault_of_the_home(home: Home, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"cannot hold set\.tar"):
        fetch(data_set(home), tmp_path / "file")


def test_a_home_that_is_away_says_so(home: Home, tmp_path: Path) -> None:
    home.status = 503
    with pytest.raises(FetchError, match="answered 503 Service Unavailable; try again later"):
        download(archive(home), tmp_path)


def test_an_address_that_leads_nowhere_asks_whether_we_are_online(tmp_path: Path) -> None:
    away = archive(Home(url="http://127.0.0.1:9/set.tar"))
    with pytest.raises(FetchError, match=r"cannot be reached: .*is this machine online.*littoral data list"):
        download(away, tmp_path)


@pytest.mark.parametrize("url", ["http://example.org/set.tar", "ftp://example.org/set.tar", "file:///etc/passwd"])
def test_only_https_is_taken_and_no_redirect_leads_elsewhere(home: Home, tmp_path: Path, url: str) -> None:
    with pytest.raises(FetchError, match="over https only"):
        download(archive(home, url=url), tmp_path)
    home.redirect = url
    with pytest.raises(FetchError, match=r"over https only|is not allowed"):
        download(archive(home), tmp_path)


def test_a_redirect_to_a_road_that_is_safe_is_followed(home: Home, tmp_path: Path) -> None:
    home.redirect = home.url.replace("127.0.0.1", "localhost")
    with pytest.raises(FetchError, match="answered 302"):  # it sends us round in circles, which ends
        download(archive(home), tmp_path)
    assert len(home.asked) > 2


def link(info: tarfile.TarInfo) -> None:
    info.type, info.linkname, info.size = tarfile.SYMTYPE, "../../outside", 0


def device(info: tarfile.TarInfo) -> None:
    info.type, info.size = tarfile.CHRTYPE, 0


@guarded
@pytest.mark.parametrize(
    "body",
    [tar({"../outside": b"x"}), tar({"set/link": b""}, link), tar({"set/null": b""}, device), b"no tar" * 200],
    ids=["a path outside", "a link outside", "a device", "no tar"],
)
def test_what_cannot_be_unpacked_safely_leaves_nothing(tmp_path: Path, body: bytes) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "bad.tar").write_bytes(body)
    with pytest.raises(FetchError, match=r"bad.tar is not a tar that can be unpacked safely"):
        unpack(tmp_path / "bad.tar", tmp_path / "in", max_bytes=10**6)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["bad.tar", "in"]


def test_a_python_that_unpacks_without_a_guard_unpacks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(tarfile, "data_filter", raising=False)
    (tmp_path / "set.tar").write_bytes(GOOD)
    with pytest.raises(FetchError, match=r"use 3\.11\.4 or newer"):
        unpack(tmp_path / "set.tar", tmp_path, max_bytes=1_000_000)
    assert [path.name for path in tmp_path.iterdir()] == ["set.tar"]


@guarded
def test_a_tar_that_unpacks_to_too_much_is_stopped(tmp_path: Path) -> None:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w:gz") as made:
        info = tarfile.TarInfo("set/zeros")
        info.size = 10**6
        made.addfile(info, io.BytesIO(bytes(10**6)))
    (tmp_path / "bomb.tar.gz").write_bytes(held.getvalue())
    with pytest.raises(FetchError, match="unpacks to more than 3000 bytes"):
        unpack(tmp_path / "bomb.tar.gz", tmp_path, max_bytes=3000)
    assert [path.name for path in tmp_path.iterdir()] == ["bomb.tar.gz"]


@guarded
def test_nothing_that_is_there_is_replaced(home: Home, tmp_path: Path) -> None:
    (tmp_path / "sets" / "set").mkdir(parents=True)
    (tmp_path / "sets" / "set" / "mine").write_text("keep")
    with pytest.raises(StorageError, match="is there already and not whole; move it away"):
        fetch(data_set(home), tmp_path)
    assert (tmp_path / "sets" / "set" / "mine").read_text() == "keep"


@guarded
def test_a_layout_that_changed_is_told(home: Home, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"holds no set/other\.npy"):
        fetch(data_set(home, holds=("set/other.npy",)), tmp_path)


@guarded
def test_one_part_of_several_can_be_had(home: Home, tmp_path: Path) -> None:
    both = replace(data_set(home), archives=(archive(home, part="a"), archive(home, part="b", holds=("other",))))
    assert [path.name for path in fetch(both, tmp_path, parts=("a",))] == ["set"]
    assert [a.part for a in both.missing_from(tmp_path)] == ["b"]
    assert not both.is_in(tmp_path)
    with pytest.raises(ValueError, match="set has no part 'c'; there are a, b"):
        fetch(both, tmp_path, parts=("c",))


def test_every_known_data_set_can_be_had_from_a_home_over_https() -> None:
    assert len({known.name for known in DATA_SETS}) == len(DATA_SETS) == 4
    for known in DATA_SETS:
        assert known.home.startswith("https://")
        assert known.licence
        for part in known.archives:
            assert part.url.startswith("https://")
            assert len(part.md5) == 32
            assert part.holds
    assert [a.part for a in find("imagenet-c").archives] == ["noise", "blur", "weather", "digital", "extra"]
    with pytest.raises(ValueError, match="no data set is called 'mnist'; there are cifar10"):
        find("mnist")


def test_our_own_form_of_cifar10_serves_as_well(tmp_path: Path) -> None:
    (tmp_path / "cifar10").mkdir()
    (tmp_path / "cifar10" / "test.npz").write_bytes(b"")
    assert not find("cifar10").is_in(tmp_path)
    (tmp_path / "cifar10" / "train.npz").write_bytes(b"")
    assert find("cifar10").is_in(tmp_path)


def test_no_home_over_https_sends_us_to_a_road_without() -> None:
    asked = fetching.urllib.request.Request("https://example.org/set.tar")
    with pytest.raises(FetchError, match=r"sends us on to http://127\.0\.0\.1/set\.tar, which is not https"):
        fetching._SafeRedirects().redirect_request(
            asked, io.BytesIO(), 302, "Found", HTTPMessage(), "http://127.0.0.1/set.tar"
        )
