"""Golden payloads, the reference coder and the wire under other processors: ``make arm``. Standard library only.

A small Debian for each architecture is unpacked into ``build/arm`` and its Python is run by QEMU: arm64, which devices
have, and s390x, whose bytes lie the other way round. Nothing is installed on this machine and no rights are needed.
Wanted: Debian, or another system whose apt knows Debian's packages, with ``apt-get`` and ``dpkg-deb``; 300 MB of disk
and 140 MB to download, once. The first run takes minutes, the next ones half a minute.

    make arm                      both
    make arm ARGS="arm64"         one of them
    make arm ARGS="--suite trixie"  with the packages of one release of Debian

What is compared, and with what controls, is in ``tools/portable_checks.py``. The last line of stdout is one JSON
document. The exit status is 0 when every architecture asked for was checked and nothing was wrong.
"""
# ruff: noqa: T201

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "arm"
KEYRINGS = [Path("/usr/share/keyrings/debian-archive-keyring").with_suffix(end) for end in (".gpg", ".pgp")]
SUITES = ("forky", "trixie", "bookworm")
"""Tried in this order: the first one that can be had and holds what pyproject.toml asks for."""
PACKAGES = ("python3", "python3-numpy", "python3-msgpack")


class Missing(Exception):
    """Something that this check stands on cannot be had; the message says what, and what to do."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """An architecture by the names that Debian, QEMU and its folders have for it."""

    debian: str
    qemu: str
    triplet: str
    cpu: str | None = None


MACHINES = {
    # A Cortex-A72 is what a Raspberry Pi 4 has. QEMU's default CPU signs pointers, which takes it ten times as long.
    "arm64": Machine(debian="arm64", qemu="aarch64", triplet="aarch64-linux-gnu", cpu="cortex-a72"),
    "s390x": Machine(debian="s390x", qemu="s390x", triplet="s390x-linux-gnu"),
}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def run(*command: str, cwd: Path = ROOT) -> str:
    """What a command prints.

    Raises:
        Missing: it does not exist or failed.
    """
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, errors="replace")
    except OSError as error:
        raise Missing(f"{command[0]} cannot be run: {error.strerror}") from error
    if done.returncode:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        first = next((line for line in lines if line.startswith(("E:", "Err"))), "\n".join(lines[-3:]))
        raise Missing(f"'{' '.join(command[:1])} ... {command[-1]}' failed: {first}")
    return done.stdout


def mirror() -> str:
    """Where this machine's apt gets Debian from."""
    found = re.findall(r"'(\S+?)/*/dists/[^/']+/InRelease'", run("apt-get", "update", "--print-uris"))
    for uri in found:
        if uri.rstrip("/").endswith("/debian"):
            return str(uri)
    raise Missing(
        "apt on this machine has no source of Debian's packages; run it on Debian, or add one to apt's sources"
    )


