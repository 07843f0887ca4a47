"""That a device took a version back is seen in the fleet, whatever it says afterwards."""

from __future__ import annotations

from typing import Any

import pytest

from littoral.cloud.dashboard import _reverted
from littoral.cloud.store import EnrolledDevice, Store
from littoral.wire.messages import Receipt

BACK = Receipt(version=3, outcome="reverted", code="watch", reason="the mean entropy is 2 nats")
THERE = Receipt(version=4, outcome="installed", code="", reason="")


def test_the_newest_revert_of_each_device_is_found_by_an_index(store: Store, device: EnrolledDevice) -> None:
    assert store.last_reverts() == {}
    store.record(device.id, 1, [(1, THERE)], now=5.0).result()
    assert store.last_reverts() == {}
    store.record(device.id, 1, [(2, BACK), (3, THERE)], now=6.0).result()
    told = store.last_reverts()[device.id]
    assert (told["version"], told["reason"], told["received_at"]) == (3, BACK.reason, 6.0)
    assert store.last_receipts()[device.id]["version"] == 4
    plan = store.read(
        "EXPLAIN QUERY PLAN SELECT max(r.id) FROM receipts r WHERE r.device_id = 'd' AND r.outcome = 'reverted'"
    )
    assert any("receipts_reverted" in row["detail"] for row in plan)


SAID: dict[str, Any] = {"version": 3, "outcome": "reverted", "code": "watch", "reason": "<so>", "received_at": 40.0}


@pytest.mark.parametrize(
    ("revert", "last", "shown"),
    [
        (None, None, ""),
        (SAID, SAID, ""),
        (SAID, {**SAID, "version": 4}, "version 3 reverted 1 min ago: &lt;so&gt;"),
    ],
    ids=["none", "shown-already", "said-more-since"],
)
def test_the_dashboard_keeps_it(revert: dict[str, Any] | None, last: dict[str, Any] | None, shown: str) -> None:
    said = _reverted({"last_revert": revert, "last_receipt": last}, 100.0)
    assert (shown in said) if shown else said == ""
