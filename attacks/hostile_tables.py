# ruff: noqa: T201 -- a script that shows what it does
"""Router's tables that must not steer a device. Each attack changes a bundle that a device then opens.

The device trusts the release key. The attacker of the first list can write into the bundle's folder, hashes and all,
and has no key. The second one's bundle is signed: a careless builder, or a thief of the release key. Run as a script to
see each one bounce.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from attacks.target import RELEASE, STRANGER, make_bundle
from littoral.bundle import Bundle, ExitSpec, RouteTables, Segment, SplitCodec, SplitSpec, TorchModel
from littoral.core.codec_tables import ChannelPrior, CodecTables, FrequencyTable
from littoral.core.route_plan import ErrorCurves
from littoral.core.route_words import Way
from littoral.core.switcher import NUM_FEATURES, ShippedSwitcher, Switcher
from littoral.errors import BundleError

FILE = "route.safetensors"
POINTS, BINS = 2, 4
Attack = Callable[[Path], None]
"""Changes the bundle in a folder."""


def make_tables() -> RouteTables:
    """Of one early exit, and of a split of the frames with one level."""
    size = NUM_FEATURES + 1
    even = np.full((POINTS, BINS), 1 / BINS)
    shipped = ShippedSwitcher(
        coefficients=np.zeros((POINTS, 2, size)), precision=np.tile(np.eye(size), (POINTS, 2, 1, 1))
    )
    return RouteTables(
        curves=ErrorCurves(
            edges=np.tile(np.linspace(0.2, 0.8, BINS - 1), (POINTS, 1)),
            sure=even,
            local=even,
            cloud=even[None],
            cloud_mean=np.array([0.25]),
            first=even[0],
            onward=np.full((POINTS - 1, BINS, BINS), 1 / BINS),
        ),
        ways=(Way(split=0, level=0, point=0, num_bytes=100.0, encode_ms=1.0),),
        step_ms=(1.0, 2.0),
        switcher=Switcher(shipped),
        wrong_by="labels",
    )


def make_routed(folder: Path) -> Bundle:
    """A signed bundle with a router, whose networks are never loaded."""
    bundle = make_bundle(folder)
    prior = ChannelPrior(pmf=np.ones(3), first_value=0)
    tables = CodecTables(height=1, width=1, levels=(FrequencyTable.from_priors([prior], max_bytes=50),))
    codec = save(SplitCodec(tables=tables, gains=np.ones((1, 1), np.float32)).to_tensors())
    written = {"codec.safetensors": codec, "cloud/tail.safetensors": b"", FILE: make_tables().to_bytes()}
    (folder / "cloud").mkdir()
    for name, data in written.items():
        (folder / name).write_bytes(data)
    any_file = "weights.safetensors"
    manifest = dataclasses.replace(
        bundle.manifest,
        segments=tuple(Segment(file=any_file, input="x", output="y", tensors=()) for _ in range(2)),
        splits=(
            SplitSpec(
                encoder_file=any_file,
                codec_file="codec.safetensors",
                segment=None,
                model=TorchModel(factory="nowhere:nothing", kwargs={}, file="cloud/tail.safetensors"),
            ),
        ),
        exits=(ExitSpec(segment=0, stem_file=any_file, temperature=1, threshold=None, macs=1, num_features=1),),
        heads_file=any_file,
        segment_macs=(1, 1),
        route_file=FILE,
        files=bundle.manifest.files | {name: hashlib.sha256(data).hexdigest() for name, data in written.items()},
    )
    (folder / "bundle.json").write_bytes(manifest.to_json())
    made = Bundle.open(folder, require_cloud=True)
    made.sign(RELEASE)
    return made


def _write(folder: Path, data: bytes, *, mend: bool = True) -> None:
    """Another file of tables, its hash in the manifest mended or not."""
    (folder / FILE).write_bytes(data)
    if mend:
        raw = json.loads((folder / "bundle.json").read_bytes())
        raw["files"][FILE] = hashlib.sha256(data).hexdigest()
        (folder / "bundle.json").write_text(json.dumps(raw, sort_keys=True, separators=(",", ":")))


def _lie(name: str, value: Any) -> Attack:
    """A tensor full of a value."""

    def attack(folder: Path) -> None:
        tensors = dict(load((folder / FILE).read_bytes()))
        tensors[name] = np.full_like(tensors[name], value)
        _write(folder, save(tensors))

    return attack


def _set(field: str, value: Any) -> Attack:
    def attack(folder: Path) -> None:
        raw = json.loads((folder / "bundle.json").read_bytes())
        raw[field] = value
        (folder / "bundle.json").write_text(json.dumps(raw, sort_keys=True, separators=(",", ":")))

    return attack


def _free_cloud(folder: Path, *, mend: bool) -> None:
    """The cloud is never wrong and costs a byte: every frame would go up."""
    tables = make_tables()
    curves = dataclasses.replace(tables.curves, cloud=0 * tables.curves.cloud, cloud_mean=np.zeros(1))
    ways = tuple(dataclasses.replace(way, num_bytes=1.0) for way in tables.ways)
    _write(folder, dataclasses.replace(tables, curves=curves, ways=ways).to_bytes(), mend=mend)


def _resigned(folder: Path) -> None:
    _free_cloud(folder, mend=True)
    Bundle.open(folder, require_cloud=True).sign(STRANGER)


WITHOUT_A_KEY: dict[str, Attack] = {
    "one byte changed": lambda f: _write(f, bytes([*make_tables().to_bytes()[:-1], 1]), mend=False),
    "cut short": lambda f: _write(f, make_tables().to_bytes()[:-1], mend=False),
    "a cloud that is never wrong": lambda f: _free_cloud(f, mend=False),
    "the same, its hash mended": lambda f: _free_cloud(f, mend=True),
    "the same, signed by a stranger": _resigned,
    "taken out": lambda f: (f / FILE).unlink(),
    "taken out of the manifest": _set("route_file", None),
    "a file of another folder": _set("route_file", "../route.safetensors"),
}

SIGNED: dict[str, Attack] = {
    "errors that are no numbers": _lie("curves.local", math.nan),
    "a cloud that is right more often than always": _lie("curves.cloud", -0.1),
    "payloads of less than nothing": _lie("ways.num_bytes", -1.0),
    "payloads without end": _lie("ways.num_bytes", math.inf),
    "steps that take no time at all, and less": _lie("step_ms", -1.0),
    "encoding that never ends": _lie("ways.encode_ms", math.inf),
    "a way from a point beyond the end": _lie("ways", 65_535),
    "a way of another split": _lie("ways", 1),
    "frames that go nowhere": _lie("curves.onward", 0.0),
    "a switcher that is sure of nothing": _lie("switcher.precision", 0.0),
    "a switcher without end": _lie("switcher.coefficients", math.inf),
    "a format of the future": _lie("format", 2),
    "a pickle": lambda f: _write(f, b"\x80\x04cos\nsystem\n(S'true'\ntR."),
    "a header of a terabyte": lambda f: _write(f, struct.pack("<Q", 1 << 40) + b"{}"),
    "exits that the tables do not know": _set("exits", []),
}


def attack(folder: Path, change: Attack, *, signed: bool) -> str:
    """Let a device that trusts the release key open what became of the bundle: ``refused``, or ``opened``."""
    bundle = make_routed(folder)
    change(folder)
    try:
        if signed:  # by the thief of the key; a manifest that cannot be read is refused before
            bundle = Bundle.open(folder)
            bundle.sign(RELEASE)
        RouteTables.open(Bundle.open(folder, trust=RELEASE.public))
    except BundleError:
        return "refused"
    return "opened"


def main() -> None:
    """Show each attack and what became of it."""
    with tempfile.TemporaryDirectory() as folder:
        for signed, attacks in ((False, WITHOUT_A_KEY), (True, SIGNED)):
            for number, (name, change) in enumerate(attacks.items()):
                became = attack(Path(folder) / f"{signed}-{number}", change, signed=signed)
                print(f"tables    {name:42} {became:14} expected refused")


if __name__ == "__main__":
    main()
