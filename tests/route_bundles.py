"""A bundle with exits, two splits and a router: the exits of ``exit_bundles``, the splits of ``split_bundles``."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from exit_bundles import write_exit_bundle
from split_bundles import identity_split

from littoral.bundle import Bundle, RouteTables
from littoral.bundle.route_tables import WrongBy, early_exits, way_places
from littoral.bundle.split import SplitCodec
from littoral.core.exits import confidence
from littoral.core.route_plan import fit_curves
from littoral.core.route_words import Way
from littoral.core.switcher import Switcher, all_switch_features, fit_switcher

ROUTE_FILE = "route.safetensors"


def write_routeless_bundle(tiny: Path, out: Path) -> Bundle:
    """With exits and splits, without a router, at ``out``. Split 0 is of frames, split 1 of segment 0's output."""
    from littoral.train.write import write_files

    bundle = write_exit_bundle(tiny, out.with_suffix(".exits"), thresholds=(0.9, 0.9, None), promised=True)
    files = {name: bundle.read(name) for name in bundle.manifest.files}
    splits = []
    for index, segment in enumerate((None, 0)):
        spec, more = identity_split(index, segment, bundle)
        splits.append(spec)
        files |= more
    out.mkdir()
    write_files(out, files, dataclasses.replace(bundle.manifest, splits=tuple(splits)))
    return Bundle.open(out, require_cloud=True)


def with_tables(bundle: Bundle, tables: RouteTables, out: Path) -> Bundle:
    """The same bundle with a router, at ``out``."""
    from littoral.train.write import write_files

    files = {name: bundle.read(name) for name in bundle.manifest.files} | {ROUTE_FILE: tables.to_bytes()}
    out.mkdir()
    write_files(out, files, dataclasses.replace(bundle.manifest, route_file=ROUTE_FILE))
    return Bundle.open(out, require_cloud=True)


def drawn_tables(
    bundle: Bundle,
    *,
    num_frames: int = 600,
    seed: int = 0,
    wrong_by: WrongBy = "labels",
    pictures: tuple[str, ...] = (),
) -> RouteTables:
    """Tables that fit a bundle's exits and splits, drawn and not measured: deeper is surer, the cloud surer still.

    Args:
        pictures: Codings of more ways.
    """
    rng = np.random.default_rng(seed)
    points = len(early_exits(bundle.manifest)) + 1
    levels = [SplitCodec.open(bundle, index).num_levels for index in range(len(bundle.manifest.splits))]
    places = (*way_places(bundle.manifest, levels), *((0, level, 0) for level in range(len(pictures))))
    codings = [""] * (len(places) - len(pictures)) + list(pictures)
    truths_N, hard_N = rng.integers(0, 10, num_frames), rng.random(num_frames)
    logits_NPK = rng.standard_normal((num_frames, points, 10))
    logits_NPK[np.arange(num_frames), :, truths_N] += 6 * (1 - hard_N)[:, None] * np.linspace(0.5, 1, points)
    probabilities_NPK = np.exp(logits_NPK) / np.exp(logits_NPK).sum(axis=2, keepdims=True)
    wrong_NP = (logits_NPK.argmax(axis=2) != truths_N[:, None]).astype(np.float64)
    cloud_NW = (rng.random((num_frames, len(places))) < 0.03).astype(np.float64)
    features = all_switch_features(probabilities_NPK)
    switcher = Switcher(fit_switcher(features, 1 - wrong_NP, 1 - cloud_NW[:, -1]))
    sure_NP = np.stack([confidence(np.log(probabilities_NPK[:, p])) for p in range(points)], axis=1)
    return RouteTables(
        curves=fit_curves(sure_NP, wrong_NP, cloud_NW, scores_NP=switcher.scores(features), num_bins=8),
        ways=tuple(
            Way(split=split, level=level, point=point, num_bytes=100.0 * (1 + level), encode_ms=0.5, coding=coding)
            for (split, level, point), coding in zip(places, codings, strict=True)
        ),
        step_ms=tuple(np.linspace(1, 2, points).tolist()),
        switcher=switcher,
        wrong_by=wrong_by,
    )
