"""A bounded memory in which no device, no domain and no class can crowd out the others.

The room is shared out in three steps: among the devices, then among the domains of a device, then among the classes of
a domain. Each (device, domain, label) is a cell with its own reservoir: within a cell everything that came is kept with
equal chance; when the whole is full, the largest device's largest domain's largest cell gives way. Devices come first
because a domain and a label are only what a device says, while a device costs an enrolment. The same items in the same
order with the same seed give the same memory, whatever the items are: so who keeps numbers of frames decides as who
keeps frames.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from littoral.core.recall import NO_DOMAIN

T = TypeVar("T", bound=Hashable)


class Cell(NamedTuple):
    """What is balanced: the items of one device in one domain that it gave one answer."""

    device: str
    domain: int
    label: int


_Group = tuple[object, ...]
"""The first 0 to 3 parts of a cell: everything, a device, a device's domain, a cell."""


class ReplayBuffer(Generic[T]):
    """A reservoir balanced by device, domain and class.

    Args:
        capacity: The most items that are kept.
        seed: Of the draws that decide what gives way.
    Raises:
        ValueError: the capacity is not positive.
    """

    def __init__(self, *, capacity: int, seed: int) -> None:
        if capacity < 1:
            raise ValueError(f"the capacity of a replay buffer is at least 1 frame, got {capacity}")
        self.capacity = capacity
        self._rng = np.random.default_rng(seed)
        self._cells: dict[Cell, list[T]] = {}
        """Those that hold something."""
        self._seen: dict[Cell, int] = {}
        """What each of them was offered since it last held nothing."""
        self._held: dict[_Group, int] = {(): 0}
        self._parts: dict[_Group, dict[_Group, None]] = {(): {}}
        """Of each group that holds something its parts that do, oldest first."""
        self._missing: set[T] = set()

    def __len__(self) -> int:
        return self._held[()]

    def counts(self) -> dict[Cell, int]:
        """How many items of each cell are kept."""
        return {cell: len(items) for cell, items in self._cells.items()}

    def items(self) -> list[T]:
        """All that is kept."""
        return [item for items in self._cells.values() for item in items]

    def kept(self, *, domain: int | None = None, without: Collection[str] = ()) -> int:
        """How many items `sample` can draw from."""
        return sum(len(items) for items in self._chosen(domain, without))

    def by_device(self, *, domain: int | None = None) -> dict[str, int]:
        """How many items of each device are kept, of this domain or of all."""
        out: dict[str, int] = {}
        for cell, items in self._cells.items():
            if (domain is None or cell.domain == domain) and (count := len(self._there(items))):
                out[cell.device] = out.get(cell.device, 0) + count
        return out

    def add(self, item: T, *, device: str, label: int, domain: int = NO_DOMAIN) -> list[T]:
        """Offer an item; what gives way comes back: nothing, another one, or this one.

        Args:
            label: The class by which to balance (the device's own answer; no ground truth is known).
            domain: The domain of the scene that it is from.
        """
        cell = Cell(device, domain, label)
        if len(self) < self.capacity:
            self._put(cell, item)
            return []
        victim = self._gives_way(cell)
        if victim != cell:
            loser = self._take(victim, int(self._rng.integers(len(self._cells[victim]))))
            self._put(cell, item)
            return [loser]
        items = self._cells[cell]
        self._seen[cell] += 1
        if self._rng.random() >= len(items) / self._seen[cell]:
            return [item]
        position = int(self._rng.integers(len(items)))
        loser, items[position] = items[position], item
        self._missing.discard(loser)
        return [loser]

    def forget(self, device: str) -> list[T]:
        """Give up all items of a device, which come back; what comes of it later is kept as before."""
        cells = [cell for cell in self._cells if cell.device == device]
        return [self._take(cell, -1) for cell in cells for _ in range(len(self._cells[cell]))]

    def miss(self, items: Collection[T]) -> None:
        """These items cannot be drawn any more. They keep their places: what gives way is the same with and without."""
        self._missing |= set(items) & set(self.items())

    def sample(
        self, count: int, rng: np.random.Generator, *, domain: int | None = None, without: Collection[str] = ()
    ) -> list[T]:
        """Draw items uniformly, none twice.

        Args:
            domain: Only of this domain; None for all.
            without: Devices whose items are passed over.
        Raises:
            ValueError: fewer than ``count`` items are kept.
        """
        everything = [item for items in self._chosen(domain, without) for item in items]
        if count > len(everything):
            raise ValueError(f"{count} frames were asked of a replay buffer that keeps {len(everything)}")
        return [everything[i] for i in rng.choice(len(everything), size=count, replace=False)]

    def _there(self, items: list[T]) -> list[T]:
        return [item for item in items if item not in self._missing] if self._missing else items

    def _chosen(self, domain: int | None, without: Collection[str]) -> list[list[T]]:
        return [
            self._there(items)
            for cell, items in self._cells.items()
            if (domain is None or cell.domain == domain) and cell.device not in without
        ]

    def _put(self, cell: Cell, item: T) -> None:
        self._cells.setdefault(cell, []).append(item)
        self._seen[cell] = self._seen.get(cell, 0) + 1
        for length in range(len(cell) + 1):
            group: _Group = tuple(cell[:length])
            if group not in self._held:
                self._held[group], self._parts[group] = 0, {}
                self._parts[group[:-1]][group] = None
            self._held[group] += 1

    def _take(self, cell: Cell, position: int) -> T:
        item = self._cells[cell].pop(position)
        self._missing.discard(item)
        if not self._cells[cell]:
            del self._cells[cell], self._seen[cell]
        for length in reversed(range(len(cell) + 1)):
            group: _Group = tuple(cell[:length])
            self._held[group] -= 1
            if group and not self._held[group]:
                del self._held[group], self._parts[group], self._parts[group[:-1]][group]
        return item

    def _largest(self, group: _Group) -> _Group:
        return max(self._parts[group], key=lambda part: self._held[part])

    def _gives_way(self, cell: Cell) -> Cell:
        """The cell that loses an item to this one; itself where its device, its domain and it are among the largest."""
        for length in range(len(cell)):
            largest = self._largest(tuple(cell[:length]))
            if self._held.get(tuple(cell[: length + 1]), 0) < self._held[largest]:
                while len(largest) < len(cell):
                    largest = self._largest(largest)
                return Cell(*largest)  # type: ignore[arg-type]
        return cell
