"""``littoral data``: what it prints, where it looks, and one line for what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from littoral.bench import fetch as fetching
from littoral.bench.datasets import Archive
from littoral.cli.main import main


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that has CIFAR-10 and no more; the variable names none."""
    monkeypatch.delenv("LITTORAL_DATA", raising=False)
    (tmp_path / "cifar10").mkdir()
    for name in ("train.npz", "test.npz"):
        (tmp_path / "cifar10" / name).write_bytes(b"")
    return tmp_path


def test_list_says_what_is_there_and_how_to_get_the_rest(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "list", "--folder", str(data)]) == 0
    said = capsys.readouterr().out
    assert f"cifar10, in {data}" in said
    assert f"cifar10-c, not in {data}" in said
    assert "littoral data fetch cifar10 " not in said
    assert "littoral data fetch imagenet-c --to FOLDER   (66.0 GB)" in said
    assert "https://zenodo.org/records/2535967/files/CIFAR-10-C.tar in FOLDER\n" in said
    assert "noise.tar in FOLDER/ImageNet-C (--part noise)" in said
    assert said.count("licence: ") == 4


def test_the_variable_names_the_folder(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "list", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["folder"] is None
    assert not any(row["present"] for row in told["data_sets"])
    monkeypatch.setenv("LITTORAL_DATA", str(data))
    assert main(["data", "list", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["folder"] == str(data)
    assert {row["name"]: row["present"] for row in told["data_sets"]} == {
        "cifar10": True,
        "cifar10-c": False,
        "imagenet-c": False,
        "imagenet-r": False,
    }


def test_what_cannot_be_done_is_one_line(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, line in {
        ("list", "--folder", str(data / "nowhere")): f"littoral: {data / 'nowhere'} is no folder; give one",
        ("fetch", "mnist", "--to", str(data)): "littoral: no data set is called 'mnist'; there are cifar10, cifar10-c",
        ("fetch", "cifar10-c"): "littoral: no folder to fetch to; give --to, or set LITTORAL_DATA",
        ("fetch", "imagenet-c", "--to", str(data), "--part", "rain"): "littoral: imagenet-c has no part 'rain'",
    }.items():
        assert main(["data", *words]) == 1
        said = capsys.readouterr()
        assert said.err.startswith(line)
        assert said.err.count("\n") == 1
        assert said.out == ""


def test_fetch_does_nothing_where_all_is_there(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "fetch", "cifar10", "--to", str(data)]) == 0
    assert capsys.readouterr().out == f"cifar10 was in {data} already\n"


def test_fetch_says_what_it_did(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def sent(archive: Archive, folder: Path, *, progress: fetching.Progress) -> Path:
        progress(1, 2)
        (folder / archive.file).write_bytes(b"tar")
        return folder / archive.file

    def unpacked(file: Path, folder: Path, *, max_bytes: int) -> list[Path]:
        (folder / "imagenet-r").mkdir()
        return [folder / "imagenet-r"]

    monkeypatch.setattr(fetching, "download", sent)
    monkeypatch.setattr(fetching, "unpack", unpacked)
    assert main(["data", "fetch", "imagenet-r", "--to", str(data), "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["unpacked"] == [str(data / "imagenet-r")]
    assert said.err == ""
    (data / "imagenet-r").rmdir()
    assert main(["data", "fetch", "imagenet-r", "--to", str(data)]) == 0
    said = capsys.readouterr()
    assert said.out.startswith(f"imagenet-r is in {data}: imagenet-r (MIT")
    assert "downloading https://people.eecs.berkeley.edu" in said.err
