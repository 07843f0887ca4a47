"""The table's points are of the bytes that a device would send, and of what the cloud makes of these."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from stripes import FRAMES, Stripes

from littoral.bench.split import make
from littoral.bench.split import training as training_module
from littoral.bench.split.material import outputs_of
from littoral.bench.split.points import split_points
from littoral.bench.split.training import Trained, train_local, train_or_load
from littoral.bench.split.unit import SplitUnit, Training
from littoral.core.codec import MIN_PAYLOAD_BYTES, encode
from littoral.core.codec_tables import CodecTables


def test_bytes_are_those_of_the_payloads_and_answers_those_of_the_tail(trained: Trained, stripes: Stripes) -> None:
    frames, labels = stripes.first("test", 6)
    coarse, fine = split_points(trained, frames, labels, subset=3)
    codec, latents = trained.codec, trained.latents(frames)
    symbols = [codec.symbols(latent, 1) for latent in latents]
    sizes = [len(encode(one, codec.tables, level=1)) for one in symbols]
    assert fine["bytes"] == pytest.approx(np.mean(sizes), abs=0.01)
    assert fine["subset_bytes"] == pytest.approx(np.mean(sizes[:3]), abs=0.01)
    answers = trained.logits(np.stack([codec.padded(one) for one in symbols]), 1).argmax(1)
    assert fine["accuracy"] == pytest.approx(100 * (answers == labels).mean(), abs=0.01)
    assert MIN_PAYLOAD_BYTES <= coarse["bytes"] < fine["bytes"]
    assert fine["ideal_bytes"] < fine["bytes"] <= 1.01 * fine["ideal_bytes"] + 12
    assert coarse["refused"] == fine["refused"] == 0


def test_a_frame_over_its_ceiling_is_counted_and_sent_at_a_coarser_level(trained: Trained, stripes: Stripes) -> None:
    frames, labels = stripes.first("test", 6)
    coarse, fine = trained.codec.tables.levels
    tables = trained.codec.tables
    tight = CodecTables(
        height=tables.height, width=tables.width, levels=(coarse, dataclasses.replace(fine, max_bytes=16))
    )
    small = dataclasses.replace(trained, codec=dataclasses.replace(trained.codec, tables=tight))
    points = split_points(small, frames, labels, subset=6)
    assert points[1]["refused"] == 6
    assert points[1]["bytes"] == points[0]["bytes"]


def test_a_finished_training_is_read_and_not_made_again(
    trained: Trained, stripes: Stripes, training: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(training_module, "commit", lambda: "another")
    again = train_or_load(training, stripes, lambda done, of, text="": told.append(text))
    assert np.array_equal(again.codec.gains, trained.codec.gains)
    assert again.codec.tables.digest == trained.codec.tables.digest
    assert again.commit == trained.commit != "another"
    assert not [line for line in told if "epoch" in line]


def test_a_recipe_that_the_code_has_changed_is_trained_in_a_folder_of_its_own(
    trained: Trained, stripes: Stripes, training: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = list((stripes.work / "trained").glob(f"{training.folder}*"))
    recipe = training_module.product_recipe
    monkeypatch.setattr(training_module, "product_recipe", lambda **given: recipe(**given, lr=1e-4))
    again = train_or_load(training, stripes)
    assert not np.array_equal(again.codec.gains, trained.codec.gains)
    assert len(list((stripes.work / "trained").glob(f"{training.folder}*"))) == len(folders) + 1


def test_rows_have_their_steps_and_what_is_right_on_the_codecs_frames(
    trained: Trained, stripes: Stripes, training: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert trained.steps == FRAMES // 8
    monkeypatch.setattr(make, "CODEC_FRAMES", 2)
    network = {"width": 2, "blocks": 1, "stride": 2}
    local = dataclasses.replace(training, method="local_only", options={"network": network})
    units = [
        SplitUnit(kind=kind, method=method, variant="x", frames=3, teacher="resnet20", training=of, options=options)
        for kind, method, of, options in (
            ("split", "product_single", training, {"subset": 2}),
            ("local_only", "local_only", local, {}),
        )
    ]
    split, alone = (make._MAKERS[unit.kind](unit, stripes, lambda *told: None) for unit in units)
    assert (split["steps"], alone["steps"]) == (FRAMES // 8, 1)
    (point,) = alone["points"]
    frames, labels = stripes.first("test", 3)
    answers = outputs_of(train_local(local, stripes)[0], frames).argmax(1)
    assert point["accuracy"] == pytest.approx(100 * (answers == labels).mean(), abs=0.01)
    assert point["subset_accuracy"] == pytest.approx(100 * (answers == labels)[:2].mean(), abs=0.01)


def test_macs_of_the_encoder_and_of_what_runs_anyway_are_apart(trained: Trained) -> None:
    assert trained.segment_macs == 14_598_144  # conv1 and six convolutions of ResNet-20's first stage
    assert trained.encoder_macs == 9 * 16 * 8 * 16**2 + 9 * 8 * 8 * 8**2 + 8 * 4 * 8**2


def test_a_network_that_sends_nothing_is_trained_by_the_same_trainer(stripes: Stripes, training: Training) -> None:
    local = dataclasses.replace(
        training, method="local_only", options={"network": {"width": 2, "blocks": 1, "stride": 2}}
    )
    network, _, _ = train_local(local, stripes)
    frames, _ = stripes.first("test", 4)
    scores = outputs_of(network, frames)
    assert scores.shape == (4, 10)
    assert np.isfinite(scores).all()
    # Its first convolution has moved from where the seed put it.
    with_other_epochs = training_module._plan(local, stripes).networks.bottleneck.encoder
    start, now = (next(module.parameters()).detach() for module in (with_other_epochs, network))
    assert not np.allclose(start.numpy(), now.numpy())
