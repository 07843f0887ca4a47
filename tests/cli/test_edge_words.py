"""The line of counters that `littoral edge` ends with."""

from __future__ import annotations

import argparse

import pytest

from littoral.cli.edge_words import status_in_words
from littoral.edge.counters import DeviceStatus

PLAIN = argparse.Namespace(offload=None, picture=None, route=False, exits=False)
QUIET = DeviceStatus(
    version=3,
    cloud="away",
    link_error=None,
    storage_error=None,
    frames=10,
    selected=0,
    accepted=0,
    acked=0,
    queued=0,
    dropped=0,
    versions_installed=2,
)


@pytest.mark.parametrize(
    ("reverted", "rejected", "counts"),
    [(1, 0, ", 1 version reverted;"), (2, 1, ", 2 versions reverted, 1 version rejected;")],
)
def test_versions_that_do_not_serve_are_counted_and_the_last_ones_reason_told(
    reverted: int, rejected: int, counts: str
) -> None:
    why = "version 17 reverted: watch: the mean entropy over 256 frames is 2.000 nats"
    status = QUIET._replace(versions_reverted=reverted, versions_rejected=rejected, last_refusal=why)
    assert f"{counts} {why}" in status_in_words(status, PLAIN)


def test_where_all_versions_serve_nothing_is_said_of_it() -> None:
    told = status_in_words(QUIET, PLAIN)
    assert told.endswith("0 bytes up, 0 down")
    assert "version 3, cloud away" in told
