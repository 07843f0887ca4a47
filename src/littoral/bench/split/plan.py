"""Which units the split table has, in the order in which they are worth having.

What is trained has the same teacher, the same frames and the same number of epochs, whatever the method: `Budget`. The
product, Entropic Student and what sends nothing have the long one; side by side, as units of kind ``compared``, all
methods have `SIDE_BY_SIDE_EPOCHS`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from littoral.bench.split.codecs import QUALITIES, QUICK_QUALITIES
from littoral.bench.split.local_only import SHAPES, size_for
from littoral.bench.split.material import POOLED, STUDENT, TEACHER
from littoral.bench.split.unit import Kind, SplitUnit, Training
from littoral.bench.streams.corruptions import COMMON

PRODUCT, SINGLE, PARITY, PARITY_FIRST_STAGE = "product", "product_single", "parity", "parity_first_stage"
LOCAL, DEVICE_ONLY, LOSSLESS = "local_only", "device_only", "cloud_lossless"
PIXELS, SEGMENT, FEATURES = "pixels", "layer2.1", "features"
INPUTS = (PIXELS, SEGMENT)
"""What the encoder takes: the frame, or what the device's own network gives after that module."""

_COMMON: dict[str, Any] = {
    "num_channels": 16,
    "out_channels": 64,
    "upsamplings": 0,
    "decoder_width": 128,
    "decoder_blocks": 1,
    "mixed": True,
}
NETWORKS: Mapping[str, dict[str, Any]] = {
    PIXELS: {**_COMMON, "patch": 0, "strides": [2, 2], "width": 60, "blocks": 2},
    SEGMENT: {**_COMMON, "in_channels": 32, "patch": 0, "strides": [2], "width": 64, "blocks": 1},
}
"""Of `littoral.models.architectures.product`; the latent has the size of the tail's input."""
PRODUCT_CUT = "layer3.0"
"""The product's tail begins after it: 64 channels of 8 x 8."""
RATE_WEIGHTS = (5e-4, 1.5e-4, 4e-5, 1e-5)
GAINS = (1.0, 2.0, 4.0, 8.0)
ENCODER_MACS = {PIXELS: 10_844_160, SEGMENT: 5_963_776}
"""Of `NETWORKS`, and of the device's own network up to there; a test counts them."""
SEGMENT_MACS = {PIXELS: 0, SEGMENT: 22_855_680}
SIDE_BY_SIDE_EPOCHS = 4
BETAS = (0.08, 0.02, 0.32, 1.28, 5.12)
LONG_BETAS = (0.32, 0.08, 1.28)
FIRST_STAGE = "layer1"
"""Entropic Student's published cut is after the first stage of four; our own of CIFAR's three is after the second,
which is as large as its latent is for it there."""
FIRST_STAGE_NETWORK = {"out_channels": 16, "upsamplings": 2}
END_TO_END_BETAS = (1e-5, 5e-5, 2.5e-4)
CHANNELS = (1, 2, 4, 8)
RAC_WEIGHTS = (1e-5, 4e-5, 1.5e-4, 5e-4)
AVIF_QUALITIES = (0, 10, 25, 40, 50, 60, 75, 90)
CODEC_FRAMES = 2_000
"""The codecs' curves are of the first 2,000 test frames: at each quality the whole teacher runs on every frame."""
ROBUST = ("gaussian_noise", "defocus_blur", "contrast")


