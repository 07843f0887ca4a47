"""Exits of a segmentation network on CamVid: trained on its train frames, chosen on val, measured on test.

The network is frozen. CGNet's authors trained it on train and val, of ESPNet it is not recorded; so only test is a fair
score, and thresholds chosen on val are chosen where the whole network looks better than it is.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from littoral.bench.alone import alone
from littoral.bench.dense_data import Segmented, load_camvid
from littoral.bench.exits.dense_points import (
    DenseSeen,
    certified_over_halves,
    cheapest_within,
    chosen_elsewhere,
    curve_of,
    over_halves,
    path_of,
    whole_of,
)
from littoral.bench.exits.dense_seen import MAIN_WAY, WAYS, DenseExits, see_dense, task_of_network
from littoral.bench.split.dense_networks import DenseNetwork, load_dense_network
from littoral.core.arrays import Float64s
from littoral.core.exits import ExitCosts
from littoral.core.metrics import MeanIoU
from littoral.models.bottleneck import count_macs
from littoral.models.dense_exits import DenseExit, full_scores
from littoral.models.frames import normalise
from littoral.models.graph import graph_network
from littoral.models.parts import head_of
from littoral.train.dense_exits import DenseExitRecipe, see_frames, train_dense_exit

LEVELS = (0.005, 0.01, 0.02)
"""Of the share of wrong pixels over the whole network's, for a certificate."""
_TIMED, _REPEATS = 6, 3


