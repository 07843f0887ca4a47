"""Every command as people call it: what it prints, its exit status, and one line for what is wrong."""

from __future__ import annotations

import io
import json
import re
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from littoral.bundle import Bundle
from littoral.cli.main import main
from littoral.cli.numbers import all_plain, plain
from littoral.core.tasks import Detection
from littoral.edge.http import Endpoint
from littoral.edge.link import CloudLink

Said = Callable[..., tuple[int, str, str]]


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    """Run a command; its status, stdout and stderr."""

    def run(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main([str(word) for word in words])
        out, err = capsys.readouterr()
        return status, out, err

    return run


@pytest.fixture
def signed(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy that a test may sign and damage."""
    copy = tmp_path / "signed"
    shutil.copytree(tiny_bundle, copy)
    return copy


@pytest.fixture
def frames(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A folder with three frames of the bundle's probe, one file that is no image, and one of another size."""
    folder = tmp_path / "frames"
    folder.mkdir()
    for i, frame in enumerate(Bundle.open(tiny_bundle).probe[0][:3]):
        Image.fromarray(frame[..., 0]).save(folder / f"{i}.png")
    return folder


def lines(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def one_line(err: str) -> str:
    assert err.count("\n") == 1, err
    assert "Traceback" not in err
    assert err.startswith("littoral: ")
    return err


# Usage.


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["nonsense"],
        ["bundle"],
        ["bundle", "inspect"],
        ["edge"],
        ["cloud", "x"],
        ["cloud", "x", "--state", "y", "--device", "gpu"],
        ["enrol", "make"],
        ["edge", "x", "--stdin", "video"],
        ["build", "out"],
        ["bench"],
        ["doctor", "--js"],
    ],
    ids=" ".join,
)
def test_wrong_usage_ends_with_2_and_says_the_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert "usage: littoral" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["edge", "x"], "give one of FOLDER, --stdin and --http"),
        (["edge", "x", "folder", "--http", "0"], "give one of FOLDER, --stdin and --http"),
        (["edge", "x", "--http", "0", "--fps", "3"], "leave out --fps and --status-every"),
        (["edge", "x", "--http", "0", "--status-every", "3"], "leave out --fps and --status-every"),
        (["edge", "x", "--http", "0", "--maps", "m"], "--maps is for a folder or --stdin; leave it out with --http"),
        (["edge", "x", "folder", "--cloud", "https://c"], "--cloud needs --state"),
        (["edge", "x", "folder", "--offload", "0"], "--offload needs --cloud"),
        (["edge", "x", "folder", "--deadline", "50"], "is of --offload, --picture and --route"),
        (["edge", "x", "folder", "--split", "1"], "--split is of --offload"),
        (["edge", "x", "folder", "--route"], "--route needs --cloud, which some frames are for"),
        (["edge", "x", "folder", "--price-ms", "1"], "are of --route"),
        (["edge", "x", "folder", "--risk", "0.1"], "are of --exits and --route"),
        (
            ["edge", "x", "folder", "--cloud", "https://c", "--state", "s", "--route", "--offload", "0"],
            "leave out one of --route and --offload",
        ),
        (
            ["edge", "x", "folder", "--cloud", "https://c", "--state", "s", "--exits", "--offload", "0"],
            "leave out one of --exits and --offload",
        ),
        (["edge", "x", "folder", "--picture", "png"], "--picture needs --cloud"),
        (["edge", "x", "folder", "--no-pictures"], "--no-pictures is of --route"),
        (
            ["edge", "x", "folder", "--cloud", "https://c", "--state", "s", "--picture", "png", "--offload", "0"],
            "leave out one of --offload and --picture",
        ),
        (
            ["edge", "x", "folder", "--cloud", "https://c", "--state", "s", "--route", "--picture", "png"],
            "leave out one of --route and --picture",
        ),
    ],
    ids=[
        "no-source",
        "two-sources",
        "pace-over-http",
        "status-over-http",
        "maps-over-http",
        "cloud-without-state",
        "offload-without-cloud",
        "deadline-without-offload",
        "split-without-offload",
        "route-without-cloud",
        "price-without-route",
        "risk-without-exits",
        "route-and-offload",
        "exits-and-offload",
        "picture-without-cloud",
        "no-pictures-without-route",
        "picture-and-offload",
        "route-and-picture",
    ],
)
def test_a_device_without_a_clear_source_or_state_ends_with_2(said: Said, words: list[str], told: str) -> None:
    status, out, err = said(*words)
    assert (status, out) == (2, "")
    assert told in err


@pytest.mark.parametrize("option", ["--tls-certificate", "--tls-key"])
def test_half_of_tls_ends_with_2_and_names_both_options(said: Said, option: str) -> None:
    status, out, err = said("cloud", "x", "--state", "s", option, "file.pem")
    assert (status, out) == (2, "")
    assert "both --tls-certificate and --tls-key" in err


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    from littoral import __version__

    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert (ended.value.code, capsys.readouterr().out) == (0, f"littoral {__version__}\n")