DENSE, FITTED = "dense", "dense_fitted"
"""The product's split of a dense task, as the table calls it; and as it is fitted, before any training."""
CAMVID_NETWORK, COCO_NETWORK = "cgnet", "yolox_nano"
DENSE_QUALITIES = (1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95)
DENSE_FRAMES: Mapping[str, int] = {CAMVID_NETWORK: 233, COCO_NETWORK: 128}
"""All of CamVid's test frames, and of COCO's first 128."""
DENSE_FRAMES_TRAINED: Mapping[str, int] = {CAMVID_NETWORK: 367, COCO_NETWORK: 1_000}
DENSE_TRAINING: Mapping[str, Mapping[str, dict[str, Any]]] = {
    CAMVID_NETWORK: {
        FEATURES: {"epochs": 12, "batch_size": 8, "crop": [192, 256], "lr": 1e-3, "tail_lr_scale": 0.1},
        PIXELS: {"epochs": 60, "batch_size": 8, "crop": [176, 240], "lr": 2e-3, "tail_lr_scale": 0.25},
    },
    COCO_NETWORK: {
        FEATURES: {"epochs": 8, "batch_size": 8, "lr": 1e-3, "tail_lr_scale": 0.1},
        PIXELS: {"epochs": 15, "batch_size": 8, "lr": 2e-3, "tail_lr_scale": 0.25},
    },
}
"""Of `littoral.bench.split.dense_full.DenseTraining`, by what the encoder takes: about an hour of one core each."""
QUICK_DENSE_FRAMES = 4
QUICK_DENSE: Mapping[str, dict[str, Any]] = {
    FEATURES: {"epochs": 2, "hard_epochs": 1, "batch_size": 2, "crop": [64, 96]},
}


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much everything is trained and measured."""

    teacher: str = TEACHER
    train_frames: int = 50_000
    epochs: int = 20
    views: int = 8
    test_frames: int = 10_000
    codec_frames: int = CODEC_FRAMES
    robust_frames: int = 1_000
    leak_frames: int = 10_000
    """Training frames that the attacker has."""
    leak_epochs: int = 5
    """Per level; some ten minutes of a core for four."""
    rounds: int = 300


QUICK = Budget(
    teacher=STUDENT,
    train_frames=1_280,
    epochs=2,
    views=1,
    test_frames=200,
    codec_frames=200,
    robust_frames=100,
    leak_frames=512,
    leak_epochs=2,
    rounds=25,
)


class _Plan:
    """Makes units of a budget."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget

    @property
    def recipe(self) -> dict[str, Any]:
        """Of what is trained in one stage."""
        return {"pooled": {POOLED[self.budget.teacher]: 0.5}, "batch_size": 64}

    def training(self, method: str, variant: str, seed: int, **options: Any) -> Training:
        b = self.budget
        return Training(
            method=method,
            variant=variant,
            seed=seed,
            teacher=b.teacher,
            frames=b.train_frames,
            epochs=b.epochs,
            views=min(b.views, b.epochs),
            options=options,
        )

    def unit(
        self, kind: Kind, method: str, variant: str, frames: int, training: Training | None = None, **options: Any
    ) -> SplitUnit:
        return SplitUnit(
            kind=kind,
            method=method,
            variant=variant,
            frames=frames,
            teacher=self.budget.teacher,
            training=training,
            options=options,
        )

    def split(self, training: Training, kind: Kind = "split") -> SplitUnit:
        subset = min(self.budget.codec_frames, self.budget.test_frames)
        return self.unit(kind, training.method, training.variant, self.budget.test_frames, training, subset=subset)

    def product(self, given: str, seed: int) -> Training:
        return self.training(PRODUCT, given, seed, **self._options(given, RATE_WEIGHTS, GAINS))

    def single(self, given: str, level: int, seed: int) -> Training:
        options = self._options(given, RATE_WEIGHTS[level : level + 1], GAINS[level : level + 1])
        return self.training(SINGLE, f"{given}-rate{level}", seed, **options)

    def _options(self, given: str, weights: Sequence[float], gains: Sequence[float]) -> dict[str, Any]:
        segment = {} if given == PIXELS else {"segment": given}
        return {
            "cut": PRODUCT_CUT,
            "network": NETWORKS[given],
            "rate_weights": list(weights),
            "starting_gains": list(gains),
            "recipe": self.recipe,
            **segment,
        }

    def parity(self, beta: float, seed: int) -> Training:
        return self.training(PARITY, f"beta{beta:g}", seed, beta=beta)

    def parity_of_first_stage(self, beta: float, seed: int) -> Training:
        options = {"beta": beta, "cut": FIRST_STAGE, "network": FIRST_STAGE_NETWORK}
        return self.training(PARITY_FIRST_STAGE, f"beta{beta:g}", seed, **options)

    def local(self, budget_macs: int, seed: int) -> list[SplitUnit]:
        units = []
        for shape in SHAPES:
            if (size := size_for(budget_macs, shape)) is not None:
                training = self.training(LOCAL, f"{budget_macs}-{shape}", seed, network=size.kwargs)
                options = {"macs": size.macs, "budget_macs": budget_macs}
                units.append(
                    self.unit("local_only", LOCAL, training.variant, self.budget.test_frames, training, **options)
                )
        return units

    def codec(self, name: str, qualities: Sequence[int]) -> SplitUnit:
        return self.unit("codec", name, "teacher", self.budget.codec_frames, qualities=list(qualities))

    def fixed(self) -> list[SplitUnit]:
        b = self.budget
        subset = min(b.codec_frames, b.test_frames)
        return [
            self.unit("fixed", DEVICE_ONLY, STUDENT, b.test_frames, subset=subset),
            self.unit("fixed", LOSSLESS, b.teacher, b.test_frames, subset=subset),
            self.codec("webp_lossless", (0,)),
            self.codec("png", (0,)),
        ]

    def derived(self, training: Training, *, corruptions: Sequence[str], levels: Sequence[int]) -> list[SplitUnit]:
        b, variant = self.budget, training.variant
        return [
            self.unit("timing", "timing", variant, 64, training, rounds=b.rounds),
            *(
                self.unit(
                    "link", "link", f"{variant}-{trip:g}ms", min(b.codec_frames, 1_000), training,
                    levels=list(levels), rounds=b.rounds, round_trip_ms=trip,
                )
                for trip in (40.0, 80.0)[: 1 if b.rounds < 100 else 2]
            ),
            self.unit(
                "leakage", "leakage", variant, min(b.test_frames, 2_000), training,
                train_frames=b.leak_frames, epochs=b.leak_epochs,
            ),
            self.unit(
                "robust", "robust", variant, b.robust_frames, training, corruptions=list(corruptions), severity=3
            ),
        ]  # fmt: skip


