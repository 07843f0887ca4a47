"""The link over the wire that ships: what a device waits for is at least the road that is emulated."""

from __future__ import annotations

from pathlib import Path

import pytest

from littoral.bench.split.link import LinkSpec
from littoral.bench.split.link_whole import whole_point
from littoral.bundle import Bundle


def test_a_device_waits_for_the_emulated_road_and_the_cloud_answers(
    split_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1,localhost")
    frames, _ = Bundle.open(split_bundle).probe
    spec = LinkSpec(bits_per_second=1e7, round_trip_ms=30)
    point = whole_point(split_bundle, frames[:2], level=0, rounds=2, spec=spec)
    assert point["road_ms"] >= 30 - 2
    assert point["latency_ms"] >= point["road_ms"]
    assert point["bytes"] > 12
    assert not (split_bundle / "bundle.sig").exists(), "the cloud signs a copy"
