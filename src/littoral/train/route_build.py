"""A finished bundle gets its router: its own graphs answer held-out frames, and what is right there is counted.

Measured is what a device and its cloud would do: the segments, stems and encoders on ONNX Runtime, the shipped heads
with their temperatures, payloads that are coded and decoded, and the tail on what they decode to; pictures likewise,
and the teacher. On this the switcher
is fitted and the curves are counted, both on all frames and no curve on a frame that its switcher has seen: the frames
are dealt into `FOLDS`, and each fold's scores come from a switcher of the others (cross-fitting). What is shipped is
the switcher of all frames.

Times are not measured. They would be the building machine's, and would make another bundle of each build of the same
networks; they are counted from multiply-accumulates, and a device measures its own.

Axes: N frames, P points, W ways, K classes, F features.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray

from littoral.bundle import Bundle, InputSpec, RouteTables, SplitCodec
from littoral.bundle.bundle import MANIFEST_FILE
from littoral.bundle.exits import ExitHeads, exit_costs
from littoral.bundle.images import MAX_PICTURE_BYTES, decode_image, encode_image, served
from littoral.bundle.route_tables import WrongBy, early_exits, point_temperatures, way_places
from littoral.core.arrays import Float64s, FloatArray, Frame, Indices
from littoral.core.codec import decode
from littoral.core.heads import softmax64
from littoral.core.route_plan import fit_curves
from littoral.core.route_words import Way
from littoral.core.switcher import ShippedSwitcher, Switcher, all_switch_features, fit_switcher
from littoral.errors import PayloadError
from littoral.models.factory import load_model
from littoral.models.frames import normalise
from littoral.train.cuts import total_macs
from littoral.train.encoder import run_encoder
from littoral.train.options import RouterSource
from littoral.train.run import frames_at_a_time, open_session, rounded
from littoral.train.split_answers import tail_outputs
from littoral.train.watched import watched

ROUTE_FILE = "route.safetensors"
FOLDS = 5
LEAST_FRAMES_PER_BIN = 10
_RUN_MS = 0.05
"""Of each graph that is run, however small."""
_CODING_MS, _SYMBOL_MS, _PIXEL_MS = 0.2, 0.0005, 0.0001
"""Of a payload or a picture, of each of its symbols, and of each of its raw bytes."""
_SCORE_DIGITS, _SHARE_DIGITS = 6, 8
"""Scores, and shares, that differ by less are alike: what a last digit says depends on the machine."""
_ROUNDED = ("sure", "local", "cloud", "cloud_mean", "first", "onward")

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, eq=False)
class RouteAnswers:
    """What a bundle's device and cloud answer to frames.

    Attributes:
        probabilities_NPK: Of each early exit and of the whole network, by the shipped heads and temperatures.
        cloud_answers_NW: The label that each way brings, splits then pictures; the whole network's where no level takes
            the frame.
        payload_bytes_NW: Of each way; 0 where no level takes the frame.
        pictures: The codings of the last ways.
    """

    probabilities_NPK: Float64s
    cloud_answers_NW: Indices
    payload_bytes_NW: NDArray[np.int64]
    pictures: tuple[str, ...] = ()


def check_router(
    source: RouterSource, input: InputSpec, num_classes: int, *, has_exits: bool, has_splits: bool
) -> None:
    """Refuse a router that cannot be made, before anything is built; `ValueError`."""
    if not has_exits:
        raise ValueError("a router chooses between exits and the cloud, and there are no exits; give exits too")
    if not has_splits and not source.pictures:
        raise ValueError("a router has nobody to ask without splits and without pictures; give one of them")
    frames, least = source.frames, LEAST_FRAMES_PER_BIN * source.num_bins
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:] != input.shape:
        raise ValueError(
            f"the router's frames are {frames.dtype} {frames.shape}, expected uint8 (N, {input.height}, {input.width}, "
            f"{input.channels})"
        )
    if len(frames) < least:
        raise ValueError(
            f"the router has {len(frames)} frames for curves of {source.num_bins} bins, at least {least} are needed; "
            "give more frames that nothing was trained on, or fewer bins"
        )
    if source.labels is None:
        return
    labels = np.asarray(source.labels)
    if labels.shape != (len(frames),) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"the router's labels are {labels.dtype} {labels.shape}, expected int64 ({len(frames)},)")
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(
            f"the router's labels reach from {labels.min()} to {labels.max()}, there are classes 0 to {num_classes - 1}"
        )


def write_router(folder: Path, source: RouterSource, progress: Progress) -> None:
    """Make a bundle's tables and put them into its folder; the bundle is another one then, and not signed.

    Raises:
        ValueError: an output for a frame is not finite, or no payload of a level is within its ceiling.
        BundleError: the bundle cannot be read, or a part of it cannot be run.
    """
    bundle = Bundle.open(folder, require_cloud=True)
    progress(f"router: answers to {len(source.frames)} held-out frames")
    answers = measure_answers(bundle, source.frames, source.pictures, progress)
    wrong_by: WrongBy = "labels"
    truths = source.labels
    if truths is None:
        wrong_by, truths = "teacher", _Teacher(bundle).answers(source.frames)
    tables, metrics = make_tables(bundle, answers, np.asarray(truths), wrong_by, source)
    for line in _told(tables, metrics):
        progress(line)
    data, manifest = tables.to_bytes(), bundle.manifest
    (folder / ROUTE_FILE).write_bytes(data)
    manifest = dataclasses.replace(
        manifest,
        route_file=ROUTE_FILE,
        source_metrics=manifest.source_metrics | metrics,
        files=manifest.files | {ROUTE_FILE: hashlib.sha256(data).hexdigest()},
    )
    (folder / MANIFEST_FILE).write_bytes(manifest.to_json())


def make_tables(
    bundle: Bundle, answers: RouteAnswers, truths_N: Indices, wrong_by: WrongBy, source: RouterSource
) -> tuple[RouteTables, dict[str, float]]:
    """Fit and count.

    Args:
        truths_N: What answers are held against.
    Returns:
        The tables, and for the source metrics: how many frames, and which share of them each answer is wrong for.
    """
    probabilities = answers.probabilities_NPK
    wrong_NP = (probabilities.argmax(axis=2) != truths_N[:, None]).astype(np.float64)
    cloud_wrong_NW = (answers.cloud_answers_NW != truths_N[:, None]).astype(np.float64)
    features_NPF = all_switch_features(probabilities)
    cloud_right_N = 1 - cloud_wrong_NW.mean(axis=1)  # of an offload by some way, whichever it will be
    scores_NP = cross_scores(features_NPF, 1 - wrong_NP, cloud_right_N)
    curves = fit_curves(
        probabilities.max(axis=2),
        wrong_NP,
        cloud_wrong_NW,
        scores_NP=scores_NP,
        gains_NP=1 - scores_NP,
        num_bins=source.num_bins,
    )
    fitted = fit_switcher(features_NPF, 1 - wrong_NP, cloud_right_N)
    shipped = ShippedSwitcher(coefficients=_rounded(fitted.coefficients), precision=_rounded(fitted.precision))
    codecs = [SplitCodec.open(bundle, index) for index in range(len(bundle.manifest.splits))]
    places = way_places(bundle.manifest, [codec.num_levels for codec in codecs])
    encoders = [onnx.load_model_from_string(bundle.read(split.encoder_file)) for split in bundle.manifest.splits]
    ways = []
    for (split, level, point), sizes_N in zip(places, answers.payload_bytes_NW.T, strict=False):
        symbols = codecs[split].kept(level) * codecs[split].tables.height * codecs[split].tables.width
        encode_ms = (
            _RUN_MS + total_macs(encoders[split]) / source.device_macs_per_ms + _CODING_MS + symbols * _SYMBOL_MS
        )
        size = rounded(float(sizes_N[sizes_N > 0].mean()))
        ways.append(Way(split=split, level=level, point=point, num_bytes=size, encode_ms=rounded(encode_ms)))
    encode_ms = rounded(_CODING_MS + bundle.manifest.input.num_bytes * _PIXEL_MS)
    for level, coding in enumerate(answers.pictures):
        sizes_N = answers.payload_bytes_NW[:, len(places) + level]
        size = rounded(float(sizes_N[sizes_N > 0].mean()))
        ways.append(Way(split=0, level=level, point=0, num_bytes=size, encode_ms=encode_ms, coding=coding))
    tables = RouteTables(
        curves=dataclasses.replace(
            curves, **{name: np.round(getattr(curves, name), _SHARE_DIGITS) for name in _ROUNDED}
        ),
        ways=tuple(ways),
        step_ms=_step_ms(bundle, source.device_macs_per_ms),
        switcher=Switcher(shipped),
        wrong_by=wrong_by,
    )
    metrics = {"router.num_frames": float(len(truths_N))}
    metrics |= {f"router.point{p}.wrong": rounded(float(x)) for p, x in enumerate(wrong_NP.mean(axis=0), 1)}
    for way, share in zip(ways, cloud_wrong_NW.mean(axis=0), strict=True):
        metrics[f"router.{way_name(way)}.wrong"] = rounded(float(share))
    return tables, metrics


def way_name(way: Way) -> str:
    """As the source metrics call it: ``split0.level2``, ``picture.webp-95``."""
    return f"picture.{way.coding}" if way.is_picture else f"split{way.split}.level{way.level}"


def cross_scores(features_NPF: Float64s, right_NP: Float64s, cloud_right_N: Float64s) -> Float64s:
    """Each frame's scores ``(N, P)`` by a switcher that was fitted on the other folds."""
    n = len(features_NPF)
    folds_N = np.random.default_rng(0).permutation(n) % FOLDS
    scores_NP = np.zeros(right_NP.shape)
    for fold in range(FOLDS):
        mine, others = folds_N == fold, folds_N != fold
        switcher = Switcher(fit_switcher(features_NPF[others], right_NP[others], cloud_right_N[others]))
        scores_NP[mine] = switcher.scores(features_NPF[mine])
    return np.round(scores_NP, _SCORE_DIGITS)


