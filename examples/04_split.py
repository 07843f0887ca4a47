"""A frame becomes a few dozen bytes on the device, and an answer in the cloud: scikit-learn's digits.

python examples/04_split.py [FOLDER]
"""

import sys
from pathlib import Path

import numpy as np
import torch

from littoral import BuildOptions, Bundle, Device, InputSpec, SplitSource, TorchSource, build_bundle
from littoral.bench.streams.digits import source_frames, split_digits, to_frames
from littoral.cloud.tail import Tail
from littoral.edge.encoder import SplitEncoder
from littoral.models.architectures import product
from littoral.models.bottleneck import split_tail_kwargs, to_split_tail
from littoral.models.parts import tail_of
from littoral.models.zoo import small_cnn
from littoral.train import fit_classifier
from littoral.train.bottleneck import train_split
from littoral.train.split_data import SplitData, SplitNetworks
from littoral.train.split_recipe import product_recipe

out = Path(sys.argv[1] if len(sys.argv) > 1 else "example-split.bundle")
torch.manual_seed(0)
spec = InputSpec(height=16, width=16, channels=1, mean=(0.3,), std=(1.0,))
frames, labels = source_frames(0, copies=1)

# Yours: a trained network, and where in it the cloud goes on.
factory, kwargs, cut = "littoral.models.zoo:small_cnn", {"width": 8, "depth": 2}, "blocks.1"
network = small_cnn(**kwargs)
fit_classifier(network, frames, labels, input=spec, epochs=3, lr=1e-2)

# Three rates in one encoder: a 4x4 patch at a time, 6 numbers for each of 4x4 places.
widths = {"in_channels": 1, "width": 16, "num_channels": 6, "decoder_width": 16, "out_channels": 16}
bottleneck = product(**widths, starting_gains=(1.0, 2.0, 4.0))
parts = SplitNetworks(bottleneck=bottleneck, tail=tail_of(network, cut), teacher=network)
recipe = product_recipe(epochs=4, rate_weights=(1e-2, 3e-3, 5e-4), lr=5e-3, batch_size=64)
train_split(recipe, parts, SplitData(frames=frames, input=spec, targets=labels, augment=None), progress=print)

split_kwargs = split_tail_kwargs(bottleneck, {"factory": factory, "kwargs": kwargs, "cut": cut})
tail = TorchSource(to_split_tail(bottleneck, parts.tail), "littoral.models.bottleneck:make_split_tail", split_kwargs)
source = TorchSource(network, factory, kwargs)
build_bundle(
    student=source, teacher=source, out=out, name="split", class_names=[str(i) for i in range(10)], input=spec,
    source_frames=frames[:256], source_labels=labels[:256], splits=[SplitSource(bottleneck, tail)],
    options=BuildOptions(probe_frames=16, drift_batches=2),
)  # fmt: skip

encoder, cloud = SplitEncoder(Bundle.open(out)), Tail(Bundle.open(out, require_cloud=True))
unseen = to_frames(split_digits(0)[1][0][:300])
with Device(Bundle.open(out)) as device:
    own = [device.infer(frame).label for frame in unseen]
for level in range(encoder.num_levels):
    payloads = [encoder.encode(frame[None], level) for frame in unseen]
    said = [output.argmax() for output in cloud.answer(payloads)]
    mean = np.mean([len(payload) for payload in payloads])
    print(f"level {level}: {mean:.0f} bytes a frame, {np.mean(np.equal(said, own)):.0%} as the device itself")