class Apt:
    """An apt of its own, for another architecture or release, that touches nothing of this machine's."""

    def __init__(self, debian: str, suite: str) -> None:
        self.folder = BUILD / f"apt-{debian}-{suite}"
        for name in ("lists/partial", "archives/partial"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / "status").write_text("")
        keyring = next((path for path in KEYRINGS if path.exists()), None)
        if keyring is None:
            raise Missing("Debian's keys are not here; apt-get install debian-archive-keyring")
        (self.folder / "sources.list").write_text(f"deb [signed-by={keyring}] {mirror()} {suite} main\n")
        options = {
            "APT::Architecture": debian,
            "APT::Architectures": debian,
            "APT::Install-Recommends": "0",
            "APT::Sandbox::User": "",
            "Acquire::Languages": "none",
            "Debug::NoLocking": "1",
            "Dir::Cache::archives": str(self.folder / "archives"),
            "Dir::Cache::pkgcache": "",
            "Dir::Cache::srcpkgcache": "",
            "Dir::Etc::sourcelist": str(self.folder / "sources.list"),
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::State::extended_states": str(self.folder / "extended_states"),
            "Dir::State::lists": str(self.folder / "lists"),
            "Dir::State::status": str(self.folder / "status"),
        }
        self.options = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
        run("apt-get", *self.options, "update", "-qq", "--error-on=any")

    def fetch(self, *packages: str) -> list[Path]:
        """The files of packages and of all that they need."""
        run("apt-get", *self.options, "install", "-y", "--download-only", *packages)
        return sorted((self.folder / "archives").glob("*.deb"))

    def fetch_alone(self, package: str) -> Path:
        """The file of one package without what it needs."""
        run("apt-get", *self.options, "download", package, cwd=self.folder)
        return next(self.folder.glob(f"{package}_*.deb"))

    def clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def unpack(package: Path, folder: Path, only: tuple[str, ...] = ()) -> None:
    """The files of a package, or those of some names; links are kept."""
    with (
        subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE) as process,
        tarfile.open(fileobj=process.stdout, mode="r|") as archive,
    ):
        for member in archive:
            if member.isdev() or (only and Path(member.name).name not in only):
                continue
            # Old packages still name /lib, which is a link to /usr/lib.
            member.name = re.sub(r"^(\./)?(lib|bin|sbin|lib64)(?=/|$)", r"usr/\2", member.name)
            if (folder / member.name).is_symlink() and member.isdir():
                continue
            archive.extract(member, folder, filter="tar")


def find_qemu(machine: Machine) -> str:
    """A QEMU for programs of the machine: this machine's, else Debian's, unpacked into ``build/arm``."""
    names = (f"qemu-{machine.qemu}-static", f"qemu-{machine.qemu}")
    folder = BUILD / "qemu" / "usr" / "bin"
    for name in names:
        if found := shutil.which(name) or shutil.which(name, path=str(folder)):
            return found
    every_name = tuple(f"qemu-{each.qemu}{end}" for each in MACHINES.values() for end in ("-static", ""))
    own = run("dpkg", "--print-architecture").strip()
    reasons = []
    for suite in SUITES:
        for package in ("qemu-user", "qemu-user-static"):
            say(f"  QEMU, of Debian {suite}: {package}")
            try:
                apt = Apt(own, suite)
                unpack(apt.fetch_alone(package), BUILD / "qemu", only=every_name)
                apt.clear()
                found = next(str(folder / name) for name in names if (folder / name).exists())
                run(found, "--version")
                return found
            except (Missing, StopIteration) as error:
                reasons.append(f"{suite}: {error}")
                shutil.rmtree(BUILD / "qemu", ignore_errors=True)
    raise Missing(f"no QEMU: {'; '.join(reasons)}; apt-get install qemu-user-static")


def minimums() -> dict[str, tuple[int, ...]]:
    """The lowest versions of numpy and msgpack that pyproject.toml takes."""
    text = (ROOT / "pyproject.toml").read_text()
    found = re.findall(r'"(numpy|msgpack)>=([0-9.]+)"', text)
    return {name: tuple(int(part) for part in version.split(".")) for name, version in found}


def below(packages: list[str]) -> list[str]:
    """Of the files' names, those that hold an older version than the project's lowest."""
    old = []
    for name, lowest in minimums().items():
        for package in packages:
            found = re.match(rf"python3-{name}_(?:\d+%3a)?([0-9.]+)", package)
            if found and tuple(int(part) for part in found[1].split(".") if part)[: len(lowest)] < lowest:
                old.append(f"{name} {found[1]}")
    return old