def measure_answers(
    bundle: Bundle, frames: Frame, pictures: tuple[str, ...] = (), progress: Progress = lambda _line: None
) -> RouteAnswers:
    """Run a bundle's device and cloud on frames, uint8 ``(N, H, W, C)``.

    Args:
        pictures: The codings in which the frames go to the teacher too; those of fewer bytes come first, and what does
            not serve such frames is left out for ``lossless``.
        progress: Called with a line of text now and then, if it takes long.
    Raises:
        ValueError: an output is not finite, or no payload of a level is within its ceiling.
        BundleError: the bundle has no exits, or a part of it cannot be run.
    """
    parts = _Parts(bundle)
    count = frames_at_a_time(frames.shape)
    starts = watched(range(0, len(frames), count), "router: exits and splits", progress)
    batches = [parts.answer(frames[start : start + count], start) for start in starts]
    probabilities, labels, sizes = (np.concatenate(column) for column in zip(*batches, strict=True))
    if unused := np.flatnonzero(~(sizes > 0).any(axis=0)).tolist():
        split, level, _ = parts.places[unused[0]]
        raise ValueError(
            f"no held-out frame's payload of split {split} at level {level} is within its ceiling; are the frames like "
            "the source's? Else raise ceiling_factor"
        )
    if pictures:
        teacher, channels = _Teacher(bundle), frames.shape[3]
        codings = list(dict.fromkeys(served(coding, channels) for coding in pictures))
        own = probabilities[:, -1].argmax(axis=1)
        each = watched(codings, "router: pictures", progress)
        columns = [(coding, *teacher.picture_answers(frames, coding, own)) for coding in each]
        columns = [column for column in columns if column[2].any()]
        if not columns and not parts.places:
            raise ValueError(f"every picture is larger than {MAX_PICTURE_BYTES} bytes; give pictures that lose more")
        columns.sort(key=lambda column: float(column[2].mean()))
        pictures = tuple(coding for coding, _, _ in columns)
        labels = np.column_stack([labels, *(column[1] for column in columns)])
        sizes = np.column_stack([sizes, *(column[2] for column in columns)])
    return RouteAnswers(
        probabilities_NPK=probabilities, cloud_answers_NW=labels, payload_bytes_NW=sizes, pictures=pictures
    )


