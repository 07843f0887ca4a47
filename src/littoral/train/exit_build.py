"""Trained exits become part of a bundle: stems as ONNX, heads, costs, and thresholds with a promise.

Axes: N frames, E exits with the whole network as the last, D features, K classes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import nn

from littoral.bundle import ExitPromise, ExitSpec, InputSpec
from littoral.bundle.exits import exit_costs, heads_to_tensors
from littoral.core.arrays import FloatArray, Frame
from littoral.core.exits import compute_share, confidence, disagreement_losses, exit_indices
from littoral.core.head_costs import head_macs
from littoral.core.risk import Certified, learn_then_test, searched_path
from littoral.errors import BundleError
from littoral.train.cuts import total_macs
from littoral.train.encoder import FEATURES
from littoral.train.exit_heads import TrainedExit, TrainedExits
from littoral.train.exit_places import deep_point, place_exits
from littoral.train.exits import ExitRecipe, train_exits
from littoral.train.export import ExportedModel
from littoral.train.labels import checked_labels, num_classes_of
from littoral.train.options import BuildOptions, ExitSource
from littoral.train.run import MAX_RELATIVE_ERROR, frames_at_a_time, open_session, relative_error, rounded
from littoral.train.sample import check_frames
from littoral.train.standalone import export_standalone
from littoral.train.write import tensors_to_bytes

HEADS_FILE = "heads.safetensors"
POOLED = "pooled"
_CALIBRATION_SHARE = 0.2
_MOST_CALIBRATION = 2000
_CHECKED_FRAMES = 8
_FEWEST_FRAMES = 5
"""To train on and to choose heads by; from eight on a fifth is enough to try to certify thresholds on."""

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class BuiltExits:
    """What exits add to a bundle; nothing by default."""

    specs: tuple[ExitSpec, ...] = ()
    promise: ExitPromise | None = None
    segment_macs: tuple[int, ...] = ()
    files: dict[str, bytes] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    """``exit<i>.agreement`` with the whole network, 0..1, on the calibration frames, and ``exits.compute_share`` on
    those that certify: the mean work over that without exits."""

    @property
    def heads_file(self) -> str | None:
        return HEADS_FILE if self.specs else None


def make_exits(
    model: nn.Module,
    spec: InputSpec,
    frames: Frame,
    labels: np.ndarray | None,
    *,
    where: int | Sequence[str],
    recipe: ExitRecipe,
    progress: Progress | None = None,
) -> ExitSource:
    """Place and train exits on four fifths of the frames; the rest, 2,000 at most, is left to certify thresholds on.

    Args:
        labels: Integers ``(N,)``, or None: only the network's own answers teach.
        where: As for `littoral.train.exit_places.place_exits`.
    Raises:
        ValueError: frames or labels are not the network's, there are too few, or no exit can stand there.
    """
    check_frames(spec, frames)
    check_enough_for_exits(len(frames))
    num_classes = num_classes_of(model, spec)
    if labels is not None:
        labels = checked_labels(labels, num_classes, len(frames))
    order = np.random.default_rng([recipe.seed, 1]).permutation(len(frames))
    num_kept = min(round(_CALIBRATION_SHARE * len(frames)), _MOST_CALIBRATION)
    kept, used = np.sort(order[:num_kept]), np.sort(order[num_kept:])
    places = place_exits(model, spec, where)
    taught = None if labels is None else labels[used]
    trained = train_exits(model, spec, frames[used], taught, recipe, progress, places=places)
    return ExitSource(trained=trained, calibration=frames[kept] if num_kept > 1 else None)


def check_enough_for_exits(num_frames: int) -> None:
    """Refuse fewer source frames than exits can be trained and certified on; `ValueError`."""
    if num_frames < _FEWEST_FRAMES:
        raise ValueError(
            f"there are {num_frames} source frames, and exits need at least {_FEWEST_FRAMES}, and hundreds to "
            "certify thresholds on a fifth of them"
        )


def check_exit_options(options: BuildOptions) -> None:
    """Refuse segments of equal work besides exits; `ValueError`."""
    if options.num_segments != 1:
        raise ValueError(
            f"num_segments is {options.num_segments}, but with exits the network is cut where they stand; leave it at "
            "1, and name what other cut points there should be"
        )


def exit_cuts(exits: ExitSource, exported: ExportedModel, model: nn.Module, options: BuildOptions) -> tuple[str, ...]:
    """The tensors that the network is cut at, so that every exit stands on a segment's output.

    Raises:
        ValueError: the exits are not of this network, or segments of equal work are asked for besides.
    """
    check_exit_options(options)
    names = list(exits.trained.places.modules)
    last = exits.trained.places.last_linear
    if last is not None:
        deep = deep_point(exported.graph, model)
        if deep is None or deep.module != last:
            raise ValueError(f"the deep exit is of the layer {last!r}, with which this network does not end")
        names.append(deep.tensor)
    return tuple(dict.fromkeys((*options.cut_points, *names)))


def build_exits(
    exits: ExitSource,
    *,
    graphs: Sequence[onnx.ModelProto],
    sessions: Sequence[ort.InferenceSession],
    input: InputSpec,
    frames: Frame,
    progress: Progress,
) -> BuiltExits:
    """Export and check the stems, certify the thresholds.

    Args:
        graphs, sessions: The bundle's segments, cut by `exit_cuts`.
        frames: A few source frames, to check stems on.
    Raises:
        ValueError: the calibration frames are not the input's, or level or delta are out of range.
        BundleError: a stem on ONNX Runtime does not give what torch gives, or the deep head is not the network's layer.
    """
    trained = exits.trained
    segments = _segments_of(trained, graphs)
    outputs = _outputs_of_segments(sessions, frames[:_CHECKED_FRAMES])
    specs, files, stems = [], dict[str, bytes](), list[ort.InferenceSession | None]()
    for index, (each, segment) in enumerate(zip(trained.exits, segments, strict=True)):
        macs, file, stem = head_macs(each.head.num_features, each.head.num_classes), None, None
        if each.stem is None:
            _check_deep(each, outputs[segment], outputs[-1])
        else:
            progress(f"exit {index}: exporting its stem")
            file = f"exit-{index}.onnx"
            graph, stem = _export_stem(each.stem, outputs[segment], index)
            files[file] = graph.SerializeToString(deterministic=True)
            macs += total_macs(graph)
        stems.append(stem)
        specs.append(
            ExitSpec(
                segment=segment,
                stem_file=file,
                temperature=rounded(each.temperature),
                threshold=None,
                macs=macs,
                num_features=each.head.num_features,
                is_deep=each.is_deep,
            )
        )
    heads = [each.head for each in trained.exits]
    files[HEADS_FILE] = tensors_to_bytes(
        heads_to_tensors(heads, [each.moments for each in trained.exits], trained.class_shares_K)
    )
    built = BuiltExits(specs=tuple(specs), segment_macs=tuple(total_macs(graph) for graph in graphs), files=files)
    if exits.calibration is None:
        progress("exits: no calibration frames, so all are off as shipped")
        return built
    check_frames(input, exits.calibration)
    features, logits_NK = _features(sessions, stems, segments, exits.calibration)
    return _certify(built, exits, features, logits_NK, progress)


def _segments_of(trained: TrainedExits, graphs: Sequence[onnx.ModelProto]) -> list[int]:
    """On whose output each exit stands."""
    ends = {graph.graph.output[0].name: index for index, graph in enumerate(graphs)}
    return [len(graphs) - 2 if each.is_deep else ends[each.place] for each in trained.exits]


def _outputs_of_segments(sessions: Sequence[ort.InferenceSession], frames: Frame) -> list[np.ndarray]:
    values, value = [], frames
    for session in sessions:
        (value,) = session.run(None, {session.get_inputs()[0].name: value})
        values.append(value)
    return values


def _export_stem(
    stem: nn.Module, features_BCHW: np.ndarray, index: int
) -> tuple[onnx.ModelProto, ort.InferenceSession]:
    module = copy.deepcopy(stem).cpu().float().eval()
    example = torch.from_numpy(np.array(features_BCHW[:2]))
    graph = export_standalone(
        module, example, input_name=FEATURES, output_name=POOLED, what=f"the stem of exit {index}"
    )
    session = open_session(graph, {})
    for batch in (features_BCHW[:1], features_BCHW):
        with torch.no_grad():
            expected = np.asarray(module(torch.from_numpy(np.array(batch))).numpy())
        (came,) = session.run([POOLED], {FEATURES: batch})
        if (error := relative_error(came, expected)) > MAX_RELATIVE_ERROR:
            raise BundleError(
                f"the exported stem of exit {index} differs from torch by {error:.1e} of its scale, at most "
                f"{MAX_RELATIVE_ERROR:g} is allowed; nothing was written. Does its forward depend on the batch?"
            )
    return graph, session


def _check_deep(each: TrainedExit, features_BD: FloatArray, logits_BK: FloatArray) -> None:
    error = relative_error(each.head.logits(features_BD), logits_BK)
    if error > MAX_RELATIVE_ERROR:
        raise BundleError(
            f"the deep exit's head gives logits that differ from the network's by {error:.1e} of their scale; the "
            "exits were trained for another network. Train them for this one"
        )


def _features(
    sessions: Sequence[ort.InferenceSession],
    stems: Sequence[ort.InferenceSession | None],
    segments: Sequence[int],
    frames: Frame,
) -> tuple[list[FloatArray], FloatArray]:
    """As a device makes them: each exit's ``(N, D)``, and the logits ``(N, K)``."""
    parts = []
    count = frames_at_a_time(frames.shape)
    for start in range(0, len(frames), count):
        values = _outputs_of_segments(sessions, frames[start : start + count])
        of_batch = [
            values[segment] if stem is None else stem.run([POOLED], {FEATURES: values[segment]})[0]
            for segment, stem in zip(segments, stems, strict=True)
        ]
        parts.append([*of_batch, values[-1]])
    *features, logits_NK = (np.concatenate(column) for column in zip(*parts, strict=True))
    return features, logits_NK


