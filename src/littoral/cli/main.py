"""``littoral``: parse, call one public function, print. Exit status 0, 1 (failed) or 2 (usage)."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

from littoral import __version__
from littoral.cli import bench, build, bundle, cloud, data, demo, doctor, edge, enrol, versions
from littoral.errors import LittoralError, MissingExtra

_EXTRA_OF_COMMAND = {
    "edge": "edge",
    "bundle": "edge",
    "enrol": "edge",
    "cloud": "cloud",
    "build": "cloud",
    "versions": "cloud",
}
COMMANDS = (demo, build, bundle, cloud, edge, enrol, versions, bench, data, doctor)


_EPILOG = (
    "'littoral COMMAND --help' has the options of a command. To begin: 'littoral doctor', then 'littoral demo'. "
    "A fleet of your own: 'build' a bundle, serve it with 'cloud', make a token with 'enrol make', run 'edge'."
)


class _Help(argparse.HelpFormatter):
    """Says the default of an option that has one, where its help does not say it already."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text, default = action.help or "", action.default
        plain = default is None or default is False or default in ([], "", argparse.SUPPRESS)
        return text if plain or "(default" in text else f"{text} (default: %(default)s)"


class _Parser(argparse.ArgumentParser):
    """Options in full, in every command: a shortened one changes its meaning when another option comes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, "formatter_class": _Help, **kwargs})


def build_parser() -> argparse.ArgumentParser:
    """The whole command line; importing it loads nothing heavy."""
    parser = _Parser(prog="littoral", description="Vision models that keep right where they run.", epilog=_EPILOG)
    parser.add_argument("--version", action="version", version=f"littoral {__version__}", help="print the version")
    parser.add_argument("--verbose", action="store_true", help="log what happens inside, on stderr")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    _hear_verbose_anywhere(commands)
    return parser


def _hear_verbose_anywhere(commands: argparse._SubParsersAction[Any]) -> None:
    """Before or after the command, and after its action: all are natural."""
    for parser in commands.choices.values():
        parser.add_argument("--verbose", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        for action in list(parser._actions):
            if isinstance(action, argparse._SubParsersAction):
                _hear_verbose_anywhere(action)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the process's exit status."""
    args = build_parser().parse_args(argv)
    # Before torch is imported: threads that spin make a busy machine of two cores 5 to 11 times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    logging.basicConfig(
        level=logging.INFO if args.verbose else logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    if args.command in ("build", "cloud") and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # for a factory in a module of one's own, as with 'python -m'
    try:
        return int(args.run(args))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # whoever read our output has gone: not an error of ours, and nobody to tell
        return 1
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("littoral"):
            raise
        extra = _EXTRA_OF_COMMAND.get(args.command, "bench")
        missing = f"'littoral {args.command}' needs the package {error.name!r}"
        return _fail(MissingExtra(f"{missing}; run: pip install 'littoral[{extra}]'"))
    except (LittoralError, ValueError) as error:
        return _fail(error)
    except Exception as error:
        logging.getLogger(__name__).info("what went wrong", exc_info=True)
        return _fail(RuntimeError(f"unexpected {type(error).__name__}: {error}; 'littoral --verbose' tells more"))


def _fail(error: Exception) -> int:
    print(f"littoral: {error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