def _dense(
    network: str,
    *,
    frames: int,
    qualities: Sequence[int],
    training_frames: int,
    training: Mapping[str, Mapping[str, Any]],
    seed: int = 0,
) -> list[SplitUnit]:
    """A dense task's units: the splits, WebP, and what sends nothing or everything."""

    def unit(kind: Kind, method: str, *, variant: str = network, **options: Any) -> SplitUnit:
        return SplitUnit(kind=kind, method=method, variant=variant, frames=frames, teacher=network, options=options)

    def split(method: str, given: str, **options: Any) -> SplitUnit:
        told = {"given": given, "training_frames": training_frames, "seed": seed}
        return unit("dense_split", method, variant=f"{network}-{given}", **told, **options)

    return [
        unit("dense_fixed", DEVICE_ONLY, sends="nothing"),
        unit("dense_codec", "webp", qualities=list(qualities)),
        split(FITTED, FEATURES, epochs=0),
        *(split(DENSE, given, **options) for given, options in training.items()),
        unit("dense_fixed", LOSSLESS, sends="everything"),
    ]


def full_plan(*, epochs: int | None = None, seeds: Sequence[int] = (0, 1, 2)) -> list[SplitUnit]:
    """Every unit, the most telling first.

    Args:
        epochs: Of every training, where not `Budget`'s.
        seeds: The first is run of everything, the others of what the summary quotes.
    Raises:
        ValueError: so few epochs that a training has none for one of its stages.
    """
    if epochs is not None and epochs < 2:
        raise ValueError(f"{epochs} epochs were asked for; the trainings have two stages and need at least 2")
    plan = _Plan(Budget() if epochs is None else Budget(epochs=epochs))
    short = _Plan(replace(plan.budget, epochs=min(SIDE_BY_SIDE_EPOCHS, plan.budget.epochs)))
    first, others = seeds[0], seeds[1:]
    levels = range(len(RATE_WEIGHTS))
    main = {given: plan.product(given, first) for given in INPUTS}
    totals = {given: ENCODER_MACS[given] + SEGMENT_MACS[given] for given in INPUTS}
    units = [
        *plan.fixed(),
        *(plan.split(main[given]) for given in INPUTS),
        plan.codec("webp", QUALITIES),
        *(unit for given in INPUTS for unit in plan.local(totals[given], first)),
        *_side_by_side(short, first),
        *(plan.split(plan.parity(beta, first)) for beta in LONG_BETAS),
        plan.unit("codec_speed", "codec_speed", "laplace", 0, quick=False),
        plan.unit("codec_exact", "codec_exact", "drawn", 0, num_round_trips=100_000, num_damaged=1_000),
        *(unit for given in INPUTS for unit in plan.derived(main[given], corruptions=COMMON, levels=levels)),
        *plan.local(ENCODER_MACS[SEGMENT], first),
        *(plan.codec(name, QUALITIES) for name in ("jpeg", "jpeg_444")),
        *(plan.codec(name, AVIF_QUALITIES) for name in ("avif", "avif_444")),
        *(
            plan.unit("features", f"features_{packer}", cut, plan.budget.codec_frames, packer=packer)
            for packer in ("zlib", "lzma")
            for cut in ("layer1", "layer2", "layer3")
        ),
    ]
    for network, frames in DENSE_FRAMES.items():
        units += _dense(
            network,
            frames=frames,
            qualities=DENSE_QUALITIES,
            training_frames=DENSE_FRAMES_TRAINED[network],
            training=DENSE_TRAINING[network],
            seed=first,
        )
    for seed in others:
        units += [plan.split(plan.product(given, seed)) for given in INPUTS]
        units += [unit for given in INPUTS for unit in plan.local(totals[given], seed)]
        units += [plan.split(plan.parity(beta, seed)) for beta in LONG_BETAS]
    return _once(units)


