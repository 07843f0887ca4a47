"""A unit of the exits table: what is made at one go and kept in one file. Which ones there are is in `plan`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from littoral.bench.unit import TIMED, BenchUnit

Kind = Literal[
    "users", "strangers", "fits", "trained", "latency", "risk", "drift", "cost", "segmentation", "omniglot", "labels"
]  # fmt: skip
HARD = "hard"
"""The stream of a unit of kind ``drift`` that names none."""


@dataclass(frozen=True, kw_only=True)
class ExitUnit(BenchUnit):
    """What is measured at one go.

    Attributes:
        network: ``resnet20``, ``resnet56`` or ``digits``; of ``segmentation`` ``cgnet`` or ``espnet``, of ``omniglot``
            ``small_cnn``.
        stems: ``trained`` or ``pooled``.
        users: How users are drawn: a key of `littoral.bench.exits.users.KINDS`, or ``quick``.
        first, count: Of the users of this seed, these.
        options: JSON values, for the measurement.
    """

    kind: Kind
    network: str
    stems: str = "trained"
    users: str = "k4"
    seed: int = 0
    first: int = 0
    count: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def short(self) -> str:
        """``network/kind/stems/users/seed``, for globs."""
        return f"{self.network}/{self.kind}/{self.stems}/{self.users}/{self.seed}"

    @property
    def name(self) -> str:
        """For people."""
        stems = "" if self.stems == "trained" else f" {self.stems} stems"
        if self.kind == "drift":
            parts = [f"no {name}" for name in ("cloud", "recheck") if not self.options.get(name, True)]
            return ", ".join([f"drift {self.network} {self.stream} seed {self.seed}", *parts])
        return f"{self.kind} {self.network}{stems} {self.users} seed {self.seed} users {self.first}+{self.count}"

    @property
    def stream(self) -> str:
        """Of kind ``drift``: which worlds."""
        return str(self.options.get("stream", HARD))

    @property
    def slug(self) -> str:
        return f"{self.kind}-{self.network}-{self.stems}-{self.users}-{self.seed}-{self.first}"

    @property
    def sort(self) -> str:
        return f"{self.kind}/{self.network}"

    @property
    def stage(self) -> int:
        return TIMED if self.kind == "latency" else 0

    @property
    def num_frames(self) -> int:
        """About how many frames' work it is, for bars and estimates."""
        return 3_300 * self.count
