"""A device that skips work, surely: exits trained on scikit-learn's digits, a user with a dim camera, a few labels.

python examples/05_exits.py [FOLDER]
"""

import sys
from pathlib import Path

import numpy as np
import torch

from littoral import BuildOptions, Device, DeviceConfig, InputSpec, TorchSource, build_bundle
from littoral.bench.streams.digits import source_frames, split_digits, to_frames
from littoral.core.exit_control import ControlConfig
from littoral.edge.exit_config import ExitConfig
from littoral.models.zoo import small_cnn
from littoral.train import ExitSource, fit_classifier
from littoral.train.exit_places import place_exits
from littoral.train.exits import ExitRecipe, train_exits

out = Path(sys.argv[1] if len(sys.argv) > 1 else "example-exits.bundle")
torch.manual_seed(0)
spec = InputSpec(height=16, width=16, channels=1, mean=(0.3,), std=(1.0,))
frames, labels = source_frames(0, copies=1)

# Yours: a trained network. Its exits are placed by their share of the work and trained with the network frozen.
kwargs = {"width": 8, "depth": 2}
network = small_cnn(**kwargs)
fit_classifier(network, frames, labels, input=spec, epochs=8, lr=1e-2)
recipe = ExitRecipe(epochs=2, batch_size=64, num_features=16)
trained = train_exits(network, spec, frames, None, recipe, places=place_exits(network, spec, 2))
source = TorchSource(network, "littoral.models.zoo:small_cnn", kwargs)
bundle = build_bundle(
    student=source, teacher=source, out=out, name="exits", class_names=[str(i) for i in range(10)], input=spec,
    source_frames=frames[:256], source_labels=labels[:256], exits=ExitSource(trained=trained),
    options=BuildOptions(probe_frames=16, drift_batches=2),
)  # fmt: skip

# The user's frames: only three classes, dimmer than the source's. Every second one gets its label from the user.
digits, truths = split_digits(0)[1]
few = np.flatnonzero(np.isin(truths, (1, 4, 7)))
shown = np.random.default_rng(0).choice(few, size=1200)
user = (0.85 * to_frames(digits[shown])).astype(np.uint8)
config = ExitConfig(control=ControlConfig(risk=0.1, audit_share=0.05), learning_share=1.0)
right, at = [], []
with Device(bundle, state_dir=f"{out}-state", config=DeviceConfig(adapt_statistics=False, exits=config)) as device:
    for number, frame in enumerate(user):
        answer = device.infer(frame)
        right.append(answer.label == truths[shown[number]])
        at.append(answer.exit_index)
        if number % 2 == 0:
            device.feedback(answer.frame_id, int(truths[shown[number]]))
        device.settle()  # only so that a short example shows what happens over hours
    status = device.status()
for name, part in (("first", slice(None, 150)), ("last", slice(-300, None))):
    print(f"{name} frames: {np.mean(right[part]):.0%} right, {np.mean(np.less(at[part], 2)):.0%} left early")
print(f"{status.exit_state}, by exit {list(status.frames_by_exit)}, {status.personal_heads} personal heads serve")
