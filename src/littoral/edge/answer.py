"""A classifier's answer, and what it is made from; for the other tasks see `littoral.edge.dense`."""

from __future__ import annotations

from typing import NamedTuple

from littoral.core.arrays import FloatArray
from littoral.core.exit_policy import Spoken
from littoral.core.selection import softmax

SPLIT, PICTURE = "split", "picture"
"""By which way the cloud answered: its tail a split point's payload, or its teacher a picture."""


class Answer(NamedTuple):
    """What the device says of a frame where its bundle is for classification."""

    frame_id: int
    """Counts the frames of this run from 1."""
    label: int
    name: str
    """The class name of ``label``."""
    confidence: float
    """Probability of ``label``."""
    entropy_nats: float
    logits: FloatArray
    """float32 ``(K,)``, the scores before softmax."""
    version: int
    """The affine version that answered; 0 is the source."""
    cloud: str
    """``connected``, ``away``, or ``none`` for a device without a link."""
    latency_ms: float
    source: str = "device"
    """Who finished the frame: ``device`` or ``cloud``."""
    degraded: bool = False
    """True where the device had wanted the cloud's answer and had to give its own."""
    reason: str = ""
    """Why an answer is degraded: ``away``, ``timeout``, ``busy``, or what the cloud or the codec said. From a device
    that routes, why any answer is as it is: one of `littoral.core.route_words.REASONS`."""
    exit_index: int = 0
    """The exit that answered, from 0, the earliest; as many as there are exits where the network's own classifier did,
    or the cloud in its place, so 0 for a device without exits."""
    way: str = ""
    """By which way the cloud answered: ``split``, or ``picture`` of the whole frame; "" where the device did."""
    compute_share: float = 1.0
    """Multiply-accumulates of the device for this answer, over those of the network without exits. What runs behind the
    answer is not in it, nor are an encoder's. Known of a device with exits."""

    @property
    def probabilities(self) -> FloatArray:
        """float32 ``(K,)``, made when asked for."""
        return softmax(self.logits)


class Found(NamedTuple):
    """An answer, and where it came from. NaN for confidence and entropy where the network's output is not finite."""

    logits_K: FloatArray
    label: int
    confidence: float
    entropy_nats: float
    exit_index: int
    network_entropy: float | None
    """Of the shipped network's own answer; None where it did not come so far."""
    compute_share: float = 1.0
    """As `Answer`'s."""

    @classmethod
    def of(
        cls, spoken: Spoken, exit_index: int, network_entropy: float | None = None, compute_share: float = 1.0
    ) -> Found:
        """An exit's answer."""
        said = spoken.logits_K, spoken.label, spoken.confidence, spoken.entropy_nats
        return cls(*said, exit_index, network_entropy, compute_share)

    @property
    def is_finite(self) -> bool:
        """The network's output was."""
        return self.entropy_nats == self.entropy_nats
