"""Which kept frames are of which world? A device comes back to worlds in which it was before.

What calibrates in one world lies on a *page*. When the world changes its page is put aside under the world's
fingerprint (`littoral.core.recall`), and an empty one is used. If a world with nearly that fingerprint comes, the page
may be taken up again: whoever does so checks it on new frames first (`littoral.core.exit_control.speaks_against`), for
fingerprints that are alike do not say that exits are wrong as seldom.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from littoral.core.arrays import FloatArray

Near = Callable[[FloatArray, FloatArray], bool]
"""Whether two fingerprints may be of one world."""


@dataclass
class KnownWorlds:
    """The pages of a device.

    Attributes:
        num_pages: With one, nothing is kept of a world that was left.
        page: In use.
    """

    num_pages: int
    page: int = 0
    _aside: list[tuple[int, FloatArray]] = field(default_factory=list)
    """The world that was left last is the last."""

    def __post_init__(self) -> None:
        if self.num_pages < 1:
            raise ValueError(f"a device needs a page for the world that it is in, got {self.num_pages}")

    def leave(self, fingerprint: FloatArray | None) -> int:
        """The world at hand ends.

        Args:
            fingerprint: Of that world; None where nothing is worth keeping of it.
        Returns:
            The page for what comes, which is to be emptied; with none unused, that of the world left longest ago.
        """
        if fingerprint is not None and self.num_pages > 1:
            self._aside.append((self.page, fingerprint))
            used = {page for page, _ in self._aside}
            unused = (page for page in range(self.num_pages) if page not in used)
            self.page = next(unused, -1)
            if self.page < 0:
                self.page, _ = self._aside.pop(0)
        return self.page

    def near(self, fingerprint: FloatArray, is_near: Near) -> tuple[int, ...]:
        """Pages of worlds like this one, the one left last first."""
        return tuple(page for page, of in reversed(self._aside) if is_near(of, fingerprint))

    @property
    def left_last(self) -> int | None:
        """The page that was put aside last."""
        return self._aside[-1][0] if self._aside else None

    def take_up(self, page: int) -> None:
        """Use a page that was put aside; the one in use so far is free.

        Raises:
            ValueError: it was not put aside.
        """
        if page not in {each for each, _ in self._aside}:
            raise ValueError(f"page {page} was not put aside; take up one of `near`")
        self._aside = [each for each in self._aside if each[0] != page]
        self.page = page
