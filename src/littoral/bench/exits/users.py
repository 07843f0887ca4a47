"""Users made of CIFAR-10: a few classes, unevenly shared, seen through one camera. Seeded, disjoint, counted.

Every frame of every user is a *test* image of CIFAR-10: the networks were trained on the others. A user's three parts
(personal, calibration, test) share no image. Where a class is so common with a user that its images do not suffice, a
part draws some of them twice; how many is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from littoral.bench.streams.corruptions import corrupt_at
from littoral.core.arrays import Frame

Labels = NDArray[np.int64]
PARTS = ("personal", "calibration", "test")
LOWEST_SHARE, HIGHEST_SHARE = 0.08, 0.38
EVEN_PRIOR, UNEVEN_PRIOR = 5.0, 0.3
"""Of the Dirichlet distribution: of a user's few classes, and of one who has them all."""
_STYLE_SEED = 77

# -- styles ------------------------------------------------------------------------------------------------------------


def _gains(red: float, green: float, blue: float) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    return lambda x: x * np.array([red, green, blue], dtype=np.float32)


def _gamma(exponent: float) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    return lambda x: x ** np.float32(exponent)


CAMERAS: Mapping[str, Callable[[NDArray[np.float32]], NDArray[np.float32]]] = {
    "none": lambda x: x,
    "colour-mild": _gains(1.3, 1.0, 0.6),
    "colour-hard": _gains(2.2, 0.8, 0.1),
    "dark-mild": _gamma(2.0),
    "dark-hard": _gamma(4.0),
}
"""On the scale 0..1. Not among the corruptions of the streams."""
CORRUPTIONS: Mapping[str, tuple[str, int]] = {
    "contrast-mild": ("contrast", 2),
    "contrast-hard": ("contrast", 4),
    "noise-hard": ("gaussian_noise", 2),
    "blur-mild": ("defocus_blur", 2),
    "blur-hard": ("defocus_blur", 5),
    "jpeg-mild": ("jpeg_compression", 1),
}
"""Of the streams, with a severity."""
MILD = ("none", "contrast-mild", "blur-mild", "jpeg-mild", "colour-mild", "dark-mild")
HARD = ("noise-hard", "blur-hard", "contrast-hard", "dark-hard", "colour-hard")
"""ResNet-20 is right on 91.5 % as they are, on 82 to 92 % of the mild ones, and on 27 to 76 % of the hard ones."""


def styled(frames: Frame, places: Sequence[int], style: str) -> Frame:
    """Frames uint8 ``(N, 32, 32, 3)`` as one user's camera gives them.

    Args:
        places: In the data set: a frame looks the same whatever part it is drawn into.
    Raises:
        ValueError: an unknown style.
    """
    if style in CORRUPTIONS:
        name, severity = CORRUPTIONS[style]
        return corrupt_at(frames, places, name, severity=severity, seed=_STYLE_SEED)
    if style not in CAMERAS:
        raise ValueError(f"no style is called {style!r}; there are {', '.join((*CAMERAS, *CORRUPTIONS))}")
    light: NDArray[np.float32] = CAMERAS[style](frames.astype(np.float32) / np.float32(255))
    seen: Frame = np.rint(light.clip(0, 1) * 255).astype(np.uint8)
    return seen


# -- users -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class UserPlan:
    """How users of a kind are drawn.

    Attributes:
        num_classes: Of each user; ``of`` are there.
        personal, calibration, test: Frames of each part.
        unseen: Frames of classes that the user never had, which belong to no part.
    """

    num_classes: int
    of: int = 10
    personal: int = 1_000
    calibration: int = 500
    test: int = 1_500
    unseen: int = 300

    def sizes(self) -> dict[str, int]:
        """Frames by part."""
        return {"personal": self.personal, "calibration": self.calibration, "test": self.test}


KINDS: Mapping[str, UserPlan] = {
    "k4": UserPlan(num_classes=4),
    "k2": UserPlan(num_classes=2),
    "k6": UserPlan(num_classes=6),
    "all": UserPlan(num_classes=10, unseen=0),
}


