"""`batch_norm`: the student by the statistics of the batch at hand, whatever its size; nothing is learned.

Source: Nado et al., arXiv 2006.10963 ("BN-1" in mariodoebler/test-time-adaptation). At batch 1 the statistics are those
of a single frame, which is what the method is; no window of recent frames is lent to it.
"""

from __future__ import annotations

from torch import Tensor

from littoral.bench.baselines.networks import place
from littoral.bench.baselines.online import Learner, OnDevice, WindowSettings
from littoral.bench.method import Setup


class BatchNormLearner(Learner):
    """Answers by batch statistics; has no update."""

    def learn(self, frames_BHWC: Tensor) -> Tensor:
        """Logits ``(B, K)``."""
        return self.predict(frames_BHWC)


def batch_norm(setup: Setup) -> OnDevice:
    """Batch statistics alone."""
    return OnDevice(
        setup, WindowSettings(below=0), lambda device: BatchNormLearner(place(setup.student(), setup), setup)
    )