# bundle.


@pytest.mark.parametrize("place", ["before", "after"])
def test_inspect_as_json_is_the_manifest_and_json_stands_before_or_after_the_action(
    said: Said, tiny_bundle: Path, place: str
) -> None:
    words = (
        ["bundle", "--json", "inspect", tiny_bundle]
        if place == "before"
        else ["bundle", "inspect", tiny_bundle, "--json"]
    )
    status, out, _ = said(*words)
    told = json.loads(out)
    bundle = Bundle.open(tiny_bundle)
    assert (status, told["digest"], told["signed_by"]) == (0, bundle.digest.hex(), None)
    assert {key: told[key] for key in ("name", "task", "files")} == {
        "name": "tiny", "task": "classification", "files": bundle.manifest.files,
    }  # fmt: skip


def test_inspect_shows_people_what_a_bundle_is(said: Said, tiny_bundle: Path) -> None:
    status, out, _ = said("bundle", "inspect", tiny_bundle)
    assert status == 0
    for text in (
        "tiny",
        "nobody",
        "10 classes: 0, 1, 2, 3, 4, 5, …",
        "uint8 16 x 16 x 1",
        "3 batch",
        "weights.safetensors",
    ):
        assert text in out


def test_inspect_shows_the_splits_with_bytes_and_channels_of_each_level(said: Said, split_bundle: Path) -> None:
    status, out, _ = said("bundle", "inspect", split_bundle)
    assert status == 0
    assert "split          from frames, latent 1 x 16 x 16, tables " in out
    assert "split          from segment 0, latent 4 x 16 x 16, tables " in out
    assert re.search(r"  level 0: 2 of 4 channels, typically \d+ bytes, at most 4000\n", out)
    told = json.loads(said("bundle", "inspect", split_bundle, "--json")[1])["split_points"]
    assert [(split["segment"], split["latent"]) for split in told] == [(None, [1, 16, 16]), (0, [4, 16, 16])]
    typical = [level["typical_bytes"] for level in told[1]["levels"]]
    assert typical == sorted(set(typical))
    assert [level["kept_channels"] for level in told[1]["levels"]] == [2, 4, 4]


def test_inspect_shows_what_a_build_measured_of_a_split(said: Said, split_bundle: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(split_bundle, tmp_path / "b"))
    raw = json.loads((copy / "bundle.json").read_bytes())
    raw["source_metrics"] |= {"split1.encoder_macs": 3.5e6, "split1.level2.payload_bytes": 65.25}
    raw["source_metrics"]["split1.level2.accuracy"] = 0.9125
    (copy / "bundle.json").write_text(json.dumps(raw))
    out = said("bundle", "inspect", copy)[1]
    assert "from segment 0, latent 4 x 16 x 16, encoder 3.5 million MACs" in out
    assert "  level 2: 4 of 4 channels, typically 65.25 bytes, at most 4000, accuracy 0.9125" in out
    assert "split1" not in out, "not a second time among the source metrics"


