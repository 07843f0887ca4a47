"""A build says which exits and splits cost more than they can save, and nothing of those that pay."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from littoral.bundle import Bundle, ExitSpec, Manifest, SplitSpec
from littoral.train.worth import what_does_not_pay

SEGMENTS = (4_000_000, 6_000_000)


@pytest.fixture(scope="module")
def plain(tiny_bundle: Path) -> Manifest:
    return replace(Bundle.open(tiny_bundle).manifest, source_metrics={"accuracy": 0.9})


def with_exit(manifest: Manifest, *, macs: int, share: float, is_deep: bool = False) -> Manifest:
    spec = ExitSpec(
        segment=0, stem_file="x", temperature=1.0, threshold=0.5, macs=macs, num_features=8, is_deep=is_deep
    )
    return replace(manifest, exits=(spec,), source_metrics={**manifest.source_metrics, "exits.compute_share": share})


def with_split(manifest: Manifest, *, macs: float, accuracies: list[float], segment: int | None = None) -> Manifest:
    spec = SplitSpec(encoder_file="e", codec_file="c", segment=segment, model=manifest.student)
    measured = {f"split0.level{level}.accuracy": value for level, value in enumerate(accuracies)}
    return replace(
        manifest, splits=(spec,), source_metrics={**manifest.source_metrics, "split0.encoder_macs": macs, **measured}
    )


def test_what_pays_is_not_warned_of(plain: Manifest) -> None:
    assert what_does_not_pay(plain, SEGMENTS) == []
    exits = with_exit(plain, macs=6_000_000, share=0.99)
    assert what_does_not_pay(with_split(exits, macs=9e6, accuracies=[0.7, 0.9]), SEGMENTS) == []


def test_an_exit_that_is_dearer_than_what_it_saves_is_named_with_the_ways_out(plain: Manifest) -> None:
    (line,) = what_does_not_pay(with_exit(plain, macs=6_000_001, share=0.9), SEGMENTS)
    assert line.startswith("exit 0 takes 6 million MACs, more than the 6 million MACs of the network after it")
    assert "build with --exit-stem pooled, fewer features or fewer exits" in line
    assert what_does_not_pay(with_exit(plain, macs=6_000_001, share=0.9, is_deep=True), SEGMENTS) == []


def test_exits_that_cost_more_than_the_network_are_warned_of(plain: Manifest) -> None:
    (line,) = what_does_not_pay(with_exit(plain, macs=1, share=2.46), SEGMENTS)
    assert "takes 2.46 times the work of the network without them; build with --exit-stem pooled" in line


@pytest.mark.parametrize(("segment", "macs"), [(None, 10e6), (0, 6e6)], ids=["frames", "after-a-segment"])
def test_a_split_that_takes_more_than_to_answer_is_warned_of(plain: Manifest, segment: int | None, macs: float) -> None:
    manifest = with_split(plain, macs=macs, accuracies=[0.95], segment=segment)
    (line,) = what_does_not_pay(manifest, SEGMENTS)
    assert line.startswith("to offload by split 0 a device does 10 million MACs, to answer by itself 10 million MACs")


def test_a_split_that_is_worse_than_the_device_at_every_level_is_warned_of(plain: Manifest) -> None:
    (line,) = what_does_not_pay(with_split(plain, macs=1e6, accuracies=[0.5, 0.875]), SEGMENTS)
    assert line.startswith(
        "at every level split 0 is worse than the device alone, whose accuracy is 0.9: at best 0.875"
    )
    assert what_does_not_pay(with_split(plain, macs=1e6, accuracies=[0.5, 0.875], segment=0), SEGMENTS) == []
    unknown = with_split(replace(plain, source_metrics={}), macs=1e6, accuracies=[0.5])
    assert what_does_not_pay(unknown, SEGMENTS) == [], "without the source's accuracy there is nothing to compare"