def _side_by_side(plan: _Plan, seed: int) -> list[SplitUnit]:
    """Every method at the same small budget: the product, at one rate too, and its rivals."""
    trainings = [
        plan.product(SEGMENT, seed),
        *(plan.single(SEGMENT, level, seed) for level in range(len(RATE_WEIGHTS))),
        *(plan.parity(beta, seed) for beta in BETAS),
        *(plan.parity_of_first_stage(beta, seed) for beta in BETAS),
        plan.product(PIXELS, seed),
        *(_channels(plan, channels, seed) for channels in CHANNELS),
        *(_rac(plan, weight, seed) for weight in RAC_WEIGHTS),
        *(_end_to_end(plan, beta, seed) for beta in END_TO_END_BETAS),
    ]
    return [plan.split(training, "compared") for training in trainings]


def product_training(budget: Budget, given: str, seed: int) -> Training:
    """The training of the product's split that starts from this, one of `INPUTS`."""
    return _Plan(budget).product(given, seed)


def quick_plan() -> list[SplitUnit]:
    """A few minutes on two cores: every kind of unit once, hardly trained, so its accuracies mean nothing."""
    plan = _Plan(QUICK)
    pixels = plan.product(PIXELS, 0)
    return _once(
        [
            *plan.fixed(),
            plan.split(plan.parity(0.32, 0)),
            plan.split(pixels),
            plan.split(plan.product(SEGMENT, 0)),
            *plan.local(ENCODER_MACS[PIXELS], 0),
            *(plan.split(training, "compared") for training in (plan.single(PIXELS, 1, 0), _channels(plan, 2, 0))),
            plan.codec("webp", QUICK_QUALITIES),
            plan.codec("jpeg", QUICK_QUALITIES),
            plan.codec("avif", (50,)),
            plan.unit("features", "features_zlib", "layer2", plan.budget.codec_frames, packer="zlib"),
            plan.unit("codec_speed", "codec_speed", "laplace", 0, quick=True),
            plan.unit("codec_exact", "codec_exact", "drawn", 0, num_round_trips=1_000, num_damaged=5),
            *_dense(
                CAMVID_NETWORK,
                frames=2,
                qualities=(1, 90),
                training_frames=QUICK_DENSE_FRAMES,
                training=QUICK_DENSE,
            ),
            *plan.derived(pixels, corruptions=ROBUST[:2], levels=[1]),
        ]
    )


def _channels(plan: _Plan, channels: int, seed: int) -> Training:
    return plan.training("channel_reduction", f"{channels}-channels", seed, channels=channels)


def _end_to_end(plan: _Plan, beta: float, seed: int) -> Training:
    return plan.training("end_to_end", f"beta{beta:g}", seed, beta=beta)


def _rac(plan: _Plan, weight: float, seed: int) -> Training:
    return plan.training("rac_shaped", f"weight{weight:g}", seed, rate_weight=weight, recipe=plan.recipe)


def _once(units: Iterable[SplitUnit]) -> list[SplitUnit]:
    return list({unit.key: unit for unit in units}.values())
