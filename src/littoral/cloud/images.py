"""What a sample of an untrusted device must keep; its image is `littoral.bundle.images.decode_image`'s."""

from __future__ import annotations

from littoral.bundle import InputSpec
from littoral.bundle.images import decode_image
from littoral.core.arrays import Frame
from littoral.errors import FrameError
from littoral.wire.messages import Sample

MAX_INTEGER = 2**63 - 1


def check_sample(sample: Sample, spec: InputSpec, num_classes: int) -> Frame:
    """Every rule that a sample's content must keep; gives the decoded frame.

    Raises:
        FrameError: the image is not a frame of this bundle, or a number is out of range.
    """
    if sample.predicted >= num_classes:
        raise FrameError(f"a sample says class {sample.predicted}, this bundle has {num_classes} classes")
    if sample.version > MAX_INTEGER or sample.frame_id > MAX_INTEGER:
        raise FrameError("a sample's version or frame_id is out of range")
    if sample.entropy_nats < 0:
        raise FrameError(f"a sample's entropy is {sample.entropy_nats:g} nats, it cannot be negative")
    return decode_image(sample.coding, sample.image, spec)