@dataclass(frozen=True, kw_only=True)
class SegmentationUnit:
    """One network with its exits: what is trained and measured at one go.

    Attributes:
        network: ``cgnet`` or ``espnet``.
        cuts: Outputs of the network's layers on which exits stand, the earliest first.
        width, context, dilations: Of every exit, see `littoral.models.dense_exits.DenseExit`.
        views: Of each training frame.
        limit: Frames of each split at most, spread evenly; None for all.
        frame_scales: The whole network on smaller frames, as rivals of the exits.
    """

    network: str = "cgnet"
    cuts: tuple[str, ...] = ("bn_prelu_2",)
    width: int = 64
    context: int = 96
    dilations: tuple[int, ...] = (1, 2, 4, 1)
    views: int = 2
    epochs: int = 20
    seed: int = 0
    limit: int | None = None
    frame_scales: tuple[float, ...] = (0.8, 0.7)

    def config(self) -> dict[str, Any]:
        """As JSON has it."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @property
    def key(self) -> str:
        """Names the configuration: 16 hexadecimal digits."""
        return hashlib.sha256(json.dumps(self.config(), sort_keys=True).encode()).hexdigest()[:16]

    @property
    def name(self) -> str:
        """For people."""
        return f"segmentation {self.network} {'+'.join(self.cuts)} seed {self.seed}"

    @property
    def num_frames(self) -> int:
        """Of work, for bars."""
        return (self.epochs * self.views + 2) * (367 if self.limit is None else self.limit)


def make_segmentation(unit: SegmentationUnit, data: Path, work: Path, tell: Callable[..., None]) -> dict[str, Any]:
    """Train the exits, or take them from their checkpoints, and measure. Of the form of `littoral.bench.rows.MakeUnit`.

    Raises:
        ValueError: the data folder lacks the network or CamVid, or a cut is not a layer's output.
    """
    began = time.process_time()
    network = load_dense_network(data, unit.network)
    exits = new_exits(network, unit)
    folder = work / "trained" / f"segmentation-{unit.network}-{replace(unit, frame_scales=()).key}"
    with alone(folder):
        train_exits_of(exits, unit, load_camvid(data, "train", limit=unit.limit), folder, tell)
    trained = time.process_time() - began
    val, _ = see_dense(exits, load_camvid(data, "val", limit=unit.limit))
    test_set = load_camvid(data, "test", limit=unit.limit)
    test, tiles = see_dense(exits, test_set)
    return {
        **measured(exits.costs, val, test),
        "network": unit.network,
        "cuts": list(unit.cuts),
        "train_cpu_seconds": round(trained, 1),
        "sequences": by_sequence(exits.costs, val, test, test_set.names),
        "tiles_at_best": tiles_at_best(exits.costs, tiles),
        "smaller_frames": [smaller_frames(network, test_set, scale) for scale in unit.frame_scales],
        "cpu_ms": timed(exits, test_set),
    }


def new_exits(network: DenseNetwork, unit: SegmentationUnit) -> DenseExits:
    """Untrained exits on a network."""
    kwargs = dict(network.kwargs)
    task = task_of_network(network)
    run = graph_network(nodes=kwargs["nodes"], input=kwargs["input"], output=[*unit.cuts, kwargs["output"]])
    run.load_state_dict(network.model.state_dict())
    run.eval()
    with torch.inference_mode():
        *found, _ = run(torch.zeros(1, 3, network.input.height, network.input.width))
    torch.manual_seed(unit.seed)
    heads = tuple(
        DenseExit(
            features.shape[1],
            task.num_classes,
            width=unit.width,
            context=unit.context,
            dilations=unit.dilations,
        )
        for features in found
    )
    return DenseExits(
        network=network,
        cuts=unit.cuts,
        run=run,
        heads=heads,
        costs=_costs(network, unit.cuts, heads, [(f.shape[2], f.shape[3]) for f in found]),
    )


def _costs(
    network: DenseNetwork, cuts: Sequence[str], heads: Sequence[DenseExit], sizes: Sequence[tuple[int, int]]
) -> ExitCosts:
    shape = (3, network.input.height, network.input.width)
    until = [count_macs(head_of(network.model, cut), shape) for cut in cuts] + [count_macs(network.model, shape)]
    segments = tuple(int(each) for each in np.diff([0, *until]))
    head_macs = [head.macs(*size) for head, size in zip(heads, sizes, strict=True)]
    return ExitCosts(segment_macs=segments, head_macs=(*head_macs, 0))


def train_exits_of(
    exits: DenseExits, unit: SegmentationUnit, train: Segmented, folder: Path, tell: Callable[..., None]
) -> None:
    """Train every exit that has no finished checkpoint in the folder."""
    task = task_of_network(exits.network)
    finished = [folder / f"exit-{i}.done.pt" for i in range(len(exits.cuts))]
    if not all(path.exists() for path in finished):
        told = unit.epochs * len(exits.cuts)
        data = see_frames(
            exits.run,
            exits.cuts,
            np.stack(train.frames),
            np.stack(train.truths),
            exits.network.input,
            views=unit.views,
            ignored_label=task.ignored_label,
            seed=unit.seed,
            say=lambda line: tell(0, told, line),
        )
        recipe = DenseExitRecipe(epochs=unit.epochs, seed=unit.seed, batch_size=min(8, len(data)))
        for i, (cut, head) in enumerate(zip(exits.cuts, exits.heads, strict=True)):
            if not finished[i].exists():
                train_dense_exit(
                    head,
                    cut,
                    data,
                    recipe,
                    ignored_label=task.ignored_label,
                    checkpoint=folder / f"exit-{i}.pt",
                    progress=lambda line, i=i: tell(i * unit.epochs, told, line),  # type: ignore[misc]
                )
                temporary = finished[i].with_suffix(".new")
                torch.save(head.state_dict(), temporary)
                temporary.replace(finished[i])
    for path, head in zip(finished, exits.heads, strict=True):
        head.load_state_dict(torch.load(path, weights_only=True))
        head.eval()


def tiles_at_best(costs: ExitCosts, tiles: DenseSeen) -> dict[str, Any] | None:
    """What leaving tile by tile could save at most, with hindsight.

    A tile that goes on is answered as if the rest of the network had seen the whole frame, and costs its area's share:
    no network that looks around a pixel can be run so, hence a bound and no method.
    """
    points = curve_of(tiles, MAIN_WAY, path_of(tiles.sure[MAIN_WAY]), costs)
    best = cheapest_within(points, whole=points[0].miou)
    return None if best is None else best.row()


def measured(costs: ExitCosts, val: DenseSeen, test: DenseSeen, *, splits: int = 200) -> dict[str, Any]:
    """Everything that thresholds do: the curve, each way of choosing, and `seg_macs_ratio`."""
    whole = whole_of(test, MAIN_WAY, costs)
    ways: dict[str, Any] = {}
    for way in WAYS:
        points = curve_of(test, way, path_of(test.sure[way]), costs)
        best = cheapest_within(points, whole=whole.miou)
        ways[way] = {
            "hindsight": None if best is None else best.row(),
            "on_val": chosen_elsewhere(val, test, way, costs).row(),
            "on_halves": over_halves(test, way, costs, splits=splits),
            "points": [point.row() for point in points],
        }
    main = ways[MAIN_WAY]
    path = path_of(val.sure[MAIN_WAY])
    excess_NE: Float64s = test.errors_NE - test.errors_NE[:, -1:]
    return {
        "whole": whole.row(),
        "whole_on_val": whole_of(val, MAIN_WAY, costs).row(),
        "exits_alone": [_alone(test, i, costs) for i in range(len(costs.head_macs) - 1)],
        "exits_alone_on_val": [_alone(val, i, costs) for i in range(len(costs.head_macs) - 1)],
        "whole_per_class": _alone(test, len(costs.head_macs) - 1, costs)["per_class"],
        "full_macs": costs.full_macs,
        "segment_macs": list(costs.segment_macs),
        "head_macs": list(costs.head_macs),
        "points": main["points"],
        "ways": ways,
        "certified": [
            certified_over_halves(test, MAIN_WAY, path, costs, losses_NE=excess_NE, level=level, splits=splits)
            for level in LEVELS
        ],
        "seg_macs_ratio": 1.0 if main["hindsight"] is None else main["hindsight"]["macs_ratio"],
        "seg_macs_ratio_chosen_on_val": main["on_val"]["macs_ratio"],
    }


def _alone(seen: DenseSeen, exit_index: int, costs: ExitCosts) -> dict[str, Any]:
    """Every frame leaves at one exit, the others are off; the last is the whole network."""
    metric = MeanIoU(seen.confusions_NEKK.shape[-1])
    metric.confusion_KK += seen.confusions_NEKK[:, exit_index].sum(axis=0)
    macs = sum(costs.segment_macs[: exit_index + 1]) + costs.head_macs[exit_index]
    return {
        "miou": round(100 * metric.value(), 3),
        "pixel_accuracy": round(100 * metric.pixel_accuracy(), 3),
        "disagreement": round(float(seen.disagreement_NE[:, exit_index].mean()), 4),
        "macs": macs,
        "macs_ratio": round(costs.full_macs / macs, 4),
        "per_class": {str(k): round(100 * value, 2) for k, value in metric.per_class().items()},
    }


def by_sequence(costs: ExitCosts, val: DenseSeen, test: DenseSeen, names: Sequence[str]) -> dict[str, Any]:
    """The thresholds chosen on val, by video: the name of a frame starts with its video's."""
    out = {}
    videos = np.array([name.split("_")[0] for name in names])
    for video in sorted(set(videos.tolist())):
        part = test.take(np.flatnonzero(videos == video))
        out[video] = {
            "frames": len(part),
            "whole_miou": round(whole_of(part, MAIN_WAY, costs).miou, 3),
            "on_val": chosen_elsewhere(val, part, MAIN_WAY, costs).row(),
        }
    return out


