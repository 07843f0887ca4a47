"""A device, in the second of two terminals: what the cloud printed is how to start it.

python examples/03_device.py BUNDLE STATE_FOLDER CLOUD_URL TOKEN [FRAMES]
"""

import sys
import time

import numpy as np

from littoral import Bundle, CloudLink, Device, DeviceConfig, SelectionConfig, StatisticsConfig

if len(sys.argv) < 5:
    sys.exit(__doc__)
bundle, state, url, token = sys.argv[1:5]
count = int(sys.argv[5]) if len(sys.argv) > 5 else 500

# Here every frame is worth sending, also where the world is near the source's; with real frames keep the defaults.
config = DeviceConfig(
    selection=SelectionConfig(entropy_min_fraction=0.0, entropy_max_fraction=1.0, diversity_margin=2.0),
    statistics=StatisticsConfig(near_factor=0.0),
)
rng = np.random.default_rng(1)
with Device(Bundle.open(bundle), state_dir=state, link=CloudLink(url, token=token), config=config) as device:
    shape = device.bundle.manifest.input.shape
    for number in range(1, count + 1):
        answer = device.infer(rng.integers(0, 256, shape, dtype=np.uint8))
        time.sleep(0.01)  # a camera's pace
        if number % 100 == 0:
            status = device.status()
            print(
                f"frame {number}: {answer.name}, version {status.version}, cloud {status.cloud}, {status.acked} acked"
            )
    device.close(flush_s=10)
    status = device.status()
print(f"{status.acked} of {status.accepted} acknowledged, {status.bytes_up} bytes up, {status.bytes_down} down")
