"""What we ship, as a method of the table: real devices and a real cloud in one process, with bytes between them.

Only sockets and clocks are replaced: the link is a `LoopbackLink`, time goes by batches, and after every batch all
that the devices and the cloud have to do is done before the next one comes. The same seed gives the same answers.
"""

from __future__ import annotations

import dataclasses
import math
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from littoral.bench.adapt.cloud_end import CloudEnd
from littoral.bench.adapt.hostile import HostileLink, prepare_worlds
from littoral.bench.adapt.loopback import LoopbackLink, garbage
from littoral.bench.method import Costs, Labels, Setup
from littoral.bench.streams.corruptions import corrupt
from littoral.bench.streams.pools import CLEAN
from littoral.bundle import Bundle
from littoral.cloud.domains import DomainConfig
from littoral.cloud.jobs import AdaptConfig
from littoral.core.arrays import Frame
from littoral.core.product import ProductConfig
from littoral.core.selection import SelectionConfig
from littoral.edge.answer import Answer
from littoral.edge.device import Device
from littoral.edge.device_config import DeviceConfig
from littoral.errors import LittoralError, ModelOutputError

MEMORY_FOLDER = Path("/dev/shm")
_PREFIX = "littoral-bench-"
_NEEDED_BYTES = 4 * 2**30
_SETTLE_S = 120.0
FINGERPRINT_SHARE = 0.36
"""Of a pass of ResNet-20: the multiplications before the layer that fingerprints are of."""
RECORDED_FRAMES = 64
"""What a hostile device has of each world that it poisons."""
NO_LABEL = -1
"""The answer to a frame on which the network gave NaN: never right."""

CloudMode = Literal["cohort", "shared", "isolated", "none"]


@dataclass(frozen=True, kw_only=True)
class ProductOptions:
    """How the product is run.

    ``cloud``: ``cohort`` as shipped, ``shared`` with one model for all whatever their domains, ``isolated`` with a
    cloud for each device, ``none`` for devices that have only their own statistics.
    """

    cloud: CloudMode = "cohort"
    guarded: bool = True
    """False switches off the gate, the device's probe, its watch, and the source's values near the source."""
    hostile: tuple[int, ...] = ()
    """Devices that are not ours."""
    recorded: tuple[str, ...] = ()
    """The worlds, by corruption or ``clean``, that they have recorded and send poison into
    (`littoral.bench.adapt.hostile`); none: they send noise and a colour in place of their frames."""
    recorded_severity: int = 5
    """Of those worlds, as the fleet's."""
    device: DeviceConfig = field(default_factory=DeviceConfig)
    adapt: AdaptConfig = field(default_factory=AdaptConfig)
    domains: DomainConfig = field(default_factory=DomainConfig)

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> ProductOptions:
        """From a row's options; ``device``, ``adapt`` and ``domains`` hold what differs from the defaults, nested.

        ``{"device": {"selection": {"published": True}}}`` chooses frames as published, without a budget.


        Raises:
            ValueError: an option that there is not.
        """
        merged: ProductOptions = _changed(cls(), options)
        return dataclasses.replace(merged, hostile=tuple(merged.hostile), recorded=tuple(merged.recorded))


def _changed(base: Any, changes: Mapping[str, Any]) -> Any:
    """A frozen dataclass with some fields, and fields of its fields, replaced."""
    if isinstance(base, ProductConfig) and changes.get("published"):
        base, changes = SelectionConfig(), {key: value for key, value in changes.items() if key != "published"}
    names = {f.name for f in dataclasses.fields(base)}
    if unknown := sorted(set(changes) - names):
        raise ValueError(f"{type(base).__name__} has no {unknown[0]!r}; it has {sorted(names)}")
    values = {
        name: _changed(getattr(base, name), value) if isinstance(value, Mapping) else value
        for name, value in changes.items()
    }
    return dataclasses.replace(base, **values)