@dataclass(frozen=True, kw_only=True)
class User:
    """One user.

    Attributes:
        shares: Of the classes, ``of`` of them; 0 for those that the user never shows.
        places: By part the places of the frames in the data set, in the order in which they come.
        unseen: Places of frames of classes that the user never showed.
        repeats: By part how many frames are there for a second time or more.
    """

    seed: int
    index: int
    style: str
    shares: tuple[float, ...]
    places: Mapping[str, NDArray[np.int64]]
    unseen: NDArray[np.int64]
    repeats: Mapping[str, int]

    @property
    def hard(self) -> bool:
        """Whether the camera takes the shipped network much of its accuracy."""
        return self.style.endswith("-hard")

    @property
    def classes(self) -> tuple[int, ...]:
        return tuple(k for k, share in enumerate(self.shares) if share > 0)

    def facts(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "seed": self.seed,
            "user": self.index,
            "style": self.style,
            "hard": self.hard,
            "classes": list(self.classes),
            "shares": [round(share, 4) for share in self.shares],
            "repeats": dict(self.repeats),
        }


def style_of(index: int) -> str:
    """Of every five users three are mild and two are hard; all styles come in turn."""
    turn, place = divmod(index, 5)
    return MILD[(3 * turn + place) % len(MILD)] if place < 3 else HARD[(2 * turn + place - 3) % len(HARD)]


def draw_user(labels: Labels, plan: UserPlan, *, seed: int, index: int) -> User:
    """A user's classes, shares and frames.

    Args:
        labels: Of the data set's test images.
    Raises:
        ValueError: a class of the plan has no image.
    """
    rng = np.random.default_rng([seed, index, plan.num_classes])
    shares = np.zeros(plan.of)
    if plan.num_classes == plan.of:
        shares[:] = rng.dirichlet(np.full(plan.of, UNEVEN_PRIOR))
    else:
        chosen = rng.choice(plan.of, size=plan.num_classes, replace=False)
        shares[chosen] = _clipped(rng.dirichlet(np.full(plan.num_classes, EVEN_PRIOR)))
    sizes = plan.sizes()
    counts = {part: rng.multinomial(size, shares) for part, size in sizes.items()}
    drawn: dict[str, list[NDArray[np.int64]]] = {part: [] for part in PARTS}
    for k in np.flatnonzero(shares):
        images = rng.permutation(np.flatnonzero(labels == k)).astype(np.int64)
        if len(images) == 0:
            raise ValueError(f"there is no test image of class {k}")
        for part, found in zip(PARTS, _shared_out(images, [int(counts[p][k]) for p in PARTS], rng), strict=True):
            drawn[part].append(found)
    places = {part: rng.permutation(np.concatenate(found)) for part, found in drawn.items()}
    others = np.flatnonzero(np.isin(labels, np.flatnonzero(shares == 0)))
    unseen = rng.choice(others, size=min(plan.unseen, len(others)), replace=False) if len(others) else others
    return User(
        seed=seed,
        index=index,
        style=style_of(index),
        shares=tuple(shares.tolist()),
        places=places,
        unseen=unseen.astype(np.int64),
        repeats={part: len(found) - len(np.unique(found)) for part, found in places.items()},
    )


def _clipped(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Within the bounds where they can all be (they cannot with two classes), adding up to 1."""
    low, high = LOWEST_SHARE, max(HIGHEST_SHARE, 1.3 / len(shares))
    for _ in range(100):
        shares = shares.clip(low, high)
        shares = shares / shares.sum()
    return shares


def _shared_out(images: NDArray[np.int64], wanted: Sequence[int], rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """Disjoint parts of a class's images; where there are too few, in proportion, and some images twice."""
    total = sum(wanted)
    have = list(wanted) if total <= len(images) else [max(1, want * len(images) // total) for want in wanted]
    out, start = [], 0
    for want, there in zip(wanted, have, strict=True):
        own = images[start : start + there]
        start += there
        more = rng.choice(own, size=want - len(own)) if want > len(own) else own[:0]
        out.append(np.concatenate([own[:want], more]))
    return out
