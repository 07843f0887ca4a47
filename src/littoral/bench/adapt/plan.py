"""Which rows the adaptation table has, in the order in which they are worth having."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from littoral.bench.adapt.row import CORRUPTIONS, PLAIN, ROBUST, Row, Table

HEADLINE_FRAMES, WIDE_FRAMES, QUICK_FRAMES = 10_000, 2_000, 300
BATCH1_FRAMES = 400
"""Per shift where frames come one by one: there the published system takes a step on 128 frames after each of them, and
the methods that adapt on the device pass over the last 64; at 2,000 frames either would take hours a row."""
SEEDS = (0, 1, 2)
RECURRING = ("gaussian_noise", "defocus_blur", "contrast", "jpeg_compression")
"""The worlds that come back; also the four domains of the fleet."""
QUICK_CORRUPTIONS = ("gaussian_noise", "contrast", "pixelate")
FLEET_DEVICES = 8
EXTRAS = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
"""The only corruptions of CIFAR-10 that the product was tuned on; its pieces are taken out one by one on these."""
MILD_SEVERITY, MILD_FRAMES = 1, 500
"""Of the fleet in good weather, where the unadapted model is right nine times in ten and there is most to lose. Its
worlds are the `EXTRAS` at the least severity there is."""

PRODUCT, UNGUARDED, DEVICE, SOURCE = "product", "product_unguarded", "device_statistics", "source"
PARITY = ("parity_shipped", "parity_paper")
PARITY_BATCH = "parity_batch"
"""The published system's third form, which a reviewer found to be the strongest where batches are large."""
CEILING, ROID = "teacher_everything", "roid"
WITH_TEACHER = (PRODUCT, UNGUARDED, *PARITY, PARITY_BATCH, CEILING, "teacher_answers")
HEADLINE_METHODS = (PRODUCT, *PARITY, ROID, DEVICE, CEILING, SOURCE)
ON_DEVICE = (SOURCE, DEVICE, "batch_norm", "tent", "eta", "eata", "sar", "cotta", ROID, "rdumb")
"""Methods without a link: delay and loss do not touch them."""
LINKED = (PRODUCT, *PARITY, PARITY_BATCH, "teacher_answers")
ALL_METHODS = (*LINKED, CEILING, *ON_DEVICE)


@dataclass(frozen=True, kw_only=True)
class Stream:
    """A stream of the wide table."""

    name: str
    order: str = "continual"
    batch: int = 64
    delay_batches: int = 0
    loss: float = 0.0
    corruptions: tuple[str, ...] = CORRUPTIONS
    frames: int = WIDE_FRAMES
    """Per shift, in the wide table."""
    guarded: bool = False
    """A stream where the guards matter: the product also runs without them."""

    @property
    def needs_link(self) -> bool:
        return bool(self.delay_batches or self.loss)


STREAMS = (
    Stream(name="continual", guarded=True),
    Stream(name="per_shift", order="per_shift"),
    Stream(name="mixed", order="mixed", guarded=True),
    Stream(name="correlated", order="correlated", guarded=True),
    Stream(name="gradual", order="gradual"),
    Stream(name="recurring", order="recurring", corruptions=RECURRING),
    Stream(name="continual_b1", batch=1, frames=BATCH1_FRAMES, guarded=True),
    Stream(name="continual_b16", batch=16),
    Stream(name="continual_delay50", delay_batches=50),
    Stream(name="continual_delay200", delay_batches=200, guarded=True),
    Stream(name="continual_loss5", loss=0.05, guarded=True),
)
BATCH64 = Stream(name="continual_b64", frames=BATCH1_FRAMES)
"""What batch 1 is held against: the same frames in batches of 64."""
GUARD_STREAMS = (
    "mixed",
    "correlated",
    "continual_b1",
    "continual_delay200",
    "continual_loss5",
    "hostile",
    "hostile_mild",
)
"""Those of the promise "on no stream more than a point below the unadapted model"."""
ABLATIONS: dict[str, dict[str, Any]] = {
    "whole": {},
    "domains_from_source": {"domains": {"start": "source"}},
    "one_domain_for_all": {"cloud": "shared"},
    "confidence_as_it_is": {"adapt": {"fitted_temperature": False}},
    "teacher_learns_guarded": {"adapt": {"teacher_lr": 0.00025}},
    "teacher_learns_unguarded": {"adapt": {"teacher_lr": 0.00025, "teacher_recall": 0.0, "teacher_min_spread": 0.0}},
    "weights_as_published": {"adapt": {"mean_one_weights": False}},
    "no_replay": {"adapt": {"replay_ratio": 0}},
    "replay_of_all_domains": {"domains": {"replay": "all"}, "adapt": {"one_domain": False}},
    "no_augmentation": {"adapt": {"augment": False}},
    "published_thresholds": {"device": {"selection": {"published": True}}},
    "no_novelty": {"device": {"selection": {"novelty_exponent": 0.0, "duplicate_distance": 0.0}}},
    "any_frame_within_budget": {
        "device": {
            "selection": {
                "novelty_exponent": 0.0,
                "duplicate_distance": 0.0,
                "entropy_exponent": 0.0,
                "entropy_min_fraction": 0.0,
            }
        }
    },
    "statistics_without_source": {"device": {"statistics": {"source_frames": 0.001}}},
    "statistics_all_its_own": {"device": {"statistics": {"half_trust_factor": 0.0}}},
    "shifts_not_noticed": {"device": {"statistics": {"drift_factor": 1e9}}},
    "statistics_of_the_source": {"device": {"adapt_statistics": False}},
    "lossy_frames": {"device": {"uplink_coding": "webp-75"}},
}
"""What the product is without one of its pieces, as options of its row."""
FLEET_MODES = ("cohort", "shared", "isolated")


