"""Trains what a `Training` says, resumably, and gives it back with the tables that its payloads are coded with."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from littoral.bench.alone import alone
from littoral.bench.document import commit
from littoral.bench.split.local_only import local_network
from littoral.bench.split.material import (
    FACTORY,
    INPUT,
    KWARGS,
    STUDENT,
    SplitMaterial,
    macs_of_module,
    torch_device,
)
from littoral.bench.split.unit import Training
from littoral.bench.streams.cifar import CLASS_NAMES
from littoral.bench.unit import config_of
from littoral.bundle import SplitCodec
from littoral.core.arrays import FloatArray, Frame
from littoral.core.tasks import Classification
from littoral.models import architectures
from littoral.models.bottleneck import Bottleneck, SplitTail, split_tail_kwargs, to_split_tail
from littoral.models.entropy import UniformPrior
from littoral.models.frames import normalise
from littoral.models.parts import head_of, tail_of
from littoral.train.bottleneck import train_split
from littoral.train.deadzones import fit_codec
from littoral.train.distortions import distortion_of
from littoral.train.split_data import SplitData, SplitNetworks
from littoral.train.split_losses import ClassifierDistortion
from littoral.train.split_recipe import (
    Phase,
    SplitLoss,
    SplitRecipe,
    channel_reduction_recipe,
    end_to_end_recipe,
    parity_recipe,
    product_recipe,
)
from littoral.train.tables import TableOptions

CUT = "layer2"
"""The tail begins after it, where a training says nothing else: 32 channels of 16 x 16."""
STAGES = ("layer1", "layer2", "layer3")
BATCH_SIZE = 64
"""Frames of a step of what has no published batch to keep to, as the plan has it for the product: so as many epochs are
as many steps."""
TABLE_FRAMES = 2_000
TO_NEAREST = TableOptions(deadzones=())
"""Symbols without a deadzone."""
FIXED_LENGTH = TableOptions(deadzones=(), contexts=None, prior_share=math.inf)
"""8 bits a symbol, whatever it is: channel reduction has no entropy coder."""
TASK = Classification(num_classes=len(CLASS_NAMES))
_STILL = 2.0**14
"""A gain at which rounding is nothing, for a network whose latent is its own scores."""
_BATCH = 250
Say = Callable[..., None]


@dataclass(frozen=True, kw_only=True, eq=False)
class Trained:
    """A finished training of a split."""

    training: Training
    bottleneck: Bottleneck
    tail: SplitTail
    head: nn.Module | None
    """What the device runs anyway before the encoder."""
    codec: SplitCodec
    tail_kwargs: dict[str, Any]
    """For `littoral.models.bottleneck.make_split_tail`."""
    commit: str
    """Of the code that trained it."""
    steps: int
    """Of the optimiser, in all phases."""

    def latents(self, frames: Frame) -> FloatArray:
        """float32 ``(N, C, h, w)`` of frames uint8 ``(N, 32, 32, 3)``."""
        return _latents(self.bottleneck, self.head, frames)

    @torch.inference_mode()
    def logits(self, symbols_NCHW: FloatArray, level: int) -> FloatArray:
        """What the cloud makes of symbols as they came: float32, zero where a level sends no channel."""
        device = next(self.tail.parameters()).device
        parts = []
        for start in range(0, len(symbols_NCHW), _BATCH):
            symbols = torch.from_numpy(symbols_NCHW[start : start + _BATCH]).to(device)
            level_B = torch.full((len(symbols),), level, device=device)
            parts.append(self.tail(symbols, level_B).float().cpu().numpy())
        return np.concatenate(parts)

    @property
    def encoder_macs(self) -> int:
        shape = (INPUT.channels, INPUT.height, INPUT.width)
        return macs_of_module(self.bottleneck.encoder, shape if self.head is None else _shape_of(self.head, shape))

    @property
    def segment_macs(self) -> int:
        """Of what the device runs anyway."""
        return 0 if self.head is None else macs_of_module(self.head, (INPUT.channels, INPUT.height, INPUT.width))


@dataclass(frozen=True, kw_only=True)
class _Planned:
    networks: SplitNetworks
    recipe: SplitRecipe
    distortion: ClassifierDistortion


def train_or_load(
    training: Training,
    material: SplitMaterial,
    tell: Say = lambda done, of, text="": None,
    *,
    tables: TableOptions | None = None,
) -> Trained:
    """The split of a training: what its checkpoint lacks is trained now.

    Args:
        tables: How its codec's tables are made; without it as `tables_of` says.
    """
    planned, made_by = _run(training, material, tell)
    bottleneck, tail, head = planned.networks.bottleneck, planned.networks.tail, planned.networks.head
    frames, _ = material.first("train", min(TABLE_FRAMES, training.frames))
    if training.method == "channel_reduction":
        _calibrate_8_bit(bottleneck, head, frames)
    tail_of_teacher = {"factory": FACTORY[training.teacher], "kwargs": KWARGS, "cut": training.options.get("cut", CUT)}
    cloud = to_split_tail(bottleneck, tail)
    epochs_done = training.epochs * training.frames
    codec = fit_codec(
        bottleneck,
        cloud,
        _latents(bottleneck, head, frames),
        distortion_of(TASK),
        tables or tables_of(training),
        progress=lambda line: tell(epochs_done, epochs_done, line),
    )
    return Trained(
        training=training,
        bottleneck=bottleneck,
        tail=cloud,
        head=head,
        codec=codec,
        tail_kwargs=split_tail_kwargs(bottleneck, tail_of_teacher),
        commit=made_by,
        steps=steps_of(planned.recipe, training.frames),
    )


def steps_of(recipe: SplitRecipe, frames: int) -> int:
    """Of the optimiser, in all phases, on so many training frames."""
    return sum(phase.epochs * max(1, frames // recipe.batch_size_of(phase)) for phase in recipe.phases)


def codec_digest(codec: SplitCodec) -> str:
    """Names a codec, 16 hexadecimal digits: with the same one the same latents give the same payloads."""
    deadzones = np.array(codec.deadzones or (0.0,) * codec.num_levels, "<f4")
    told = codec.tables.digest + codec.gains.astype("<f4").tobytes() + deadzones.tobytes()
    return hashlib.sha256(told).hexdigest()[:16]


def tables_of(training: Training) -> TableOptions:
    """How the tables of a training's codec are made: as a build makes them, but that rivals have no deadzones, and
    channel reduction a code of fixed length."""
    if training.method == "channel_reduction":
        return FIXED_LENGTH
    return TableOptions() if training.method == "product" else TO_NEAREST


def train_local(
    training: Training, material: SplitMaterial, tell: Say = lambda done, of, text="": None
) -> tuple[nn.Module, str, int]:
    """A network that sends nothing, trained by the same trainer on the same frames with the same distillation.

    It is trained as a split whose latent is its own scores, at a gain where rounding is nothing, with no weight on the
    rate and nothing behind it.

    Returns:
        The network, in eval mode, the commit of the code that trained it, and how many steps that were.
    """
    planned, made_by = _run(training, material, tell)
    network = nn.Sequential(planned.networks.bottleneck.encoder, nn.Flatten()).eval()
    return network, made_by, steps_of(planned.recipe, training.frames)


def _run(training: Training, material: SplitMaterial, tell: Say) -> tuple[_Planned, str]:
    total = training.epochs * training.frames
    done = 0

    def say(line: str) -> None:
        tell(done, total, line)

    def after(epoch: int, bottleneck: Bottleneck, tail: nn.Module) -> None:
        nonlocal done
        done = epoch * training.frames

    frames, labels = material.first("train", training.frames)
    bank = material.bank(training.teacher, frames=training.frames, views=training.views, progress=say)
    planned = _plan(training, material)
    folder = material.work / "trained" / f"{training.folder}-{_digest(planned)}"
    with alone(folder):
        (folder / "config.json").write_text(json.dumps(config_of(training), indent=1))
        train_split(
            planned.recipe,
            planned.networks,
            SplitData(frames=frames, input=INPUT, targets=labels, bank=bank),
            distortion=planned.distortion,
            checkpoint=folder / "checkpoint.pt",
            progress=say,
            after_epoch=after,
        )
        return planned, _trained_by(folder)


def _digest(planned: _Planned) -> str:
    """Of the recipe and the networks that the configuration stands for now: code that changes these trains anew."""
    networks = planned.networks
    parts = (planned.recipe, planned.distortion, networks.bottleneck, networks.tail, networks.bottleneck.kept)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:8]


def _trained_by(folder: Path) -> str:
    """The commit of the code that finished the training, kept beside the checkpoint."""
    path = folder / "commit"
    if not path.exists():
        path.write_text(commit())
    return path.read_text()


def _plan(training: Training, material: SplitMaterial) -> _Planned:
    """Fresh networks and the recipe; the same seed gives the same ones."""
    options = dict(training.options)
    teacher = material.network(training.teacher)
    segment, cut = options.pop("segment", None), options.pop("cut", CUT)
    with torch.random.fork_rng():
        torch.manual_seed(training.seed)
        bottleneck, recipe = _METHODS[training.method](training, options)
    device = torch_device()
    local = training.method == "local_only"
    networks = SplitNetworks(
        bottleneck=bottleneck.to(device),
        tail=nn.Identity() if local else tail_of(teacher, cut).to(device),
        head=None if segment is None else head_of(material.network(STUDENT), segment).to(device),
        teacher=teacher.to(device),
        cut=None if local else cut,
    )
    alone_with_labels = training.method == "end_to_end"
    distortion = ClassifierDistortion(label_weight=1.0, teacher_weight=0.0) if alone_with_labels else None
    return _Planned(networks=networks, recipe=recipe, distortion=distortion or ClassifierDistortion())


def _product(training: Training, options: dict[str, Any]) -> tuple[Bottleneck, SplitRecipe]:
    weights = tuple(options["rate_weights"])
    network = architectures.product(
        starting_gains=options["starting_gains"], kept=options.get("kept"), **options.get("network", {})
    )
    recipe = product_recipe(
        epochs=training.epochs, rate_weights=weights, seed=training.seed, **options.get("recipe", {})
    )
    return network, recipe


def _parity(training: Training, options: dict[str, Any]) -> tuple[Bottleneck, SplitRecipe]:
    first = max(1, training.epochs // 2)
    recipe = parity_recipe(
        beta=options["beta"],
        features=STAGES[STAGES.index(training.options.get("cut", CUT)) :],
        stage1_epochs=first,
        stage2_epochs=training.epochs - first,
        seed=training.seed,
    )
    return architectures.entropic_student(**options.get("network", {})), recipe


def _end_to_end(training: Training, options: dict[str, Any]) -> tuple[Bottleneck, SplitRecipe]:
    recipe = end_to_end_recipe(beta=options["beta"], epochs=training.epochs, batch_size=BATCH_SIZE, seed=training.seed)
    return architectures.entropic_student(**options.get("network", {})), recipe


def _channel_reduction(training: Training, options: dict[str, Any]) -> tuple[Bottleneck, SplitRecipe]:
    recipe = channel_reduction_recipe(features=(CUT, "layer3"), epochs=training.epochs, seed=training.seed)
    return architectures.channel_reduction(num_channels=options["channels"], **options.get("network", {})), recipe


def _rac_shaped(training: Training, options: dict[str, Any]) -> tuple[Bottleneck, SplitRecipe]:
    recipe = product_recipe(
        epochs=training.epochs, hard_epochs=0, rate_weights=(options["rate_weight"],), seed=training.seed,
        **options.get("recipe", {}),
    )  # fmt: skip
    return architectures.rac_shaped(**options.get("network", {})), recipe


def _local_only(training: Training, options: dict[str, Any]) -> tuple[Bottleneck, SplitRecipe]:
    classes = KWARGS["num_classes"]
    network = nn.Sequential(local_network(num_classes=classes, **options["network"]), nn.Unflatten(1, (classes, 1, 1)))
    bottleneck = Bottleneck(
        network,
        nn.Flatten(),
        UniformPrior(1, classes),
        num_channels=classes,
        num_levels=1,
        starting_gains=[_STILL],
        learned_gains=False,
    )
    phase = Phase(
        epochs=training.epochs,
        loss=SplitLoss(rate=0.0),
        trained=("encoder",),
        lr=2e-3,
        weight_decay=1e-2,
        clip_norm=5.0,
        warmup=0.1,
    )
    return bottleneck, SplitRecipe(phases=(phase,), rate_weights=(0.0,), batch_size=BATCH_SIZE, seed=training.seed)


_METHODS: dict[str, Callable[[Training, dict[str, Any]], tuple[Bottleneck, SplitRecipe]]] = {
    "product": _product,
    "product_single": _product,
    "parity": _parity,
    "parity_first_stage": _parity,
    "end_to_end": _end_to_end,
    "channel_reduction": _channel_reduction,
    "rac_shaped": _rac_shaped,
    "local_only": _local_only,
}


def _calibrate_8_bit(bottleneck: Bottleneck, head: nn.Module | None, frames: Frame) -> None:
    found = torch.from_numpy(_latents(bottleneck, head, frames))
    architectures.calibrate_8_bit(bottleneck, found.to(bottleneck.gains.device))


@torch.inference_mode()
def _latents(bottleneck: Bottleneck, head: nn.Module | None, frames: Frame) -> FloatArray:
    device = next(bottleneck.parameters()).device
    parts = []
    for start in range(0, len(frames), _BATCH):
        x = normalise(torch.from_numpy(np.ascontiguousarray(frames[start : start + _BATCH])).to(device), INPUT)
        parts.append(bottleneck.latent(x if head is None else head(x)).float().cpu().numpy())
    return np.concatenate(parts)


def _shape_of(head: nn.Module, shape: tuple[int, ...]) -> tuple[int, ...]:
    device = next(head.parameters()).device
    with torch.inference_mode():
        return tuple(head(torch.zeros(1, *shape, device=device)).shape[1:])
