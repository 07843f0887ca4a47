"""A unit of a table: what is made at one go and kept in one file."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TIMED = 9
"""The stage of what measures time: the last one, where units are made one at a time."""
TOOK_BEFORE = "took_before"
"""In a unit's result, what an earlier run that was stopped spent on it: ``seconds`` and ``cpu_seconds``."""


def config_of(configured: Any) -> dict[str, Any]:
    """The fields of a dataclass as JSON has them."""
    values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(configured)))
    return values


def key_of(config: Mapping[str, Any]) -> str:
    """Names a configuration: 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class BenchUnit(ABC):
    """A row, or a training with all that is measured of it. Everything that can change its numbers is a field."""

    def config(self) -> dict[str, Any]:
        """Everything that can change its numbers, as JSON has it."""
        return config_of(self)

    @property
    def key(self) -> str:
        """Names the configuration."""
        return key_of(self.config())

    @property
    @abstractmethod
    def name(self) -> str:
        """For people."""

    @property
    @abstractmethod
    def short(self) -> str:
        """Its parts between slashes, for the command line's globs."""

    @property
    @abstractmethod
    def slug(self) -> str:
        """How the name of its file begins."""

    @property
    @abstractmethod
    def num_frames(self) -> int:
        """About how many frames' work it is, for bars and estimates."""

    @property
    def sort(self) -> str:
        """Units of one sort take about the same time per frame."""
        return self.short

    @property
    def stage(self) -> int:
        """A unit waits for all of the stages before; those of `TIMED` are made last and alone."""
        return 0
