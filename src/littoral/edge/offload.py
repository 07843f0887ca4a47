"""The device asks the cloud to finish a frame, waits no longer than it can afford, and finishes it itself otherwise.

infer started ─ segments up to the split, encoder ─ send ─ ... wait ... ─ the rest of the segments ─ answer due
                                                    └── until due - the rest's time - spare_ms ──┘
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np

from littoral.bundle import Bundle
from littoral.bundle.images import Picture
from littoral.core.answers import decode_answer
from littoral.core.arrays import FloatArray, Frame
from littoral.core.estimates import Ewma, RoadEstimate
from littoral.core.tasks import Task
from littoral.edge.answer import PICTURE, SPLIT
from littoral.edge.encoder import PictureEncoder, SplitEncoder, payload_of
from littoral.edge.offload_config import OffloadConfig
from littoral.edge.session import Model, SessionConfig
from littoral.errors import BundleError, LittoralError, ModelOutputError, ProtocolError
from littoral.wire.messages import MAX_DEADLINE_MS, OFFLOAD_CODES, OffloadAnswer

if TYPE_CHECKING:
    from littoral.edge.link import CloudLink

_WARM_RUNS = 3
_DEVIATIONS = 4.0
"""Of the time that the device needs by itself, kept back beside its mean."""


class Encoder(Protocol):
    """What makes the payload: `littoral.edge.encoder.SplitEncoder`, `PictureEncoder`, or a stand-in for them."""

    @property
    def segment(self) -> int | None:
        """The segment whose output `encode` takes; None: it takes frames."""

    def encode(self, value: FloatArray | Frame, level: int) -> bytes | Picture:
        """The payload of a batch of one: uint8 ``(1, H, W, C)`` frames, or the output of `segment`.

        Raises:
            LittoralError: there is none; ``.code`` may say why.
        """


def open_encoder(
    bundle: Bundle,
    config: OffloadConfig | None,
    *,
    link: CloudLink | None,
    session: SessionConfig,
    encoder: Encoder | None = None,
) -> Encoder | None:
    """What makes the payloads: the one given, else the bundle's; None where no frame is offloaded.

    Raises:
        BundleError: the bundle has no such split point, or no teacher for pictures.
        ValueError: there is no link, or no such level.
    """
    if config is None or config.mode == "never":
        return None
    if link is None:
        raise ValueError("a device that offloads needs a link to a cloud, and a state_dir")
    if config.picture and encoder is None:
        if bundle.manifest.teacher is None:
            raise BundleError(f"bundle {bundle.path} has no teacher that could answer pictures; offload from a split")
        return PictureEncoder(config.picture)
    made = encoder or SplitEncoder(bundle, config.split, session)
    if isinstance(made, SplitEncoder) and config.level >= made.num_levels:
        raise ValueError(f"level {config.level} was asked for, the split point has {made.num_levels}")
    return made


class Finished(NamedTuple):
    """A frame's outcome. ``reason`` is why the device finished it itself, empty if the cloud did."""

    answer: Any
    """The cloud's `littoral.core.answers.TaskAnswer`, or what ``finish`` made of the device's own output."""
    source: Literal["cloud", "device"]
    reason: str


class _Waiter:
    """Where the thread that asked and the link's thread meet."""

    def __init__(self) -> None:
        self._told = threading.Event()
        self._outcome: OffloadAnswer | str | None = None

    def tell(self, outcome: OffloadAnswer | str) -> None:
        self._outcome = outcome
        self._told.set()

    def wait(self, timeout_s: float) -> OffloadAnswer | str:
        return self._outcome if self._told.wait(timeout_s) and self._outcome is not None else "timeout"


