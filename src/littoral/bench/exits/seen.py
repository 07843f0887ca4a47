"""What the network made of one user's frames: computed once, kept as float16, read by every method."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from littoral.bench.exits.chain import Chain
from littoral.bench.exits.users import User, styled
from littoral.core.arrays import Float64s, FloatArray, Frame
from littoral.core.head_memory import HALF_MAX
from littoral.core.heads import softmax64

Labels = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Part:
    """Some frames of a user.

    Attributes:
        features: By exit ``(N, D)``, rounded to float16 as the device keeps them; float32.
        logits_NK: Of the shipped network.
        labels_N: For scoring, and for learning where the user gives them.
    """

    features: tuple[FloatArray, ...]
    logits_NK: FloatArray
    labels_N: Labels

    def __len__(self) -> int:
        return len(self.labels_N)

    @property
    def deep_NK(self) -> Float64s:
        """The shipped network's probabilities."""
        return softmax64(self.logits_NK)

    @property
    def shipped_N(self) -> Labels:
        """The shipped network's answers."""
        answers: Labels = self.logits_NK.argmax(axis=1).astype(np.int64)
        return answers

    def take(self, rows: NDArray[np.intp] | slice) -> Part:
        """Some of the frames."""
        return Part(
            features=tuple(found[rows] for found in self.features),
            logits_NK=self.logits_NK[rows],
            labels_N=self.labels_N[rows],
        )


@dataclass(frozen=True, kw_only=True)
class Seen:
    """All parts of a user, and frames of classes that the user never showed (none where every class is shown)."""

    user: User
    parts: Mapping[str, Part]

    @property
    def personal(self) -> Part:
        return self.parts["personal"]

    @property
    def calibration(self) -> Part:
        return self.parts["calibration"]

    @property
    def test(self) -> Part:
        return self.parts["test"]

    @property
    def unseen(self) -> Part:
        return self.parts["unseen"]


def frames_of(user: User, frames: Frame, part: str, style: str | None = None) -> Frame:
    """A part's frames through the user's camera, or through another's."""
    places = user.unseen if part == "unseen" else user.places[part]
    return styled(frames[places], [int(place) for place in places], style if style is not None else user.style)


def see(user: User, chain: Chain, frames: Frame, labels: Labels, *, kept: Path | None = None) -> Seen:
    """Run the network on a user's frames, or read what it gave before.

    Args:
        frames, labels: The data set's test images.
        kept: The file; its name must say all that the numbers depend on.
    """
    names = (*user.places, "unseen")
    arrays = _read(kept) if kept is not None else None
    if arrays is None:
        arrays = {}
        for name in names:
            places = user.unseen if name == "unseen" else user.places[name]
            if len(places) == 0:
                found = tuple(np.zeros((0, size), np.float32) for size in chain.num_features)
                logits = np.zeros((0, chain.num_classes), np.float32)
            else:
                found, logits = chain.run(frames_of(user, frames, name))
            for i, features in enumerate(found):
                arrays[f"{name}-{i}"] = features.clip(-HALF_MAX, HALF_MAX).astype(np.float16)
            arrays[f"{name}-logits"] = logits
        if kept is not None:
            _write(kept, arrays)
    parts = {
        name: Part(
            features=tuple(arrays[f"{name}-{i}"].astype(np.float32) for i in range(len(chain.exits))),
            logits_NK=arrays[f"{name}-logits"].astype(np.float32),
            labels_N=labels[user.unseen if name == "unseen" else user.places[name]],
        )
        for name in names
    }
    return Seen(user=user, parts=parts)


def _read(path: Path) -> dict[str, NDArray[np.generic]] | None:
    try:
        with np.load(path, allow_pickle=False) as held:
            return {name: held[name] for name in held.files}
    except (OSError, ValueError, EOFError):
        return None


def _write(path: Path, arrays: Mapping[str, NDArray[np.generic]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.npz")
    np.savez(temporary, **arrays)  # type: ignore[arg-type]
    os.replace(temporary, path)
