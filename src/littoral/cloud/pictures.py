"""The cloud's teacher answers pictures of whole frames, where a device has no split point or wants more than its tail.

It is the network that labels samples, as the bundle has it: on the source's statistics and never adapted, one forward
pass. The labels of samples come from a batch's own statistics and from the mirror image too; an answer to one device
must not depend on what others happen to send at the same moment (docs/adr/0030).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from littoral.bundle import Bundle
from littoral.bundle.images import Picture, decode_image
from littoral.cloud.adapt import choose_device
from littoral.cloud.one_batch import answer_in_one_batch, rows_of
from littoral.core.arrays import FloatArray, Frame
from littoral.errors import BundleError, FrameError, LittoralError, PayloadError
from littoral.models.factory import load_model
from littoral.models.frames import normalise


class PictureTeacher:
    """A bundle's teacher on pictures. For one thread at a time; nothing in it changes.

    Args:
        bundle: Opened with ``require_cloud``.
        device: ``auto`` (CUDA where torch has it), ``cpu`` or ``cuda``.
    Raises:
        BundleError: there is no teacher, or it cannot be rebuilt, or does not give what the bundle's task takes.
        ValueError: the device is not to be had.
    """

    def __init__(self, bundle: Bundle, *, device: str = "auto") -> None:
        spec = bundle.manifest.teacher
        if spec is None:
            raise BundleError(f"bundle {bundle.path} has no teacher to answer pictures; build one with a teacher")
        self.input, self.device = bundle.manifest.input, choose_device(device)
        self._model = load_model(spec, bundle.load_tensors(spec.file)).to(self.device)
        expected = bundle.manifest.make_task().output_shape
        try:  # what does not fit fails now and not at the first request
            came = self._run(np.zeros((1, *self.input.shape), np.uint8)).shape[1:]
        except RuntimeError as error:
            raise BundleError(f"the teacher in {spec.file} does not take the bundle's frames: {error}") from error
        if came != expected:
            raise BundleError(f"the teacher in {spec.file} gives {came} for a frame, expected {expected}; build again")

    def answer(self, pictures: Sequence[Picture]) -> list[FloatArray | LittoralError]:
        """Decode each picture and run them through the network as one batch.

        Args:
            pictures: From untrusted peers. One that is refused does not touch the others.
        Returns:
            For each, in order, the network's output without the batch's axis, float32, or what is wrong: a
            `PayloadError` where it is no picture of a frame, a `ModelOutputError` where the output is not finite.
        """
        return answer_in_one_batch(
            pictures, self._decoded, lambda frames: self._run(np.stack(frames)), lambda frame: "a picture"
        )

    def _decoded(self, picture: Picture) -> Frame:
        try:
            return decode_image(picture.coding, picture.image, self.input)
        except FrameError as error:
            raise PayloadError("damaged", str(error)) from error

    def _run(self, frames_BHWC: Frame) -> FloatArray:
        with torch.inference_mode():
            outputs = self._model(normalise(torch.from_numpy(frames_BHWC).to(self.device), self.input))
        return rows_of(outputs, len(frames_BHWC), "the teacher")