class Product:
    """`Device` objects and their cloud, played batch by batch."""

    def __init__(self, setup: Setup, options: ProductOptions | None = None) -> None:
        self.options = options or ProductOptions()
        self.costs = Costs()
        self._setup = setup
        self._bundle = setup.bundle if self.options.guarded else _unprobed(setup.bundle)
        self._config = self.options.device if self.options.guarded else _unwatched(self.options.device)
        self._folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=_fast_folder()))
        self.clouds: list[CloudEnd] = []
        self._links: list[LoopbackLink] = []
        self._devices: list[Device] = []
        self._ticks = [0] * setup.num_devices
        self._errors = 0
        # Where frames are chosen in the background while others are answered, its timing would choose: wait for each.
        chooses = self.options.cloud != "none" and isinstance(self._config.selection, ProductConfig)
        period = 1 if chooses else self._config.statistics_batch_frames * self._config.statistics_stride_frames
        self._until_measured, self._period = [period] * setup.num_devices, period
        try:
            self._open()
        except BaseException:
            self.close()
            raise
        self._count()

    def _open(self) -> None:
        setup, mode = self._setup, self.options.cloud
        num_clouds = {"none": 0, "isolated": setup.num_devices}.get(mode, 1)
        for number in range(num_clouds):
            self.clouds.append(self._cloud(number))
        for number in range(setup.num_devices):
            if mode == "none":
                self._devices.append(Device(self._bundle, config=self._config))
                continue
            cloud = self.clouds[number if mode == "isolated" else 0]
            link = self._link(number, cloud)
            self._links.append(link)
            folder = self._folder / f"device-{number}"
            self._devices.append(Device(self._bundle, state_dir=folder, link=link, config=self._config))
        for device in self._devices:
            self._settle(device)

    def _link(self, number: int, cloud: CloudEnd) -> LoopbackLink:
        setup, spec = self._setup, self._bundle.manifest
        options: dict[str, Any] = {"road": setup.road, "seed": 1000 * setup.seed + number}
        if number not in self.options.hostile:
            return LoopbackLink(cloud.connect, cloud.enrol(), **options)
        if not self.options.recorded:
            tamper = garbage(spec.input.shape, spec.num_classes, seed=setup.seed)
            return LoopbackLink(cloud.connect, cloud.enrol(), **options, tamper=tamper)
        # Of the source's frames: the stream's own are of a test set that nobody has seen.
        frames = setup.source_frames[:RECORDED_FRAMES]
        severity = self.options.recorded_severity
        recordings = [
            frames if name == CLEAN else corrupt(frames, name, severity=severity, seed=setup.seed)
            for name in self.options.recorded
        ]
        worlds = prepare_worlds(self._bundle, recordings, seed=1000 * setup.seed)
        return HostileLink(cloud.connect, cloud.enrol(), **options, worlds=worlds)

    def _cloud(self, number: int) -> CloudEnd:
        setup = self._setup
        return CloudEnd(
            self._bundle,
            self._folder / f"cloud-{number}",
            config=dataclasses.replace(self.options.adapt, seed=setup.seed, **self._of_many_worlds()),
            domains=self._domains(),
            seed=setup.seed,
            guarded=self.options.guarded,
            torch_device=setup.torch_device.type,
        )

    def _of_many_worlds(self) -> dict[str, Any]:
        """Shared: new and replayed frames are of different worlds, so each part has its own batch statistics."""
        return {"one_domain": False} if self.options.cloud == "shared" else {}

    def _domains(self) -> DomainConfig:
        """As asked for; shared: one domain for all scenes."""
        chosen = self.options.domains
        return dataclasses.replace(chosen, domain_factor=math.inf) if self.options.cloud == "shared" else chosen

    def answer(self, frames_BHWC: Frame, *, device: int = 0) -> Labels:
        """Answer one by one, as a camera would ask; then devices and cloud do all that there is to do."""
        tick = self._ticks[device]
        self._ticks[device] += 1
        one = self._devices[device]
        if self._links:
            self._links[device].receive(tick - 1)  # what other devices' uploads led to since
            self._settle(one)
        labels = np.empty(len(frames_BHWC), np.int64)
        for start, end in self._stretches(device, len(frames_BHWC)):
            for index in range(start, end):
                try:
                    answer = one.infer(frames_BHWC[index])
                    assert isinstance(answer, Answer)
                    labels[index] = answer.label
                except ModelOutputError:
                    labels[index] = NO_LABEL
                    self._errors += 1
            self._settle(one)
        if self._links:
            self._exchange(device, tick)
        self._count()
        return labels

    def _stretches(self, device: int, count: int) -> list[tuple[int, int]]:
        """Cut a batch where the device hands frames to its background thread, so that its timing changes nothing."""
        cuts, at = [], 0
        while at < count:
            end = min(count, at + self._until_measured[device])
            self._until_measured[device] -= end - at
            self._until_measured[device] = self._until_measured[device] or self._period
            cuts.append((at, end))
            at = end
        return cuts

    def _exchange(self, device: int, tick: int) -> None:
        link = self._links[device]
        cloud = self.clouds[device if self.options.cloud == "isolated" else 0]
        for _ in range(link.rounds):
            link.exchange(tick)
            if cloud.work():
                link.receive(tick)
        self._settle(self._devices[device])

    def _settle(self, device: Device) -> None:
        if not device.settle(_SETTLE_S):
            raise LittoralError(f"a device's background thread was not done within {_SETTLE_S:g} s")

    def _count(self) -> None:
        costs = self.costs
        states = [device.status() for device in self._devices]
        frames = sum(state.frames for state in states)
        installed = sum(state.versions_installed for state in states)
        probes = installed * (self._bundle.manifest.probe.num_frames + 1)
        measured, looked = (sum(getattr(s, n) for s in states) for n in ("measured_frames", "looked_frames"))
        # Every batch that is measured has its fingerprint taken first, by the whole source's network where it is looked
        # at how far that world is, else by a part of it; by both in a batch or two of a world, which are not counted.
        printed = round(FINGERPRINT_SHARE * max(measured - looked, 0))
        costs.forward_frames = frames + measured + looked + printed + probes
        costs.uploads = sum(link.samples_sent for link in self._links)
        costs.uplink_bytes = sum(link.bytes_up for link in self._links)
        costs.downlink_bytes = sum(link.bytes_down for link in self._links)
        costs.pushes = sum(link.versions_received for link in self._links)
        costs.cloud_seconds = sum(cloud.seconds for cloud in self.clouds)
        shipped = sum(cloud.num_shipped for cloud in self.clouds)
        costs.notes = {
            "measured_frames": measured,
            "looked_frames": looked,
            "probe_frames": probes,
            "statistics_resets": sum(state.statistics_resets for state in states),
            "versions_shipped": shipped,
            "versions_held": sum(cloud.num_held for cloud in self.clouds),
            "devices_quarantined": sum(cloud.num_quarantined for cloud in self.clouds),
            "versions_installed": installed,
            "versions_rejected": sum(state.versions_rejected for state in states),
            "versions_reverted": sum(state.versions_reverted for state in states),
            "scenes": sum(state.scene for state in states),
            "recalls": sum(state.recalls for state in states),
            "duplicates": sum(state.duplicates for state in states),
            "over_budget": sum(state.over_budget for state in states),
            "samples_dropped": sum(state.dropped for state in states),
            "push_frame_bytes_max": max((link.largest_version_bytes for link in self._links), default=0),
            "output_errors": self._errors,
        }

    def close(self) -> None:
        """Close devices and clouds and remove the folder. Idempotent."""
        for device in self._devices:
            device.close(flush_s=0.0)
        for cloud in self.clouds:
            cloud.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def _fast_folder() -> Path | None:
    """Memory where there is enough of it: a sync costs nothing there; None for the usual temporary folder."""
    sweep(MEMORY_FOLDER)
    try:
        if shutil.disk_usage(MEMORY_FOLDER).free >= _NEEDED_BYTES:
            return MEMORY_FOLDER
    except OSError:
        pass
    return None


def sweep(folder: Path) -> None:
    """Remove what runs left behind that were killed: it would keep its memory for ever."""
    for path in folder.glob(f"{_PREFIX}*-*"):
        process = path.name.removeprefix(_PREFIX).partition("-")[0]
        if process.isdecimal() and not _lives(int(process)):
            shutil.rmtree(path, ignore_errors=True)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # somebody else's
    return True


def _unprobed(bundle: Bundle) -> Bundle:
    """The same bundle, of the same digest, whose devices take any version."""
    probe = dataclasses.replace(bundle.manifest.probe, min_agreement=0.0)
    return dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, probe=probe))


def _unwatched(config: DeviceConfig) -> DeviceConfig:
    return dataclasses.replace(
        config,
        updater=dataclasses.replace(config.updater, max_entropy_rise_nats=math.inf),
        statistics=dataclasses.replace(config.statistics, near_factor=0.0),
    )


def product(setup: Setup) -> Product:
    """The defaults."""
    return Product(setup)


def device_statistics(setup: Setup) -> Product:
    """The product's own device with no cloud."""
    return Product(setup, ProductOptions(cloud="none"))
