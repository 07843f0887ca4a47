"""`teacher_answers`: what the uploads are worth with no adaptation at all.

The frozen student answers, but for the frames that `parity_paper` would upload the frozen teacher's answer stands. The
very frames that it would: a `parity_paper` of its own runs beside it to say which, so with the same seed the uplink
carries the same bytes. Its work is not counted as this method's.

A frame's answer is the teacher's however late it comes back: delay costs this method nothing here, which is in its
favour. A lost upload leaves the device's answer. The labels that come back are not counted.
"""

from __future__ import annotations

import time

import numpy as np
import torch

from littoral.bench.baselines.cema import Cema, parity_paper
from littoral.bench.baselines.cema_cloud import CemaSettings
from littoral.bench.baselines.networks import in_the_cloud, place, to_tensor
from littoral.bench.baselines.online import labels
from littoral.bench.baselines.source import Source
from littoral.bench.method import Costs, Labels, Setup
from littoral.core.arrays import Frame
from littoral.models.frames import normalise


class TeacherAnswers:
    """A frozen student, a frozen teacher, and the published system as the one who says what is sent."""

    def __init__(self, setup: Setup, settings: CemaSettings | None = None) -> None:
        self.setup = setup
        self.costs = Costs()
        self.chooser: Cema = parity_paper(setup, settings)
        self._student = Source(setup)
        self._teacher = place(setup.teacher(), setup)

    @torch.no_grad()
    def answer(self, frames_BHWC: Frame, *, device: int = 0) -> Labels:
        """Labels ``(B,)``: the teacher's for what reached the cloud, the student's for the rest."""
        answers = self._student.answer(frames_BHWC)
        with torch.enable_grad():
            self.chooser.answer(frames_BHWC, device=device)
        started = time.process_time()
        asked = np.flatnonzero(self.chooser.last_arrived)
        if len(asked):
            x = normalise(to_tensor(frames_BHWC[asked], self.setup), self.setup.bundle.manifest.input)
            answers[asked] = labels(in_the_cloud(self._teacher, x, self.setup))
        self.costs.cloud_seconds += time.process_time() - started
        self.costs.forward_frames = self._student.costs.forward_frames
        self.costs.uploads = self.chooser.costs.uploads
        self.costs.uplink_bytes = self.chooser.costs.uplink_bytes
        return answers

    def close(self) -> None:
        """Nothing is held."""


def teacher_answers(setup: Setup, settings: CemaSettings | None = None) -> TeacherAnswers:
    """The teacher's answers at the published system's bytes."""
    return TeacherAnswers(setup, settings)
