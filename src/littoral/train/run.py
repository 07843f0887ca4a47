"""Run skeletons on ONNX Runtime, for the checks and measurements of a build."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnxruntime as ort
from onnx import ModelProto

from littoral.core.arrays import FloatArray, Frame, Tensors
from littoral.train.export import FRAMES, external_names

BATCH = 64
MAX_RELATIVE_ERROR = 1e-4
_PIXELS_AT_A_TIME = BATCH * 224 * 224


def open_session(graph: ModelProto, tensors: Tensors) -> ort.InferenceSession:
    """A session on one thread of a skeleton and the tensors that it takes; other tensors are passed over."""
    names = list(external_names(graph))
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if names:
        values = [ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(tensors[name])) for name in names]
        options.add_external_initializers(names, values)
    return ort.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run_chain(sessions: Sequence[ort.InferenceSession], frames: Frame) -> FloatArray:
    """Frames through segment after segment: the last one's output."""
    value: np.ndarray = frames
    for session in sessions:
        (value,) = session.run(None, {session.get_inputs()[0].name: value})
    return value


def predict(sessions: Sequence[ort.InferenceSession], frames: Frame) -> FloatArray:
    """Outputs of any number of frames, float32 ``(N, ...)``, in batches of 64, or of less where they are large."""
    return np.concatenate([run_chain(sessions, batch) for batch in _batches(frames)])


def frames_at_a_time(shape: Sequence[int]) -> int:
    """How many frames ``(N, H, W, C)`` to run as a batch: 64 up to 224 x 224 pixels, fewer of larger ones."""
    return min(max(_PIXELS_AT_A_TIME // (shape[1] * shape[2]), 1), BATCH)


def measure(
    session: ort.InferenceSession, frames: Frame, layer_tensors: Tensors | None = None, alpha: float | None = None
) -> dict[str, FloatArray]:
    """The moments that a statistics or a fingerprint graph gives for one batch of frames, by output name.

    Args:
        layer_tensors: For a statistics graph: gamma, beta, mean and variance of each BatchNorm, by state-dict name.
        alpha: For a statistics graph.
    """
    feeds: dict[str, np.ndarray] = {FRAMES: frames}
    if layer_tensors is not None:
        feeds["alpha"] = np.array(alpha, dtype=np.float32)
        feeds |= {i.name: layer_tensors[i.name] for i in session.get_inputs() if i.name not in feeds}
    outputs = [output.name for output in session.get_outputs()]
    return dict(zip(outputs, session.run(outputs, feeds), strict=True))


def relative_error(a: FloatArray, b: FloatArray) -> float:
    """The largest difference as a share of the largest magnitude of ``b``; infinite where one is not finite."""
    if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return float("inf")
    return float(np.abs(a - b).max() / max(float(np.abs(b).max()), 1e-12))


def rounded(value: float) -> float:
    """Six significant digits: the last ones depend on the number of threads, and the digest should not."""
    return float(f"{value:.6g}")


def _batches(frames: Frame) -> Iterator[Frame]:
    count = frames_at_a_time(frames.shape)
    return (frames[start : start + count] for start in range(0, len(frames), count))
