"""The device's half of an offload: a frame, or what a segment gave, becomes the bytes of a payload or a picture."""

from __future__ import annotations

import numpy as np

from littoral.bundle import Bundle, SplitCodec
from littoral.bundle.images import MAX_PICTURE_BYTES, Picture, check_coding, encode_image
from littoral.core.arrays import FloatArray, Frame
from littoral.edge.session import SessionConfig, open_session
from littoral.errors import BundleError, PayloadError

_KINDS = {"tensor(uint8)": np.dtype(np.uint8), "tensor(float)": np.dtype(np.float32)}


class SplitEncoder:
    """A bundle's encoder and its tables. Nothing in it changes, so threads may share one.

    Args:
        bundle: Where encoder and tables come from.
        index: Which of the bundle's split points.
        config: How ONNX Runtime runs.
    Raises:
        BundleError: there is no such split point, or its files do not fit each other.
    """

    def __init__(self, bundle: Bundle, index: int = 0, config: SessionConfig | None = None) -> None:
        self.codec = SplitCodec.open(bundle, index)
        self.index = index
        split = bundle.manifest.splits[index]
        self.segment = split.segment
        """The segment whose output `encode` takes; None: it takes frames."""
        session = open_session(bundle.read(split.encoder_file), (), {}, config or SessionConfig())
        self._run, outputs, inputs = session.run, session.get_outputs(), session.get_inputs()
        expected = "frames" if self.segment is None else "features"
        shape = tuple(outputs[0].shape[1:])
        if [item.name for item in inputs] != [expected] or len(outputs) != 1 or shape != self.codec.latent_shape:
            raise BundleError(
                f"{split.encoder_file} takes {[item.name for item in inputs]} and gives {len(outputs)} outputs, the "
                f"first {shape}; expected {[expected]} and one of {self.codec.latent_shape}; build the bundle again"
            )
        self._input, self._outputs = expected, [outputs[0].name]
        self._shape, self._dtype = (1, *inputs[0].shape[1:]), _KINDS.get(inputs[0].type)

    @property
    def num_levels(self) -> int:
        return self.codec.num_levels

    def latent(self, value: FloatArray | Frame) -> FloatArray:
        """Run the encoder.

        Args:
            value: A batch of one: uint8 ``(1, H, W, C)`` frames, or float32, the output of `segment`.
        Returns:
            float32 ``(C, H, W)``.
        Raises:
            ValueError: another shape or type.
        """
        if value.shape != self._shape or value.dtype != self._dtype:
            raise ValueError(
                f"{value.dtype} {value.shape} came, this encoder takes {self._dtype} {self._shape}: "
                + ("one frame" if self.segment is None else f"what segment {self.segment} gives for one frame")
            )
        (latent_BCHW,) = self._run(self._outputs, {self._input: value})
        latent: FloatArray = latent_BCHW[0]
        return latent

    def encode(self, value: FloatArray | Frame, level: int) -> bytes:
        """The payload of one frame: `latent`, then `encode_latent`."""
        return self.encode_latent(self.latent(value), level)

    def encode_latent(self, latent_CHW: FloatArray, level: int) -> bytes:
        """The payload of a latent at a level or, where that level's ceiling refuses, the next coarser that does not.

        Args:
            latent_CHW: As `latent` gives it.
            level: 0 is the coarsest. Which one was taken is in the payload's header (`core.codec.read_header`).
        Raises:
            PayloadError: ``too-large``: also the coarsest level refuses. Let the device answer.
            ModelOutputError: the latent is not finite.
            ValueError: another shape or type, or no such level.
        """
        return self.codec.encode(latent_CHW, level)


class PictureEncoder:
    """Frames become pictures for the cloud's teacher.

    Args:
        coding: As `littoral.bundle.images.encode_image` takes it.
    """

    segment: int | None = None
    """It takes frames."""

    def __init__(self, coding: str) -> None:
        self.coding = check_coding(coding)

    def encode(self, value: FloatArray | Frame, level: int) -> Picture:
        """The picture of a frame, uint8 ``(1, H, W, C)``. It has no levels: each coding is a way of its own.

        Raises:
            PayloadError: ``too-large``. Let the device answer.
        """
        frame: Frame = value[0]
        picture = encode_image(frame, self.coding)
        if len(picture.image) > MAX_PICTURE_BYTES:
            raise PayloadError(
                "too-large",
                f"the picture has {len(picture.image)} bytes as {self.coding!r}, at most {MAX_PICTURE_BYTES} go to the "
                "cloud; take one that loses more",
            )
        return picture


def payload_of(made: bytes | Picture) -> tuple[bytes, str]:
    """The bytes to send, and their coding: empty for a split point's payload."""
    return (made.image, made.coding) if isinstance(made, Picture) else (made, "")
