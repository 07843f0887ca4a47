"""The zoo's names and sizes are those of the checkpoints that people have."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch", reason="the zoo needs the cloud extra")

from safetensors.numpy import load_file  # noqa: E402

from littoral.bundle import InputSpec, TorchModel  # noqa: E402
from littoral.models import load_model, zoo  # noqa: E402
from littoral.models.frames import normalise  # noqa: E402

# Trainable parameters at 1,000 (10 for CIFAR) classes, as published with the checkpoints.
PARAMETERS = {
    "resnet20": 269_722,
    "resnet56": 853_018,
    "resnet18": 11_689_512,
    "resnet50": 25_557_032,
    "mobilenet_v2": 3_504_872,
    "vit_tiny": 5_717_416,
    "vit_small": 22_050_664,
}
NAMES = {
    "resnet20": ["conv1.weight", "bn1.running_mean", "layer1.0.conv1.weight", "layer3.2.bn2.weight", "linear.bias"],
    "resnet18": ["conv1.weight", "layer2.0.downsample.0.weight", "layer2.0.downsample.1.running_var", "fc.weight"],
    "resnet50": ["layer1.0.conv3.weight", "layer1.0.downsample.0.weight", "layer4.2.bn3.bias", "fc.bias"],
    "mobilenet_v2": [
        "features.0.0.weight",
        "features.1.conv.0.0.weight",
        "features.1.conv.2.running_mean",
        "features.2.conv.1.1.weight",
        "features.2.conv.3.bias",
        "features.18.1.weight",
        "classifier.1.weight",
    ],
    "vit_tiny": [
        "cls_token",
        "pos_embed",
        "patch_embed.proj.weight",
        "blocks.0.norm1.weight",
        "blocks.11.attn.qkv.bias",
        "blocks.3.attn.proj.weight",
        "blocks.3.norm2.bias",
        "blocks.3.mlp.fc1.weight",
        "blocks.3.mlp.fc2.bias",
        "norm.weight",
        "head.bias",
    ],
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts_are_the_published_ones(name):
    with torch.device("meta"):
        model = getattr(zoo, name)()
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", NAMES)
def test_state_dict_names(name):
    with torch.device("meta"):
        names = set(getattr(zoo, name)().state_dict())
    assert set(NAMES[name]) <= names


@pytest.mark.parametrize("name", ["resnet20", "small_cnn"])
def test_same_seed_same_weights(name):
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(getattr(zoo, name)().state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("side", [16, 32])
def test_small_cnn_takes_frames_of_16_to_32(norm, side):
    model = zoo.small_cnn(width=6, num_classes=5, channels=3, depth=3, norm=norm).eval()
    assert model(torch.zeros(2, 3, side, side)).shape == (2, 5)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: zoo.small_cnn(norm="instance"), "norm is 'instance', expected 'batch' or 'group'"),
        (lambda: zoo.small_cnn(width=0), "at least 1"),
        (lambda: zoo.vit_tiny(image_size=30, patch_size=16), "not a multiple"),
    ],
    ids=["norm", "width", "patch"],
)
def test_arguments_that_make_no_sense_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_normalise_is_the_textbook_formula():
    spec = InputSpec(height=2, width=3, channels=3, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    frames = np.random.default_rng(0).integers(0, 256, size=(4, 2, 3, 3), dtype=np.uint8)
    expected = (frames / 255 - np.array(spec.mean)) / np.array(spec.std)
    got = normalise(torch.from_numpy(frames), spec).permute(0, 2, 3, 1).numpy()
    assert got.dtype == np.float32
    assert np.allclose(got, expected, atol=2e-6)


@pytest.mark.skipif("LITTORAL_DATA" not in os.environ, reason="LITTORAL_DATA does not name a folder with real weights")
@pytest.mark.parametrize(("name", "at_least"), [("resnet20", 0.88), ("resnet56", 0.90)])
def test_real_checkpoints_load_and_classify(name, at_least):
    data = Path(os.environ["LITTORAL_DATA"])
    file = data / "weights" / f"cifar10_{name}.safetensors"
    spec = TorchModel(factory=f"littoral.models.zoo:{name}", kwargs={}, file=file.name)
    model = load_model(spec, load_file(file))
    with np.load(data / "cifar10" / "test.npz") as test:
        mosaic, labels = np.asarray(Image.open(io.BytesIO(test["webp"].tobytes()))), test["labels"][:400]
    rows = mosaic[: 32 * (400 // (mosaic.shape[1] // 32) + 1)]
    frames = rows.reshape(-1, 32, rows.shape[1] // 32, 32, 3).swapaxes(1, 2).reshape(-1, 32, 32, 3)[:400].copy()
    cifar = InputSpec(height=32, width=32, channels=3, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    with torch.no_grad():
        answers = model(normalise(torch.from_numpy(frames), cifar)).argmax(1).numpy()
    assert (answers == labels).mean() > at_least
