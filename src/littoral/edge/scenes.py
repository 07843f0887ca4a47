"""What a device does when its world changes: a new scene, the version that fits it, and a word to the cloud."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

from littoral.bundle import Bundle
from littoral.core.arrays import FloatArray
from littoral.core.recall import encode_fingerprint, fingerprint_layer
from littoral.core.scenes import SOURCE, RecallConfig, Remembered, SceneTracker, forget
from littoral.edge.outbox import Outbox
from littoral.edge.updater import Updater
from littoral.wire.messages import Receipt, Scene

log = logging.getLogger("littoral.edge.scenes")


class Scenes:
    """The scenes of one device. For the background thread; `number` may be read from any.

    Args:
        outbox: Where the cloud is told, if there is a cloud, and where the numbers of earlier runs are known.
    """

    def __init__(self, bundle: Bundle, config: RecallConfig, *, outbox: Outbox | None) -> None:
        self._outbox = outbox
        self._owed = False
        layer, spec = fingerprint_layer(bundle.manifest.norm_layers), bundle.manifest.statistics
        self._tracker = (
            SceneTracker(layer=layer, drift_threshold=spec.drift_threshold, config=config)
            if layer is not None and spec is not None
            else None
        )

    @property
    def number(self) -> int:
        """The current scene; 0 before the first."""
        return 0 if self._tracker is None else self._tracker.scene

    @property
    def reference(self) -> FloatArray | None:
        """The fingerprint with which the current scene was opened."""
        return None if self._tracker is None else self._tracker.reference

    def are_near(self, a: FloatArray, b: FloatArray) -> bool:
        """Whether two fingerprints may be of one world: as near as a version's is that is recalled."""
        return self._tracker is not None and self._tracker.distance(a, b) < self._tracker.config.recall_factor

    def fits(self, entry: Remembered) -> bool:
        """Whether a version may serve in the current scene."""
        return self._tracker is None or self._tracker.fits(entry)

    def look(
        self,
        fingerprint: FloatArray,
        *,
        drifted: bool,
        updater: Updater[Any] | None,
        tell: Callable[[Receipt | None], None],
        uplink: bool,
    ) -> bool:
        """Open a scene if this fingerprint says so; put what fits it into service; tell the cloud.

        Args:
            tell: Given the receipt of each version that was recalled, or could not be.
            uplink: There is a cloud to tell.
        Returns:
            True when a scene was opened.
        """
        tracker, outbox = self._tracker, self._outbox
        if tracker is None or not tracker.moved(fingerprint, drifted=drifted or self._owed):
            return False
        last = 0 if outbox is None else outbox.last_scene
        if last is None:  # a number could be one that an earlier run has used: wait for the disk
            self._owed = True
            return False
        self._owed = False
        first = tracker.reference is None
        number = tracker.open(fingerprint, after=last)
        if updater is not None:
            if drifted or not first:  # a restart is no move: a version's watch goes on with the baseline that it had
                updater.moved()
            recall_for(tracker, updater, tell)
        version = SOURCE if updater is None else updater.state.disk.installed
        log.info("scene %d, version %d", number, version)
        if outbox is not None and uplink:
            opened = Scene(scene=number, version=version, fingerprint=encode_fingerprint(fingerprint))
            outbox.put(opened, value=math.inf)
        return True


def recall_for(tracker: SceneTracker, updater: Updater[Any], tell: Callable[[Receipt | None], None]) -> None:
    """Put the remembered version that fits the tracker's scene into service, if there is one and it does not serve."""
    memory = updater.remembered
    while (choice := tracker.choose(memory, updater.state.disk.installed)) is not None:
        if choice == SOURCE:
            updater.serve_source()
            return
        receipt = updater.recall(choice)
        tell(receipt)
        if receipt is not None and receipt.outcome == "recalled":
            return
        memory = forget(memory, choice)  # it could not be put into service: the next nearest