def test_inspect_shows_what_a_routers_tables_say(said: Said, tiny_bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from route_bundles import drawn_tables, with_tables, write_routeless_bundle

    plain = write_routeless_bundle(tiny_bundle, tmp_path / "plain")
    assert "router" not in said("bundle", "inspect", plain.path)[1]
    routed = with_tables(plain, drawn_tables(plain), tmp_path / "routed")
    raw = json.loads((routed.path / "bundle.json").read_bytes())
    raw["source_metrics"] |= {"router.num_frames": 600.0, "router.point2.wrong": 0.125}
    raw["source_metrics"]["router.split1.level2.wrong"] = 0.03125
    (routed.path / "bundle.json").write_text(json.dumps(raw))
    out = said("bundle", "inspect", routed.path)[1]
    assert "router         3 points, 6 ways, 8 bins, counted on 600 frames by labels\n" in out
    assert "  exit 0\n  exit 1, 12.5 % wrong\n  whole network\n" in out
    assert "  split 0 level 0, from point 0: 100 bytes\n" in out
    assert "  split 1 level 2, from point 1: 300 bytes, 3.12 % wrong\n" in out
    assert "router.point2" not in out, "not a second time among the source metrics"


def test_inspect_shows_exits_and_what_they_promise(said: Said, split_bundle: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(split_bundle, tmp_path / "b"))
    raw = json.loads((copy / "bundle.json").read_bytes())
    raw |= {
        "exits": [
            {"segment": 0, "stem_file": raw["weights_file"], "temperature": 1.5, "threshold": 0.75, "macs": 2_500_000}
            | {"num_features": 8, "is_deep": False}
        ],
        "heads_file": raw["weights_file"],
        "segment_macs": [10, 20],
        "exit_promise": {"level": 0.05, "delta": 0.1, "procedure": "x", "num_frames": 80, "empirical_risk": 0.0125},
    }
    raw["source_metrics"] |= {"exit0.agreement": 0.875, "exits.compute_share": 0.625}
    (copy / "bundle.json").write_text(json.dumps(raw))
    out = said("bundle", "inspect", copy)[1]
    assert "exit           after segment 0, 8 features, 2.5 million MACs, threshold 0.75, agreement 0.875\n" in out
    assert "of 80 source frames 0.0125 are answered otherwise" in out
    assert "at most 0.05 with a confidence of 0.9; 0.625 of the work" in out
    assert "exit0" not in out, "not a second time among the source metrics"


def test_a_bundle_is_signed_and_verified_by_its_key_and_by_no_other(said: Said, signed: Path, tmp_path: Path) -> None:
    keys = {}
    for name in ("release", "other"):
        status, out, _ = said("bundle", "keys", tmp_path / name, "--json")
        keys[name] = json.loads(out)
        assert (status, keys[name]["made"]) == (0, True)
    again = json.loads(said("bundle", "keys", tmp_path / "release", "--json")[1])
    assert again == {**keys["release"], "made": False}
    assert (tmp_path / "release").stat().st_mode & 0o077 == 0

    assert said("bundle", "verify", signed)[1].endswith(", not signed\n")
    status, _, err = said("bundle", "verify", signed, "--trust", keys["release"]["public_key"])
    assert status == 1
    assert "is not signed; sign it with 'littoral bundle sign'" in one_line(err)

    status, out, _ = said("bundle", "sign", signed, "--key", tmp_path / "release")
    assert (status, keys["release"]["fingerprint"] in out) == (0, True)
    status, out, _ = said("bundle", "verify", signed, "--trust", keys["release"]["public_key"], "--json")
    assert (status, json.loads(out)["signed_by"]) == (0, keys["release"]["public_key"])
    status, _, err = said("bundle", "verify", signed, "--trust", keys["other"]["public_key"])
    assert status == 1
    assert "install the bundle that your cloud serves" in one_line(err)


@pytest.mark.parametrize("command", ["bundle verify", "bundle inspect", "edge", "cloud"])
def test_a_changed_byte_is_one_line_and_status_1(said: Said, signed: Path, tmp_path: Path, command: str) -> None:
    data = bytearray((signed / "weights.safetensors").read_bytes())
    data[-3] ^= 1
    (signed / "weights.safetensors").write_bytes(data)
    more = {"edge": [tmp_path], "cloud": ["--state", tmp_path / "state"]}.get(command, [])
    status, out, err = said(*command.split(), signed, *more)
    assert (status, out) == (1, "")
    assert "weights.safetensors has changed: SHA-256" in one_line(err)
    assert "copy the bundle again" in err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["bundle", "inspect", "{tmp}/none"], "make one with 'littoral build'"),
        (["bundle", "sign", "{bundle}", "--key", "{tmp}/none"], "make one with 'littoral bundle keys"),
        (["edge", "{bundle}", "{tmp}/none"], "is not a folder; give a folder of images, --stdin or --http"),
        (["edge", "{bundle}", "{tmp}"], "there is no image below"),
        (["edge", "{bundle}", "{tmp}", "--measure-batch", "1"], "statistics_batch_frames >= 2"),
        (["enrol", "list", "--state", "{tmp}/none"], "{tmp}/none"),
    ],
    ids=["no-bundle", "no-key", "no-folder", "no-image", "batch-of-one", "no-record"],
)
def test_what_is_missing_is_one_line_that_says_what_to_do(
    said: Said, tiny_bundle: Path, tmp_path: Path, words: list[str], told: str
) -> None:
    status, out, err = said(*(word.format(bundle=tiny_bundle, tmp=tmp_path) for word in words))
    assert (status, out) == (1, "")
    assert told.format(tmp=tmp_path) in one_line(err)


# edge.


def test_a_folder_is_answered_line_by_line_and_the_counters_come_last(
    said: Said, tiny_bundle: Path, frames: Path
) -> None:
    status, out, err = said("edge", tiny_bundle, frames, "--json", "--flush", "1")
    *answers, last = lines(out)
    labels = Bundle.open(tiny_bundle).probe[1][:3].tolist()
    assert (status, err) == (0, "")
    assert [(a["type"], a["input"], a["label"], a["cloud"]) for a in answers] == [
        ("answer", str(frames / f"{i}.png"), label, "none") for i, label in enumerate(labels)
    ]
    assert (last["type"], last["frames"], last["cloud"]) == ("status", 3, "none")


def test_people_read_the_same_in_words(said: Said, tiny_bundle: Path, frames: Path) -> None:
    status, out, _ = said("edge", tiny_bundle, frames, "--no-adapt")
    assert status == 0
    assert "0.png: " in out
    assert "version 0, cloud none" in out
    assert out.splitlines()[-1].startswith("3 frames, version 0, no cloud, 0 of 0 messages acked")