class Offloading:
    """Runs frames up to the split point and asks the cloud for the rest. For one thread at a time.

    Args:
        link: The way to the cloud.
        encoder: Makes the payloads.
        task: What the cloud's answers are.
        config: See `OffloadConfig`.
        model: The model in service now; it is run a few times to see how long the device needs by itself.
        shape: Of a frame, ``(H, W, C)``.
        finish: What the device makes of its own output for a frame, within the time that it needs by itself; without it
            the output is the answer.
    """

    def __init__(
        self,
        link: CloudLink,
        encoder: Encoder,
        task: Task[Any, Any],
        config: OffloadConfig,
        *,
        model: Model,
        shape: tuple[int, int, int],
        finish: Callable[[FloatArray], Any] | None = None,
    ) -> None:
        self.config = config
        self._finish = finish or (lambda output: output)
        self.road = RoadEstimate()
        """How long a request takes there and back, without what the cloud says that it spent."""
        self.rest_ms = Ewma()
        """How long the device takes from the split point to its own answer."""
        self.offloaded = self.degraded = 0
        self._link, self._encoder, self._task = link, encoder, task
        value = model.run_until(encoder.segment, np.zeros((1, *shape), np.uint8))
        for _ in range(_WARM_RUNS):
            began = time.perf_counter()
            with contextlib.suppress(ModelOutputError):  # no frame's answer yet
                self._finish(model.run_from(encoder.segment, value)[0])
            self.rest_ms.add((time.perf_counter() - began) * 1000)

    @property
    def way(self) -> str:
        """By which way the cloud answers, as an `littoral.edge.answer.Answer` says it."""
        return PICTURE if self.config.picture else SPLIT

    @property
    def pictures(self) -> int:
        """Frames that the cloud answered from a picture."""
        return self.offloaded if self.config.picture else 0

    def answer(self, model: Model, frame: Frame, started_s: float) -> Finished:
        """The cloud's answer if it is there in time, else the device's own.

        Args:
            model: Finishes the frame if the cloud does not.
            frame: uint8 ``(H, W, C)``.
            started_s: When the frame came, as `time.perf_counter` says it: its deadline counts from there.
        Raises:
            ModelOutputError: the device had to answer itself, and ``finish`` says that its output is none.
        """
        rest_ms = self.rest_ms.high(_DEVIATIONS) or 0.0
        give_up_s = started_s + (self.config.deadline_ms - rest_ms - self.config.spare_ms) / 1000
        value = model.run_until(self._encoder.segment, frame[None])
        outcome = self._ask(value, model.version, give_up_s)
        if not isinstance(outcome, str):
            self.offloaded += 1
            return Finished(outcome, "cloud", "")
        self.degraded += 1
        began = time.perf_counter()
        own = self._finish(model.run_from(self._encoder.segment, value)[0])
        self.rest_ms.add((time.perf_counter() - began) * 1000)
        return Finished(own, "device", outcome)

    def _ask(self, value: FloatArray | Frame, version: int, give_up_s: float) -> Any:
        """The cloud's answer, or the code, a string, that says why there is none."""
        if not self._link.connected:
            return "away"
        if self.config.picture and not self._link.takes_pictures:
            return "no-pictures"
        try:
            payload, coding = payload_of(self._encoder.encode(value, self.config.level))
        except LittoralError as error:
            return str(getattr(error, "code", "failed"))
        sent_s = time.perf_counter()
        left_ms = (give_up_s - sent_s) * 1000
        if left_ms < 1:
            return "timeout"
        waiter = _Waiter()
        self._link.offload(
            payload,
            split=0 if coding else self.config.split,
            version=version,
            deadline_ms=self._deadline_ms(left_ms, len(payload)),
            wait_s=left_ms / 1000,
            done=waiter.tell,
            coding=coding,
        )
        outcome = waiter.wait(give_up_s - time.perf_counter())
        self._measure(outcome, len(payload), (time.perf_counter() - sent_s) * 1000)
        if isinstance(outcome, str):
            return outcome
        if outcome.code != "ok":
            return outcome.code if outcome.code in OFFLOAD_CODES else "failed"
        try:
            return decode_answer(self._task, outcome.answer)
        except ProtocolError:
            return "damaged"

    def _deadline_ms(self, left_ms: float, num_bytes: int) -> int:
        """What is left for the cloud when the roads are paid. A hopeless request is sent too: its refusal measures."""
        road_ms = self.road.predict_ms(num_bytes) or 0.0
        return min(max(int(left_ms - road_ms), 1), MAX_DEADLINE_MS)

    def _measure(self, outcome: OffloadAnswer | str, num_bytes: int, elapsed_ms: float) -> None:
        if isinstance(outcome, OffloadAnswer):
            self.road.add(num_bytes, elapsed_ms - outcome.queue_ms - outcome.compute_ms)
        elif outcome == "timeout":  # it would have taken longer still
            self.road.add(num_bytes, max(elapsed_ms, self.road.predict_ms(num_bytes) or 0.0))
