"""What a frame is run for beside its answer, and which exits are looked at for it."""

from __future__ import annotations

import numpy as np
import pytest

from littoral.core.exit_control import Purpose
from littoral.core.exit_policy import ExitPolicy, ServedExit
from littoral.core.exits import OFF
from littoral.core.heads import LinearHead
from littoral.edge.exit_parts import PlacedExit
from littoral.edge.past_exits import Wanted, at_the_end

HEAD = LinearHead(weights_KD=np.eye(2, dtype=np.float32), bias_K=np.zeros(2, np.float32))
ON, SHUT = ServedExit(head=HEAD, threshold=0.5), ServedExit(head=HEAD, threshold=OFF)
OWN = ServedExit(head=HEAD, personal=True)
EARLY = PlacedExit(after=1, stem=None, is_deep=False, columns=slice(0, 2))
DEEP = EARLY._replace(is_deep=True)


def wanted(purpose: Purpose, *, fits: bool = True, checking: bool = False, calibrates: bool = False) -> Wanted:
    return Wanted.of(purpose, fits=fits, checking=checking, calibrates=calibrates)


def test_a_frame_nobody_picked_looks_at_exits_that_it_may_leave_at() -> None:
    plain = wanted(Purpose.NOTHING)
    assert not plain.runs_on
    assert plain.looks_at(EARLY, ON)
    assert not plain.looks_at(EARLY, SHUT)
    assert plain.looks_at(DEEP, SHUT)


def test_while_exits_are_checked_only_picked_frames_look_at_them() -> None:
    plain, ring = wanted(Purpose.NOTHING, checking=True), wanted(Purpose.RING, checking=True)
    assert plain.runs_on
    assert ring.runs_on
    assert not plain.looks_at(EARLY, ON)
    assert ring.looks_at(EARLY, SHUT)


def test_a_frame_that_is_run_again_before_it_certifies_makes_no_features_now() -> None:
    again = wanted(Purpose.RING, checking=True, calibrates=True)
    assert again.later
    assert not again.looks_at(EARLY, ON)
    assert again.looks_at(DEEP, ON)
    serving = wanted(Purpose.RING, calibrates=True)
    assert not serving.later
    assert serving.looks_at(EARLY, SHUT)


@pytest.mark.parametrize("purpose", list(Purpose))
def test_under_another_affine_version_no_exit_is_looked_at_and_nothing_is_picked(purpose: Purpose) -> None:
    other = wanted(purpose, fits=False, calibrates=True, checking=True)
    assert other.runs_on
    assert not other.features
    assert not other.later
    assert not other.looks_at(EARLY, ON)
    assert not other.looks_at(DEEP, ON)


def test_the_deep_exit_answers_in_the_networks_place_unless_the_networks_scores_are_not_finite() -> None:
    policy = ExitPolicy(affine_version=0, exits=(SHUT, OWN), has_deep=True, checking=False)
    scores, features = np.array([2.0, 0.0], np.float32), np.array([0.0, 3.0], np.float32)
    found = at_the_end(policy, scores, features, num_exits=2)
    assert (found.label, found.exit_index) == (1, 1)
    assert found.network_entropy == at_the_end(policy, scores, None, num_exits=2).entropy_nats
    assert at_the_end(policy, scores, None, num_exits=2).exit_index == 2
    broken = at_the_end(policy, np.array([np.nan, 0.0], np.float32), features, num_exits=2)
    assert broken.exit_index == 2
    assert broken.entropy_nats != broken.entropy_nats
    with np.errstate(invalid="ignore"):
        silent = at_the_end(policy, scores, np.array([np.inf, 0.0], np.float32), num_exits=2)
    assert (silent.label, silent.exit_index) == (0, 2)
