"""A real device with exits and its real cloud in one process, frame by frame, through one world after another.

Between them are wire frames, as on a road that loses nothing; only sockets and clocks are replaced. After every frame
all that the device's background thread has to do is done, after every batch all that the cloud has to do.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np

from littoral.bench.adapt.cloud_end import CloudEnd
from littoral.bench.adapt.loopback import LoopbackLink
from littoral.bench.adapt.product import MEMORY_FOLDER, sweep
from littoral.bench.method import Road
from littoral.bundle import Bundle
from littoral.cloud.domains import DomainConfig
from littoral.cloud.jobs import AdaptConfig
from littoral.core.arrays import Frame
from littoral.core.exit_control import Purpose
from littoral.core.exit_policy import ExitPolicy
from littoral.edge.answer import Answer
from littoral.edge.device import Device
from littoral.edge.device_config import DeviceConfig
from littoral.edge.exits import ExitRuntime
from littoral.edge.session import Model
from littoral.errors import LittoralError

BATCH = 64
"""Frames between two exchanges with the cloud."""
_PREFIX = "littoral-loop-"
_SETTLE_S = 120.0


@dataclass(frozen=True, kw_only=True)
class World:
    """Frames of one world, and their labels, which the device never sees."""

    name: str
    frames: Frame
    labels: np.ndarray


class Told(NamedTuple):
    """What became of one frame."""

    world: int
    label: int
    answer: int
    full: int
    """What the device would have said at full depth, then and there."""
    early: bool
    serving: bool
    """Thresholds were in force."""
    audited: bool
    """Chance took it to the end."""
    macs: float
    version: int
    scene: int
    alarms: int
    rechecks: int
    personal: int
    """Personal heads that served."""


class LoopDevice:
    """One device, with a cloud or without.

    Args:
        bundle: With exits; with its cloud part where there is a cloud.
        cloud: False cuts the loop: the device has its own statistics alone.
        adapt: What differs of the cloud's configuration.
    """

    def __init__(
        self, bundle: Bundle, config: DeviceConfig, *, seed: int, cloud: bool = True, adapt: AdaptConfig | None = None
    ) -> None:
        sweep(MEMORY_FOLDER)
        fast = MEMORY_FOLDER if MEMORY_FOLDER.is_dir() else None
        self._folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=fast))
        self._cloud: CloudEnd | None = None
        self._link: LoopbackLink | None = None
        self._tick = self._count = 0
        if cloud:
            self._cloud = CloudEnd(
                bundle,
                self._folder / "cloud",
                config=dataclasses.replace(adapt or AdaptConfig(), seed=seed),
                domains=DomainConfig(),
                seed=seed,
            )
            self._link = LoopbackLink(self._cloud.connect, self._cloud.enrol(), road=Road(), seed=seed)
        self.device = Device(bundle, state_dir=self._folder / "device", link=self._link, config=config)
        exits = self.device._exits
        if exits is None:
            raise ValueError("the device has no exits; give DeviceConfig(exits=ExitConfig())")
        self.exits: ExitRuntime = exits
        self._purpose = Purpose.NOTHING
        toss = exits.control.purpose

        def purpose(*, checking: bool) -> Purpose:
            self._purpose = toss(checking=checking)
            return self._purpose

        exits.control.purpose = purpose  # type: ignore[method-assign]  # to count what a frame cost
        self._settle()

    @property
    def full_macs(self) -> int:
        """Of the network without exits."""
        return self.exits.parts.costs.full_macs

    @property
    def model(self) -> Model:
        """In service."""
        return self.device._maintenance.model

    def infer(self, frame: Frame, label: int, world: int) -> Told:
        """Answer a frame; then do all that it leads to."""
        model, policy, control = self.model, self.exits.policy, self.exits.control
        answer = self.device.infer(frame)
        assert isinstance(answer, Answer)
        early = answer.exit_index is not None and answer.exit_index < policy.num_early
        full = self._at_full_depth(model, policy, frame) if early else answer.label
        serving, audited = not policy.checking, self._purpose is not Purpose.NOTHING
        told = Told(
            world=world,
            label=label,
            answer=answer.label,
            full=full,
            early=early,
            serving=serving and policy.affine_version == model.version,
            audited=audited,
            macs=answer.compute_share * self.full_macs,
            version=model.version,
            scene=self.device._maintenance.scenes.number,
            alarms=control.num_alarms,
            rechecks=control.num_rechecks,
            personal=self.exits.num_personal,
        )
        self._settle()
        self._count += 1
        if self._count % BATCH == 0:
            self._exchange()
        return told

    def _at_full_depth(self, model: Model, policy: ExitPolicy, frame: Frame) -> int:
        last = self.exits.parts.all[-1]
        value = model.through(0, last.after, frame[None])
        if policy.deep is not None:
            return policy.deep.answer(last.pooled(value)).label
        return int(model.through(last.after, self.exits.parts.num_segments, value)[0].argmax())

    def _exchange(self) -> None:
        tick, self._tick = self._tick, self._tick + 1
        if self._link is None or self._cloud is None:
            return
        self._link.exchange(tick)
        if self._cloud.work():
            self._link.receive(tick)
        self._settle()

    def _settle(self) -> None:
        if not self.device.settle(_SETTLE_S):
            raise LittoralError(f"the device's background thread was not done within {_SETTLE_S:g} s")

    def costs(self) -> dict[str, Any]:
        """What the loop took in all."""
        state, link, cloud = self.device.status(), self._link, self._cloud
        return {
            "uploads": 0 if link is None else link.samples_sent,
            "uplink_bytes": 0 if link is None else link.bytes_up,
            "downlink_bytes": 0 if link is None else link.bytes_down,
            "versions_shipped": 0 if cloud is None else cloud.num_shipped,
            "versions_held": 0 if cloud is None else cloud.num_held,
            "versions_installed": state.versions_installed,
            "recalls": state.recalls,
            "scenes": state.scene,
        }

    def close(self) -> None:
        """Close both and remove their folder."""
        self.device.close(flush_s=0.0)
        if self._cloud is not None:
            self._cloud.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def play_worlds(
    device: LoopDevice,
    worlds: Iterable[World],
    *,
    tell: Callable[[int], None] = lambda done: None,
) -> list[Told]:
    """All frames of all worlds, one after another.

    Args:
        tell: Called with the number of frames that are done.
    """
    out: list[Told] = []
    for number, world in enumerate(worlds):
        for frame, label in zip(world.frames, world.labels, strict=True):
            out.append(device.infer(frame, int(label), number))
            tell(len(out))
    return out
