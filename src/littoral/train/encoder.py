"""A split's encoder becomes an ONNX graph with its weights, held against torch symbol for symbol.

Axes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import Tensor, nn

from littoral.bundle import InputSpec
from littoral.core.arrays import FloatArray
from littoral.errors import BundleError
from littoral.models.frames import normalise
from littoral.train.export import FRAMES
from littoral.train.standalone import export_standalone

FEATURES = "features"
"""The output of a segment, as the encoder's input. Its own name might be that of a tensor inside."""
LATENT = "latent"
EDGE_MARGIN = 1e-4
"""How near a rounding edge a value must be to be rounded otherwise by ONNX Runtime; relative above 1."""


class _Traced(nn.Module):
    """What is traced: the input as the device has it in, the latent out."""

    def __init__(self, encoder: nn.Module, spec: InputSpec | None) -> None:
        super().__init__()
        self.encoder, self._spec = encoder, spec

    def forward(self, value: Tensor) -> Tensor:
        latent: Tensor = self.encoder(value if self._spec is None else normalise(value, self._spec))
        return latent


@dataclass(frozen=True)
class ExportedEncoder:
    """An encoder on both engines."""

    graph: onnx.ModelProto
    """Input ``frames`` or ``features``, output ``latent`` float32 ``(batch, C, H, W)``; weights inside."""
    module: nn.Module
    """The same in torch: a copy in eval mode, on the CPU, float32."""

    def torch_latent(self, value: np.ndarray) -> FloatArray:
        """What torch gives, float32 ``(B, C, H, W)``."""
        with torch.no_grad():
            latent: Tensor = self.module(torch.from_numpy(np.array(value)))
        return np.asarray(latent.numpy())


def export_encoder(encoder: nn.Module, value: np.ndarray, *, spec: InputSpec | None) -> ExportedEncoder:
    """Trace an encoder. The graph's input is ``frames`` or ``features``.

    Args:
        encoder: Takes float32 ``(B, C, H, W)``, gives a latent ``(B, C, H, W)``; not touched.
        value: A batch of two or more of what it will get: uint8 ``(B, H, W, C)`` where there is a ``spec``.
        spec: Given where the encoder takes frames: they are normalised inside the graph.
    Raises:
        ValueError: the encoder does not take the value, gives no latent, or cannot be traced (the cause is chained).
    """
    module = _Traced(copy.deepcopy(encoder).cpu().float(), spec).eval()
    example = torch.from_numpy(np.array(value[:2]))
    try:
        with torch.no_grad():
            latent = module(example)
    except RuntimeError as error:
        raise ValueError(
            f"the encoder does not take {value.dtype} {value.shape[1:]}, which it would get: {error}"
        ) from error
    if not isinstance(latent, Tensor) or latent.ndim != 4 or len(latent) != 2:
        came = tuple(latent.shape) if isinstance(latent, Tensor) else type(latent).__name__
        raise ValueError(f"for a batch of 2 the encoder gives {came}, expected a latent (2, C, H, W)")
    graph = export_standalone(
        module,
        example,
        input_name=FEATURES if spec is None else FRAMES,
        output_name=LATENT,
        what="the encoder",
    )
    return ExportedEncoder(graph=graph, module=module)


def run_encoder(session: ort.InferenceSession, value: np.ndarray) -> FloatArray:
    """The latent ``(B, C, H, W)`` of a batch on ONNX Runtime."""
    (latent,) = session.run([LATENT], {session.get_inputs()[0].name: value})
    return np.asarray(latent)


def check_latents(came_BCHW: FloatArray, expected_BCHW: FloatArray, gains_LC: FloatArray, kept: Sequence[int]) -> None:
    """Hold ONNX Runtime's latents against torch's: at every level the same symbols, but at a rounding edge.

    Args:
        came_BCHW: ONNX Runtime's.
        expected_BCHW: Torch's.
        kept: How many channels each level sends.
    Raises:
        BundleError: a value is not finite, or rounded otherwise though torch's is farther than 1e-4 from an edge.
    """
    if came_BCHW.shape != expected_BCHW.shape or not np.isfinite(came_BCHW).all():
        raise BundleError(
            f"the exported encoder gives {came_BCHW.shape}, torch {expected_BCHW.shape}, and all must be finite; does "
            "its forward depend on the batch?"
        )
    for level, num_kept in enumerate(kept):
        gains = gains_LC[level, :num_kept, None, None].astype(np.float64)
        came, expected = came_BCHW[:, :num_kept] * gains, expected_BCHW[:, :num_kept] * gains
        differs = np.rint(came) != np.rint(expected)
        to_edge = np.abs(np.abs(expected - np.floor(expected)) - 0.5)
        margin = EDGE_MARGIN * np.maximum(1, np.abs(expected))
        wrong = differs & ((to_edge > margin) | (np.abs(came - expected) > margin))
        if wrong.any():
            worst = float(np.abs(came - expected)[wrong].max())
            raise BundleError(
                f"the exported encoder gives other symbols than torch: {int(wrong.sum())} of {wrong.size} at level "
                f"{level}, by up to {worst:.3g}; nothing was written. Does its forward depend on "
                "chance or on the batch?"
            )