def full_plan(seeds: Sequence[int] = SEEDS) -> list[Row]:
    """Every row, the most telling first; no configuration twice."""
    rows = [
        *_headline(seeds[:1], ROBUST, ("continual",)),
        *_headline(seeds[:1], ROBUST, ("per_shift",)),
        *_wide(seeds[:1], (PRODUCT, *PARITY, SOURCE, DEVICE), ROBUST),
        *_wide(seeds[:1], (PARITY_BATCH,), ROBUST),
        *_headline(seeds[:1], ROBUST, ("continual", "per_shift"), (PARITY_BATCH,)),
        *_batch1_yardstick(seeds[:1]),
        *_unguarded(seeds[:1]),
        *_fleet(seeds[:1]),
        *_special(),
        *_headline(seeds[1:], ROBUST, ("continual", "per_shift")),
        *_wide(seeds[:1], ALL_METHODS, ROBUST),
        *_ablations(seeds[:1]),
        *_headline(seeds, PLAIN, ("continual", "per_shift")),
        *_wide(seeds[1:], (PRODUCT, *PARITY), ROBUST),
        *_fleet(seeds[1:]),
        # What the summary holds product against, where chance is as large as what is measured.
        *_batch1_yardstick(seeds[1:]),
        *_recurring_yardstick(seeds[1:]),
        *_wide(seeds[:1], (PRODUCT, *PARITY), PLAIN),
    ]
    return _once(rows)


def quick_plan() -> list[Row]:
    """A few minutes on two cores: every kind of row once, three shifts of 300 frames."""
    rows = [
        _row("quick", method, _QUICK[name], ROBUST, 0, QUICK_FRAMES)
        for method, name in (
            *((method, "continual") for method in HEADLINE_METHODS),
            *((method, "per_shift") for method in (DEVICE, ROID)),
            *((method, "mixed") for method in (PRODUCT, SOURCE)),
        )
    ]
    rows += [_fleet_row("quick", mode, 0, 100, devices=4, corruptions=RECURRING[:2]) for mode in ("cohort", "isolated")]
    return _once(rows)


_QUICK = {
    stream.name: dataclasses.replace(stream, corruptions=QUICK_CORRUPTIONS)
    for stream in STREAMS
    if stream.name in ("continual", "per_shift", "mixed", "continual_loss5")
}


def _row(table: Table, method: str, stream: Stream, teacher: str, seed: int, frames: int, **options: Any) -> Row:
    return Row(
        table=table,
        method=method,
        stream=stream.name,
        order=stream.order,
        teacher=teacher if method in WITH_TEACHER else None,
        seed=seed,
        frames=frames,
        batch=stream.batch,
        delay_batches=stream.delay_batches,
        loss=stream.loss,
        corruptions=stream.corruptions,
        options=options,
    )


def _headline(
    seeds: Sequence[int], teacher: str, names: Sequence[str], methods: Sequence[str] = HEADLINE_METHODS
) -> list[Row]:
    streams = [stream for stream in STREAMS if stream.name in names]
    return [
        _row("headline", method, stream, teacher, seed, HEADLINE_FRAMES)
        for seed in seeds
        for stream in streams
        for method in methods
    ]


