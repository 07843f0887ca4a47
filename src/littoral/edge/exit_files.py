"""What a device with early exits keeps on its disk, below ``exits/`` in its state folder.

    head-<i>.state    what was learned for exit i (docs/reference/personal-head.md); replaced by a rename, so that a
                      power cut leaves the old one or the new one
    forget.json       days that are being taken back; there only while it is done
    probe.tensors     the probe frames' features under the version that the heads were learned under
    ring.slots, ring.frames        calibration frames: what the network made of them, and their pixels
    lessons.slots, lessons.frames  likewise of the frames by which shipped heads are levelled
    pending.slots     frames that wait to be learned from; like the four above room and no record, emptied at each start
                      and end

A state that cannot be used is moved aside as ``head-<i>.refused``.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from littoral.core.arrays import FloatArray
from littoral.core.head_state import Source, write_state
from littoral.core.personal import PersonalHead
from littoral.edge.recent import SeenFrame
from littoral.edge.versions import Files, private
from littoral.errors import StorageError

log = logging.getLogger("littoral.edge.exit_files")

INTENT_FILE, PROBE_FILE = "forget.json", "probe.tensors"
_NEW = ".new"
_BUFFER_BYTES = 512


class SlotFile:
    """Records of one size in a file that no restart reads. Its disk may be full: then nothing is kept.

    Args:
        path: Made anew.
        record_bytes: Of each record.
    Raises:
        StorageError: it cannot be made.
    """

    def __init__(self, path: Path, record_bytes: int) -> None:
        self._size = record_bytes
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)  # an older littoral made it for everybody to read
            self._file = open(path, "w+b", buffering=0, opener=private)  # noqa: SIM115  # `close` does
        except OSError as error:
            raise StorageError(f"{path} cannot be written ({error}); free some space on its disk") from error

    def write(self, slot: int, record: bytes) -> None:
        """Put a record in its place.

        Raises:
            StorageError: the disk does not take it.
        """
        try:
            self._file.seek(slot * self._size)
            written = self._file.write(record)
        except OSError as error:
            raise StorageError(f"a frame cannot be kept ({error}); free some space on the disk") from error
        if written != self._size:
            raise StorageError("a frame cannot be kept whole; free some space on the disk")

    def read(self, slot: int) -> bytes:
        """Take it again."""
        self._file.seek(slot * self._size)
        return self._file.read(self._size)

    def close(self) -> None:
        """Close the file, and leave nothing in it. Idempotent."""
        if not self._file.closed:
            with contextlib.suppress(OSError):
                self._file.truncate(0)
        self._file.close()


_MOST_SAID = 16
"""More frames than run behind their answers at a time."""


class PendingFrames:
    """Frames that wait to be learned from, on the disk. For the background thread; `is_full` may be read from any.

    Args:
        capacity: In frames; those with labels find three times as much room besides.
    """

    def __init__(self, path: Path, *, capacity: int, num_features: int, num_classes: int) -> None:
        self.capacity, self._classes = capacity, num_classes
        blank = SeenFrame(
            frame_id=0, version=0, num_seen=0, features=np.zeros(num_features, np.float16), logits_K=None
        ).to_bytes(num_classes)
        self._blank = bytes(len(blank))
        self._slots = SlotFile(path, len(blank))
        self._ids: list[int] = []
        self._said: dict[int, SeenFrame] = {}
        """Of frames whose exits have not been asked: what was said of them, until they are."""

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def is_full(self) -> bool:
        """There is room for frames with labels only."""
        return len(self._ids) >= self.capacity

    def add(self, frame: SeenFrame) -> bool:
        """Keep a frame, with what was known of it before; False where there is no room, or no exit was asked yet."""
        if not frame.num_seen:
            self._said[frame.frame_id] = replace(frame, features=frame.features[:0].copy())  # no exit wants them
            while len(self._said) > _MOST_SAID:
                del self._said[next(iter(self._said))]
            return False
        if (said := self._said.pop(frame.frame_id, None)) is not None:
            frame = frame.with_what_is_known(said)
        if frame.frame_id in self._ids:
            place = self._ids.index(frame.frame_id)
            frame = frame.with_what_is_known(SeenFrame.from_bytes(self._slots.read(place), self._classes))
        elif len(self._ids) >= self.capacity * (1 if frame.label < 0 else 4):
            return False
        else:
            place = len(self._ids)
        self._slots.write(place, frame.to_bytes(self._classes))
        if place == len(self._ids):
            self._ids.append(frame.frame_id)
        return True

    def __iter__(self) -> Iterator[SeenFrame]:
        for place in range(len(self._ids)):
            yield SeenFrame.from_bytes(self._slots.read(place), self._classes)

    def clear(self) -> None:
        """Forget all frames, and their bytes."""
        self.rewrite(lambda frame: None)

    def rewrite(self, change: Callable[[SeenFrame], SeenFrame | None]) -> bool:
        """Change every frame, one in memory at a time; None forgets it, and its bytes. Whether any was forgotten."""
        before, kept = len(self._ids), list[int]()
        try:
            for place in range(before):
                frame = change(SeenFrame.from_bytes(self._slots.read(place), self._classes))
                if frame is not None:
                    self._slots.write(len(kept), frame.to_bytes(self._classes))
                    kept.append(frame.frame_id)
            for place in range(len(kept), before):
                self._slots.write(place, self._blank)
        finally:
            self._ids = kept
        said = {number: changed for number, frame in self._said.items() if (changed := change(frame)) is not None}
        forgotten, self._said = len(said) < len(self._said), said
        return len(kept) < before or forgotten

    def close(self) -> None:
        self._slots.close()


class StateFile:
    """An open state, for `littoral.core.head_state.read_state`."""

    def __init__(self, file: BinaryIO) -> None:
        self.read: Source = file.read
        self._file = file

    def again(self, start: int, count: int) -> bytes:
        """Bytes from a place that was read before; where `read` goes on stays as it is."""
        place = self._file.tell()
        self._file.seek(start)
        data = self._file.read(count)
        self._file.seek(place)
        return data


class ExitFolder:
    """The durable files: each is replaced as a whole.

    Args:
        folder: It is made.
        files: The disk; tests put power cuts between its steps.
    """

    def __init__(self, folder: Path, *, files: Files | None = None) -> None:
        self.folder, self._files = folder, files or Files()
        with contextlib.suppress(OSError):  # a disk that cannot be written still leaves the shipped heads to serve
            folder.mkdir(parents=True, exist_ok=True)
        self.tidy()

    def tidy(self) -> None:
        """Remove what a power cut left half written."""
        with contextlib.suppress(OSError):
            for path in list(self.folder.glob("*" + _NEW)):
                self._files.remove(path)

    # -- heads ---------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def open_state(self, exit_index: int) -> Iterator[StateFile | None]:
        """An exit's state while it is open, None where there is none. It stays what it was when another is saved.

        Raises:
            StorageError: the disk does not give it.
        """
        path = self._state(exit_index)
        try:
            file = path.open("rb", buffering=_BUFFER_BYTES)
        except FileNotFoundError:
            yield None
            return
        except OSError as error:
            raise StorageError(f"{path} cannot be read ({error})") from error
        with file:
            try:
                yield StateFile(file)
            except OSError as error:
                raise StorageError(f"{path} cannot be read ({error})") from error

    def save_state(self, exit_index: int, head: PersonalHead) -> None:
        """Make a head's state the state, durably, piece by piece: there is no second copy in memory.

        Raises:
            StorageError: the disk does not take it; the old state stands.
        """
        path = self._state(exit_index)
        temporary = path.with_name(path.name + _NEW)
        try:
            self._files.write(temporary, b"")
            write_state(head, lambda piece: self._files.append(temporary, piece))
            self._files.sync(temporary)
            self._files.rename(temporary, path)
            self._files.sync(self.folder)
        except OSError as error:
            with contextlib.suppress(OSError):
                self._files.remove(temporary)
            raise StorageError(f"{path} cannot be written ({error}); free some space on its disk") from error

    def refuse(self, exit_index: int) -> None:
        """Move a state aside that cannot be used."""
        path = self._state(exit_index)
        with contextlib.suppress(OSError):
            self._files.rename(path, path.with_suffix(".refused"))

    def forget_refused(self) -> None:
        """Remove what was moved aside: nobody knows which days are in it."""
        with contextlib.suppress(OSError):
            for path in list(self.folder.glob("*.refused")):
                self._files.remove(path)

    # -- days that are being taken back --------------------------------------------------------------------------------

    def intent(self) -> list[int]:
        """The days that a power cut may have left half taken back."""
        try:
            days = json.loads((self.folder / INTENT_FILE).read_bytes())
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            log.error("%s cannot be read (%s): take the days back once more", self.folder / INTENT_FILE, error)
            return []
        return [day for day in days if type(day) is int] if isinstance(days, list) else []

    def begin_forgetting(self, days: list[int]) -> None:
        """Note the days durably, before anything is changed.

        Raises:
            StorageError: the disk does not take it; nothing was changed.
        """
        self._files.replace(self.folder / INTENT_FILE, json.dumps(days).encode())

    def end_forgetting(self) -> None:
        """They are taken back."""
        with contextlib.suppress(OSError):
            self._files.remove(self.folder / INTENT_FILE)
            self._files.sync(self.folder)

    # -- the probe frames' features ------------------------------------------------------------------------------------

    def save_probe(self, version: int, features: list[FloatArray]) -> None:
        """Keep the features ``(N, D)`` of each exit under a version.

        Raises:
            StorageError: the disk does not take it.
        """
        tensors = {f"exit-{i}": values for i, values in enumerate(features)}
        self._files.replace(
            self.folder / PROBE_FILE,
            save_safetensors({**tensors, "version": np.array([version], dtype=np.uint64)}),
        )

    def load_probe(self, sizes: tuple[int, ...]) -> tuple[int, list[FloatArray]] | None:
        """The version and the features; None where there are none, or they cannot be used."""
        try:
            tensors = load_safetensors((self.folder / PROBE_FILE).read_bytes())
            version, features = int(tensors["version"][0]), [tensors[f"exit-{i}"] for i in range(len(sizes))]
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, KeyError, IndexError, ValueError) as error:
            log.warning("%s cannot be used (%s)", self.folder / PROBE_FILE, error)
            return None
        good = all(
            values.ndim == 2 and values.shape[1] == size and values.dtype == np.float32 and np.isfinite(values).all()
            for values, size in zip(features, sizes, strict=True)
        )
        return (version, features) if good else None

    def _state(self, exit_index: int) -> Path:
        return self.folder / f"head-{exit_index}.state"
