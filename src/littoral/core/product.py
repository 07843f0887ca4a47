"""The choice of frames that we ship: a score from entropy and novelty, against a threshold that a byte budget sets.

`littoral.core.selection.Selector` is the published choice, by fixed thresholds, kept for comparison.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from littoral.core.arrays import FloatArray, Frame, Mask
from littoral.core.budget import BudgetConfig, ByteBudget
from littoral.core.novelty import Descriptor, SentMemory

SAMPLE_OVERHEAD_BYTES = 96
"""The most that a sample's envelope and its other fields take beside the image (tests/edge/test_device.py holds it)."""

_SHARE_STEP = 0.05
"""How fast the mean share that novelty leaves of a score follows."""


@dataclass(frozen=True, kw_only=True)
class ProductConfig:
    """What is worth sending. Fractions are of ln K, so that one setting serves 10 classes and 1000."""

    entropy_min_fraction: float = 0.02
    """Below it there is nothing to learn, and a frame is not looked at further."""
    entropy_max_fraction: float = 1.0
    """Above it the answer is hopeless; 1 leaves the criterion out, since it is the teacher that labels a sample."""
    entropy_exponent: float = 1.0
    """How the score grows with the share of ln K that the entropy is; 0 leaves it out."""
    certainty_exponent: float = 0.0
    """How the score grows with the rest of ln K; above 0, middling entropies are worth most."""
    novelty_exponent: float = 1.0
    """How the score grows with novelty; 0 leaves it out, but for duplicates."""
    novelty_distance: float = 0.5
    """A frame as far as this from all that were sent is wholly novel; unrelated pictures are about 0.7 apart."""
    duplicate_distance: float = 0.1
    """A frame nearer than this to one that was sent is not sent; 0 is off."""
    answer_weight: float = 0.05
    """What a wholly different answer counts in that distance, beside the picture."""
    remembered_frames: int = 64
    """How many sent frames are remembered."""
    budget: BudgetConfig = field(default_factory=BudgetConfig)

    def __post_init__(self) -> None:
        if not 0 <= self.entropy_min_fraction < self.entropy_max_fraction <= 1:
            raise ValueError(
                "0 <= entropy_min_fraction < entropy_max_fraction <= 1 must hold, got "
                f"{self.entropy_min_fraction} and {self.entropy_max_fraction}"
            )
        exponents = (self.entropy_exponent, self.certainty_exponent, self.novelty_exponent)
        others = (self.duplicate_distance, self.answer_weight)
        if not all(0 <= value < math.inf for value in (*exponents, *others)) or self.novelty_distance <= 0:
            raise ValueError(
                "exponents, duplicate_distance and answer_weight are finite and not negative and novelty_distance is "
                f"above 0, got {exponents}, {others} and {self.novelty_distance}"
            )
        if self.remembered_frames < 1:
            raise ValueError(f"remembered_frames is at least 1, got {self.remembered_frames}")


def upload_score(entropy_nats: float, num_classes: int, novelty: float, config: ProductConfig) -> float:
    """What a frame is worth: ``u ** entropy_exponent * (1 - u) ** certainty_exponent * novelty ** novelty_exponent``.

    Args:
        entropy_nats: Of the answer; ``u`` is its share of ln K.
        novelty: 0 for what was sent before, 1 for what is unlike all of it.
    Returns:
        0 to 1.
    """
    u = min(entropy_nats / math.log(num_classes), 1.0)
    certain = 1.0 if config.certainty_exponent == 0 else (1.0 - u) ** config.certainty_exponent
    return float(u**config.entropy_exponent * certain * novelty**config.novelty_exponent)