def make_root(machine: Machine, suite: str) -> Path:
    """The machine's Debian in a folder; an earlier one is kept. Nothing of it is run to make it."""
    root = BUILD / f"{machine.debian}-{suite}"
    stamp = root / "packages.json"
    if stamp.exists():
        return root
    shutil.rmtree(root, ignore_errors=True)
    say(f"  Python, NumPy and msgpack of Debian {suite} for {machine.debian}")
    apt = Apt(machine.debian, suite)
    packages = apt.fetch(*PACKAGES)
    for name in ("lib", "bin", "sbin"):
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    for package in packages:
        unpack(package, root)
    libraries = root / "usr" / "lib" / machine.triplet
    for name in ("blas/libblas.so.3", "lapack/liblapack.so.3"):  # what Debian's alternatives link to on installing
        link = libraries / Path(name).name
        if not link.exists():
            link.symlink_to(name)
    stamp.write_text(json.dumps([package.name for package in packages], indent=1))
    apt.clear()
    return root


def choose_root(machine: Machine, suites: tuple[str, ...]) -> tuple[str, Path]:
    """The first release that can be had and holds what the project asks for; without one, the first that can be had."""
    reasons, older = [], None
    for suite in suites:
        try:
            root = make_root(machine, suite)
        except Missing as error:
            say(f"  Debian {suite} for {machine.debian} cannot be had: {error}")
            reasons.append(f"{suite}: {error}")
            continue
        if not below(json.loads((root / "packages.json").read_text())):
            return suite, root
        older = older or (suite, root)
    if older is None:
        raise Missing(f"no Debian for {machine.debian}: {'; '.join(reasons)}")
    return older


def check(machine: Machine, suites: tuple[str, ...], said: Path) -> dict[str, object]:
    """Run the checks on the machine, against what this one said.

    Raises:
        Missing: QEMU or the packages cannot be had.
        RuntimeError: a check failed there.
    """
    started = time.monotonic()
    qemu = find_qemu(machine)
    suite, root = choose_root(machine, suites)
    cpu = ["-cpu", machine.cpu] if machine.cpu else []
    command = [qemu, *cpu, "-L", str(root), str((root / "usr/bin/python3").resolve()), "-s", "-S", "-P"]
    env = {
        "PYTHONPATH": f"{root}/usr/lib/python3/dist-packages:{ROOT / 'src'}",
        "PYTHONPYCACHEPREFIX": str(root / "pycache"),
        "OPENBLAS_NUM_THREADS": "1",
        "LC_ALL": "C.UTF-8",
    }
    done = subprocess.run(
        [*command, str(ROOT / "tools" / "portable_checks.py"), "--compare", str(said)],
        env=env, capture_output=True, text=True, timeout=1800,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{machine.debian}: {(done.stderr or done.stdout).strip()[-2000:]}")
    shown: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return {
        **shown,
        "debian": suite,
        "qemu": run(qemu, "--version").split()[2],
        "cpu": machine.cpu or "default",
        "below_minimum": below(json.loads((root / "packages.json").read_text())),
        "seconds_with_preparation": round(time.monotonic() - started, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("machines", nargs="*", choices=[*MACHINES, []], help="default: all")
    parser.add_argument("--suite", choices=SUITES, help="the release of Debian; default: the first that will do")
    arguments = parser.parse_args()
    suites = (arguments.suite,) if arguments.suite else SUITES
    BUILD.mkdir(parents=True, exist_ok=True)
    said = BUILD / "said-here.json"
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    here = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "portable_checks.py"), "--write", str(said)],
        env=env, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    if here.returncode:
        return 1
    document: dict[str, object] = {"here": json.loads(here.stdout), "there": (there := []), "not_checked": (gone := {})}
    failed = False
    for name in arguments.machines or MACHINES:
        say(f"{name}:")
        try:
            shown = check(MACHINES[name], suites, said)
        except Missing as error:
            gone[name] = str(error)
            say(f"  NOT CHECKED: {error}")
        except RuntimeError as error:
            failed = True
            say(f"  FAILED: {error}")
        else:
            there.append(shown)
            what = f"{shown['byte_order']}-endian, Python {shown['python']}, NumPy {shown['numpy']}"
            say(f"  {what}: all as here, {shown['seconds']} s")
    print(json.dumps(document))
    return 1 if failed or gone else 0


if __name__ == "__main__":
    sys.exit(main())
