"""Every command is explained, every explanation has its command, and ``littoral --help`` costs nothing."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys

import pytest
from blocks import ROOT, blocks, make_verbs, subcommands, unknown_commands

PAGE = ROOT / "docs" / "reference" / "cli.md"
HEAVY = (
    "numpy",
    "torch",
    "onnx",
    "onnxruntime",
    "scipy",
    "sklearn",
    "matplotlib",
    "starlette",
    "uvicorn",
    "PIL",
    "rich",
)


@pytest.fixture(scope="module")
def parser() -> argparse.ArgumentParser:
    from littoral.cli.main import build_parser

    return build_parser()


@pytest.fixture(scope="module")
def sections() -> dict[str, str]:
    """The text under each ``## littoral <command>`` of the reference page."""
    text = PAGE.read_text(encoding="utf-8")
    parts = re.split(r"^## littoral (\S+)[^\n]*\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def commands_below(parser: argparse.ArgumentParser, path: str = "") -> dict[str, argparse.ArgumentParser]:
    """All commands at all depths by their words."""
    found = {}
    for name, sub in subcommands(parser).items():
        words = f"{path} {name}".strip()
        found[words] = sub
        found.update(commands_below(sub, words))
    return found


def undocumented(parser: argparse.ArgumentParser, sections: dict[str, str]) -> list[str]:
    """Commands without a section, sections without a command, options and subcommands that no section names."""
    wrong = [f"no section: littoral {name}" for name in subcommands(parser) if name not in sections]
    wrong += [f"no command: littoral {name}" for name in sections if name not in subcommands(parser)]
    for words, sub in commands_below(parser).items():
        first, *rest = words.split()
        text = sections.get(first, "")
        wrong += [
            f"not named: littoral {words}" for name in rest[-1:] if not re.search(rf"\b{re.escape(name)}\b", text)
        ]
        for option in sub._option_string_actions:
            if option.startswith("--") and option not in ("--help", "--json", "--verbose") and option not in text:
                wrong.append(f"not named: littoral {words} {option}")
    return wrong if not sections else sorted(wrong)


def test_every_command_has_a_section_and_every_section_a_command(
    parser: argparse.ArgumentParser, sections: dict[str, str]
) -> None:
    assert subcommands(parser), "the parser has no commands"
    assert undocumented(parser, sections) == []


def test_every_command_has_a_line_of_help(parser: argparse.ArgumentParser) -> None:
    def silent(at: argparse.ArgumentParser, path: str) -> list[str]:
        found = []
        for action in at._actions:
            if isinstance(action, argparse._SubParsersAction):
                told = {choice.dest for choice in action._choices_actions if choice.help}
                for name, sub in action.choices.items():
                    found += ([] if name in told else [f"{path} {name}"]) + silent(sub, f"{path} {name}")
            elif not action.help:
                found.append(f"{path} {'/'.join(action.option_strings) or action.dest}")
        return found

    assert silent(parser, "littoral") == []


def test_the_page_calls_only_what_exists(parser: argparse.ArgumentParser) -> None:
    verbs = make_verbs((ROOT / "Makefile").read_text())
    shell = [block for block in blocks(PAGE.read_text(encoding="utf-8")) if block.language == "sh"]
    assert [wrong for block in shell for wrong in unknown_commands(block.code, verbs, parser)] == []


def test_asking_for_help_loads_nothing_heavy() -> None:
    code = "import json, sys; from littoral.cli.main import build_parser; build_parser().format_help()\n"
    code += "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert sorted(set(HEAVY) & set(json.loads(done.stdout))) == []


def test_the_harness_sees_what_is_not_documented() -> None:
    parser = argparse.ArgumentParser("littoral")
    commands = parser.add_subparsers()
    commands.add_parser("demo").add_argument("--seed")
    commands.add_parser("bundle").add_subparsers().add_parser("verify")
    assert undocumented(parser, {"demo": "takes --seed", "bundle": "has verify"}) == []
    assert undocumented(parser, {"demo": "", "bundle": "has verify"}) == ["not named: littoral demo --seed"]
    assert undocumented(parser, {"demo": "--seed", "bundle": ""}) == ["not named: littoral bundle verify"]
    assert undocumented(parser, {"demo": "--seed", "old": ""}) == [
        "no command: littoral old",
        "no section: littoral bundle",
        "not named: littoral bundle verify",
    ]
