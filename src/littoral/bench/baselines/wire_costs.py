"""What a message of the adaptation table weighs: the length of the real wire frame, never an estimate."""

from __future__ import annotations

import numpy as np

from littoral.bundle.images import encode_image
from littoral.core.arrays import FloatArray, Frame
from littoral.wire.envelope import encode_frame
from littoral.wire.messages import Sample, Version, to_frame


class UploadCounter:
    """Weighs the samples of one device's outbox: lossless image, numbered, in a stream of its own."""

    def __init__(self, *, seed: int) -> None:
        self._stream = int(np.random.default_rng(seed).integers(1, 2**62))
        self._sequence = 0

    def weigh(self, frame_HWC: Frame, *, frame_id: int, version: int, predicted: int, entropy_nats: float) -> int:
        """Bytes of the next sample on the wire."""
        self._sequence += 1
        coding, image = encode_image(frame_HWC)
        message = Sample(
            frame_id=frame_id,
            version=version,
            predicted=predicted,
            entropy_nats=entropy_nats,
            coding=coding,
            image=image,
            scene=0,
        )
        return len(encode_frame(to_frame(message, stream=self._stream, sequence=self._sequence)))


def push_bytes(values: FloatArray) -> int:
    """Bytes of a version that carries these float32 values as they are. Without manifest and signature, which published
    code has not; ours cost 200 bytes more."""
    payload = np.ascontiguousarray(values, dtype=np.float32).tobytes()
    return len(encode_frame(to_frame(Version(manifest=b"", signature=b"", payload=payload))))
