"""Make ``.venv`` and install Littoral with all extras for development into it. Standard library only.

Run by the Makefile with the system's Python. On Linux without an NVIDIA GPU it takes the CPU build of PyTorch, which is
about 200 MB, where plain pip would take the CUDA build, which is about 3 GB with its packages:

1. pip can reach a CPU build (``torch==<pin>+cpu``, as in a folder of wheels that pip was told of): pip takes it.
2. else uv is installed into ``.venv`` and asked for the CPU build; it knows where PyTorch keeps it.
3. else the plain build, with a message that says what it costs.

``LITTORAL_TORCH=cpu`` asks for the CPU build, ``cuda`` or ``default`` for what pip takes by itself.
"""
# ruff: noqa: T201

import hashlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from shutil import which

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / ".littoral-setup"
LOG = VENV / "setup.log"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
VENV_PYTHON = BIN / "python"
CHOICES = ("cpu", "cuda", "default")

Runner = Callable[[str, list[str]], bool]
"""Runs one step, given what to tell a person and the command; True when it worked."""


class SetupFailed(Exception):
    """A step that cannot be done without failed; the message says what to do."""


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def run_step(title: str, command: list[str]) -> bool:
    """Run a command with one line for a person; everything it prints goes to the log."""
    live = sys.stderr.isatty()
    started = time.monotonic()
    if live:
        print(f"  {title} ...", end="", file=sys.stderr, flush=True)
    env = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "UV_PYTHON_DOWNLOADS": "never"}
    with LOG.open("a") as log:
        log.write(f"\n$ {' '.join(command)}\n")
        process = subprocess.Popen(
            command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )
        assert process.stdout is not None
        for line in process.stdout:
            log.write(line)
            log.flush()
            if live and line.strip():
                print(f"\r\x1b[K  {title} ... {line.strip()[:60]}", end="", file=sys.stderr, flush=True)
    worked = process.wait() == 0
    end = f"{'done' if worked else 'did not work'}, {time.monotonic() - started:.0f} s"
    say(f"\r\x1b[K  {title}: {end}" if live else f"  {title}: {end}")
    return worked


def must(worked: bool, what: str) -> None:
    """Stop with the end of the log unless the step worked."""
    if not worked:
        tail = "\n".join(LOG.read_text(errors="replace").splitlines()[-15:])
        raise SetupFailed(f"{what} failed. The last lines of {LOG.relative_to(ROOT)}:\n{tail}")


def has_nvidia_gpu() -> bool:
    return Path("/proc/driver/nvidia/version").exists() or which("nvidia-smi") is not None


def wants_cpu_build(environ: Mapping[str, str], *, platform: str, has_gpu: bool) -> bool:
    """True when the plain build would be the wrong one. Only the plain build for Linux brings CUDA with it."""
    choice = environ.get("LITTORAL_TORCH", "").strip().lower()
    if choice and choice not in CHOICES:
        raise SetupFailed(f"LITTORAL_TORCH is {choice!r}, expected one of {', '.join(CHOICES)}")
    if not platform.startswith("linux") or choice in ("cuda", "default"):
        return False
    return choice == "cpu" or not has_gpu


def install_torch(pin: str, installed: str | None, *, cpu: bool, run: Runner) -> None:
    """Bring the right build of torch into the environment before anything else asks for it.

    Args:
        pin: ``name==version`` from constraints.txt.
        installed: The version that is there now.
        cpu: Whether the CPU build is wanted; if not, pip takes its own choice in the last step.
        run: Runs a step.
    """
    version = pin.split("==")[1]
    if not cpu or installed == f"{version}+cpu":
        return
    pip = [str(VENV_PYTHON), "-m", "pip", "install"]
    # Asked for by its local label, so that a miss costs no download: a dry run of the bare pin makes older pips fetch
    # the whole CUDA wheel to read its metadata.
    if run(f"PyTorch {version}, the CPU build, from where pip looks", [*pip, "-c", "constraints.txt", f"{pin}+cpu"]):
        return
    uv = [str(BIN / "uv"), "pip", "install", "--python", str(VENV_PYTHON), "--torch-backend", "cpu"]
    if run("uv, which knows where PyTorch keeps its CPU builds", [*pip, "uv"]) and run(
        f"PyTorch {version}, the CPU build, with uv", [*uv, "-c", "constraints.txt", pin]
    ):
        return
    say(
        "\n"
        "  NOTE: no CPU build of PyTorch could be had, so the plain one comes now. On Linux it brings CUDA with it:\n"
        "  about 3 GB to download. It works without a GPU too. To avoid it, press Ctrl-C, put a wheel of\n"
        f"  torch {version}+cpu into a folder, and run again with PIP_FIND_LINKS=<that folder>.\n"
    )


def read_pin(constraints: str, name: str) -> str:
    """The line ``name==version`` of a constraints file."""
    found = re.search(rf"^{re.escape(name)}==[^\s;]+", constraints, re.MULTILINE)
    if found is None:
        raise SetupFailed(f"constraints.txt has no line {name}==<version>")
    return found.group()


def ask_venv(code: str) -> str | None:
    """What the environment's Python prints for a line of code; None when it cannot."""
    try:
        done = subprocess.run([str(VENV_PYTHON), "-c", code], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def make_venv() -> None:
    """Make ``.venv``, or keep one that works."""
    version = ask_venv("import sys, pip; print(*sys.version_info[:2])")
    if version is not None and tuple(int(part) for part in version.split()) >= (3, 11):
        return
    say(f"  make .venv with Python {sys.version.split()[0]}")
    done = subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], capture_output=True, text=True)
    if done.returncode:
        raise SetupFailed(
            f"'{sys.executable} -m venv' failed:\n{(done.stdout + done.stderr).strip()}\n"
            "Debian and Ubuntu keep it in a package of its own: apt install python3-venv"
        )


def main() -> int:
    cpu = wants_cpu_build(os.environ, platform=sys.platform, has_gpu=has_nvidia_gpu())
    constraints = (ROOT / "constraints.txt").read_text()
    wanted = hashlib.sha256()
    for part in ((ROOT / "pyproject.toml").read_text(), constraints, f"cpu={cpu}"):
        wanted.update(part.encode() + b"\0")
    if STAMP.exists() and STAMP.read_text() == wanted.hexdigest() and ask_venv("import numpy") is not None:
        STAMP.touch()
        say("The environment in .venv is up to date.")
        return 0

    say("Setting up .venv (once; a few minutes, most of it PyTorch)")
    make_venv()
    STAMP.unlink(missing_ok=True)
    LOG.write_text("")
    installed = ask_venv("import importlib.metadata as m; print(m.version('torch'))")
    install_torch(read_pin(constraints, "torch"), installed, cpu=cpu, run=run_step)
    pip = [str(VENV_PYTHON), "-m", "pip", "install", "-c", "constraints.txt"]
    must(run_step("Littoral and its tools", [*pip, "-e", ".[dev]"]), "The installation")
    STAMP.write_text(wanted.hexdigest())
    torch = ask_venv("import importlib.metadata as m; print(m.version('torch'))")
    say(f"Ready: .venv with PyTorch {torch}. Next: make demo")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SetupFailed as error:
        say(f"setup: {error}")
        sys.exit(1)
    except KeyboardInterrupt:
        say("\nsetup: stopped; run it again, it goes on where it was")
        sys.exit(130)
