"""ONNX Runtime in one place: a weightless skeleton and named tensors become something that runs.

A swap of values is a new session: `add_external_initializers` puts the tensors in *before* the optimiser runs, so
gamma, beta and statistics are folded into the convolutions and cost nothing at inference. (The look-alike
`add_initializer` is silently ignored for tensors that the optimiser has folded.)
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import cast

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from littoral.bundle import Bundle
from littoral.core.affine import NormLayer
from littoral.core.arrays import FloatArray, Frame, Tensors
from littoral.core.drift import batch_norm_layers
from littoral.core.nearness import SCORES
from littoral.core.recall import MEAN_SQUARE_SUFFIX, MEAN_SUFFIX, fingerprint_layer, fingerprint_of_moments
from littoral.edge.bound import BoundModel, BoundSession
from littoral.errors import BundleError


@dataclass(frozen=True, kw_only=True)
class SessionConfig:
    """How ONNX Runtime runs. Spinning threads burn a small device's battery, so there is one and it does not spin."""

    threads: int = 1
    providers: tuple[str, ...] = ("CPUExecutionProvider",)


def open_session(
    skeleton: bytes, names: Sequence[str], tensors: Tensors, config: SessionConfig = SessionConfig()
) -> ort.InferenceSession:
    """A session from a skeleton and the values of its external initialisers.

    Raises:
        BundleError: a tensor is missing, or ONNX Runtime does not take the graph.
    """
    if missing := [name for name in names if name not in tensors]:
        raise BundleError(f"the skeleton needs tensors that the bundle lacks: {missing[:3]}; build the bundle again")
    options = ort.SessionOptions()
    options.intra_op_num_threads = config.threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    values = [ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(tensors[name])) for name in names]
    options.add_external_initializers(list(names), values)
    try:
        return ort.InferenceSession(skeleton, options, providers=list(config.providers))
    except Exception as error:  # ONNX Runtime raises its own, unrelated classes
        raise BundleError(f"ONNX Runtime {ort.__version__} does not take the skeleton: {error}") from error


@cache
def _malloc_trim() -> Callable[[int], int]:
    """The C library's ``malloc_trim``, or a stand-in where it has none (musl, macOS, Windows)."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return lambda pad: 0
    return cast("Callable[[int], int]", trim)


def release_memory() -> None:
    """Give the memory of closed sessions back to the system.

    The C library would keep it: three times a ResNet-18's resident memory after a few swaps (docs/log.md).
    """
    _malloc_trim()(0)


class Model:
    """All segments of a bundle with one set of values: immutable, so a frame never mixes versions.

    Args:
        bundle: Where the skeletons and fixed weights come from.
        values: Tensors that replace the bundle's: affine values and statistics.
        version: The affine version, for the answers.
    """

    def __init__(
        self, bundle: Bundle, values: Tensors | None = None, *, version: int = 0, config: SessionConfig | None = None
    ) -> None:
        tensors = {**bundle.weights, **(values or {})}
        self.version = version
        self._steps, self._sessions = [], []
        for segment in bundle.manifest.segments:
            session = open_session(bundle.read(segment.file), segment.tensors, tensors, config or SessionConfig())
            self._steps.append((session.run, segment.input, [segment.output]))
            self._sessions.append((session, segment.input, segment.output))

    def run(self, frames_BHWC: Frame) -> FloatArray:
        """Logits ``(B, K)`` of uint8 frames ``(B, H, W, C)``."""
        value = frames_BHWC
        for run, name, outputs in self._steps:
            (value,) = run(outputs, {name: value})
        return value  # type: ignore[return-value]

    def run_until(self, segment: int | None, frames_BHWC: Frame) -> FloatArray | Frame:
        """The output of a segment, counted from 0; None gives the frames themselves."""
        return self.through(0, 0 if segment is None else segment + 1, frames_BHWC)

    def run_from(self, segment: int | None, value: FloatArray | Frame) -> FloatArray:
        """Logits ``(B, K)``, from what `run_until` gave for the same segment."""
        return self.through(0 if segment is None else segment + 1, len(self._steps), value)  # type: ignore[return-value]

    def through(self, first: int, last: int, value: FloatArray | Frame) -> FloatArray | Frame:
        """The output of the segments from ``first`` to before ``last``, or ``value`` itself where there are none."""
        for run, name, outputs in self._steps[first:last]:
            (value,) = run(outputs, {name: value})
        return value

    def for_one_frame(self) -> BoundModel:
        """The same segments for one frame after another, in memory of their own; for one thread."""
        return BoundModel([BoundSession(*each) for each in self._sessions])


class FingerprintModel:
    """The first part of the source's network: what it sees depends on the frames alone."""

    def __init__(self, bundle: Bundle, config: SessionConfig | None = None) -> None:
        spec, layer = bundle.manifest.statistics, fingerprint_layer(bundle.manifest.norm_layers)
        if spec is None or layer is None:
            raise BundleError(f"bundle {bundle.path} has no BatchNorm layer, so there is no fingerprint to take")
        skeleton, config = bundle.read(spec.fingerprint_file), config or SessionConfig()
        self._session = open_session(skeleton, spec.fingerprint_tensors, bundle.weights, config)
        self._layer = layer

    def fingerprint(self, frames_BHWC: Frame) -> FloatArray:
        """The fingerprint ``(2C,)`` of uint8 frames ``(B, H, W, C)``."""
        outputs = [self._layer.name + end for end in (MEAN_SUFFIX, MEAN_SQUARE_SUFFIX)]
        moments = dict(zip(outputs, self._session.run(outputs, {"frames": frames_BHWC}), strict=True))
        return fingerprint_of_moments(moments, self._layer)


