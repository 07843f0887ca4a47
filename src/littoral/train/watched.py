"""A line of progress for work that takes long, and none for work that does not."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

_FIRST_SECONDS, _SECONDS_BETWEEN_LINES = 2.0, 30.0
Item = TypeVar("Item")


def watched(
    items: Sequence[Item], what: str, say: Callable[[str], None], *, clock: Callable[[], float] = time.monotonic
) -> Iterator[Item]:
    """The items one after another; once they took two seconds, and then every half minute, how far it is is said.

    Args:
        what: Begins the line.
        clock: Seconds.
    """
    began = clock()
    due = began + _FIRST_SECONDS
    for done, item in enumerate(items):
        now = clock()
        if done and now >= due:
            minutes = (now - began) / done * (len(items) - done) / 60
            say(f"{what}: {100 * done / len(items):.0f} % done, {minutes:.1f} min left")
            due = now + _SECONDS_BETWEEN_LINES
        yield item
