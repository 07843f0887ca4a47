"""Array types used everywhere. A shape suffix says the axes: B batch, H height, W width, C channels, K classes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
"""float32 of any shape."""
Float64s = NDArray[np.float64]
"""float64 of any shape."""
Indices = NDArray[np.intp]
Frame = NDArray[np.uint8]
"""uint8 ``(H, W, C)``, or ``(B, H, W, C)`` where a batch is meant."""
Mask = NDArray[np.bool_]
Tensors = Mapping[str, FloatArray]
"""Named tensors, named as in the torch state dict."""