def smaller_frames(network: DenseNetwork, data: Segmented, scale: float) -> dict[str, Any]:
    """The rival without exits: the whole network on frames made smaller, its scores brought back to their size."""
    task = task_of_network(network)
    size = [8 * round(side * scale / 8) for side in (network.input.height, network.input.width)]
    metric = task.metric()
    for frame, truth in zip(data.frames, data.truths, strict=True):
        with torch.inference_mode():
            x = normalise(torch.from_numpy(np.array(frame[None])), network.input)
            small = nn.functional.interpolate(x, size=size, mode="bilinear", align_corners=False, antialias=True)
            scores = full_scores(network.model(small), *truth.shape)
        metric.update(task.answers(scores.numpy()), [truth])
    macs, full = (
        count_macs(network.model, (3, *shape)) for shape in (size, (network.input.height, network.input.width))
    )
    return {
        "scale": scale,
        "height": size[0],
        "width": size[1],
        "miou": round(100 * metric.value(), 3),
        "macs": macs,
        "macs_ratio": round(full / macs, 4),
    }


@torch.inference_mode()
def timed(exits: DenseExits, data: Segmented) -> dict[str, float]:
    """CPU time of a frame in ms (torch, the threads it is given; the least of some repeats): whole, and by exit."""
    frames = [normalise(torch.from_numpy(np.array(f[None])), exits.network.input) for f in data.frames[:_TIMED]]
    parts = {"whole": exits.network.model}
    for i, (cut, head) in enumerate(zip(exits.cuts, exits.heads, strict=True)):
        parts[f"exit {i}"] = nn.Sequential(head_of(exits.network.model, cut), head)
    times: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(_REPEATS):  # in turns, so that a busy moment meets all alike
        for name, part in parts.items():
            began = time.process_time()
            for x in frames:
                part(x)
            times[name].append((time.process_time() - began) / len(frames))
    return {name: round(1000 * min(found), 2) for name, found in times.items()}
