"""The cloud, in the first of two terminals. Ends with Ctrl-C.

python examples/02_cloud.py BUNDLE STATE_FOLDER [PORT]
"""

import sys

from littoral import AdaptConfig, Cloud, CloudConfig

if len(sys.argv) < 3:
    sys.exit(__doc__)
port = int(sys.argv[3]) if len(sys.argv) > 3 else 8600
cloud = Cloud(sys.argv[1], sys.argv[2], CloudConfig(port=port, adapt=AdaptConfig(batch_size=16)))
print(f"python examples/03_device.py {sys.argv[1]} device-state {cloud.url} {cloud.new_token()}", flush=True)
cloud.serve()
