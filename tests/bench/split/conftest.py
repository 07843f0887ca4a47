"""A small world for the split table, and one training in it."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the bench needs its extra")
pytest.importorskip("starlette", reason="the bench needs its extra")
pytest.importorskip("onnxruntime", reason="the bench needs its extra")
pytest.importorskip("scipy", reason="the bench needs its extra")
pytest.importorskip("rich", reason="the bench needs its extra")

from stripes import FRAMES, Stripes

from littoral.bench.split.training import Trained, train_or_load
from littoral.bench.split.unit import Training


@pytest.fixture(scope="session")
def stripes(tmp_path_factory: pytest.TempPathFactory) -> Stripes:
    folder = tmp_path_factory.mktemp("split")
    return Stripes(Path("nowhere"), folder)


@pytest.fixture(scope="session")
def training() -> Training:
    return Training(
        method="product",
        variant="layer1",
        seed=0,
        teacher="resnet20",
        frames=FRAMES,
        epochs=1,
        views=1,
        options={
            "segment": "layer1",
            "network": {"in_channels": 16, "patch": 0, "strides": [2, 2], "width": 8, "blocks": 0, "num_channels": 4,
                        "decoder_width": 8, "decoder_blocks": 0},
            "rate_weights": [1e-4, 1e-5],
            "starting_gains": [1.0, 4.0],
            "recipe": {"batch_size": 8, "hard_epochs": 0},
        },
    )  # fmt: skip


@pytest.fixture(scope="session")
def trained(stripes: Stripes, training: Training) -> Trained:
    return train_or_load(training, stripes)
