"""What the dashboard says of the versions that online devices run: those that are near the source need none."""

from __future__ import annotations

import pytest

from littoral.cloud.dashboard import _by_need, _what_runs

NEWEST, OLDER, NEAR = (5, False), (3, False), (0, True)
AT_HOME = "; 1 of {} online devices are near the source and need none"


@pytest.mark.parametrize(
    ("devices", "said"),
    [
        ([], ""),
        ([NEWEST, NEWEST], "; every online device runs its domain's newest"),
        ([NEWEST, OLDER, OLDER], "; 1 of 3 online devices run their domain's newest"),
        ([NEAR, NEAR], "; 2 of 2 online devices are near the source and need none"),
        (
            [NEWEST, NEAR],
            "; every other online device runs its domain's newest" + AT_HOME.format(2),
        ),
        (
            [NEWEST, OLDER, NEAR],
            "; 1 of 2 other online devices run their domain's newest" + AT_HOME.format(3),
        ),
    ],
)
def test_a_device_that_is_near_the_source_is_not_behind(devices: list[tuple[int, bool]], said: str) -> None:
    shown = [
        {"online": True, "domain": 1, "status": {"version": version, "near_source": near}} for version, near in devices
    ]
    assert _what_runs({"domains": [{"domain": 1, "shipped_version": 5}], "devices": shown}) == said


def test_devices_that_are_away_stand_first_and_those_that_were_shut_out_last() -> None:
    shown = [
        {"name": name, "id": name, "online": online, "revoked_at": revoked}
        for name, online, revoked in (("a", True, None), ("b", False, 9.0), ("d", False, None), ("c", False, None))
    ]
    assert [device["name"] for device in sorted(shown, key=_by_need)] == ["c", "d", "a", "b"]
