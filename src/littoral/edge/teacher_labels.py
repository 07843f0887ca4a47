"""A sample that was uploaded for adaptation brings the teacher's answer back, and that teaches.

It teaches the exits' heads as an offloaded answer does: as probabilities in the place of the network's own word, at
most weight 1, below the user's label. A frame that the user or the cloud has spoken of already is not taught again. And
where the bundle's tables hold answers against the teacher's, it says of a frame that the cloud was asked for which of
the two was right; the switcher counts that frame with the chance that it had of being asked for, and no other frame
(docs/adr/0024).
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from littoral.core.arrays import Frame
from littoral.core.sample_labels import SampleLabel, decode_labels, sample_key
from littoral.edge.background import FewWaiting
from littoral.edge.recent import SeenFrame
from littoral.errors import ProtocolError

if TYPE_CHECKING:
    from littoral.edge.exits import ExitRuntime
    from littoral.edge.route_learning import RouteLearning

log = logging.getLogger("littoral.edge.labels")

_MOST_MESSAGES = 8
"""That wait for the background thread: a cloud that floods a device fills nothing."""


class TeacherLabels:
    """The teacher's answers to one device's samples. All but `came` is for the background thread.

    Args:
        exits: Whose heads learn.
        later: Runs a task in the background thread.
        clock: Seconds, of any origin.

    Attributes:
        num_taught: Answers that heads learn from.
        num_unused: Answers that taught none: to a sample that is not known, or not any more, or of whose frame somebody
            else's word was heard before, or that calibrates.
        num_refused: Messages that were none. Nothing of them counted.
        num_run_again: Samples whose frames were run again.
    """

    def __init__(
        self,
        exits: ExitRuntime,
        *,
        later: Callable[[Callable[[], None]], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._exits, self._clock = exits, clock
        self._awaited, self._pending = exits.kept.awaited, exits.kept.pending
        self._learning: RouteLearning | None = None
        self._messages = FewWaiting("labels", later, _MOST_MESSAGES)
        self._not_before_s = -math.inf
        self.num_taught = self.num_unused = self.num_refused = self.num_run_again = 0

    @property
    def takes(self) -> bool:
        """Whether an answer is of any use: heads learn."""
        return self._awaited is not None

    @property
    def num_flooded(self) -> int:
        """Messages for which there was no room."""
        return self._messages.num_refused

    def settle_for(self, learning: RouteLearning) -> None:
        """The teacher's answers also say who was right, where the cloud was asked; before the first sample."""
        if self._awaited is not None:
            self._learning = learning
            self._awaited.on_forgotten = learning.not_told

    # -- in the link's thread ------------------------------------------------------------------------------------------

    def came(self, data: bytes) -> None:
        """A message came from the cloud."""
        self._messages.put(lambda: self._take_in(data))

    # -- in the background thread --------------------------------------------------------------------------------------

    def sent(self, image: bytes, frame_id: int, frame: Frame) -> None:
        """A sample is in the outbox: keep what its answer will need, of all exits.

        A frame that left early, or that the cloud finished, has not passed them all: it is run again, whole, behind its
        answer. That takes no more of the time than learning may (`ExitConfig.learning_share`); where it would, what is
        known of the frame has to do.
        """
        self._hand_on()
        if self._awaited is None:
            return
        exits, seen = self._exits, self._exits.recent.get(frame_id)
        if seen is not None and (seen.version != exits.policy.affine_version or not seen.num_seen):
            seen = None
        if seen is None or seen.num_seen < len(exits.parts.all):
            seen = self._run_again(frame_id, frame) or seen
        if seen is None:
            return
        if self._learning is not None:
            self._learning.awaits(frame_id)
        self._awaited.put(sample_key(image), replace(seen, day=exits.config.today()), self._clock())

    def _run_again(self, frame_id: int, frame: Frame) -> SeenFrame | None:
        """None where its network gives no number, or it is too early for another one."""
        exits, began_s = self._exits, self._clock()
        if began_s < self._not_before_s:
            return None
        model = exits.calibration.model
        (found,) = exits.parts.run_again(model, [frame.tobytes()])
        self._not_before_s = began_s + (self._clock() - began_s) / exits.config.learning_share
        self.num_run_again += 1
        if found is None:
            return None
        return SeenFrame(
            frame_id=frame_id, version=model.version, num_seen=len(exits.parts.all), features=found[0], logits_K=None
        )

    def _take_in(self, data: bytes) -> None:
        try:
            labels = decode_labels(data, self._exits.shipped.heads[0].num_classes)
        except ProtocolError as error:
            self.num_refused += 1
            log.log(logging.WARNING if self.num_refused == 1 else logging.DEBUG, "labels are not used: %s", error)
            return
        for label in labels:
            self._hear(label)
        self._hand_on()

    def _hear(self, label: SampleLabel) -> None:
        heard = None if self._awaited is None else self._awaited.answer(label.key, label.scores_K, self._clock())
        self.num_unused += heard is None or heard.is_taught
        if heard is not None and self._learning is not None:
            self._learning.told(heard.frame_id, label.label)

    def _hand_on(self) -> None:
        """Teach as long as there is room for frames to be learned from; what finds none waits for the next time."""
        if self._awaited is None or self._pending is None:
            return
        while self._awaited.num_ready:
            if self._pending.is_full:
                self._exits.take()  # it learns from them, if it may
                if self._pending.is_full:
                    return
            frame = self._awaited.take()
            assert frame is not None
            if self._exits.teach(frame):
                self.num_taught += 1
            else:
                self.num_unused += 1
