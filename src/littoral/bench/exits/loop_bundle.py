"""The bundle of the closed loop: ResNet-20 with trained exits, and a teacher that is robust in the cloud."""

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


def loop_bundle(material: ExitMaterial) -> Bundle:
    """Built once and kept in the work folder, with its cloud part."""
    exits = material.exits(adapt.STUDENT)
    digest = hashlib.sha256(trained_file(material.work, adapt.STUDENT).read_bytes())
    for name in (adapt.STUDENT, TEACHER):
        digest.update((material.data / adapt.WEIGHTS[name]).read_bytes())
    digest.update(fingerprint(["littoral.train.build", "littoral.models.zoo"]).encode())
    digest.update(repr((adapt.SOURCE_FRAMES, adapt.REHEARSAL_STEPS, CALIBRATION_FRAMES, adapt.INPUT)).encode())
    folder = material.work / "bundles" / f"exits-{TEACHER}-{digest.hexdigest()[:12]}"
    with alone(folder.parent):
        try:
            return Bundle.open(folder, require_cloud=True)
        except BundleError:
            shutil.rmtree(folder, ignore_errors=True)
        making = folder.with_name(f".{folder.name}.{os.getpid()}")
        shutil.rmtree(making, ignore_errors=True)
        networks = adapt.Material(material.data, material.work)
        frames, _ = material.source(adapt.STUDENT)
        build_bundle(
            student=TorchSource(networks.model(adapt.STUDENT), adapt.FACTORY[adapt.STUDENT], adapt.KWARGS),
            teacher=TorchSource(networks.model(TEACHER), adapt.FACTORY[TEACHER], adapt.KWARGS),
            out=making,
            name=f"cifar10-{adapt.STUDENT}-exits",
            class_names=[str(index) for index in range(10)],
            input=adapt.INPUT,
            source_frames=frames[: adapt.SOURCE_FRAMES].copy(),
            exits=ExitSource(trained=exits, calibration=frames[TRAIN_FRAMES : TRAIN_FRAMES + CALIBRATION_FRAMES]),
            options=BuildOptions(rehearsal_steps=adapt.REHEARSAL_STEPS),
        )
        os.replace(making, folder)
        Path(f"{making}.tar").unlink(missing_ok=True)
        return Bundle.open(folder, require_cloud=True)