class ProductSelector:
    """The state behind it: what was sent, and what may still be.

    Frames are judged one after another, also those of a batch, so batch 1 and batch 64 choose alike.

    Args:
        frame_shape: ``(H, W, C)``.
    """

    def __init__(
        self, num_classes: int, frame_shape: tuple[int, int, int], config: ProductConfig | None = None
    ) -> None:
        if num_classes < 2:
            raise ValueError(f"selection needs at least 2 classes, got {num_classes}")
        self.config = config or ProductConfig()
        self.num_classes = num_classes
        top, frame_bytes = math.log(num_classes), math.prod(frame_shape)
        self.entropy_min = self.config.entropy_min_fraction * top
        self.entropy_max = self.config.entropy_max_fraction * top
        self.num_kept = self.num_duplicates = self.num_over_budget = 0
        self.scene = 0
        self._share = 1.0
        self.last_score = 0.0
        """Of the last frame; the value of its sample, if it was kept."""
        self.budget = ByteBudget(
            self.config.budget, max_sample_bytes=frame_bytes + SAMPLE_OVERHEAD_BYTES, frame_bytes=frame_bytes
        )
        self._describe = Descriptor(frame_shape, num_classes, self.config.answer_weight)
        self._sent = SentMemory(capacity=self.config.remembered_frames, size=self._describe.size)

    def select(self, frames_BHWC: Frame, logits_BK: FloatArray, entropy_B: FloatArray, *, scene: int = 0) -> Mask:
        """`select_one` for each frame in turn; bool ``(B,)``."""
        return np.array(
            [
                self.select_one(frame, logits, float(nats), scene=scene)
                for frame, logits, nats in zip(frames_BHWC, logits_BK, entropy_B, strict=True)
            ],
            dtype=bool,
        )

    def select_one(self, frame_HWC: Frame, logits_K: FloatArray, entropy_nats: float, *, scene: int = 0) -> bool:
        """Whether a frame is worth its bytes. Whoever is told True owes a `settle`.

        Args:
            frame_HWC: uint8, looked at only if entropy and budget leave a chance.
            logits_K: The scores of its answer.
            entropy_nats: Of its answer, finite.
            scene: The number of the scene; another one than before opens the budget for a while.
        """
        self.enter(scene)
        at_most = self.worth_at_most(entropy_nats)
        if at_most > 0 and at_most >= self.gate:
            return self.judge(frame_HWC, logits_K, entropy_nats)
        self.skip(at_most)
        return False

    # The same in parts, for a device that answers in one thread and chooses in another.

    @property
    def gate(self) -> float:
        """What a frame must be worth at most to be judged; changes with every frame."""
        return self.budget.threshold

    def worth_at_most(self, entropy_nats: float) -> float:
        """The score that a frame has if it is wholly novel; 0 if it is out of bounds. Touches no state."""
        if (entropy_nats > self.entropy_min or self.entropy_min == 0) and entropy_nats <= self.entropy_max:
            return upload_score(entropy_nats, self.num_classes, 1.0, self.config)
        return 0.0

    def enter(self, scene: int) -> None:
        """Go over into a scene, if it is another one."""
        if scene != self.scene:
            self.scene = scene
            self.budget.open_scene()
            self._sent.clear()

    def skip(self, at_most: float) -> None:
        """Take note of a frame that is not judged."""
        self.last_score = at_most * self._share  # what it would be worth if it were as novel as others
        self.budget.see(self.last_score)

    def judge(self, frame_HWC: Frame, logits_K: FloatArray, entropy_nats: float) -> bool:
        """Look at a frame that may be worth it; True as from `select_one`."""
        score, kept = self._look(frame_HWC, logits_K, entropy_nats, self.budget.threshold)
        self._share += _SHARE_STEP * (score / max(self.worth_at_most(entropy_nats), 1e-12) - self._share)
        self.budget.see(score)
        self.last_score = score
        return kept

    def _look(
        self, frame_HWC: Frame, logits_K: FloatArray, entropy_nats: float, threshold: float
    ) -> tuple[float, bool]:
        descriptor = self._describe(frame_HWC, logits_K)
        away = self._sent.distance(descriptor)
        if away < self.config.duplicate_distance:
            self.num_duplicates += 1
            return 0.0, False
        novelty = min(away / self.config.novelty_distance, 1.0)
        score = upload_score(entropy_nats, self.num_classes, novelty, self.config)
        if score < threshold or score == 0:
            return score, False
        if not self.budget.take():
            self.num_over_budget += 1
            return score, False
        self.num_kept += 1
        self._sent.add(descriptor)
        return score, True

    def settle(self, num_bytes: int | None) -> None:
        """The bytes that a kept frame took on the wire; None when it was not sent after all."""
        self.budget.settle(num_bytes)
