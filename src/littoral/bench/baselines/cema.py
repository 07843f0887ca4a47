"""`parity_shipped`, `parity_paper`, `parity_batch`: CEMA as published, step for step, with its bytes counted.

    parity_shipped   the authors' configuration: no lower threshold, a still upper one, EATA's diversity filter
    parity_paper     the paper's text: both entropy thresholds, the upper one following the stream, no diversity filter
    parity_batch     the same with the other normalisation that the code has: each batch by its own statistics

Source: Chen et al., *Cloud-Edge Elastic Model Adaptation via Selective Entropy Distillation*, ICLR 2024;
chenyaofo/CEMA. ``docs/methods/cema-parity.md`` says where they differ and what is ours.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
import torch

from littoral.bench.baselines.cema_cloud import CemaCloud, CemaSettings, adaptable
from littoral.bench.baselines.cema_select import PublishedSelector, Selected, SelectionSettings
from littoral.bench.baselines.networks import place, to_tensor
from littoral.bench.baselines.renorm import adapted_tensors, layers_of
from littoral.bench.baselines.wire_costs import UploadCounter, push_bytes
from littoral.bench.method import Costs, Labels, Setup
from littoral.bench.road import Lane
from littoral.core.arrays import FloatArray, Frame, Mask
from littoral.models.frames import normalise

PAPER = CemaSettings(
    selection=SelectionSettings(entropy_min_fraction=0.02, follow_entropy=True, entropy_max_factor=1.0, diversity=False)
)
BATCH = replace(PAPER, renormalise=False)
_UPLINK, _DOWNLINK = 3, 4


@dataclass(frozen=True, kw_only=True)
class Push:
    """A state of the student on its way to a device."""

    version: int
    """How many student steps made it."""
    values: FloatArray


class CemaDevice:
    """What one device keeps: its filters, its end of the link, and the state that it answers with."""

    def __init__(self, setup: Setup, settings: CemaSettings, number: int, first: Push) -> None:
        self.batch = 0
        self.installed = first
        self.sent_version = first.version
        self.selector = PublishedSelector(setup.bundle.manifest.num_classes, settings.selection)
        self.counter = UploadCounter(seed=number)
        up, down = (
            int(np.random.SeedSequence([setup.seed, p, number]).generate_state(1)[0]) for p in (_UPLINK, _DOWNLINK)
        )
        self.uplink: Lane[Frame] = Lane(loss=setup.road.loss, seed=up)
        self.downlink: Lane[Push] = Lane(delay_batches=setup.road.delay_batches, loss=setup.road.loss, seed=down)


class Cema:
    """The published system on a stream: one cloud, one student, the filters of each device."""

    def __init__(self, setup: Setup, settings: CemaSettings) -> None:
        self.setup, self.settings = setup, settings
        self.costs = Costs()
        self.costs.notes.update(pushes_after_step=0.0, downlink_bytes_after_step=0.0)
        self.cloud = CemaCloud(setup, settings)
        self.devices: dict[int, CemaDevice] = {}
        self.last_mask: Mask = np.zeros(0, dtype=np.bool_)
        """Which frames of the last batch were sent."""
        self.last_arrived: Mask = self.last_mask
        """Which of them were not lost."""
        self._edge, self._edge_parameters = adaptable(place(setup.student(), setup), settings)
        self._edge_holds: FloatArray | None = None
        self._first: Push | None = None
        self._latest: Push | None = None

    def answer(self, frames_BHWC: Frame, *, device: int = 0) -> Labels:
        """Labels ``(B,)`` by the state that has reached the device; then filters, upload, and the cloud's steps."""
        if self._first is None:
            self._first = self._begin(frames_BHWC)
        if device not in self.devices:
            self.devices[device] = CemaDevice(self.setup, self.settings, device, self._first)
        at = self.devices[device]
        at.batch += 1
        self._push(at)
        for push in at.downlink.take(at.batch):
            at.installed = push
            self.costs.pushes += 1
        logits = self._forward(frames_BHWC, at.installed.values)
        selected = at.selector.select(logits)
        answers: Labels = logits.argmax(1).astype(np.int64)
        arrived = self._upload(at, frames_BHWC, answers, selected)
        started = time.process_time()
        if at.batch <= self.settings.live_batches:
            self.cloud.statistics_move = False
        self.cloud.receive(arrived)
        self.cloud.work()
        self.costs.cloud_seconds += time.process_time() - started
        return answers

    def close(self) -> None:
        """Nothing is held."""

    # -- device --------------------------------------------------------------------------------------------------------

    def _forward(self, frames_BHWC: Frame, values: FloatArray) -> FloatArray:
        """The device's logits ``(B, K)`` with the given state."""
        if self._edge_holds is not values:
            _load(adapted_tensors(self._edge, self._edge_parameters), values)
            self._edge_holds = values
        self.costs.forward_frames += len(frames_BHWC)
        return self._run(frames_BHWC)

    def _begin(self, frames_BHWC: Frame) -> Push:
        """The statistics of the first batch, whichever device saw it, become the student's; the source's go."""
        self._run(frames_BHWC)
        with torch.no_grad():
            for mine, theirs in zip(layers_of(self._edge), layers_of(self.cloud.student), strict=True):
                theirs.mean.copy_(mine.mean)
                theirs.var.copy_(mine.var)
                theirs.has_statistics = True
        return Push(version=0, values=self.cloud.state())

    @torch.no_grad()
    def _run(self, frames_BHWC: Frame) -> FloatArray:
        x = normalise(to_tensor(frames_BHWC, self.setup), self.setup.bundle.manifest.input)
        logits: FloatArray = self._edge(x).cpu().numpy()
        return logits

    def _upload(self, at: CemaDevice, frames_BHWC: Frame, answers: Labels, selected: Selected) -> list[Frame]:
        """Send what was selected; gives what arrives. Nothing is sent again."""
        self.last_mask, self.last_arrived = selected.mask, selected.mask.copy()
        arrived = []
        for index in np.flatnonzero(selected.mask):
            self.costs.uplink_bytes += at.counter.weigh(
                frames_BHWC[index],
                frame_id=self.costs.uploads,
                version=at.installed.version,
                predicted=int(answers[index]),
                entropy_nats=float(selected.entropy_nats[index]),
            )
            self.costs.uploads += 1
            if at.uplink.loses():
                self.last_arrived[index] = False
            else:
                arrived.append(frames_BHWC[index])
        return arrived

    # -- cloud ---------------------------------------------------------------------------------------------------------

    def _push(self, at: CemaDevice) -> None:
        """Send the device the student as it stands before its batch, if it is the K-th, changed or not."""
        steps = self.cloud.student_steps
        nothing_yet = at.batch == 1 and steps == 0
        if nothing_yet or not self.settings.pushes_before(at.batch):
            return
        if self._latest is None or self._latest.version != steps:
            self._latest = Push(version=steps, values=self.cloud.state())
        num_bytes = push_bytes(self._latest.values)
        self.costs.downlink_bytes += num_bytes
        if at.sent_version != steps:
            at.sent_version = steps
            self.costs.notes["pushes_after_step"] += 1
            self.costs.notes["downlink_bytes_after_step"] += num_bytes
        at.downlink.put(self._latest, at.batch - 1)


@torch.no_grad()
def _load(tensors: list[torch.Tensor], values: FloatArray) -> None:
    """Write a push's values into the device's network."""
    flat = torch.from_numpy(values).to(tensors[0].device)
    for tensor, part in zip(tensors, torch.split(flat, [t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


def parity_shipped(setup: Setup, settings: CemaSettings | None = None) -> Cema:
    """CEMA as the authors' configuration runs it."""
    return Cema(setup, settings or CemaSettings())


def parity_paper(setup: Setup, settings: CemaSettings | None = None) -> Cema:
    """CEMA as the paper states it."""
    return Cema(setup, settings or PAPER)


def parity_batch(setup: Setup, settings: CemaSettings | None = None) -> Cema:
    """CEMA as the paper states it, by each batch's own statistics: a device answers once the batch is there."""
    return Cema(setup, settings or BATCH)
