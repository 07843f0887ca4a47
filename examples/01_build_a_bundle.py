"""A PyTorch classifier becomes a bundle, cut into three segments, and answers without PyTorch.

python examples/01_build_a_bundle.py [FOLDER]
"""

import sys
from pathlib import Path

import numpy as np
import torch

from littoral import BuildOptions, Device, InputSpec, TorchSource, build_bundle
from littoral.models.zoo import resnet20

out = Path(sys.argv[1] if len(sys.argv) > 1 else "example.bundle")
rng = np.random.default_rng(0)
torch.manual_seed(0)

# Yours: a few hundred frames like those that the network was trained on. They calibrate, and they become the probe.
frames = rng.integers(0, 256, (64, 32, 32, 3), dtype=np.uint8)
network = resnet20(num_classes=10).eval()
source = TorchSource(network, "littoral.models.zoo:resnet20", {"num_classes": 10})

bundle = build_bundle(
    student=source,
    teacher=source,  # yours: something stronger, with the same classes
    out=out,
    name="example",
    class_names=[f"class {index}" for index in range(10)],
    input=InputSpec(height=32, width=32, channels=3, mean=(0.49, 0.48, 0.45), std=(0.25, 0.24, 0.26)),
    source_frames=frames,
    options=BuildOptions(num_segments=3, probe_frames=8, replay_frames=32, drift_batches=2, metric_frames=32),
    progress=print,
)
print(f"{bundle.path}: {len(bundle.manifest.segments)} segments, {len(bundle.manifest.norm_layers)} BatchNorm layers")

with Device(bundle) as device:  # no link and no state folder: it only answers
    answer = device.infer(frames[0])
print(f"{answer.name} with {answer.confidence:.0%}, {answer.latency_ms:.2f} ms, cloud: {answer.cloud}")

with torch.no_grad():
    x = torch.from_numpy(frames[:1]).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (bundle.manifest.input.mean, bundle.manifest.input.std))
    expected = network((x - mean) / std).softmax(1)[0].numpy()
assert np.allclose(answer.probabilities, expected, atol=1e-5)
print("the same as PyTorch within 1e-5")