def _certify(
    built: BuiltExits, exits: ExitSource, features: Sequence[FloatArray], logits_NK: FloatArray, say: Progress
) -> BuiltExits:
    """Thresholds by learn-then-test, on one half of the frames, along a path that was searched on the other.

    A searched path can leave exits off that do not pay for their own work.
    """
    scores = [each.head.logits(x_ND) for each, x_ND in zip(exits.trained.exits, features, strict=True)]
    scores.append(logits_NK)
    temperatures = [*(spec.temperature for spec in built.specs), 1.0]
    sure_NE = np.stack([confidence(z, temperature=t) for z, t in zip(scores, temperatures, strict=True)], axis=1)
    losses_NE = disagreement_losses(np.stack([z.argmax(axis=1) for z in scores], axis=1))
    order = np.random.default_rng(0).permutation(len(sure_NE))
    searched, tested = np.array_split(order, 2)
    if len(searched) == 0 or len(tested) == 0:
        raise ValueError(f"{len(sure_NE)} calibration frames; at least 2 are needed, and 100 or more to promise much")
    costs = exit_costs(built.specs, built.segment_macs)
    path_LE = searched_path(sure_NE[searched], losses_NE[searched], costs)
    found = learn_then_test(
        path_LE, sure_NE[tested], losses_NE[tested], level=exits.level, delta=exits.delta, test="binomial"
    )
    share = compute_share(exit_indices(sure_NE[tested], found.thresholds), costs, found.thresholds)
    agreements = {f"exit{i}.agreement": rounded(float(1 - x)) for i, x in enumerate(losses_NE.mean(axis=0)[:-1])}
    metrics = {**agreements, "exits.compute_share": rounded(share)}
    if not isinstance(found, Certified) or not math.isfinite(min(found.thresholds)):
        why = "no threshold could be certified" if isinstance(found, Certified) else found.why
        say(f"exits: {why}")
        return replace(built, metrics=metrics)
    say(
        f"exits: {100 * share:.0f} % of the work at thresholds {', '.join(f'{t:.3g}' for t in found.thresholds)}; they "
        f"differ from the whole network on {100 * found.empirical_risk:.2g} % of {found.num_frames} calibration frames"
    )
    return replace(
        built,
        specs=tuple(
            replace(spec, threshold=t if math.isfinite(t) else None)
            for spec, t in zip(built.specs, found.thresholds, strict=True)
        ),
        promise=ExitPromise(
            level=exits.level,
            delta=exits.delta,
            procedure=f"{found.procedure}, path searched on {len(searched)} other frames",
            num_frames=found.num_frames,
            empirical_risk=rounded(found.empirical_risk),
        ),
        metrics=metrics,
    )
