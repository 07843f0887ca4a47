"""The examples run as they stand, the cloud and the device as two programs."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name: str, *args: object, timeout: float = 100) -> str:
    """What an example prints."""
    command = [sys.executable, str(EXAMPLES / name), *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_is_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 60


@pytest.mark.slow
def test_a_network_becomes_a_bundle_that_answers_alike(tmp_path: Path) -> None:
    said = run("01_build_a_bundle.py", tmp_path / "b")
    assert "3 segments, 19 BatchNorm layers" in said
    assert "the same as PyTorch within 1e-5" in said


@pytest.mark.slow
def test_a_split_answers_from_a_few_bytes_much_as_the_device_does(tmp_path: Path) -> None:
    said = run("04_split.py", tmp_path / "b").splitlines()[-3:]
    levels = [re.fullmatch(r"level (\d): (\d+) bytes a frame, (\d+)% as the device itself", line) for line in said]
    assert all(levels), said
    found = [tuple(map(int, match.groups())) for match in levels if match]
    assert [level for level, _, _ in found] == [0, 1, 2]
    sizes = [size for _, size, _ in found]
    assert sizes == sorted(set(sizes))
    assert max(sizes) < 16 * 16 / 3, "of 256 bytes that a frame has"
    assert min(agreement for _, _, agreement in found) > 60


@pytest.mark.slow
def test_a_device_leaves_early_and_learns_from_feedback(tmp_path: Path) -> None:
    first, last, end = run("05_exits.py", tmp_path / "b").splitlines()[-3:]
    right, early = ([int(words[i].rstrip("%")) for words in (first.split(), last.split())] for i in (2, 4))
    assert early[0] == 0, "while it is checking no frame leaves early"
    assert right[1] >= right[0] - 3
    assert re.match(r"(serving|checking), by exit \[\d+, \d+, \d+, \d+\], \d personal heads serve", end)


@pytest.mark.slow
def test_a_router_asks_the_cloud_when_the_world_changes_and_answers_without_one(tmp_path: Path) -> None:
    lines = run("06_route.py", tmp_path / "b", timeout=300).splitlines()[-3:]
    said = {}
    for line, name, count in zip(lines, ("clean", "dim", "dim, without a cloud"), (400, 200, 100), strict=True):
        assert line.startswith(f"{name}: ")
        said[name] = [(int(number), who, why) for number, who, why in re.findall(r"(\d+) (\w+) \(([^)]+)\)", line)]
        assert sum(number for number, _, _ in said[name]) == count, "every frame has its answer"
    shares = {
        name: sum(number for number, who, _ in found if who == "offload") / sum(number for number, _, _ in found)
        for name, found in said.items()
    }
    assert shares["dim"] > shares["clean"]
    assert shares["dim, without a cloud"] == 0
    assert any(why.endswith("degraded") for _, _, why in said["dim, without a cloud"])


@pytest.mark.slow
def test_a_cloud_and_a_device_in_two_terminals(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(tiny_bundle, tmp_path / "b")
    command = [sys.executable, str(EXAMPLES / "02_cloud.py"), str(bundle), str(tmp_path / "cloud"), "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as cloud:
        try:
            assert cloud.stdout is not None
            url, token = cloud.stdout.readline().split()[-2:]
            said = run("03_device.py", bundle, tmp_path / "device", url, token, 200)
        finally:
            cloud.terminate()
    assert "200 of" in said or "acknowledged" in said
    acked, accepted = (int(word) for word in said.splitlines()[-1].split()[0:3:2])
    assert acked == accepted > 150
