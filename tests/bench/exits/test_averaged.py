"""A document of hundreds of users says of how many a mean is, and does not hide the worst."""

from __future__ import annotations

from littoral.bench.exits.averaged import averaged, by_user

SHARED = {"kind": "users", "network": "resnet20", "stems": "trained", "users": "k4", "seed": 0, "style": "blur"}


def row(user: int, method: str, labels: float, frames: int, right: float, *, hard: bool = False) -> dict[str, object]:
    certified = {"cert_x_right": right, "cert_d05_right": right - 1}
    return {**SHARED, "user": user, "hard": hard, "method": method, "labels": labels, "frames": frames,
            "shipped_right": 80.0, "right_50": right, **certified}  # fmt: skip


ROWS = [
    row(0, "generic", 0.0, 0, 70.0),
    row(0, "personal", 1.0, 50, 75.0),
    row(0, "personal", 1.0, 1000, 90.0),
    row(1, "generic", 0.0, 0, 60.0),
    row(1, "personal", 1.0, 50, 58.0),
    row(1, "personal", 1.0, 1000, 78.0),
    row(2, "personal", 1.0, 1000, 50.0, hard=True),
]


def test_means_are_of_what_is_alike_and_say_of_how_many() -> None:
    means = {(r["method"], r["frames"], r["hard"]): r for r in averaged(ROWS)}
    assert len(means) == 4
    late = means["personal", 1000, False]
    assert (late["num_users"], late["right_50"], late["shipped_right"]) == (2, 84.0, 80.0)
    assert means["personal", 1000, True]["num_users"] == 1
    assert "user" not in late


def test_the_worst_user_stays_in_sight_by_the_promise_that_was_kept_for_them() -> None:
    means = {(r["method"], r["frames"], r["hard"]): r["lowest_points"] for r in averaged(ROWS)}
    assert means["personal", 1000, False] == -2.0
    assert means["generic", 0, False] == -21.0, "without labels it is the promise of agreement"


def test_rows_of_other_kinds_stay_as_they_are() -> None:
    cost = {"kind": "cost", "network": "resnet20", "full_over_ours": 3}
    assert averaged([cost]) == [cost]


def test_each_user_is_measured_against_their_own_generic_exits_after_the_most_frames() -> None:
    points = {r["user"]: r.get("points_labels") for r in by_user(ROWS[:6])}
    assert points == {0: 20.0, 1: 18.0}
