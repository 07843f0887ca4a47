"""An exit of a frozen segmentation network is trained on what the network gave."""

from __future__ import annotations

import dataclasses
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from littoral.bundle.manifest import InputSpec
from littoral.models.dense_exits import DenseExit
from littoral.train import dense_exits
from littoral.train.dense_exits import DenseExitData, DenseExitRecipe, exit_loss, see_frames, train_dense_exit, varied

SPEC = InputSpec(height=32, width=32, channels=3, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


class Colours(nn.Module):
    """Features: the frame at an eighth; scores: which of the three channels is the brightest."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return nn.functional.avg_pool2d(x, 4), 8 * x


def scenes(num: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Frames of two flat halves, and which channel is the brightest there."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.repeat(rng.integers(0, 3, size=(num, 1, 2)), 32, axis=1), 16, axis=2).astype(np.uint8)
    return (np.eye(3, dtype=np.uint8)[labels] * 200 + 20).astype(np.uint8), labels


def head() -> DenseExit:
    torch.manual_seed(1)
    return DenseExit(3, 3, width=4, context=8, dilations=(1,))


def trained(epochs: int, checkpoint: Path | None = None, labels: bool = True) -> tuple[DenseExit, list[str]]:
    frames, truths = scenes()
    data = see_frames(Colours(), ("pooled",), frames, truths if labels else None, SPEC, views=2)
    exit, said = head(), list[str]()
    recipe = DenseExitRecipe(epochs=epochs, batch_size=4, lr=0.02)
    train_dense_exit(exit, "pooled", data, recipe, checkpoint=checkpoint, progress=said.append)
    return exit, said


def agreement(exit: DenseExit) -> float:
    frames, truths = scenes()
    data = see_frames(Colours(), ("pooled",), frames, truths, SPEC, views=1)
    with torch.no_grad():
        scores = exit(torch.from_numpy(data.features["pooled"].astype(np.float32)))
    return float((scores.argmax(dim=1).numpy() == truths[:, ::4, ::4]).mean())


def test_an_exit_learns_what_the_network_says_without_any_label() -> None:
    untrained = agreement(head().eval())
    exit, _ = trained(15, labels=False)
    assert agreement(exit) > 0.95 > untrained


def test_a_stopped_training_goes_on_and_ends_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    whole, _ = trained(3, tmp_path / "whole.pt")

    class Stop(Exception):
        pass

    def cut(line: str) -> None:
        if line.startswith("epoch 2"):
            raise Stop

    frames, truths = scenes()
    data = see_frames(Colours(), ("pooled",), frames, truths, SPEC, views=2)
    recipe = DenseExitRecipe(epochs=3, batch_size=4, lr=0.02)
    with pytest.raises(Stop):
        train_dense_exit(head(), "pooled", data, recipe, checkpoint=tmp_path / "cut.pt", progress=cut)
    torch.manual_seed(99)
    again, said = trained(3, tmp_path / "cut.pt")
    assert [line.split(":")[0] for line in said] == ["epoch 3/3"]
    for ours, theirs in zip(again.state_dict().values(), whole.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)
    with pytest.raises(ValueError, match="what differs: recipe"):
        trained(4, tmp_path / "cut.pt")


def small(num: int = 4, *, labels: bool = True) -> DenseExitData:
    frames, truths = scenes(num)
    return see_frames(Colours(), ("pooled",), frames, truths if labels else None, SPEC, views=1)


SHORT = DenseExitRecipe(epochs=1, batch_size=2)


def test_the_checkpoint_of_another_training_is_refused_and_the_part_named(tmp_path: Path) -> None:
    data, file = small(), tmp_path / "new folder" / "exit.pt"
    train_dense_exit(head(), "pooled", data, SHORT, checkpoint=file)
    held = torch.load(file, weights_only=True)
    wide = DenseExit(3, 3, width=8, context=8, dilations=(1,))
    other = head()
    torch.nn.init.ones_(next(other.parameters()))
    for part, given in {
        "features": (head(), "pooled", dataclasses.replace(data, features={"pooled": data.features["pooled"] + 1})),
        "teacher": (head(), "pooled", dataclasses.replace(data, teacher_NKHW=data.teacher_NKHW + 1)),
        "labels": (head(), "pooled", small(labels=False)),
        "shapes": (head(), "pooled", small(8)),
        "cut": (head(), "other", dataclasses.replace(data, features={"other": data.features["pooled"]})),
        "head": (wide, "pooled", data),
        "first weights": (other, "pooled", data),
    }.items():
        with pytest.raises(
            ValueError, match=rf"is of another training; what differs: (.*, )?{part}(, .*)?\. Remove it"
        ):
            train_dense_exit(*given, SHORT, checkpoint=file)
    said: list[str] = []
    torch.save({"recipe": asdict(SHORT), **{name: held[name] for name in ("epochs", "head", "others")}}, file)
    train_dense_exit(head(), "pooled", data, SHORT, checkpoint=file, progress=said.append)
    assert not said, "an older file has less to say, and is taken"
    with pytest.raises(ValueError, match="does not fit this training"):
        train_dense_exit(wide, "pooled", data, SHORT, checkpoint=file)


def test_pixels_without_a_label_do_not_count_in_the_cross_entropy() -> None:
    torch.manual_seed(0)
    scores, teacher = torch.randn(1, 3, 4, 4), torch.randn(1, 3, 4, 4)
    labels = torch.full((1, 8, 8), 255)
    labels[0, 0, 0] = 1
    recipe = DenseExitRecipe(teacher_weight=0.0)
    weights = torch.ones(3)
    with_one = exit_loss(scores, teacher, labels, weights, recipe)
    expected = -torch.log_softmax(scores[0, :, 0, 0], dim=0)[1]  # a corner is not mixed with any other
    assert with_one.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("ignored", [2, 255])
def test_pixels_without_a_label_do_not_count_in_the_weights_of_classes(ignored: int) -> None:
    labels = np.array([0, 0, 0, 1, *[ignored] * 6], np.uint8)[None, None]
    data = DenseExitData(features={}, teacher_NKHW=np.zeros((1, 3, 1, 10), np.float16), labels_NHW=labels)
    weights = 1 / np.log(1.10 + np.array([0.75, 0.25, 0.0]))
    found = dense_exits._class_weights(data, DenseExitRecipe(), ignored).numpy()
    np.testing.assert_allclose(found, weights / weights.mean(), rtol=1e-6)


def test_a_batch_without_a_label_does_not_count_in_the_loss_that_is_told() -> None:
    data = small()
    assert data.labels_NHW is not None
    known = data.labels_NHW.copy()
    data.labels_NHW[1:] = 255
    said: list[str] = []
    exit = head()
    train_dense_exit(exit, "pooled", data, SHORT, progress=said.append)
    assert np.isfinite(float(said[0].removeprefix("epoch 1/1: loss ")))
    assert all(bool(value.isfinite().all()) for value in exit.parameters())
    data.labels_NHW[:] = 255
    train_dense_exit(head(), "pooled", data, SHORT, progress=said.append)
    assert said[1] == "epoch 1/1: no batch with a label, so no loss to tell"
    data.labels_NHW[:] = known
    broken = head()
    torch.nn.init.constant_(next(broken.parameters()), float("nan"))
    train_dense_exit(broken, "pooled", data, SHORT, progress=said.append)
    assert said[2] == "epoch 1/1: loss nan", "what went wrong is not hidden"


def test_the_divergence_vanishes_where_the_exit_says_what_the_network_says() -> None:
    teacher = torch.randn(1, 3, 4, 4)
    recipe, weights = DenseExitRecipe(), torch.ones(3)
    assert exit_loss(teacher, teacher, None, weights, recipe).item() == pytest.approx(0, abs=1e-6)
    assert exit_loss(-teacher, teacher, None, weights, recipe).item() > 0.1


def test_a_varied_view_moves_frame_and_labels_together_and_has_no_label_outside() -> None:
    frames, truths = scenes(1)
    seen_outside = False
    for seed in range(12):
        frame, label = varied(frames[0], truths[0], np.random.default_rng(seed))
        assert label is not None
        assert frame.shape == frames[0].shape
        assert label.shape == truths[0].shape
        known = label != 255
        seen_outside |= not known.all()
        assert (frame.argmax(axis=2)[known] == label[known]).mean() > 0.9  # but for the edge's blur
    assert seen_outside


def test_labels_of_another_size_and_too_few_frames_are_refused() -> None:
    frames, truths = scenes(2)
    with pytest.raises(ValueError, match="label maps of their shape"):
        see_frames(Colours(), ("pooled",), frames, truths[:, ::2], SPEC)
    data = see_frames(Colours(), ("pooled",), frames, truths, SPEC, views=1)
    with pytest.raises(ValueError, match="at least 8"):
        train_dense_exit(head(), "pooled", data, DenseExitRecipe())
    with pytest.raises(ValueError, match="features at 'deep'"):
        train_dense_exit(head(), "deep", data, DenseExitRecipe(batch_size=2))
