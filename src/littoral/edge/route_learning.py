"""Labels that pay twice: what the cloud answered teaches the exits' heads, and the router's switcher.

The user's own word comes first for both. For the switcher an answer waits as long as the user may label its frame, the
newest 64; then it is learned from as it is, with the chance that its frame had of being asked for. All of it is done in
the background thread, on a switcher of its own; what is fitted comes into force by one assignment, and is on the disk
then. A power cut costs what came since.

Where the tables hold answers against the teacher's, the teacher's word on a sample says who was right as the user's
does, and comes after it. It may take minutes: answers to such frames wait for it, as many as
`littoral.edge.awaited_labels` remembers. They count with the chance that they had of being asked for, whether it comes
or not, and no frame counts that was not asked for (docs/adr/0024 says why).
"""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from littoral.core.switcher import Switcher
from littoral.edge.recent import NUM_RECENT, SeenFrame
from littoral.edge.route_walk import Look
from littoral.edge.versions import Files
from littoral.errors import StorageError, SwitcherStateError

log = logging.getLogger("littoral.edge.route")

STATE_FILE = "switcher.state"
_AT_A_TIME = 8
"""Answers after which the background thread is woken."""


class Answered(NamedTuple):
    """The cloud answered a frame for which the device may have answers too, at one point or several."""

    frame_id: int
    looks: tuple[Look, ...]
    cloud_label: int
    propensity: float | None
    """None: the frame was not drawn, and the switcher learns nothing of it."""
    seen: SeenFrame | None
    """With the cloud's scores, for the exits' heads; None where they learn nothing of it."""


class RouteLearning:
    """Passes on what the cloud answers.

    Args:
        serving: The router's switcher; its coefficients are replaced, and nothing else of it. None: there is none.
        teach: Shows a frame to the heads; in the background thread.
        folder: Where the state lies (docs/reference/switcher-state.md); it is made. None: nothing is kept.
        later: Runs a task in the background thread.
        refit_every: So many answers make a new fit.
        files: The disk; tests put power cuts between its steps.
    """

    def __init__(
        self,
        serving: Switcher | None,
        *,
        teach: Callable[[SeenFrame], object] | None = None,
        folder: Path | None,
        later: Callable[[Callable[[], None]], None],
        refit_every: int = 64,
        files: Files | None = None,
    ) -> None:
        self.newest = 0
        """The newest frame."""
        self._serving, self._teach, self._later, self._every = serving, teach, later, refit_every
        self._files, self._path = files or Files(), None if folder is None else folder / STATE_FILE
        self._come: deque[Answered] = deque()
        self._waiting: dict[int, Answered] = {}
        self._truths: dict[int, int] = {}
        self._sampled: set[int] = set()
        self._learner = None if serving is None else self._load(serving)
        self._since = 0
        if self._learner is not None:
            self._put_in_force(self._learner)

    @property
    def num_refits(self) -> int:
        """Of the switcher, in all runs."""
        return 0 if self._learner is None else self._learner.num_refits

    # -- in the thread that answers ------------------------------------------------------------------------------------

    def answered(self, what: Answered) -> None:
        """The cloud answered."""
        self._come.append(what)
        if len(self._come) % _AT_A_TIME == 0:
            self._later(self.take)

    # -- in any thread -------------------------------------------------------------------------------------------------

    def labelled(self, frame_id: int, label: int) -> None:
        """The user says what is on a frame: of both answers it is known then which is right."""
        self._later(lambda: self._label(frame_id, label))

    # -- in the background thread --------------------------------------------------------------------------------------

    def awaits(self, frame_id: int) -> None:
        """A frame's sample is on its way: `told` or `not_told` follows."""
        self._sampled.add(frame_id)

    def told(self, frame_id: int, label: int) -> None:
        """The teacher's word on a frame, which counts as right unless the user says otherwise."""
        self._drain()
        if frame_id in self._waiting:
            self._truths.setdefault(frame_id, label)
        self._sampled.discard(frame_id)

    def not_told(self, frame_id: int) -> None:
        """The teacher will not say what is on a frame, or nobody will know any more which frame it was."""
        self._sampled.discard(frame_id)

    def take(self) -> None:
        """Take in what has come, and learn of the frames that nobody will label any more."""
        self._drain()
        oldest = self.newest - NUM_RECENT
        waits = self._sampled
        for frame_id in [i for i in self._waiting if i in self._truths or (i <= oldest and i not in waits)]:
            what = self._waiting.pop(frame_id)
            if self._learner is not None:
                self._learn(self._learner, what, self._truths.pop(frame_id, None))
        for frame_id in [each for each in self._truths if each <= oldest]:
            del self._truths[frame_id]
        self._refit(self._every)

    def close(self) -> None:
        """Learn of all that came, and keep it. The background thread has no other task."""
        self.newest += NUM_RECENT
        self._sampled.clear()
        self.take()
        self._refit(1)

    def _drain(self) -> None:
        while self._come:
            what = self._come.popleft()
            if what.seen is not None and self._teach is not None:
                self._teach(what.seen)
            if what.propensity is not None:
                self._waiting[what.frame_id] = what

    def _label(self, frame_id: int, label: int) -> None:
        self._truths[frame_id] = label
        self.take()

    def _learn(self, learner: Switcher, what: Answered, truth: int | None) -> None:
        assert what.propensity is not None
        for point, look in enumerate(what.looks):
            if look.features is None:
                continue
            if truth is None:
                agrees = look.label == what.cloud_label
                learner.observe_unlabelled(point, look.features, agrees=agrees, propensity=what.propensity)
            else:
                learner.observe(
                    point,
                    look.features,
                    device_right=look.label == truth,
                    cloud_right=what.cloud_label == truth,
                    propensity=what.propensity,
                )
        self._since += 1

    def _refit(self, at_least: int) -> None:
        """Fit anew, put it in force and keep it, if so many answers came since."""
        learner = self._learner
        if learner is None or self._since < at_least:
            return
        self._since = 0
        learner.refit()
        self._put_in_force(learner)
        try:
            self._save(learner)
        except StorageError as error:
            log.warning("%s", error)

    def _put_in_force(self, learner: Switcher) -> None:
        assert self._serving is not None
        self._serving.coefficients = learner.coefficients.copy()

    # -- on the disk ---------------------------------------------------------------------------------------------------

    def _load(self, serving: Switcher) -> Switcher:
        shipped, config = serving.shipped, serving.config
        if self._path is not None:
            with contextlib.suppress(OSError):  # a disk that cannot be written leaves the shipped switcher to serve
                self._path.parent.mkdir(parents=True, exist_ok=True)
            try:
                return Switcher.from_bytes(self._path.read_bytes(), shipped=shipped, config=config)
            except FileNotFoundError:
                pass
            except (OSError, SwitcherStateError) as error:
                log.warning("what the switcher had learned cannot be used, the shipped one serves: %s", error)
        return Switcher(shipped, config)

    def _save(self, learner: Switcher) -> None:
        if self._path is not None:
            self._files.replace(self._path, learner.to_bytes())
