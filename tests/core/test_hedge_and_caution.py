"""Which of two answers counts, and how careful a device is after a sign of drift."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from littoral.core.caution import Caution, CautionConfig, Stance
from littoral.core.exits import OFF
from littoral.core.hedge import hedge_after_ms, settle


@given(st.floats(0, 500), st.floats(0, 500), st.floats(0, 500))
def test_a_hedge_never_makes_the_device_late(patience: float, remaining: float, rest: float) -> None:
    if rest > remaining:
        with pytest.raises(ValueError, match="answer with what is there"):
            hedge_after_ms(patience_ms=patience, remaining_ms=remaining, rest_ms=rest)
    else:
        after = hedge_after_ms(patience_ms=patience, remaining_ms=remaining, rest_ms=rest)
        assert 0 <= after <= patience
        assert after + rest <= remaining + 1e-9


@pytest.mark.parametrize(
    ("cloud", "device", "in_hand", "source", "at", "degraded", "label"),
    [
        pytest.param(40, 70, False, "cloud", 40, False, False, id="cloud first"),
        pytest.param(80, 70, False, "device", 70, True, True, id="device first, the cloud is a label"),
        pytest.param(None, 70, False, "device", 70, True, False, id="cloud never"),
        pytest.param(40, None, True, "cloud", 40, False, False, id="cloud before giving up"),
        pytest.param(95, None, True, "in-hand", 90, True, True, id="cloud after giving up"),
        pytest.param(None, None, True, "in-hand", 90, True, False, id="cloud never, an answer in hand"),
    ],
)
def test_the_first_answer_counts_and_the_other_is_a_label(
    cloud: float | None, device: float | None, in_hand: bool, source: str, at: float, degraded: bool, label: bool
) -> None:
    settled = settle(cloud_ms=cloud, device_ms=device, in_hand=in_hand, give_up_ms=90, deadline_ms=100)
    assert (settled.source, settled.at_ms, settled.degraded, settled.cloud_is_label) == (source, at, degraded, label)
    assert settled.in_time


def test_no_answer_at_all_is_an_error() -> None:
    with pytest.raises(ValueError, match="no answer"):
        settle(cloud_ms=None, device_ms=None, in_hand=False, give_up_ms=90, deadline_ms=100)


def test_after_a_sign_of_drift_thresholds_are_tight_then_fade_then_are_as_before() -> None:
    caution = Caution(CautionConfig(hold_frames=10, fade_frames=10, tighten=0.5))
    assert caution.frame() == Stance()
    caution.drifted()
    stances = [caution.frame() for _ in range(25)]
    assert stances[0].thresholds((0.9, OFF)) == (pytest.approx(0.95), OFF)
    assert [stance.level for stance in stances[9:12]] == pytest.approx([1.0, 1.0, 0.9])
    levels = [stance.level for stance in stances]
    assert levels == sorted(levels, reverse=True)
    assert levels[-1] == 0
    assert stances[-1].thresholds((0.9, OFF)) == (0.9, OFF)


def test_a_certified_world_is_calm_at_once() -> None:
    caution = Caution()
    caution.drifted()
    caution.settled()
    assert caution.frame() == Stance()


def extra_budget(config: CautionConfig, frames: int) -> float:
    caution, extra = Caution(config), 0.0
    for _ in range(frames):
        caution.drifted()
        extra += caution.frame().budget_factor - 1
    return extra


def test_signs_that_come_all_the_time_do_not_keep_the_budget_open_and_would_without_the_bound() -> None:
    assert extra_budget(CautionConfig(), 10_000) <= 800 * 11
    assert extra_budget(CautionConfig(extra_frames_per_1000=1e9), 10_000) == pytest.approx(20_000)
