"""A fielded split measures the codec that its own row is of, and its units say which codec that was."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the bench needs its extra")

from torch import nn

from littoral.bench.split import field, leakage, link_row, link_whole, make, points, robust, training
from littoral.bench.split.plan import quick_plan
from littoral.bench.split.training import codec_digest
from littoral.bundle import Bundle, SplitCodec
from littoral.core.codec_tables import ChannelPrior, CodecTables, FrequencyTable


@pytest.fixture
def trained(split_bundle: Path) -> Any:
    """A training whose codec has other tables than a build makes."""
    built = SplitCodec.open(Bundle.open(split_bundle), 0)
    channels, height, width = built.latent_shape
    prior = ChannelPrior(pmf=np.array([1.0, 3.0, 1.0]), first_value=-1)
    tables = CodecTables(
        height=height, width=width, levels=(FrequencyTable.from_priors([prior] * channels, max_bytes=9000),)
    )
    codec = SplitCodec(tables=tables, gains=np.ones((1, channels), np.float32))
    training = SimpleNamespace(options={}, teacher="resnet20")
    return SimpleNamespace(
        training=training, codec=codec, bottleneck=nn.Identity(), tail=nn.Identity(), tail_kwargs={}, commit="c",
        encoder_macs=1, segment_macs=0, steps=1,
    )  # fmt: skip


@pytest.fixture
def built_already(split_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build gives the bundle of the tests."""
    monkeypatch.setattr(field, "build_bundle", lambda out, **more: shutil.copytree(split_bundle, out))


@pytest.mark.usefixtures("built_already")
def test_what_is_shipped_has_the_codec_that_was_measured_and_not_one_of_other_frames(
    trained: Any, split_bundle: Path, tmp_path: Path
) -> None:
    material: Any = SimpleNamespace(network=lambda name: nn.Identity(), train=(np.zeros((1, 32, 32, 3), np.uint8),))
    fielded = field.Fielded(trained, material, tmp_path / "bundle")
    assert codec_digest(fielded.encoder.codec) == codec_digest(trained.codec)
    assert codec_digest(SplitCodec.open(Bundle.open(split_bundle), 0)) != codec_digest(trained.codec)


class Opened:
    """In place of a `Fielded` whose bundle has another codec than the training."""

    def __init__(self, trained: Any, material: Any, folder: Path) -> None:
        codec = SplitCodec(tables=trained.codec.tables, gains=2 * trained.codec.gains)
        self.encoder, self.bundle = SimpleNamespace(codec=codec), SimpleNamespace(path=folder)


@pytest.mark.parametrize("kind", ["split", "leakage", "robust", "timing", "link"])
def test_each_unit_of_a_split_says_which_codec_it_measured(
    kind: str, trained: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for module, name in ((leakage, "leakage_points"), (robust, "robust_points"), (field, "timing_points"),
                         (link_row, "link_points")):  # fmt: skip
        monkeypatch.setattr(module, name, lambda *args, **options: [])
    monkeypatch.setattr(link_whole, "whole_point", lambda *args, **options: {})
    monkeypatch.setattr(points, "split_points", lambda *args, **options: [{"accuracy": 90.0, "bytes": 1.0}] * 4)
    monkeypatch.setattr(training, "train_or_load", lambda *args, **options: trained)
    monkeypatch.setattr(field, "Fielded", Opened)
    frames = np.zeros((2, 32, 32, 3), np.uint8), np.zeros(2, np.int64)
    material: Any = SimpleNamespace(
        first=lambda split, count: frames, network=lambda name: nn.Identity(), test=frames, work=tmp_path
    )
    unit = next(unit for unit in quick_plan() if unit.kind == kind)
    result = make._MAKERS[kind](unit, material, lambda *told: None)
    measured = Opened(trained, material, tmp_path).encoder.codec if kind in ("timing", "link") else trained.codec
    assert result["codec_digest"] == codec_digest(measured)
    if kind == "timing":
        assert 0 <= result["measured_cpu_seconds"] <= result["measured_seconds"] + 0.1
