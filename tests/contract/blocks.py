"""Fenced code blocks of Markdown files, the verbs of the Makefile and the commands of the command line."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NOT_RUN = "# not run:"
_FENCE = re.compile(r"^```(\w*)[ \t]*\n(.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, the line of its first line of code, and the code."""

    language: str
    line: int
    code: str

    @property
    def reason_not_run(self) -> str | None:
        """Why a person asked for it not to be run; None when it is to run."""
        first = self.code.split("\n", 1)[0].strip()
        return first.removeprefix(NOT_RUN).strip() if first.startswith(NOT_RUN) else None


def blocks(text: str) -> list[Block]:
    """All fenced blocks of a Markdown text."""
    return [Block(match[1], text.count("\n", 0, match.start()) + 2, match[2]) for match in _FENCE.finditer(text)]


def shell_commands(code: str) -> list[list[str]]:
    """The words of each command of a shell block, without comments, prompts, assignments and paths to programs."""
    found = []
    for line in code.replace("\\\n", " ").splitlines():
        for part in re.split(r"&&|;|\|", line.split("#", 1)[0]):
            words = part.split()
            while words and (words[0] in ("$", "sudo") or re.fullmatch(r"\w+=\S*", words[0])):
                words = words[1:]
            if words:
                found.append([words[0].rsplit("/", 1)[-1], *words[1:]])
    return found


def make_verbs(makefile: str) -> set[str]:
    """The phony targets of a Makefile's text."""
    return {verb for line in re.findall(r"^\.PHONY:(.*)$", makefile, re.MULTILINE) for verb in line.split()}


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The commands directly under a parser."""
    return {
        name: sub
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
        for name, sub in action.choices.items()
    }


def unknown_commands(code: str, verbs: set[str], parser: argparse.ArgumentParser) -> list[str]:
    """What a shell block calls that is not there: verbs of make, commands of ``littoral`` and their options."""
    wrong = []
    for program, *words in shell_commands(code):
        if program == "make":
            targets = [word for word in words if "=" not in word and not word.startswith("-")]
            wrong += [f"make {target}" for target in targets if target not in verbs and re.match(r"[a-z]", target)]
        if program == "littoral":
            wrong += _wrong_words(words, parser)
    return wrong


def _wrong_words(words: list[str], parser: argparse.ArgumentParser) -> list[str]:
    at, path = parser, "littoral"
    wrong = []
    for word in words:
        below = subcommands(at)
        if word.startswith("--"):
            option = word.split("=", 1)[0]
            if option not in at._option_string_actions:
                wrong.append(f"{path} {option}")
        elif below and not word.startswith("-"):
            if word not in below:
                return [*wrong, f"{path} {word}"]
            at, path = below[word], f"{path} {word}"
    return wrong