class _Parts:
    """What a device and its cloud run, opened."""

    def __init__(self, bundle: Bundle) -> None:
        manifest = bundle.manifest
        self.heads = ExitHeads.open(bundle).heads
        self.exits, self.temperatures = early_exits(manifest), point_temperatures(manifest)
        graphs = [onnx.load_model_from_string(bundle.read(segment.file)) for segment in manifest.segments]
        self.segments = [open_session(graph, bundle.weights) for graph in graphs]
        self.stems = [None if each.stem_file is None else _session(bundle, each.stem_file) for each in self.exits]
        self.starts = [split.segment for split in manifest.splits]
        self.encoders = [_session(bundle, split.encoder_file) for split in manifest.splits]
        self.codecs = [SplitCodec.open(bundle, index) for index in range(len(manifest.splits))]
        self.tails = [load_model(split.model, bundle.load_tensors(split.model.file)) for split in manifest.splits]
        self.places = way_places(manifest, [codec.num_levels for codec in self.codecs])

    def answer(self, frames: Frame, first: int) -> tuple[Float64s, Indices, NDArray[np.int64]]:
        """One batch's probabilities ``(B, P, K)``, labels and sizes ``(B, W)``."""
        values: list[np.ndarray] = [frames]
        for session in self.segments:
            values.append(session.run(None, {session.get_inputs()[0].name: values[-1]})[0])
        probabilities = []
        for point, (each, stem) in enumerate(zip(self.exits, self.stems, strict=True)):
            value = values[each.segment + 1]
            pooled = value if stem is None else stem.run(["pooled"], {"features": value})[0]
            probabilities.append(self._probabilities(self.heads[point].logits(pooled), point, first))
        probabilities.append(self._probabilities(values[-1], len(self.exits), first))
        own = probabilities[-1].argmax(axis=1)
        columns = []
        for index, start in enumerate(self.starts):
            latents = run_encoder(self.encoders[index], frames if start is None else values[start + 1])
            _check_finite(latents, f"the encoder of split {index}", first)
            for level in range(self.codecs[index].num_levels):
                columns.append(self._by_way(index, level, latents, own, first))
        labels = np.stack([column[0] for column in columns], axis=1) if columns else np.zeros((len(own), 0), np.int64)
        sizes = np.stack([column[1] for column in columns], axis=1) if columns else np.zeros((len(own), 0), np.int64)
        return np.stack(probabilities, axis=1), labels, sizes

    def _probabilities(self, logits_BK: FloatArray, point: int, first: int) -> Float64s:
        _check_finite(logits_BK, "the network" if point == len(self.exits) else f"exit {point}", first)
        return softmax64(logits_BK.astype(np.float64) / self.temperatures[point])

    def _by_way(
        self, index: int, level: int, latents_BCHW: FloatArray, own_B: Indices, first: int
    ) -> tuple[Indices, NDArray[np.int64]]:
        """What a payload of each frame brings back, and its length. One over all ceilings is not sent."""
        codec, labels, sizes = self.codecs[index], own_B.copy(), np.zeros(len(own_B), np.int64)
        by_level: dict[int, list[tuple[int, FloatArray]]] = {}
        for position, latent in enumerate(latents_BCHW):
            try:
                payload = codec.encode(latent, level)
            except PayloadError:
                continue
            sizes[position] = len(payload)
            came = decode(payload, codec.tables)
            by_level.setdefault(came.level, []).append((position, codec.padded(came.symbols)))
        for came_level, items in by_level.items():
            outputs = tail_outputs(self.tails[index], np.stack([symbols for _, symbols in items]), came_level)
            _check_finite(outputs, f"the tail of split {index}", first)
            labels[[position for position, _ in items]] = outputs.argmax(axis=1)
        return labels, sizes


