"""A device's exits without a network: what stands behind each exit is noise around its frame's class.

`World` gives frames that are nothing but a number; `FakeModel` looks their features up. So whole lives of a device run
in a second, with every part of it but ONNX Runtime.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from littoral.bundle.exits import ExitHeads
from littoral.bundle.manifest import ExitSpec
from littoral.core.exits import OFF, ExitCosts
from littoral.core.heads import LinearHead, SourceMoments
from littoral.edge import exits as exits_module
from littoral.edge.exit_config import ExitConfig
from littoral.edge.exits import ExitRuntime
from littoral.edge.session import SessionConfig
from littoral.edge.versions import Files

Work = Callable[[], None]


class World:
    """Frames, their classes, and the features of each exit, which get clearer from exit to exit; the last is deep.

    Args:
        moved: How far this user's classes lie towards the next class of the source.
        noise: How much less clear than that features are.
    """

    def __init__(
        self,
        num_frames: int,
        *,
        num_exits: int = 3,
        size: int = 6,
        num_classes: int = 4,
        seed: int = 0,
        moved: float = 0.0,
        noise: float = 1.0,
    ) -> None:
        fixed, rng = np.random.default_rng(99), np.random.default_rng(seed)
        self.means = (fixed.normal(size=(num_classes, size)) * 1.5).astype(np.float32)
        self.moments = SourceMoments(means_KD=self.means, covariance_DD=np.eye(size, dtype=np.float32))
        self.labels = rng.integers(0, num_classes, num_frames)
        blur = noise * np.linspace(1.2, 0.6, num_exits)[:, None, None] * rng.normal(size=(num_exits, num_frames, size))
        own = (1 - moved) * self.means + moved * np.roll(self.means, -1, axis=0)
        self.features = (own[self.labels] + blur).astype(np.float32)
        self.frames = np.arange(num_frames, dtype=np.int64)

    def heads(self) -> ExitHeads:
        num_exits = len(self.features)
        head = LinearHead(weights_KD=self.means, bias_K=(-0.5 * (self.means**2).sum(axis=1)).astype(np.float32))
        return ExitHeads(
            heads=(head,) * num_exits,
            moments=(self.moments,) * num_exits,
            class_shares_K=np.full(len(self.means), 1 / len(self.means)),
            temperatures=(1.0,) * num_exits,
            thresholds=(OFF,) * num_exits,
            costs=ExitCosts(segment_macs=(100,) * (num_exits + 1), head_macs=(1,) * (num_exits + 1)),
        )


class FakeModel:
    """Segments of a network: exit i stands on segment i, and the last segment is the deep exit's shipped head.

    Args:
        scale: What this version multiplies features by.
    """

    def __init__(self, world: World, *, version: int = 0, scale: float = 1.0) -> None:
        self.world, self.version, self.scale = world, version, scale
        self._last = world.heads().heads[-1]

    def for_one_frame(self) -> FakeModel:
        return self

    def through(self, first: int, last: int, value: Any) -> Any:
        if first == last:
            return value
        number = self._number = value if value.dtype == np.int64 else self._number
        if last <= len(self.world.features):
            return self.scale * self.world.features[last - 1, number]
        deep = self.world.features[-1, number]
        return self._last.logits(deep)


class Bench:
    """An `ExitRuntime` on a world; its background work is done when `settle` is called."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        world: World,
        config: ExitConfig,
        state_dir: Path | None,
        *,
        model: FakeModel | None = None,
        files: Files | None = None,
        routed: bool = False,
    ) -> None:
        num_exits, size = len(world.features), world.features.shape[2]
        specs = [
            ExitSpec(
                segment=i, stem_file=None, temperature=1.0, threshold=None, macs=1, num_features=size,
                is_deep=i == num_exits - 1,
            )
            for i in range(num_exits)
        ]  # fmt: skip
        manifest = SimpleNamespace(
            exits=specs, segments=range(num_exits + 1), num_classes=len(world.means), name="a world"
        )
        bundle: Any = SimpleNamespace(manifest=manifest, probe=(world.frames[:16], None))
        heads = world.heads()
        monkeypatch.setattr(exits_module.ExitHeads, "open", lambda bundle: heads)
        self.world, self.model, self.tasks = world, model or FakeModel(world), deque[Work]()
        self.exits = ExitRuntime(
            bundle,
            config,
            model=self.model,  # type: ignore[arg-type]
            session=SessionConfig(),
            state_dir=state_dir,
            later=self.tasks.append,
            files=files,
            routed=routed,
        )
        weakref.finalize(self, self.exits.close)
        self.count = 0

    def settle(self) -> None:
        self.tasks.append(self.exits.take)
        while self.tasks:
            self.tasks.popleft()()

    def show(self, numbers: Iterable[int], *, labelled: float = 0.0) -> list[Any]:
        """Answer frames, with the true label for a share of them; all background work is done after each."""
        found = []
        for number in numbers:
            self.count += 1
            found.append(self.exits.answer(self.model, self.world.frames[number], self.count))  # type: ignore[arg-type]
            if number % 20 < 20 * labelled:
                self.exits.feedback(self.count, int(self.world.labels[number]))
            self.settle()
        return found
