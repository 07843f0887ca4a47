"""What tests of several rooms need: one small bundle, built once a run. Only a test that asks for it imports torch."""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Generator
from pathlib import Path

import numpy as np
import pytest
from made_once import keep_the_exporters_operators, one_at_a_time, run_folder

IN_MEMORY = Path("/dev/shm")  # pytest makes folders of its own in it, for this user alone
_ROOMY_BYTES = 4 << 30


def pytest_configure() -> None:
    """Temporary folders lie in memory where there is room, unless somebody chose a place.

    Most of what many tests take is to sync files to a disk, which no test here cuts the power of: those that lose what
    was not synced do so by stand-ins for the file system.
    """
    if IN_MEMORY.is_dir() and shutil.disk_usage(IN_MEMORY).free > _ROOMY_BYTES and os.access(IN_MEMORY, os.W_OK):
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(IN_MEMORY))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is imported and collected stays until the end: nobody looks through it for garbage, now or later.

    A fifth of what imports take, and a tenth of an export, was to look again at the modules of torch.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an unsigned bundle: a BatchNorm CNN for 16x16x1 frames of 10 classes, seeded and briefly trained.

    Do not write into it; copy it where a test changes a file. Its statistics fit its source frames, and each
    class is the answer to some of them.
    """
    pytest.importorskip("torch", reason="building a bundle needs the cloud extra")
    pytest.importorskip("onnxscript", reason="building a bundle needs the cloud extra")
    whole = run_folder(tmp_path_factory) / "tiny-bundle"
    with one_at_a_time(whole):
        if not whole.exists():
            build_tiny_bundle(tmp_path_factory.mktemp("bundle")).rename(whole)
    return whole / "tiny"


def build_tiny_bundle(folder: Path) -> Path:
    """Build it as ``tiny`` in a folder of its own, which comes back."""
    import torch

    torch.set_num_threads(1)  # two on a busy machine of two cores are several times slower

    from littoral.bundle import InputSpec
    from littoral.models.zoo import small_cnn
    from littoral.train import BuildOptions, TorchSource, build_bundle
    from littoral.train.fit import fit_classifier, settle_statistics

    keep_the_exporters_operators()
    spec = InputSpec(height=16, width=16, channels=1, mean=(0.5,), std=(0.25,))
    rng = np.random.default_rng(0)
    labels = np.arange(256, dtype=np.int64) % 10
    patterns = rng.integers(0, 256, size=(10, 16, 16, 1))
    noisy = 0.7 * patterns[labels] + 0.3 * rng.integers(0, 256, size=(256, 16, 16, 1))
    frames = noisy.astype(np.uint8)
    sources = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for width in (4, 6):
            kwargs = {"width": width, "num_classes": 10, "channels": 1, "depth": 1}
            model = small_cnn(**kwargs)
            fit_classifier(model, frames, labels, input=spec, epochs=8, lr=2e-2, batch_size=32)
            settle_statistics(model, frames, input=spec)
            sources.append(TorchSource(model, "littoral.models.zoo:small_cnn", kwargs))
    student, teacher = sources
    build_bundle(
        student=student,
        teacher=teacher,
        out=folder / "tiny",
        name="tiny",
        class_names=[str(digit) for digit in range(10)],
        input=spec,
        source_frames=frames,
        source_labels=labels,
        options=BuildOptions(probe_frames=32, replay_frames=64),
    )
    return folder


@pytest.fixture(scope="session")
def dense_bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of two bundles with a split, ``segmentation`` and ``detection`` (``dense_bundles.py``); as above."""
    pytest.importorskip("torch", reason="building a bundle needs the cloud extra")
    pytest.importorskip("onnxscript", reason="building a bundle needs the cloud extra")
    from dense_bundles import DETECTION, SEGMENTATION, build_dense, with_split

    whole = run_folder(tmp_path_factory) / "dense-bundles"
    with one_at_a_time(whole):
        if not whole.exists():
            folder = tmp_path_factory.mktemp("dense")
            for task in (SEGMENTATION, DETECTION):
                with_split(build_dense(task, folder / "plain" / task.name), folder / task.name)
            folder.rename(whole)
    return whole


@pytest.fixture(scope="session")
def split_bundle(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `tiny_bundle` in two segments and with two splits (``split_bundles.py``). Do not write into it."""
    from split_bundles import write_split_bundle

    whole = run_folder(tmp_path_factory) / "split-bundle"
    with one_at_a_time(whole):
        if not whole.exists():
            folder = tmp_path_factory.mktemp("split")
            write_split_bundle(tiny_bundle, folder / "b")
            folder.rename(whole)
    return whole / "b"
