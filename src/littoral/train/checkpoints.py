"""Checkpoints: the state of a training in one file, from which only the same training goes on."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from littoral.train.split_data import write_whole

_UNREADABLE = (
    ArithmeticError, AttributeError, EOFError, LookupError, OSError, RuntimeError, TypeError, UnpicklingError,
    ValueError, struct.error,
)  # fmt: skip
"""What torch raises for a file that is none of its own, or is damaged."""
_SHOWN = 32
"""So many values of a tensor tell it from another."""
_ROUNDING = 1e-2
"""Of the largest of these: what is computed differs by the rounding of another number of threads."""
_START, _NEAR = "first weights", "near"


class Checkpoint:
    """A file that is written after every epoch, and what must agree before a training goes on from it.

    A file that lacks a part, as older ones do, is taken if all that it does say agrees.

    Args:
        file: Its folder is made if it is not there.
        parts: All that the training is made of, by a name that a message can show; values as JSON has them.
        learners: What is trained, as it is before the first step, by the name of its state dict in the file.
        computed: Tensors that must agree but for rounding, by a name likewise.
    Raises:
        ValueError: the folder cannot be made.
    """

    def __init__(
        self,
        file: Path,
        parts: Mapping[str, object],
        learners: Mapping[str, nn.Module] | None = None,
        computed: Mapping[str, Tensor] | None = None,
    ) -> None:
        self._file, self._parts, self._learners = file, _as_json(parts), tuple(learners or ())
        states = {name: network.state_dict() for name, network in (learners or {}).items()}
        self._near = {name: {"": _some(value)} for name, value in (computed or {}).items()}
        self._near[_START] = self._weights(states)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"the checkpoint {file} cannot be written: {error}; name another file") from error

    def save(self, state: Mapping[str, Any]) -> None:
        """Write all of it or nothing."""
        out = io.BytesIO()
        of = json.dumps({**self._parts, _NEAR: self._near}, sort_keys=True)
        torch.save({**state, "of": of}, out)
        write_whole(self._file, out.getvalue())

    def resume(self, restore: Callable[[dict[str, Any]], int], device: torch.device | str = "cpu") -> int:
        """Go on where the file is, if it is there.

        Args:
            restore: Puts a state that was saved back; gives the number of epochs done.
        Returns:
            The number of epochs done; 0 without a file.
        Raises:
            ValueError: the file cannot be read, or is of another training.
        """
        if not self._file.exists():
            return 0
        try:
            state = torch.load(self._file, map_location=device, weights_only=True)
            said = _said(state)
            other = self._other(said, state)
        except _UNREADABLE as error:
            raise ValueError(
                f"the checkpoint {self._file} cannot be read: {error!r}; remove it to begin anew"
            ) from error
        if other:
            raise ValueError(
                f"the checkpoint {self._file} is of another training; what differs: {', '.join(other)}. Remove it "
                "to begin anew, or name another file"
            )
        self._near |= said.get(_NEAR, {})  # the start stays that of the first run
        try:
            return restore(state)
        except _UNREADABLE as error:
            raise ValueError(
                f"the checkpoint {self._file} does not fit this training: {error}; remove it to begin anew, or name "
                "another file"
            ) from error

    def _other(self, said: Mapping[str, Any], state: Mapping[str, Any]) -> list[str]:
        """The names of what differs."""
        other = [name for name, value in said.items() if name != _NEAR and self._parts.get(name, ...) != value]
        apart = [name for name, value in said.get(_NEAR, {}).items() if not _alike(value, self._near.get(name, {}))]
        if _START in apart and _alike(self._weights(state), self._near[_START]):
            apart.remove(_START)  # a caller may also go on with the very networks that were stopped
        return other + apart

    def _weights(self, states: Mapping[str, Mapping[str, Tensor]]) -> dict[str, list[float]]:
        """A few of all that is trained."""
        return {
            f"{learner}.{name}": _some(value) for learner in self._learners for name, value in states[learner].items()
        }


def _said(state: Mapping[str, Any]) -> dict[str, Any]:
    """What a file says of its training; also in the words of older ones."""
    said = dict(json.loads(state["of"])) if "of" in state else {"recipe": _as_json(state["recipe"])}
    if "taught" in state:
        taught = json.loads(state["taught"])
        said |= {"bank's outputs" if name == "bank" else name: value for name, value in taught.items()}
    return said


def _as_json(value: object) -> Any:
    return json.loads(json.dumps(value))


def _some(value: Tensor) -> list[float]:
    flat = value.detach().flatten()
    places = np.unique(np.linspace(0, len(flat) - 1, min(_SHOWN, len(flat))).astype(np.int64))
    found: list[float] = flat[torch.from_numpy(places).to(flat.device)].double().tolist()
    return found


def _alike(one: Mapping[str, list[float]], other: Mapping[str, list[float]]) -> bool:
    if one.keys() != other.keys():
        return False
    for name, values in one.items():
        a, b = np.array(values), np.array(other[name])
        if a.shape != b.shape or not np.allclose(a, b, 0, _ROUNDING * np.abs(a).max(initial=0), equal_nan=True):
            return False
    return True