def _session(bundle: Bundle, file: str) -> ort.InferenceSession:
    return open_session(onnx.load_model_from_string(bundle.read(file)), {})


def _check_finite(outputs: FloatArray, whose: str, first: int) -> None:
    wrong = np.flatnonzero(~np.isfinite(outputs.reshape(len(outputs), -1)).all(axis=1))
    if len(wrong):
        raise ValueError(
            f"{whose} gives what is not finite for {len(wrong)} of the router's frames {first} to "
            f"{first + len(outputs) - 1}; no router can be made of that: look at the network, or leave such frames out"
        )


class _Teacher:
    """The bundle's teacher, as a cloud has it for pictures: on the source's statistics."""

    def __init__(self, bundle: Bundle) -> None:
        spec = bundle.manifest.teacher
        assert spec is not None, "what has exits is a classifier, and has a teacher"
        self.input, self.model = bundle.manifest.input, load_model(spec, bundle.load_tensors(spec.file))

    def answers(self, frames: Frame) -> Indices:
        """Labels of frames, uint8 ``(N, H, W, C)``."""
        count = frames_at_a_time(frames.shape)
        parts = [self._labels(frames[start : start + count], start) for start in range(0, len(frames), count)]
        return np.concatenate(parts)

    def picture_answers(self, frames: Frame, coding: str, own_N: Indices) -> tuple[Indices, NDArray[np.int64]]:
        """Labels of what a cloud sees of the frames, and how many bytes each takes.

        A picture that is too large is not sent: the device's own label counts, and 0 bytes.
        """
        coded = [encode_image(frame, coding) for frame in frames]
        seen = np.stack([decode_image(name, image, self.input) for name, image in coded])
        sizes_N = np.array([len(image) for _, image in coded], np.int64)
        fits_N = sizes_N <= MAX_PICTURE_BYTES
        return np.where(fits_N, self.answers(seen), own_N), np.where(fits_N, sizes_N, 0)

    def _labels(self, frames: Frame, first: int) -> Indices:
        with torch.inference_mode():
            outputs = np.asarray(self.model(normalise(torch.from_numpy(np.array(frames)), self.input)).float().numpy())
        _check_finite(outputs, "the teacher", first)
        labels: Indices = outputs.argmax(axis=1)
        return labels