def test_a_bad_image_is_a_line_and_status_1_and_the_stream_goes_on(said: Said, tiny_bundle: Path, frames: Path) -> None:
    (frames / "1.png").write_bytes(b"no image")
    Image.fromarray(np.zeros((4, 5), np.uint8)).save(frames / "2.png")
    status, out, err = said("edge", tiny_bundle, frames, "--json")
    told = lines(out)
    assert (status, err) == (1, "")
    assert [line["type"] for line in told] == ["answer", "error", "error", "status"]
    assert "not a readable PNG" in str(told[1]["error"])
    assert "is 5 x 4, the bundle takes 16 x 16; resize it, or give --resize" in str(told[2]["error"])
    assert said("edge", tiny_bundle, frames, "--resize", "--json")[1].count('"answer"') == 2


def test_a_file_that_cannot_be_read_is_named_once(
    said: Said, tiny_bundle: Path, frames: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{frames}/none.png\n"))
    status, out, _ = said("edge", tiny_bundle, "--stdin", "paths")
    assert status == 1
    assert out.startswith(f"{frames}/none.png cannot be read (No such file or directory)")


@pytest.mark.parametrize("way", [[], ["--json"]], ids=["words", "json"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_an_endpoint_ends_with_the_counters(
    tiny_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    way: list[str],
    number: signal.Signals,
) -> None:
    def stopped(endpoint: Endpoint) -> None:
        signal.raise_signal(number)

    monkeypatch.setattr(Endpoint, "serve", stopped)
    before = signal.getsignal(signal.SIGTERM)
    ignored = signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts behind "&" ignores it
    try:
        status = main(["edge", str(tiny_bundle), "--http", "0", *way])
    except SystemExit as ended:
        status = int(str(ended.code))
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, ignored)
    listening, *last = capsys.readouterr().out.splitlines()
    assert status == 128 + number
    assert "http://127.0.0.1:" in listening
    assert len(last) == 1
    assert (json.loads(last[0])["type"] == "status") if way else last[0].startswith("0 frames, version 0, no cloud")


def test_a_file_name_that_is_not_text_is_shown_and_does_not_end_the_stream(
    said: Said, tiny_bundle: Path, frames: Path
) -> None:
    (frames / "0.png").rename(frames / "\udcff.png")
    status, out, _ = said("edge", tiny_bundle, frames)
    assert (status, out.count(" ms\n")) == (0, 3)
    assert "\\udcff.png" in out


def test_an_endless_stream_ends_with_ctrl_c_and_the_counters(
    said: Said, tiny_bundle: Path, frames: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def names() -> Iterator[str]:
        yield f"{frames}/0.png\n"
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "stdin", names())
    status, out, _ = said("edge", tiny_bundle, "--stdin", "paths", "--json")
    assert (status, [line["type"] for line in lines(out)]) == (130, ["answer", "status"])


@pytest.mark.parametrize(
    "words",
    [
        ["edge", "x", "folder", "--fps", "0"],
        ["edge", "x", "folder", "--fps", "nan"],
        ["edge", "x", "folder", "--flush", "-1"],
        ["edge", "x", "folder", "--budget", "-1"],
        ["edge", "x", "folder", "--status-every", "soon"],
        ["enrol", "make", "--state", "s", "--count", "0"],
        ["enrol", "make", "--state", "s", "--count", "1.5"],
        ["edge", "x", "--http", "70000"],
        ["cloud", "x", "--state", "s", "--port", "99999"],
        ["cloud", "x", "--state", "s", "--port", "-1"],
    ],
    ids=" ".join,
)
def test_a_number_that_cannot_be_is_named_with_its_option(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert f"argument {words[-2]}: '{words[-1]}' is no " in capsys.readouterr().err


def test_a_module_in_the_current_folder_can_have_the_factory(tmp_path: Path, tiny_bundle: Path) -> None:
    """In a process of its own, as the console script runs: its own folder comes first on the path, not the current."""
    (tmp_path / "my_own_models.py").write_text("raise SystemExit('it was imported')\n")
    save_file({"w": np.zeros(1, np.float32)}, tmp_path / "w.safetensors")
    np.savez(tmp_path / "f.npz", frames=np.zeros((2, 16, 16, 1), np.uint8))
    words = ["build", "out", "--student", "my_own_models:net", "--student-weights", "w.safetensors"]
    program = "import sys; sys.path.pop(0); from littoral.cli.main import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", program, *words, "--frames", "f.npz", "--classes", "a,b"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert "it was imported" in done.stderr


@pytest.mark.parametrize(
    ("given", "names"), [("a, b ,c", ["a", "b", "c"]), ("a\n b\n\n", ["a", "b"])], ids=["commas", "file"]
)
def test_class_names_are_taken_without_the_blanks_around_them(tmp_path: Path, given: str, names: list[str]) -> None:
    from littoral.cli.build import _classes

    (tmp_path / "names").write_text(given)
    assert _classes(given if "," in given else str(tmp_path / "names")) == names
    with pytest.raises(ValueError, match="--classes has 'b' twice"):
        _classes("a,b, b")


def test_a_tar_for_devices_says_how_it_is_unpacked(said: Said, tiny_bundle: Path, frames: Path, tmp_path: Path) -> None:
    tar = tmp_path / "b.tar"
    tar.write_bytes(b"")
    status, _, err = said("edge", tar, frames)
    assert status == 1
    assert f"mkdir b && tar xf {tar} -C b" in one_line(err)


def test_a_file_that_is_no_tar_is_not_to_be_unpacked(said: Said, tmp_path: Path) -> None:
    (tmp_path / "b1.py").write_text("")
    err = one_line(said("bundle", "inspect", tmp_path / "b1.py")[2])
    assert err.endswith("is a file, a bundle is a folder; give the folder that 'littoral build' made\n")


def test_names_come_on_stdin(said: Said, tiny_bundle: Path, frames: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{frames}/0.png\n{frames}/none.png\n{frames}/2.png\n"))
    status, out, _ = said("edge", tiny_bundle, "--stdin", "paths", "--json")
    assert (status, [line["type"] for line in lines(out)]) == (1, ["answer", "error", "answer", "status"])


@pytest.mark.parametrize("cut", [0, 5], ids=["whole", "cut-short"])
def test_frames_come_on_stdin_and_what_came_before_a_break_was_answered(
    said: Said, tiny_bundle: Path, frames: Path, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    raw = Bundle.open(tiny_bundle).probe[0][0].tobytes()
    stream = b"".join(struct.pack("<I", len(data)) + data for data in ((frames / "0.png").read_bytes(), raw, raw))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stream[: len(stream) - cut])))
    status, out, err = said("edge", tiny_bundle, "--stdin", "frames", "--json")
    kinds = [line["type"] for line in lines(out)]
    if cut:
        assert (status, kinds) == (1, ["answer", "answer", "status"])
        assert "the stream ends within frame 3: 251 of 256 bytes came" in one_line(err)
    else:
        assert (status, kinds) == (0, ["answer"] * 3 + ["status"])


def test_a_device_whose_cloud_is_away_answers_and_says_so(
    said: Said, tiny_bundle: Path, frames: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    links: list[CloudLink] = []

    class Known(CloudLink):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            links.append(self)

    def names() -> Iterator[str]:
        """The same frame until the link has found out; the test's own limit ends it if it never does."""
        while not links or links[0].last_error is None:
            yield f"{frames}/0.png\n"
        yield f"{frames}/1.png\n"

    monkeypatch.setattr("littoral.edge.link.CloudLink", Known)
    monkeypatch.setattr(sys, "stdin", names())
    words = ["--stdin", "paths", "--fps", "50", "--state", frames.parent / "state", "--flush", "0.1", "--json"]
    status, out, _ = said("edge", tiny_bundle, *words, "--cloud", "http://127.0.0.1:9", "--token", "lit1-x")
    *answers, last = lines(out)
    assert (status, {a["cloud"] for a in answers}) == (0, {"away"})
    assert last["cloud"] == "away"
    assert last["link_error"]


# enrol, doctor, build.


def test_tokens_are_made_and_devices_listed_beside_a_record(said: Said, tmp_path: Path, tiny_bundle: Path) -> None:
    pytest.importorskip("torch")
    from littoral.cloud.keys import Keys
    from littoral.cloud.store import Store

    Store(tmp_path, bundle_digest=Bundle.open(tiny_bundle).digest).close()
    status, _, err = said("enrol", "make", "--state", tmp_path)
    assert status == 1
    assert "release.key is missing" in one_line(err)
    Keys.load_or_make(tmp_path)
    status, out, _ = said("enrol", "make", "--state", tmp_path, "--count", "2")
    assert (status, len(set(out.split()))) == (0, 2)
    assert all(token.startswith("lit1-") for token in out.split())
    assert len(json.loads(said("enrol", "make", "--state", tmp_path, "--json")[1])["tokens"]) == 1
    assert json.loads(said("enrol", "list", "--state", tmp_path, "--json")[1]) == {"devices": []}
    status, _, err = said("enrol", "revoke", "nobody", "--state", tmp_path)
    assert status == 1
    assert "nobody" in one_line(err)


def test_the_doctor_says_what_works(said: Said) -> None:
    status, out, _ = said("doctor", "--json")
    told = json.loads(out)
    assert (status, told["works"]["edge"]) == (0, True)
    assert told["parts"]["edge"]["numpy"] == np.__version__
    assert "CPUExecutionProvider" in told["providers"]


@pytest.mark.parametrize(
    ("installed", "told"),
    [([], "payloads are coded by the reference, to the same bytes; faster: pip install 'littoral[fast]'"),
     (["constriction"], "payloads are coded by constriction 9.9"),
     (["constriction", "numba"], "payloads are coded by constriction 9.9 and numba 9.9")],
    ids=["reference", "accelerator", "both"],
)  # fmt: skip
def test_the_doctor_says_what_codes_payloads(
    said: Said, monkeypatch: pytest.MonkeyPatch, installed: list[str], told: str
) -> None:
    from littoral.cli import doctor

    monkeypatch.setattr(doctor, "PARTS", {"edge": ("numpy", "onnxruntime")})
    for name in ("constriction", "numba"):
        module = ModuleType(name)
        module.__version__ = "9.9"  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, name, module if name in installed else None)
    assert told in said("doctor")[1].splitlines()
    assert json.loads(said("doctor", "--json")[1])["coders"] == dict.fromkeys(installed, "9.9")


def test_the_doctor_says_what_is_missing_and_how_to_get_it(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    from littoral.cli import doctor

    monkeypatch.setattr(doctor, "PARTS", {"edge": ("numpy", "no_such_package")})
    monkeypatch.setattr(doctor, "_accelerators", list)
    monkeypatch.setitem(doctor.PARTS, "edge", ("numpy", "no_such_package", "onnxruntime"))
    status, out, _ = said("doctor")
    assert status == 1
    assert "edge   lacks no_such_package; run: pip install 'littoral[edge]'" in out


def test_classes_are_a_file_or_names_of_which_there_may_be_many(tmp_path: Path) -> None:
    from littoral.cli.build import _classes

    names = [f"class {i}" for i in range(1000)]
    (tmp_path / "names").write_text("\n".join(names))
    assert _classes(",".join(names)) == _classes(str(tmp_path / "names")) == names
    (tmp_path / "picture").write_bytes(b"\x89PNG")
    with pytest.raises(ValueError, match="which is no text"):
        _classes(str(tmp_path / "picture"))


@pytest.mark.parametrize("spoil", ["frames", "names", "npy", "weights", "kwargs", "floats"])
def test_what_build_cannot_read_is_one_line(said: Said, tmp_path: Path, spoil: str) -> None:
    pytest.importorskip("torch")
    if spoil == "frames":
        (tmp_path / "frames.npz").write_bytes(b"PK\x03\x04 a damaged archive")
    elif spoil == "names":
        np.savez(tmp_path / "frames.npz", images=np.zeros(1), y=np.zeros(1))
    elif spoil == "npy":
        np.save(tmp_path / "frames.npy", np.zeros((4, 16, 16, 1), np.uint8))
        (tmp_path / "frames.npy").rename(tmp_path / "frames.npz")
    else:
        np.savez(tmp_path / "frames.npz", frames=np.zeros((4, 16, 16, 1), np.uint8))
    (tmp_path / "weights").write_bytes(b"no tensors")
    words = ["--frames", tmp_path / "frames.npz", "--classes", "a,b"]
    for role in ("student", "teacher"):
        words += [f"--{role}", "littoral.models.zoo:small_cnn", f"--{role}-weights", tmp_path / "weights"]
    words += ["--student-kwargs", "{width" if spoil == "kwargs" else "{}"]
    words += ["--mean", "0.1,0.2" if spoil == "floats" else "0.1"]
    status, _, err = said("build", tmp_path / "out", *words)
    told = {
        "frames": "should be an .npz with an array 'frames'",
        "names": "should be an .npz with an array 'frames', it has 'images', 'y'",
        "npy": "is one array without a name; save it with numpy.savez(FILE, frames=...)",
        "weights": "should be a .safetensors file with the state dict of littoral.models.zoo:small_cnn",
        "kwargs": "'{width' of littoral.models.zoo:small_cnn are not JSON",
        "floats": "'0.1,0.2' has 2 values, expected 1 or 1",
    }
    assert status == 1
    assert told[spoil] in one_line(err)
    assert not (tmp_path / "out").exists()


def test_what_was_measured_is_told_in_plain_numbers(said: Said, tiny_bundle: Path, tmp_path: Path) -> None:
    measured = {"num_frames": 20_000.0, "accuracy": 0.91234, "split0.level0.payload_bytes": 1312.5}
    assert all_plain(measured, 3) == "num_frames 20000, accuracy 0.912, split0.level0.payload_bytes 1312"
    assert [plain(value) for value in (65.25, 999.96, 0.00012)] == ["65.25", "1000", "0.00012"]
    copy = Path(shutil.copytree(tiny_bundle, tmp_path / "b"))
    raw = json.loads((copy / "bundle.json").read_bytes())
    (copy / "bundle.json").write_text(json.dumps({**raw, "source_metrics": measured}))
    assert re.search(r"source metrics *num_frames 20000, accuracy 0.9123\n", said("bundle", "inspect", copy)[1])


@pytest.mark.parametrize(
    ("words", "where", "stem"),
    [
        (["--exits", "3"], 3, "conv"),
        (["--exit", "a", "--exit", "b.0", "--exit-stem", "pooled"], ["a", "b.0"], "pooled"),
    ],
    ids=["by-number", "by-name"],
)
def test_exits_are_trained_before_the_build_and_reach_it(
    said: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], where: Any, stem: str
) -> None:
    pytest.importorskip("torch")
    from safetensors.numpy import save_file

    asked: dict[str, Any] = {}

    def build(**arguments: Any) -> None:
        asked.update(arguments)
        raise ValueError("seen")

    def make_exits(_model: Any, _spec: Any, frames: Any, labels: Any, **told: Any) -> str:
        asked.update(told, trained_on=len(frames), labels=labels)
        told["progress"]("epoch 1/4")
        return "the exits"

    monkeypatch.setattr("littoral.train.build.build_bundle", build)
    monkeypatch.setattr("littoral.train.exit_build.make_exits", make_exits)
    monkeypatch.setattr("littoral.train.build_check.check_build", lambda **told: asked.update(checked=told["exits"]))
    np.savez(tmp_path / "frames.npz", frames=np.zeros((2, 16, 16, 1), np.uint8), labels=np.array([0, 1]))
    save_file({}, tmp_path / "none.safetensors")
    common: list[Any] = ["build", tmp_path / "out", "--frames", tmp_path / "frames.npz", "--classes", "a,b"]
    common += ["--student", "torch.nn:Identity", "--student-weights", tmp_path / "none.safetensors"]
    err = said(*common, *words, "--exit-epochs", "7", "--seed", "5")[2]
    assert "exits: epoch 1/4\n" in err
    assert "seen" in err
    assert (asked["exits"], asked["where"], asked["trained_on"]) == ("the exits", where, 2)
    assert asked["checked"] == where
    assert asked["labels"].tolist() == [0, 1]
    recipe = asked["recipe"]
    assert (recipe.stem, recipe.epochs, recipe.seed) == (stem, 7, 5)
    assert "seen" in said(*common)[2]
    assert asked["exits"] is None, "without the words there are none"
    assert "one of the two" in said(*common, "--exits", "1", "--exit", "a")[2]
    np.savez(tmp_path / "frames.npz", frames=np.zeros((2, 16, 16, 1), np.uint8))
    assert "only a classifier has exits" in said(*common, *words, "--task", "segmentation")[2]


def test_splits_are_trained_on_the_teacher_and_a_routers_frames_are_looked_at_first(
    said: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    from safetensors.numpy import save_file

    asked: dict[str, Any] = {}
    cuts: list[Any] = []
    deadzones: list[Any] = []
    checked: list[Any] = []

    def build(**arguments: Any) -> None:
        asked.update(arguments)
        raise ValueError("seen")

    def make_split(network: Any, _spec: Any, frames: Any, labels: Any, **told: Any) -> str:
        cuts.append((told["cut"], told["epochs"], told["seed"], len(frames), len(labels), network.factory))
        deadzones.append(told["deadzones"])
        return f"split of {told['cut']}"

    monkeypatch.setattr("littoral.train.build.build_bundle", build)
    monkeypatch.setattr("littoral.train.split_make.make_split", make_split)
    monkeypatch.setattr("littoral.train.exit_build.make_exits", lambda *_args, **_told: "the exits")
    monkeypatch.setattr("littoral.train.build_check.check_build", lambda **told: checked.append(told["splits"]))
    np.savez(tmp_path / "frames.npz", frames=np.zeros((2, 16, 16, 1), np.uint8), labels=np.array([0, 1]))
    np.savez(tmp_path / "held.npz", frames=np.zeros((200, 16, 16, 1), np.uint8), labels=np.arange(200) % 2)
    np.savez(tmp_path / "few.npz", frames=np.zeros((20, 16, 16, 1), np.uint8))
    save_file({}, tmp_path / "none.safetensors")
    common: list[Any] = ["build", tmp_path / "out", "--frames", tmp_path / "frames.npz", "--classes", "a,b"]
    common += ["--student", "torch.nn:Identity", "--student-weights", tmp_path / "none.safetensors"]
    teacher: list[Any] = ["--teacher", "torch.nn:Flatten", "--teacher-weights", tmp_path / "none.safetensors"]
    splits = ["--split", "a", "--split", "b.0", "--split-epochs", "3", "--seed", "5"]
    router: list[Any] = ["--router", tmp_path / "held.npz"]
    assert "seen" in said(*common, *teacher, *splits, "--exits", "1", *router)[2]
    assert asked["splits"] == ["split of a", "split of b.0"]
    assert checked == [["a", "b.0"]]
    assert cuts == [(cut, 3, 5, 2, 2, "torch.nn:Flatten") for cut in ("a", "b.0")]
    assert (len(asked["router"].frames), asked["router"].labels.tolist()) == (200, [0, 1] * 100)
    assert deadzones == [None, None], "the build chooses them"
    assert "seen" in said(*common, *teacher, "--split", "a", "--split-deadzones", "0,.1,.1,.2")[2]
    assert deadzones[2] == (0.0, 0.1, 0.1, 0.2)
    assert "expected numbers by commas" in said(*common, *teacher, "--split", "a", "--split-deadzones", "much")[2]
    assert "seen" in said(*common, *teacher)[2]
    assert (asked["splits"], asked["router"]) == ([], None), "without the words there are none"
    monkeypatch.setattr("littoral.train.split_make.fit_split", lambda *_args, cut, **_told: f"fitted at {cut}")
    assert "seen" in said(*common, *teacher, "--fit-split", "c", "--split", "a")[2]
    assert (asked["splits"], asked["options"].cut_points) == (["fitted at c", "split of a"], ("c",))
    assert "cuts the network at its module alone" in said(*common, *teacher, "--fit-split", "c", "--cut", "d")[2]
    cuts.clear()
    alone: list[Any] = ["--exits", "1", *router, "--pictures"]
    assert "nobody to ask" in said(*common, *teacher, *alone, "none")[2]
    assert "a picture is coded as" in said(*common, *teacher, *alone, "gif")[2]
    assert "seen" in said(*common, *teacher, *alone, "png,lossless")[2]
    assert (asked["splits"], asked["router"].pictures) == ([], ("png", "lossless"))
    assert "there are no exits" in said(*common, *teacher, *splits, *router)[2]
    assert "at least 200" in said(*common, *teacher, *splits, "--exits", "1", "--router", tmp_path / "few.npz")[2]
    assert cuts == [], "nothing is trained for a router that cannot be made"
    assert "name the teacher" in said(*common, *splits)[2]
    assert "--split-epochs is 1, expected 2 or more" in said(*common, *teacher, *splits, "--split-epochs", "1")[2]
    assert "num_segments is 0" in said(*common, *teacher, *splits, "--segments", "0")[2]
    assert "one of the two" in said(*common, *teacher, *splits, "--exits", "1", "--exit", "a")[2]
    assert "at least 1" in said(*common, *teacher, *splits, "--exits", "1", "--exit-epochs", "0")[2]

    def refuse(**_told: Any) -> None:
        raise ValueError("no such place")

    monkeypatch.setattr("littoral.train.build_check.check_build", refuse)
    for words in (splits, ["--fit-split", "c"], ["--exits", "1"]):
        assert "no such place" in said(*common, *teacher, *words)[2]
    assert cuts == [], "nothing is trained for a build that is refused"
    assert "seen" in said(*common, *teacher)[2], "where nothing is trained the build looks for itself"


def test_a_task_its_options_and_its_truths_reach_the_build(
    said: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    from safetensors.numpy import save_file

    asked: dict[str, Any] = {}

    def build(**arguments: Any) -> None:
        asked.update(arguments)
        raise ValueError("seen")

    monkeypatch.setattr("littoral.train.build.build_bundle", build)
    truths = {"boxes": np.ones((1, 4), np.float32), "labels": np.array([1]), "counts": np.array([0, 1])}
    others = {"names": np.array(["left", None], dtype=object)}  # which would need pickle
    np.savez(tmp_path / "frames.npz", frames=np.zeros((2, 16, 16, 1), np.uint8), **truths, **others)
    words: list[Any] = ["--frames", tmp_path / "frames.npz", "--classes", "a,b", "--student", "torch.nn:Identity"]
    save_file({}, tmp_path / "none.safetensors")
    words += ["--student-weights", tmp_path / "none.safetensors"]
    status, _, err = said(
        "build", tmp_path / "out", *words, "--task", "detection", "--task-options", '{"strides": [4]}'
    )
    assert (status, "seen" in err) == (1, True)
    assert asked["task"] == Detection(num_classes=2, input_height=16, input_width=16, strides=(4,))
    assert [len(truth.labels_N) for truth in asked["source_labels"]] == [0, 1]
    assert (asked["teacher"], asked["options"].rehearsal_steps) == (None, 0)
    assert "segmentation needs" in said("build", tmp_path / "out", *words, "--task", "segmentation")[2]
    assert "the task options '[]' are list" in said("build", tmp_path / "out", *words, "--task-options", "[]")[2]
    assert said("build", tmp_path / "out", *words, "--teacher", "torch.nn:Identity")[0] == 2


# What no command expects.


def test_a_missing_package_is_named_with_the_extra_that_has_it(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "littoral.cloud.cloud", None)

    def needs(args: object) -> int:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr("littoral.cli.cloud.run", needs)
    status, _, err = said("cloud", "bundle", "--state", "x")
    assert status == 1
    assert "'littoral cloud' needs the package 'torch'; run: pip install 'littoral[cloud]'" in one_line(err)


@pytest.mark.parametrize("verbose", ["", "before", "after"])
def test_the_unexpected_is_one_line_and_verbose_tells_more(tmp_path: Path, verbose: str) -> None:
    """In a process of its own: logging is set up once in each."""
    words = ["bundle", "keys", str(tmp_path)]
    if verbose:
        words.insert(0 if verbose == "before" else 1, "--verbose")
    code = f"from littoral.cli.main import main; raise SystemExit(main({words!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert ("Traceback" in done.stderr) == bool(verbose)
    assert "littoral: unexpected IsADirectoryError" in done.stderr.splitlines()[-1]
