"""Exit here, finish here, or ask the cloud: a router decides for every frame. Then the world changes, and the link.

python examples/06_route.py [FOLDER]
"""

import sys
import time
from collections import Counter
from pathlib import Path

import torch

from littoral import Cloud, CloudConfig, CloudLink, Device, DeviceConfig, ExitConfig, InputSpec, RouteConfig
from littoral.bench.digits import teacher_frames, train_digit_split
from littoral.bench.streams.digits import drifting_stream, held_out_frames, source_frames
from littoral.core.route_plan import Prices
from littoral.models.zoo import small_cnn
from littoral.train import ExitRecipe, RouterSource, TorchSource, build_bundle, fit_classifier
from littoral.train.exit_build import make_exits

out = Path(sys.argv[1] if len(sys.argv) > 1 else "example-route.bundle")
torch.manual_seed(0)
spec = InputSpec(height=16, width=16, channels=1, mean=(0.3,), std=(1.0,))
(frames, labels), (varied, truths) = source_frames(0, copies=2), teacher_frames(0)

# Yours: a small network for the device, which saw clean frames, and a stronger one for the cloud.
student, teacher = (TorchSource(small_cnn(width=w), "littoral.models.zoo:small_cnn", {"width": w}) for w in (8, 16))
fit_classifier(student.module, frames, labels, input=spec, epochs=5, lr=1e-2)
fit_classifier(teacher.module, varied, truths, input=spec, epochs=3, lr=1e-2)

# Exits of the one, a split of the other, and for the router's tables frames on which nothing was trained.
recipe = ExitRecipe(epochs=2, num_features=16, mirror=False)
exits = make_exits(student.module, spec, frames, labels, where=2, recipe=recipe)
split = train_digit_split(teacher, 0)
held_out, held_out_labels = held_out_frames(0)
bundle = build_bundle(
    student=student, teacher=teacher, out=out, name="route", class_names=[str(i) for i in range(10)], input=spec,
    source_frames=frames, source_labels=labels, exits=exits, splits=[split],
    router=RouterSource(frames=held_out, labels=held_out_labels), progress=print,
)  # fmt: skip

route = RouteConfig(deadline_ms=200, prices=Prices(ms=0.005))  # a wrong answer is as bad as 200 ms
config = DeviceConfig(exits=ExitConfig(start_with_shipped=True), route=route)
stream = drifting_stream(0, device=0, frames_per_phase=400)
with Cloud(out, f"{out}-cloud", CloudConfig(port=0)) as cloud:
    link = CloudLink(cloud.url, token=cloud.new_token())
    with Device(bundle, state_dir=f"{out}-device", link=link, config=config) as device:
        for name, begin, end in (("clean", 0, 400), ("dim", 400, 600), ("dim, without a cloud", 600, 700)):
            if "without" in name:
                cloud.stop()
            said, right = Counter[str](), 0
            for frame, truth in zip(stream.frames[begin:end], stream.labels[begin:end], strict=True):
                answer = device.infer(frame)
                time.sleep(0.01)  # a camera's pace
                who = "offload" if answer.source == "cloud" else "exit" if answer.exit_index < 2 else "finish"
                said[f"{who} ({answer.reason}{', degraded' if answer.degraded else ''})"] += 1
                right += int(answer.label == truth)
            print(f"{name}: {right / (end - begin):.0%} right; {', '.join(f'{n} {w}' for w, n in said.most_common())}")
