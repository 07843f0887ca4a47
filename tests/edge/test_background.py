"""What is left is done once, by whoever is the last."""

from __future__ import annotations

import itertools

import pytest

from littoral.edge.background import LastOne


@pytest.mark.parametrize("order", list(itertools.permutations(["thread", "link", "link"])))
def test_it_is_done_once_and_not_before_all_are(order: tuple[str, ...]) -> None:
    calls: list[int] = []
    ending = LastOne({"thread", "link"}, lambda: calls.append(1))
    said: set[str] = set()
    for name in order:
        ending.done(name)
        said.add(name)
        assert len(calls) == (said == {"thread", "link"})