def _wide(seeds: Sequence[int], methods: Sequence[str], teacher: str) -> list[Row]:
    return [
        _row("wide", method, stream, teacher, seed, stream.frames)
        for seed in seeds
        for stream in STREAMS
        for method in methods
        if method in LINKED or not stream.needs_link
    ]


def _unguarded(seeds: Sequence[int]) -> list[Row]:
    return [
        _row("wide", UNGUARDED, stream, ROBUST, seed, stream.frames)
        for seed in seeds
        for stream in STREAMS
        if stream.guarded
    ]


def _batch1_yardstick(seeds: Sequence[int]) -> list[Row]:
    return [_row("wide", PRODUCT, BATCH64, ROBUST, seed, BATCH64.frames) for seed in seeds]


def _recurring_yardstick(seeds: Sequence[int]) -> list[Row]:
    stream = next(stream for stream in STREAMS if stream.name == "recurring")
    return [_row("wide", DEVICE, stream, ROBUST, seed, WIDE_FRAMES) for seed in seeds]


def _fleet_row(
    table: Table,
    mode: str,
    seed: int,
    frames: int,
    *,
    method: str = PRODUCT,
    hostile: bool = False,
    devices: int = FLEET_DEVICES,
    corruptions: tuple[str, ...] = RECURRING,
    severity: int = 5,
) -> Row:
    options: dict[str, Any] = {"cloud": mode} if method in (PRODUCT, UNGUARDED) else {}
    if hostile:
        options["hostile"] = [devices - 1]
        if method in (PRODUCT, UNGUARDED):
            options["recorded"] = list(corruptions)
            options |= {"recorded_severity": severity} if severity < 5 else {}
    stream = f"fleet_{mode}" if options else "fleet"
    if hostile:
        stream = "hostile" if severity == 5 else "hostile_mild"
    return Row(
        table=table,
        method=method,
        stream=stream,
        order="fleet",
        teacher=ROBUST if method in WITH_TEACHER else None,
        seed=seed,
        frames=frames,
        devices=devices,
        corruptions=corruptions,
        severity=severity,
        options=options,
    )


def _fleet(seeds: Sequence[int]) -> list[Row]:
    rows = []
    for seed in seeds:
        rows += [_fleet_row("fleet", mode, seed, WIDE_FRAMES) for mode in FLEET_MODES]
        rows += [
            _fleet_row("fleet", "cohort", seed, WIDE_FRAMES, method=method, hostile=True)
            for method in (PRODUCT, UNGUARDED, SOURCE)
        ]
        mild: dict[str, Any] = {"corruptions": EXTRAS, "severity": MILD_SEVERITY}
        rows += [
            _fleet_row("fleet", "cohort", seed, MILD_FRAMES, method=method, hostile=True, **mild)
            for method in (PRODUCT, UNGUARDED, DEVICE, SOURCE)
        ]
        rows += [_fleet_row("fleet", "cohort", seed, WIDE_FRAMES, method=method) for method in (DEVICE, SOURCE)]
    return rows


def _ablations(seeds: Sequence[int]) -> list[Row]:
    def rows(stream: Stream, pieces: dict[str, dict[str, Any]]) -> list[Row]:
        return [
            _row("ablation", PRODUCT, dataclasses.replace(stream, name=name), ROBUST, seed, WIDE_FRAMES, **options)
            for seed in seeds
            for name, options in pieces.items()
        ]

    plain = Stream(name="", corruptions=EXTRAS)
    unbalanced = {"device": {"statistics": {"balanced": False}}}
    unrecalled = {"device": {"recall": {"recall_factor": 1e-9}}}
    return [
        *rows(plain, ABLATIONS),
        *rows(dataclasses.replace(plain, order="correlated"), {"correlated_whole": {}, "unbalanced": unbalanced}),
        *rows(
            dataclasses.replace(plain, order="recurring"),
            {"recurring_whole": {}, "recall_by_the_cloud_alone": unrecalled},
        ),
    ]


def _special() -> list[Row]:
    stream = Stream(name="push_loss", order="continual")
    return [
        _row("special", "push_loss", stream, ROBUST, 0, WIDE_FRAMES),
        Row(table="special", method="push_size", stream="none", order="none", teacher=None, seed=0, frames=0),
    ]


def _once(rows: Iterable[Row]) -> list[Row]:
    seen: dict[str, Row] = {}
    for row in rows:
        seen.setdefault(row.key, row)
    return list(seen.values())
