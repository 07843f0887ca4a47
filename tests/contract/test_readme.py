"""What the README says to type can be typed: its Python runs, its verbs and commands exist."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pytest
from blocks import ROOT, Block, blocks, make_verbs, unknown_commands

README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = [block for block in blocks(README) if block.language in ("python", "py")]
SHELL = [block for block in blocks(README) if block.language in ("sh", "bash", "shell", "console")]


def at_line(block: Block) -> str:
    return f"line-{block.line}"


def run_block(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a block as a person would: pasted into a file, in a folder of its own."""
    script = folder / "block.py"
    script.write_text(code, encoding="utf-8")
    return subprocess.run([sys.executable, script.name], cwd=folder, capture_output=True, text=True, timeout=100)


def test_the_readme_shows_the_device_and_the_cloud_in_python() -> None:
    assert len(PYTHON) >= 2, "STYLE: 12 lines of device code, 12 of cloud code"


@pytest.mark.parametrize("block", PYTHON, ids=at_line)
def test_a_python_block_compiles_and_is_short(block: Block) -> None:
    compile(block.code, f"README.md:{block.line}", "exec")
    assert len([line for line in block.code.splitlines() if line.strip()]) <= 20


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all blocks: what one makes, the next may use, as for a person who reads from the top."""
    return tmp_path_factory.mktemp("readme")


@pytest.mark.parametrize("block", PYTHON, ids=at_line)
def test_a_python_block_runs(block: Block, story: Path) -> None:
    if block.reason_not_run is not None:
        assert block.reason_not_run, "say why: '# not run: <reason>'"
        pytest.skip(block.reason_not_run)
    done = run_block(block.code, story)
    assert done.returncode == 0, done.stderr


def test_the_readme_says_how_to_start() -> None:
    assert "make demo" in "\n".join(block.code for block in SHELL)


@pytest.mark.parametrize("block", SHELL, ids=at_line)
def test_every_verb_and_command_exists(block: Block) -> None:
    cli = pytest.importorskip("littoral.cli.main") if "littoral " in block.code else None
    parser = cli.build_parser() if cli is not None else argparse.ArgumentParser()
    assert unknown_commands(block.code, make_verbs((ROOT / "Makefile").read_text()), parser) == []


# Negative controls: the harness must see what is wrong.


def example_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("littoral")
    commands = parser.add_subparsers()
    commands.add_parser("demo").add_argument("--seed")
    commands.add_parser("bundle").add_subparsers().add_parser("verify")
    return parser


@pytest.mark.parametrize(
    ("code", "wrong"),
    [
        ("make demo\n", []),
        ("make nonsense\n", ["make nonsense"]),
        ("make setup nonsense ARGS=x PYTHON=python3.12\n", ["make nonsense"]),
        ("make setup && make nonsense   # then wait\n", ["make nonsense"]),
        ("littoral demo --seed 1\n", []),
        ("$ .venv/bin/littoral nonsense\n", ["littoral nonsense"]),
        ("LITTORAL_DATA=x littoral demo --nonsense=1\n", ["littoral demo --nonsense"]),
        ("littoral bundle verify DIR | head\n", []),
        ("littoral bundle nonsense\n", ["littoral bundle nonsense"]),
    ],
)
def test_the_harness_sees_a_wrong_verb_and_a_wrong_command(code: str, wrong: list[str]) -> None:
    assert unknown_commands(code, {"setup", "demo"}, example_parser()) == wrong


def test_the_harness_cuts_blocks_and_sees_a_failing_one(tmp_path: Path) -> None:
    text = "a\n```python\nraise SystemExit(3)\n```\nb\n```sh\nmake demo\n```\n"
    text += "```python\n# not run: needs a camera\nx\n```\n"
    first, shell, second = blocks(text)
    assert (first.language, first.line, shell.code) == ("python", 3, "make demo\n")
    assert (first.reason_not_run, second.reason_not_run) == (None, "needs a camera")
    assert run_block(first.code, tmp_path).returncode == 3
