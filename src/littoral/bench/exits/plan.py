"""Which units the exits table has, in the order in which they are worth having."""

from __future__ import annotations

from littoral.bench.exits.material import DIGITS, LARGE, SMALL
from littoral.bench.exits.unit import HARD, ExitUnit

SEEDS = (0, 1, 2)
TUNING_SEED = 100
"""Users of this seed chose every setting, and are in no table."""
NUM_USERS, BLOCK = 20, 5
TRAINED_USERS = 3
LABELS_OPTIONS = {"cloud": LARGE, "own": [0.0, 0.05], "upload": 0.1, "stated": 0.05}
"""The cloud's network; shares of frames that the user labels, and that go up; the share whose gain is quoted."""
DRIFTS = (
    ("mild", True, True), ("noise", True, True), ("noise", True, False), ("abrupt", True, True),
    ("abrupt", True, False), ("hard", True, True), ("hard", True, False), ("hard", False, True), ("hard", False, False),
)  # fmt: skip
"""The stream, with the cloud, with the re-check."""
_FITS = ("logits", "onehot", "lda", "sgd")


def full_plan() -> list[ExitUnit]:
    """Both networks: 20 users of four classes of each of three seeds, and some of other kinds."""
    units: list[ExitUnit] = []
    for network in (LARGE, SMALL):
        units += [
            ExitUnit(kind="users", network=network, seed=seed, first=first, count=BLOCK)
            for seed in SEEDS
            for first in range(0, NUM_USERS, BLOCK)
        ]
    units += [ExitUnit(kind="strangers", network=network, count=2 * BLOCK) for network in (LARGE, SMALL)]
    units += [ExitUnit(kind="cost", network=network) for network in (LARGE, SMALL)]
    units += [ExitUnit(kind="drift", network=SMALL, users="all", options=_drift_options(*drift)) for drift in DRIFTS]
    units += [ExitUnit(kind="risk", network=network, count=5) for network in (SMALL, LARGE)]
    units += [ExitUnit(kind="fits", network=SMALL, count=BLOCK, options={"fits": list(_FITS)})]
    units += [
        ExitUnit(kind="users", network=SMALL, count=BLOCK, users="k4", options={"labels": [0.01, 0.05]}),
        *(ExitUnit(kind="users", network=SMALL, count=5, users=users) for users in ("k2", "k6", "all")),
        ExitUnit(kind="users", network=SMALL, stems="pooled", count=BLOCK),
    ]
    units += [ExitUnit(kind="trained", network=network, count=TRAINED_USERS) for network in (SMALL, LARGE)]
    units += [
        ExitUnit(kind="segmentation", network="cgnet"),
        ExitUnit(
            kind="segmentation",
            network="espnet",
            options={"cuts": ["level3_2"], "width": 96, "context": 128, "epochs": 40},
        ),
        ExitUnit(kind="omniglot", network="small_cnn", users="writers"),
    ]
    units += [ExitUnit(kind="labels", network=SMALL, count=NUM_USERS, options=LABELS_OPTIONS)]
    units += [
        ExitUnit(kind="latency", network=network, seed=seed, first=first, count=BLOCK, options={"frames": 150})
        for network in (LARGE, SMALL)
        for seed in SEEDS
        for first in range(0, NUM_USERS, BLOCK)
    ]
    return units


def _drift_options(stream: str, cloud: bool, recheck: bool) -> dict[str, object]:
    """The hard stream goes without saying. Where exits are sure and wrong thresholds are those of the build: what a
    device would keep that was calibrated once."""
    named: dict[str, object] = {} if stream == HARD else {"stream": stream}
    return {**named, **({"shipped": True} if stream in ("noise", "abrupt") else {}), "cloud": cloud, "recheck": recheck}


def quick_plan() -> list[ExitUnit]:
    """Everything once, of digits."""
    few = {"users": "quick", "network": DIGITS}
    return [
        ExitUnit(kind="users", count=2, options={"labels": [0.0, 1.0], "stops": [60, 150]}, **few),  # type: ignore[arg-type]
        ExitUnit(kind="users", stems="pooled", options={"labels": [0.0], "stops": [150]}, **few),  # type: ignore[arg-type]
        ExitUnit(kind="strangers", **few),  # type: ignore[arg-type]
        ExitUnit(kind="cost", **few),  # type: ignore[arg-type]
        *(ExitUnit(kind="drift", options={"stream": "quick", "recheck": on}, **few) for on in (True, False)),  # type: ignore[arg-type]
        ExitUnit(kind="risk", options={"calibrations": 20, "frames": 100}, **few),  # type: ignore[arg-type]
        ExitUnit(kind="fits", options={"fits": ["onehot", "lda"]}, **few),  # type: ignore[arg-type]
        ExitUnit(kind="trained", options={"epochs": 1}, **few),  # type: ignore[arg-type]
        ExitUnit(kind="latency", options={"frames": 30}, **few),  # type: ignore[arg-type]
    ]
