"""Trained exits and the chain that they make of a network. Made once, kept in the work folder; a training that was
stopped goes on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from littoral.bench.alone import alone
from littoral.bench.exits.chain import Chain, ChainExit, Step, step_of
from littoral.bundle import InputSpec
from littoral.core.arrays import Tensors
from littoral.models.bottleneck import count_macs
from littoral.train.cuts import find_cut_points, named_cut_points, split, total_macs
from littoral.train.exit_heads import TrainedExits, load_trained_exits, save_trained_exits
from littoral.train.exit_places import place_exits
from littoral.train.exits import ExitRecipe, train_exits
from littoral.train.export import export_model, external_names
from littoral.train.standalone import export_standalone

if TYPE_CHECKING:
    from littoral.bench.exits.material import ExitMaterial

TRAIN_FRAMES = 20_000
"""Of CIFAR-10's training frames, the first so many."""
PLACES: dict[str, tuple[str, ...]] = {
    "resnet20": ("layer1.1", "layer1.2", "layer2.0", "layer2.2", "layer3.1"),
    "resnet56": ("layer1.0", "layer1.4", "layer1.8", "layer2.5", "layer3.1"),
    "digits": ("blocks.1",),
}
"""After these modules exits stand, beside the deep one."""
RECIPES: dict[str, ExitRecipe] = {
    "resnet20": ExitRecipe(epochs=4),
    "resnet56": ExitRecipe(epochs=3),
    "digits": ExitRecipe(epochs=2, batch_size=32, pad=1, mirror=False),
}


def trained_exits(material: ExitMaterial, network: str, say: Callable[[str], None] = lambda line: None) -> TrainedExits:
    """From the work folder's ``exits``, or trained now on the source's training frames."""
    folder = material.work / "exits"
    file = folder / f"{network}-{_digest(material, network)}.safetensors"
    with alone(folder):
        if file.is_file():
            return load_trained_exits(file)
        frames, labels = material.source(network)
        model, spec = material.network(network), material.input(network)
        trained = train_exits(
            model,
            spec,
            frames[:TRAIN_FRAMES],
            labels[:TRAIN_FRAMES],
            RECIPES[network],
            say,
            places=place_exits(model, spec, PLACES[network]),
            checkpoint=file.with_suffix(".ckpt"),
        )
        save_trained_exits(file, trained)
        return trained


def _digest(material: ExitMaterial, network: str) -> str:
    told = json.dumps(
        [material.data_digest(network), TRAIN_FRAMES, PLACES[network], asdict(RECIPES[network])], sort_keys=True
    )
    return hashlib.sha256(told.encode()).hexdigest()[:8]


def trained_chain(network: nn.Module, spec: InputSpec, trained: TrainedExits) -> Chain:
    """A network and its trained exits as sessions: what a bundle of them has."""
    exported = export_model(network, spec, taps=[each.place for each in trained.exits if not each.is_deep])
    points = find_cut_points(exported.graph)
    early = [each.place for each in trained.exits if not each.is_deep]
    cuts = [*(point.tensor for point in named_cut_points(points, early)), points[-1].tensor]
    graphs = split(exported.graph, cuts)
    share = {point.tensor: point.share_of_macs for point in points}
    edges = np.rint(total_macs(exported.graph) * np.array([0, *(share[cut] for cut in cuts), 1])).astype(int)

    def remake(values: Tensors) -> tuple[Step, ...]:
        tensors = {**exported.tensors, **values}
        return tuple(
            step_of(g.SerializeToString(), external_names(g), tensors, g.graph.input[0].name, g.graph.output[0].name)
            for g in graphs
        )

    exits = tuple(
        ChainExit(
            segment=cuts.index(each.place) if each.stem is not None else len(cuts) - 1,
            stem=None if each.stem is None else _stem_step(each.stem, each.stem.input_shape),
            head=each.head,
            moments=each.moments,
            temperature=each.temperature,
            macs=each.head.weights_KD.size + (0 if each.stem is None else count_macs(each.stem, each.stem.input_shape)),
        )
        for each in trained.exits
    )
    return Chain(
        segments=remake({}),
        exits=exits,
        segment_macs=tuple(int(macs) for macs in np.diff(edges)),
        class_shares_K=trained.class_shares_K,
        remake=remake,
    )


def _stem_step(stem: nn.Module, shape: tuple[int, int, int]) -> Step:
    """A stem's session, its weights inside."""
    example = torch.zeros((2, *shape))
    graph = export_standalone(stem.eval(), example, input_name="features", output_name="pooled", what="a stem")
    return step_of(graph.SerializeToString(), (), {}, "features", "pooled")


def trained_file(material: ExitMaterial, network: str) -> Path:
    """Where the trained exits of a network are kept."""
    return material.work / "exits" / f"{network}-{_digest(material, network)}.safetensors"