def _step_ms(bundle: Bundle, macs_per_ms: float) -> tuple[float, ...]:
    manifest = bundle.manifest
    exits, count = early_exits(manifest), len(manifest.segments)
    costs = exit_costs(exits, manifest.segment_macs)
    ends = [0, *(each.segment + 1 for each in exits), count]
    runs = [end - start for start, end in itertools.pairwise(ends)]
    stems = [*(each.stem_file is not None for each in exits), False]
    return tuple(
        rounded(_RUN_MS * (run + stem) + (segment + head) / macs_per_ms)
        for run, stem, segment, head in zip(runs, stems, costs.segment_macs, costs.head_macs, strict=True)
    )


def _rounded(values: Float64s) -> Float64s:
    return np.array([rounded(value) for value in values.ravel().tolist()]).reshape(values.shape)


def _told(tables: RouteTables, metrics: dict[str, float]) -> list[str]:
    points = len(tables.step_ms)
    local = ", ".join(f"{100 * metrics[f'router.point{p}.wrong']:.3g}" for p in range(1, points + 1))
    lines = [f"router: {local} % of answers are wrong at its {points} points, by {tables.wrong_by}"]
    for way in tables.ways:
        wrong, name = 100 * metrics[f"router.{way_name(way)}.wrong"], f"split {way.split} level {way.level}"
        name = f"picture {way.coding}" if way.is_picture else name
        lines.append(f"router: {name}: {wrong:.3g} % wrong, {way.num_bytes:.5g} bytes")
    return lines