class StatisticsModel:
    """The graph that measures what reaches each BatchNorm. Values are its inputs, so a swap does not touch it."""

    def __init__(self, bundle: Bundle, config: SessionConfig | None = None) -> None:
        spec = bundle.manifest.statistics
        if spec is None:
            raise BundleError(f"bundle {bundle.path} has no BatchNorm layer, so there are no statistics to measure")
        self._session = open_session(bundle.read(spec.file), spec.tensors, bundle.weights, config or SessionConfig())
        self._layers: list[NormLayer] = batch_norm_layers(bundle.manifest.norm_layers)
        self._outputs = [layer.name + end for layer in self._layers for end in (MEAN_SUFFIX, MEAN_SQUARE_SUFFIX)]
        self._classifies = bundle.manifest.adapts

    def moments(self, frames_BHWC: Frame, values: Tensors, alpha: float) -> dict[str, FloatArray]:
        """Per-channel mean and mean square of every BatchNorm's input over these frames.

        Args:
            frames_BHWC: uint8 ``(B, H, W, C)``.
            values: Affine values and current statistics of every BatchNorm layer.
            alpha: The weight of these frames in the statistics that the graph itself normalises with, 0..1.
        """
        return dict(zip(self._outputs, self._run(self._outputs, frames_BHWC, values, alpha), strict=True))

    def look(self, frames_BHWC: Frame, values: Tensors) -> tuple[dict[str, FloatArray], NDArray[np.int64]]:
        """Moments of plain inference with these values, and the class that is answered for each frame: int64 ``(B,)``,
        zeros for another task than classification."""
        names = [*self._outputs, *([SCORES] if self._classifies else [])]
        found = dict(zip(names, self._run(names, frames_BHWC, values, 0.0), strict=True))
        scores = found.pop(SCORES, None)
        return found, np.zeros(len(frames_BHWC), np.int64) if scores is None else scores.argmax(axis=1)

    def _run(self, outputs: list[str], frames_BHWC: Frame, values: Tensors, alpha: float) -> list[FloatArray]:
        feeds: dict[str, np.ndarray] = {"frames": frames_BHWC, "alpha": np.array(alpha, dtype=np.float32)}
        for layer in self._layers:
            for name in (layer.gamma, layer.beta, layer.mean, layer.var):
                feeds[name] = values[name]
        found: list[FloatArray] = self._session.run(outputs, feeds)
        return found
