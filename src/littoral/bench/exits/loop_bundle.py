"""The bundle of the closed loop: a network with trained exits, and in the cloud a teacher that is robust."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from littoral.bench.adapt import material as adapt
from littoral.bench.alone import alone
from littoral.bench.exits.bundles import TRAIN_FRAMES, trained_file
from littoral.bench.fingerprint import fingerprint
from littoral.bundle import Bundle
from littoral.errors import BundleError
from littoral.train.build import build_bundle
from littoral.train.options import BuildOptions, ExitSource, TorchSource

if TYPE_CHECKING:
    from littoral.bench.exits.material import ExitMaterial

CALIBRATION_FRAMES = 2_000
"""After those that exits were trained on; the network itself was trained on them."""
TEACHER = "resnet56_augmix"
_DIGITS_TRAINED = 0.7
"""Of the quick run's source frames, those before these certify nothing."""


def loop_bundle(material: ExitMaterial, network: str) -> Bundle:
    """Built once and kept in the work folder, with its cloud part. Digits' teacher is the network itself."""
    exits = material.exits(network)
    digest = hashlib.sha256(trained_file(material, network).read_bytes())
    if network in adapt.WEIGHTS:
        for name in (network, TEACHER):
            digest.update((material.data / adapt.WEIGHTS[name]).read_bytes())
    digest.update(fingerprint(["littoral.train.build", "littoral.models.zoo"]).encode())
    digest.update(repr((adapt.SOURCE_FRAMES, adapt.REHEARSAL_STEPS, CALIBRATION_FRAMES)).encode())
    folder = material.work / "bundles" / f"{network}-exits-{digest.hexdigest()[:12]}"
    with alone(folder.parent):
        try:
            return Bundle.open(folder, require_cloud=True)
        except BundleError:
            shutil.rmtree(folder, ignore_errors=True)
        making = folder.with_name(f".{folder.name}.{os.getpid()}")
        shutil.rmtree(making, ignore_errors=True)
        frames, _ = material.source(network)
        student, teacher, steps = _sources(material, network)
        begin = TRAIN_FRAMES if network in adapt.WEIGHTS else int(_DIGITS_TRAINED * len(frames))
        build_bundle(
            student=student,
            teacher=teacher,
            out=making,
            name=f"cifar10-{network}-exits" if network in adapt.WEIGHTS else f"{network}-exits",
            class_names=[str(index) for index in range(10)],
            input=material.input(network),
            source_frames=frames[: adapt.SOURCE_FRAMES].copy(),
            exits=ExitSource(trained=exits, calibration=frames[begin : begin + CALIBRATION_FRAMES]),
            options=BuildOptions(rehearsal_steps=steps),
        )
        os.replace(making, folder)
        Path(f"{making}.tar").unlink(missing_ok=True)
        return Bundle.open(folder, require_cloud=True)


def _sources(material: ExitMaterial, network: str) -> tuple[TorchSource, TorchSource, int]:
    if network not in adapt.WEIGHTS:
        from littoral.bench.exits.quick import FACTORY, NETWORK

        source = TorchSource(material.network(network), FACTORY, NETWORK)
        return source, source, 0
    networks = adapt.Material(material.data, material.work)
    student, teacher = (TorchSource(networks.model(n), adapt.FACTORY[n], adapt.KWARGS) for n in (network, TEACHER))
    return student, teacher, adapt.REHEARSAL_STEPS
