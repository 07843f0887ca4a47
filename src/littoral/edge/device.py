"""The device: frames in, answers out, whatever happens to the link, the disk or the cloud.

`Device.infer` runs in the caller's thread and touches nothing that can block: it reads one reference to the model in
service, runs it, and hands what it saw to a background thread over a queue. That thread (`littoral.edge.maintenance`)
does the rest: statistics, samples for the cloud, new versions. A swap is one assignment: a frame never mixes versions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, cast

import numpy as np

from littoral.bundle import Bundle
from littoral.core.arrays import FloatArray, Frame
from littoral.core.selection import SelectionConfig, Selector, judge_one
from littoral.edge.answer import Answer, Found
from littoral.edge.counters import DeviceStatus, read_counters
from littoral.edge.dense import DenseAnswer, Judged, judge
from littoral.edge.device_config import DeviceConfig
from littoral.edge.exits import ExitRuntime
from littoral.edge.follow import is_near
from littoral.edge.identity import check_bundle
from littoral.edge.link import CloudLink
from littoral.edge.maintenance import Maintenance
from littoral.edge.offload import Encoder, Finished, Offloading, open_encoder
from littoral.edge.route_open import open_tables
from littoral.edge.session import Model
from littoral.errors import FrameError, ModelOutputError

_UINT8 = np.dtype(np.uint8)


class Device:
    """Runs a bundle on frames; adapts when it has a link.

    Args:
        bundle: What to run.
        state_dir: Where the outbox, the versions and the device's key live. Without it nothing is kept.
        link: The way to the cloud; needs ``state_dir``. The device starts it and stops it.
        config: See `DeviceConfig`.
        encoder: Makes the payloads when frames are offloaded; the bundle's if not given.

    `infer` is for one thread at a time. Use the device as a context manager, or call `close`.

    Raises:
        BundleError: the device is enrolled, and its cloud does not stand for this bundle (`check_bundle`).
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        state_dir: Path | str | None = None,
        link: CloudLink | None = None,
        config: DeviceConfig | None = None,
        encoder: Encoder | None = None,
    ) -> None:
        folder = None if state_dir is None else Path(state_dir)
        if folder is not None:
            check_bundle(bundle, folder, lambda: None if link is None else link.token)
        elif link is not None:
            raise ValueError("a device with a link needs a state_dir, where it keeps what is not yet sent")
        self.bundle = bundle
        self.config = config or DeviceConfig()
        tables = open_tables(bundle, self.config, link)
        encoder = open_encoder(bundle, self.config.offload, link=link, session=self.config.session, encoder=encoder)
        self._shape = bundle.manifest.input.shape
        self._names = bundle.manifest.class_names
        selection, adapts = self.config.selection, bundle.manifest.adapts
        self._published: Selector | None = None
        if isinstance(selection, SelectionConfig) and adapts:
            self._published = Selector(bundle.manifest.num_classes, selection)
        self._frames = self._selected = self._overflowed = 0
        self._maintenance = Maintenance(bundle, self.config, state_dir=folder, link=link, status=self.status)
        self._offloading: Offloading | None = None
        self._exits: ExitRuntime | None = None
        self._otherwise: Callable[[Model, Frame, int], Answer | DenseAnswer] | None = None
        with self._maintenance.closing_on_error():
            if link is not None and encoder is not None and self.config.offload is not None:
                task, model, finish = self._maintenance.task, self._maintenance.model, None if adapts else self._judge
                self._offloading = Offloading(
                    link, encoder, task, self.config.offload, model=model, shape=self._shape, finish=finish
                )
            if self.config.exits is not None:
                self._exits = self._maintenance.open_exits(self.config.exits, routed=self.config.route is not None)
            self._routing = None if tables is None else self._maintenance.open_routing(tables)
            if self._routing is not None:
                self._otherwise = self._infer_routed
            elif self._exits is not None:
                self._otherwise = self._infer_exits
            elif self._offloading is not None or not adapts:
                self._otherwise = self._infer_offloaded if adapts else self._infer_dense
            self._maintenance.start()

    @property
    def version(self) -> int:
        """The affine version in service; 0 is the source."""
        return self._maintenance.model.version

    def infer(self, frame: Frame) -> Answer | DenseAnswer:
        """Answer for one frame.

        Args:
            frame: uint8 ``(H, W, C)`` as the bundle's input says.
        Returns:
            An `Answer`; a `DenseAnswer` where the bundle is for segmentation or detection.
        Raises:
            FrameError: another size, number of channels or dtype.
            ModelOutputError: the network gave NaN or infinity, or what no answer can be made of; if an update caused
                it, it is being reverted.
        """
        started = time.perf_counter_ns()
        if not isinstance(frame, np.ndarray) or frame.shape != self._shape or frame.dtype != _UINT8:
            raise self._frame_error(frame)
        model = (maintenance := self._maintenance).model
        if self._otherwise is not None:
            return self._otherwise(model, frame, started)
        logits: FloatArray = model.run(frame[None])[0]
        self._frames += 1
        label, confidence, entropy = judge_one(logits)
        if entropy != entropy:
            raise self._not_finite(model, logits)
        maintenance.saw(frame, label, entropy)
        if maintenance.uplink:
            self._select(maintenance, frame, logits, label, entropy, model.version)
        return Answer(
            self._frames,
            label,
            self._names[label],
            confidence,
            entropy,
            logits,
            model.version,
            maintenance.cloud,
            (time.perf_counter_ns() - started) * 1e-6,
        )

    def _infer_dense(self, model: Model, frame: Frame, started: int) -> DenseAnswer:
        """As `infer`, for a task whose answers are not labels."""
        maintenance, offloading = self._maintenance, self._offloading
        self._frames += 1
        try:
            if offloading is None:
                finished = Finished(self._judge(model.run(frame[None])[0]), "device", "")
            else:
                finished = offloading.answer(model, frame, started * 1e-9)
        except ModelOutputError as error:
            raise self._not_an_output(model, f"that cannot be answered with ({error}) for") from error
        answer = finished.answer
        if isinstance(answer, Judged):
            maintenance.saw(frame, 0, answer.entropy_nats)
            answer = answer.answer
        else:
            maintenance.saw(frame, 0, None)
        return DenseAnswer(
            self._frames,
            answer,
            model.version,
            maintenance.cloud,
            (time.perf_counter_ns() - started) * 1e-6,
            finished.source,
            offloading is not None and finished.source == "device",
            finished.reason,
            offloading.way if offloading is not None and finished.source == "cloud" else "",
        )

    def _judge(self, output: FloatArray) -> Judged:
        return judge(self._maintenance.task, output)

    def _infer_offloaded(self, model: Model, frame: Frame, started: int) -> Answer:
        """As `infer`, with the cloud asked first."""
        maintenance, offloading = self._maintenance, self._offloading
        assert offloading is not None
        finished: Finished = offloading.answer(model, frame, started * 1e-9)
        logits = cast(FloatArray, finished.answer)
        self._frames += 1
        label, confidence, entropy = judge_one(logits)
        if entropy != entropy:
            raise self._not_finite(model, logits)
        is_own = finished.source == "device"
        maintenance.saw(frame, label, entropy if is_own else None)
        if is_own:
            self._select(maintenance, frame, logits, label, entropy, model.version)
        found = Found(logits, label, confidence, entropy, 0, None)
        way = "" if is_own else offloading.way
        return self._given(found, model, started, finished.source, is_own, finished.reason, way)

    def _infer_exits(self, model: Model, frame: Frame, started: int) -> Answer:
        """As `infer`, with no more of the network than the frame needs."""
        maintenance, exits = self._maintenance, self._exits
        assert exits is not None
        self._frames += 1
        found = exits.answer(model, frame, self._frames)
        self._saw(maintenance, model, frame, found, found)
        return self._given(found, model, started)

    def _infer_routed(self, model: Model, frame: Frame, started: int) -> Answer:
        """As `infer`, with the router deciding who answers, and after how much of the network."""
        maintenance, routing = self._maintenance, self._routing
        assert routing is not None
        self._frames += 1
        found, source, degraded, reason, in_hand, way = routing.answer(model, frame, self._frames, started * 1e-6)
        self._saw(maintenance, model, frame, found, in_hand or found)
        return self._given(found, model, started, source, degraded, reason, way)

    def _saw(self, maintenance: Maintenance, model: Model, frame: Frame, found: Found, own: Found) -> None:
        """Hand over what an answer tells; and the frame, if it is worth it by what the device made of it itself."""
        if not found.is_finite:
            raise self._not_finite(model, found.logits_K)
        maintenance.saw(frame, found.label, found.network_entropy)
        calibrates = self._exits is not None and self._exits.calibrates  # fitted to it, a network looks too good on it
        if maintenance.uplink and not calibrates:
            self._select(maintenance, frame, own.logits_K, own.label, own.entropy_nats, model.version)

    def _given(
        self,
        found: Found,
        model: Model,
        started: int,
        source: str = "device",
        degraded: bool = False,
        reason: str = "",
        way: str = "",
    ) -> Answer:
        return Answer(
            self._frames,
            found.label,
            self._names[found.label],
            found.confidence,
            found.entropy_nats,
            found.logits_K,
            model.version,
            self._maintenance.cloud,
            (time.perf_counter_ns() - started) * 1e-6,
            source,
            degraded,
            reason,
            found.exit_index,
            way,
            found.compute_share,
        )

    def feedback(self, frame_id: int, label: int) -> bool:
        """What the user says is on a frame: the exits' heads learn from it, or it helps to judge them; and a router's
        switcher learns from it who was right, where the cloud answered too.

        Args:
            frame_id: As in the frame's `Answer`.
            label: The right class.
        Returns:
            False where the frame is none of the newest 64 of this run: nothing is known of it any more.
        Raises:
            ValueError: no such class, or the device has no exits.
        """
        known = self._with_exits().feedback(frame_id, label)
        if known and self._routing is not None:
            self._routing.learning.labelled(frame_id, label)
        return known

    def forget_day(self, day: int, timeout_s: float = 60.0) -> bool:
        """Take back all that was learned on a day, for good: the heads become what they would be without it.

        Days that are no longer held one by one go together with all days before them, and what came while the clock ran
        ahead of what it says now goes too. A power cut in between does no harm: the next start goes on with it.

        Args:
            day: As `ExitConfig.today` numbers them.
        Returns:
            Whether anything had been learned on it.
        Raises:
            StorageError: the disk does not take it.
            TimeoutError: it is not done yet, and goes on.
            ValueError: the device has no exits.
        """
        exits = self._with_exits()
        return self._maintenance.call(lambda: exits.forget_day(day), timeout_s)

    def _with_exits(self) -> ExitRuntime:
        if self._exits is None:
            raise ValueError("this device has no exits that could learn; give DeviceConfig(exits=ExitConfig())")
        return self._exits

    def _select(
        self, maintenance: Maintenance, frame: Frame, logits: FloatArray, label: int, entropy: float, version: int
    ) -> None:
        """Hand the frame over for the cloud if it is worth it; near the source none is."""
        if is_near(maintenance.follower):
            return
        if (chooser := maintenance.chooser) is not None:
            chooser.offer(frame, logits, self._frames, label, entropy, version)
        elif self._published is not None and self._published.select_one(logits, entropy):
            self._selected += 1
            self._overflowed += not maintenance.offer(frame, self._frames, label, entropy, version)

    def status(self) -> DeviceStatus:
        """The counters as of now."""
        return read_counters(
            self._maintenance,
            frames=self._frames,
            selected=self._selected,
            overflowed=self._overflowed,
            offloading=self._offloading,
        )

    def rebuild(self) -> None:
        """Build the model in service anew in the background and swap it in, as a new version would be."""
        self._maintenance.rebuild()

    def settle(self, timeout_s: float = 10.0) -> bool:
        """Wait until the background thread has done all that was handed to it; True when it has."""
        return self._maintenance.settle(timeout_s)

    def close(self, flush_s: float = 5.0) -> None:
        """Stop. Samples that the cloud has not acknowledged after ``flush_s`` seconds stay in the outbox."""
        self._maintenance.stop(flush_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _frame_error(self, frame: object) -> FrameError:
        height, width, channels = self._shape
        came = f"{frame.dtype} {frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
        return FrameError(
            f"a frame of {came} came, bundle {self.bundle.manifest.name!r} takes uint8 "
            f"({height}, {width}, {channels}); resize it and convert it before you call infer"
        )

    def _not_finite(self, model: Model, logits: FloatArray) -> ModelOutputError:
        bad: Sequence[int] = np.flatnonzero(~np.isfinite(logits)).tolist()
        return self._not_an_output(model, f"that is not finite for classes {list(bad)[:5]} of")

    def _not_an_output(self, model: Model, why: str) -> ModelOutputError:
        self._maintenance.not_finite(model.version)
        what = "the bundle's own weights are at fault: build it again" if model.version == 0 else "it is being reverted"
        return ModelOutputError(f"affine version {model.version} gave an output {why} frame {self._frames}; {what}")
