"""Train a split: the bottleneck and the tail behind it, by a recipe, resumable at every epoch.

Axes: N frames, B batch, H height, W width, C channels.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from littoral.models.bottleneck import Bottleneck
from littoral.models.entropy import FactorisedPrior
from littoral.models.frames import normalise
from littoral.models.precision import Precision, as_float32, autocast, uses_bfloat16
from littoral.train.checkpoints import Checkpoint
from littoral.train.split_check import check_training
from littoral.train.split_checkpoint import parts_of
from littoral.train.split_data import Progress, ShiftAndFlip, SplitData, SplitNetworks
from littoral.train.split_losses import ClassifierDistortion, Distortion, feature_errors, pool, tap_names, tapped
from littoral.train.split_recipe import Phase, SplitRecipe

_SECONDS_BETWEEN_LINES = 30.0
AfterEpoch = Callable[[int, Bottleneck, nn.Module], None]


@dataclass
class _Batch:
    frames: Tensor
    targets: Tensor | None
    level_B: Tensor
    teacher_outputs: Any = None
    teacher_pooled: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class _Sums:
    """What the progress line says, since it was last said."""

    frames: int = 0
    loss: float = 0.0
    bits: float = 0.0

    def add(self, loss: Tensor, bits_B: Tensor, *, summed: bool) -> None:
        self.frames += len(bits_B)
        self.loss += float(loss.detach()) * (1 if summed else len(bits_B))
        self.bits += float(bits_B.detach().sum())

    def __str__(self) -> str:
        frames = max(1, self.frames)
        return f"loss {self.loss / frames:.3f}, {self.bits / frames / 8:.1f} B a frame"


def train_split(
    recipe: SplitRecipe,
    networks: SplitNetworks,
    data: SplitData,
    *,
    distortion: Distortion | None = None,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
    after_epoch: AfterEpoch | None = None,
    precision: Precision = "auto",
    clock: Callable[[], float] = time.monotonic,
) -> tuple[Bottleneck, nn.Module]:
    """Train bottleneck and tail in place, and leave them in eval mode.

    The same recipe, networks, data, machine and number of threads give the same weights, whether stopped and started
    again or not; torch's own generator is left as it was.

    Args:
        distortion: What the task loses by outputs; `ClassifierDistortion` without it.
        checkpoint: A file written after every epoch, and read first if it is there; its folder is made.
        after_epoch: Called with the number of epochs done; networks are in eval mode. It must not change them.
        precision: In which the networks compute; see `littoral.models.precision`.
        clock: Seconds, for the time left.
    Returns:
        The bottleneck and the tail.
    Raises:
        ValueError: recipe, networks and data do not fit together, or the checkpoint is of another training.
    """
    check_training(recipe, networks, data)
    distortion = distortion or ClassifierDistortion()
    trainer = _Trainer(recipe, networks, data, distortion, precision, progress, clock)
    kept: Checkpoint | None = None
    first = 0
    if checkpoint is not None:
        learners = {"bottleneck": networks.bottleneck, "tail": networks.tail}
        kept = Checkpoint(checkpoint, parts_of(recipe, networks, data, distortion), learners)
        first = kept.resume(trainer.restore, trainer.device)
    trainer.first_epoch = first
    try:
        with torch.random.fork_rng():
            for epoch in range(first, recipe.epochs):
                trainer.run(epoch)
                if kept is not None:
                    kept.save(trainer.state(epoch + 1))
                if after_epoch is not None:
                    trainer.set_modes(None)
                    after_epoch(epoch + 1, networks.bottleneck, networks.tail)
    finally:  # a phase that was stopped leaves nothing frozen that the next call would take for the caller's wish
        trainer.set_modes(None)
    return networks.bottleneck, networks.tail


class _Trainer:
    """The state of one training."""

    def __init__(
        self,
        recipe: SplitRecipe,
        networks: SplitNetworks,
        data: SplitData,
        distortion: Distortion,
        precision: Precision,
        progress: Progress | None,
        clock: Callable[[], float],
    ) -> None:
        self.recipe = recipe
        self.networks = networks
        self.bottleneck = networks.bottleneck
        self.tail = networks.tail
        self.data = data
        self.distortion = distortion
        self.progress = progress
        self.clock = clock
        self.first_epoch = 0
        self.began = self.said = clock()
        self.device = next(networks.bottleneck.parameters()).device
        self.bfloat16 = uses_bfloat16(precision, self.device)
        self.rate_weights = torch.tensor(recipe.rate_weights, device=self.device)
        self.optimizer: torch.optim.Optimizer | None = None
        self.phase_index = -1
        learners = (*self.bottleneck.parameters(), *self.tail.parameters())
        self.learnable = [value for value in learners if value.requires_grad]
        """What the caller has not frozen."""
        for module in (self.bottleneck, self.tail, networks.head, networks.teacher):
            if module is not None:
                module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def steps_per_epoch(self, phase: Phase) -> int:
        return max(1, len(self.data.frames) // self.recipe.batch_size_of(phase))

    # One epoch.

    def run(self, epoch: int) -> None:
        """Train for one epoch. All that is random in it comes of the seed and the epoch's number."""
        index, before = self.recipe.phase_of(epoch)
        phase = self.recipe.phases[index]
        if index != self.phase_index:
            self.begin_phase(index, fresh=before == 0)
        rng = np.random.default_rng((self.recipe.seed, epoch))
        torch.manual_seed(int(rng.integers(1 << 62)))
        self.set_modes(phase)
        sums, num_steps = _Sums(), self.steps_per_epoch(phase)
        names = tap_names(phase.loss)
        # What is compared at the cut is the decoder's output, not a module's of the tail.
        with (
            tapped(self.tail, [name for name in names if name != self.networks.cut]) as ours,
            tapped(self.networks.teacher or nn.Identity(), names if self.runs_teacher(phase) else []) as teachers,
        ):
            for step, batch in enumerate(self.batches(phase, rng)):
                epochs_done = before + step / num_steps
                self.set_lr(phase, epochs_done / phase.epochs)
                ramp = 1.0 if not phase.rate_ramp_epochs else min(1.0, epochs_done / phase.rate_ramp_epochs)
                loss, bits_B = self.loss(phase, batch, ramp, ours, teachers)
                self.step(phase, loss)
                sums.add(loss, bits_B, summed=phase.loss.summed)
                sums = self.say(epoch, step + 1, sums)

    def batches(self, phase: Phase, rng: np.random.Generator) -> Iterator[_Batch]:
        size, data = self.recipe.batch_size_of(phase), self.data
        order = rng.permutation(len(data.frames))
        for step in range(self.steps_per_epoch(phase)):
            picked = order[step * size : (step + 1) * size]
            levels = rng.permutation(np.arange(len(picked)) % self.bottleneck.num_levels)
            frames, targets = data.frames[picked], None if data.targets is None else data.targets[picked]
            batch = _Batch(frames=torch.empty(0), targets=None, level_B=torch.from_numpy(levels).to(self.device))
            if data.bank is not None:
                views = rng.integers(data.bank.num_views, size=len(picked))
                frames = ShiftAndFlip(data.bank.pad).moved(frames, data.bank.moves_VN3[views, picked])
                batch.teacher_outputs = self.tensor(data.bank.outputs_VNK[views, picked]).float()
                batch.teacher_pooled = {
                    name: self.tensor(values[views, picked]).float() for name, values in data.bank.pooled_VNC.items()
                }
            elif data.augment is not None:
                frames, targets = data.augment(frames, targets, rng)
            batch.frames = self.tensor(frames)
            batch.targets = None if targets is None else self.tensor(targets)
            yield batch

    def tensor(self, values: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.device)

    def runs_teacher(self, phase: Phase) -> bool:
        """Not where the bank has all that the phase asks of it."""
        if self.networks.teacher is None:
            return False
        return bool(phase.loss.features) or self.data.bank is None

    def loss(
        self, phase: Phase, batch: _Batch, ramp: float, ours: dict[str, Tensor], teachers: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """The loss of a batch, and each frame's bits."""
        weights = phase.loss
        x = normalise(batch.frames, self.data.input).contiguous(memory_format=torch.channels_last)
        with autocast(self.device, bfloat16=self.bfloat16):
            with torch.no_grad():
                if self.runs_teacher(phase):
                    assert self.networks.teacher is not None
                    teachers.clear()
                    batch.teacher_outputs = as_float32(self.networks.teacher(x))
                    teachers.update(as_float32(teachers))
                    batch.teacher_pooled = {name: pool(teachers[name]) for name in weights.pooled}
                if self.networks.head is not None:
                    x = self.networks.head(x)
            ours.clear()
            out = self.bottleneck(x, batch.level_B)
            outputs = as_float32(self.tail(out.features.clone()))  # it may begin with what works in place
        ours.update(as_float32(ours))
        if missing := [name for name in tap_names(weights) if name not in ours and name != self.networks.cut]:
            raise ValueError(f"the tail does not run {missing[0]!r} as a whole; take the loss at a module within it")
        if self.networks.cut is not None:
            ours[self.networks.cut] = out.features.float()
        loss_B = weights.rate * ramp * self.rate_weights[batch.level_B] * out.rate_bits
        if weights.distortion:
            distortion_B = self.distortion(outputs, batch.teacher_outputs, batch.targets)
            loss_B = loss_B + weights.distortion * distortion_B
        if weights.features:
            loss_B = loss_B + feature_errors(ours, teachers, weights.features, relative=weights.relative)
        if weights.pooled:
            pooled = {name: pool(ours[name]) for name in weights.pooled}
            loss_B = loss_B + feature_errors(pooled, batch.teacher_pooled, weights.pooled, relative=weights.relative)
        return (loss_B.sum() if weights.summed else loss_B.mean()), out.rate_bits

    def step(self, phase: Phase, loss: Tensor) -> None:
        assert self.optimizer is not None
        if phase.quantile_loss:
            prior = self.bottleneck.prior
            assert isinstance(prior, FactorisedPrior)
            loss = loss + prior.quantile_loss()  # of its parameters alone, so one step serves both, as published
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if phase.clip_norm is not None:
            learned = [value for group in self.optimizer.param_groups for value in group["params"]]
            torch.nn.utils.clip_grad_norm_(learned, phase.clip_norm)
        self.optimizer.step()

    # Phases.

    def parts(self, phase: Phase) -> dict[str, list[nn.Parameter]]:
        """The parameters of the parts that a phase trains."""
        bottleneck = self.bottleneck
        everything = {
            "encoder": list(bottleneck.encoder.parameters()),
            "gains": [bottleneck.log_gains] if bottleneck.learned_gains else [],
            "prior": [
                value
                for name, value in bottleneck.prior.named_parameters()
                if name != "quantiles" or phase.quantile_loss
            ],
            "decoder": list(bottleneck.decoder.parameters()),
            "tail": list(self.tail.parameters()),
            "scales": [bottleneck.log_scales] if bottleneck.learned_scales else [],
        }
        allowed = {id(value) for value in self.learnable}
        found = {part: [value for value in everything[part] if id(value) in allowed] for part in phase.trained}
        return {part: values for part, values in found.items() if values}

    def begin_phase(self, index: int, *, fresh: bool) -> None:
        phase = self.recipe.phases[index]
        if fresh and phase.round_about_medians:
            prior = self.bottleneck.prior
            if not isinstance(prior, FactorisedPrior) or self.bottleneck.num_levels != 1:
                raise ValueError("medians are those of a factorised prior with one level")
            with torch.no_grad():
                medians = prior.medians(0).to(self.bottleneck.gains)
                self.bottleneck.round_about(medians / self.bottleneck.gains[0])
        groups = [
            {
                "params": values,
                "scale": phase.lr * phase.lr_scales.get(part, 1.0),
                "weight_decay": 0.0 if part in ("gains", "prior", "scales") else phase.weight_decay,
            }
            for part, values in self.parts(phase).items()
        ]
        if phase.optimizer == "sgd":
            self.optimizer = torch.optim.SGD(groups, lr=phase.lr, momentum=phase.momentum)
        elif phase.optimizer == "adam":
            self.optimizer = torch.optim.Adam(groups, lr=phase.lr)
        else:
            self.optimizer = torch.optim.AdamW(groups, lr=phase.lr)
        self.phase_index = index

    def set_lr(self, phase: Phase, done: float) -> None:
        assert self.optimizer is not None
        for group in self.optimizer.param_groups:
            group["lr"] = group["scale"] * phase.lr_factor(done)

    def set_modes(self, phase: Phase | None) -> None:
        """What is trained goes into train mode, all else into eval mode; without a phase, all into eval mode."""
        bottleneck, trained = self.bottleneck, () if phase is None else phase.trained
        bottleneck.train(phase is not None)
        bottleneck.hard = phase is not None and phase.hard
        bottleneck.encoder.train("encoder" in trained)
        bottleneck.decoder.train("decoder" in trained)
        self.tail.train(phase is not None and phase.tail_statistics)
        for frozen in (self.networks.head, self.networks.teacher):
            if frozen is not None:
                frozen.eval()
        learned = None if phase is None else {id(value) for values in self.parts(phase).values() for value in values}
        for value in self.learnable:  # no gradient is computed that nobody uses
            value.requires_grad_(learned is None or id(value) in learned)

    # Stopping and starting.

    def state(self, epochs_done: int) -> dict[str, Any]:
        """For a checkpoint."""
        assert self.optimizer is not None
        return {
            "epochs_done": epochs_done,
            "phase": self.phase_index,
            "bottleneck": self.bottleneck.state_dict(),
            "tail": self.tail.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> int:
        """Go on where a checkpoint is; the number of epochs done."""
        self.bottleneck.load_state_dict(state["bottleneck"])
        self.tail.load_state_dict(state["tail"])
        epochs_done = int(state["epochs_done"])
        if epochs_done < self.recipe.epochs and self.recipe.phase_of(epochs_done)[1] > 0:
            self.begin_phase(state["phase"], fresh=False)
            assert self.optimizer is not None
            self.optimizer.load_state_dict(state["optimizer"])
        return epochs_done

    def say(self, epoch: int, step: int, sums: _Sums) -> _Sums:
        """Tell how it goes, at an epoch's end and every half minute, and begin new sums."""
        phases = [self.recipe.phases[self.recipe.phase_of(n)[0]] for n in range(self.first_epoch, self.recipe.epochs)]
        steps = [self.steps_per_epoch(phase) for phase in phases]
        here = epoch - self.first_epoch
        now, last = self.clock(), step == steps[here]
        if self.progress is None or not (last or now - self.said >= _SECONDS_BETWEEN_LINES):
            return sums
        # By frames and not by steps, whose sizes differ between phases.
        frames = [count * self.recipe.batch_size_of(phase) for count, phase in zip(steps, phases, strict=True)]
        done = sum(frames[:here]) + step * self.recipe.batch_size_of(phases[here])
        minutes = (now - self.began) / done * (sum(frames) - done) / 60
        where = f"epoch {epoch + 1}/{self.recipe.epochs}" + ("" if last else f", step {step}/{steps[here]}")
        self.progress(f"{where}: {sums}; {minutes:.1f} min left")
        self.said = now
        return _Sums()
