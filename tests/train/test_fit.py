"""The small trainer learns, repeats itself, and leaves torch's own generator alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from traced import square, torch_logits

from littoral.models.zoo import small_cnn
from littoral.train.fit import fit_classifier, settle_statistics

SPEC = square(16, 1)


def data(count=96):
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 4
    patterns = rng.integers(0, 256, size=(4, 16, 16, 1))
    noise = rng.integers(0, 256, size=(count, 16, 16, 1))
    return (0.6 * patterns[labels] + 0.4 * noise).astype(np.uint8), labels


def fitted(**options):
    torch.manual_seed(0)
    model = small_cnn(width=4, num_classes=4, depth=1)
    frames, labels = data()
    settings = {"epochs": 6, "lr": 2e-2, "batch_size": 32, "seed": 0, **options}
    fit_classifier(model, frames, labels, input=SPEC, **settings)
    return model


def test_it_learns():
    frames, labels = data()
    assert (torch_logits(fitted(epochs=15), SPEC, frames).argmax(1) == labels).mean() > 0.9


def test_same_seed_same_weights_other_seed_other_weights():
    def noise(frames, rng):
        return np.clip(frames + rng.integers(-9, 10, frames.shape), 0, 255).astype(np.uint8)

    runs = [fitted(epochs=2, seed=seed, augment=noise).state_dict() for seed in (1, 1, 2)]
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])
    assert any(not torch.equal(runs[0][name], runs[2][name]) for name in runs[0])


def test_torchs_generator_is_left_and_progress_is_told():
    torch.manual_seed(5)
    model, (frames, labels) = small_cnn(width=4, num_classes=4, depth=1), data()
    state, lines = torch.get_rng_state(), []
    fit_classifier(model, frames, labels, input=SPEC, epochs=2, label_smoothing=0.1, seed=3, progress=lines.append)
    assert torch.equal(torch.get_rng_state(), state)
    assert [line.split(":")[0] for line in lines] == ["epoch 1/2", "epoch 2/2"]
    assert not model.training


@pytest.mark.parametrize(
    ("count", "options", "words"),
    [(5, {}, "do not fit"), (96, {"epochs": 0}, "epochs is 0"), (96, {"batch_size": 1}, "batch_size 1")],
    ids=["labels", "epochs", "batch-size"],
)
def test_what_does_not_fit_is_refused(count, options, words):
    frames, labels = data()
    with pytest.raises(ValueError, match=words):
        fit_classifier(small_cnn(num_classes=4), frames, labels[:count], input=SPEC, **{"epochs": 1, **options})


def test_settled_statistics_are_those_of_the_frames():
    torch.manual_seed(0)
    model = small_cnn(width=4, num_classes=4, depth=1)
    frames, _ = data(64)
    weights = {name: p.clone() for name, p in model.named_parameters()}
    settle_statistics(model, frames, input=SPEC, batch_size=64)
    seen = []
    model.stem.norm.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    torch_logits(model, SPEC, frames)
    assert torch.allclose(model.stem.norm.running_mean, seen[0].mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(model.stem.norm.running_var, seen[0].var((0, 2, 3)), rtol=1e-4)
    assert all(torch.equal(weights[name], p) for name, p in model.named_parameters())
    assert model.stem.norm.momentum == 0.1
    assert not model.training
