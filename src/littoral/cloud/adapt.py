"""Adaptation as a function: (state after version v, new and replayed frames, seed, config) -> (state, version v + 1).

`Worker` holds the torch networks and nothing else that lasts: whatever it is given, it first puts the networks into the
job's state. Restart, retry and double execution are therefore harmless, and every executor gives the same numbers.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors
from torch import Tensor, nn

from littoral.bundle import Bundle, TorchModel
from littoral.cloud.exits import TaughtExits
from littoral.cloud.jobs import AdaptConfig, AdaptJob, AdaptResult
from littoral.cloud.teacher import (
    divergence_from_teacher,
    entropy,
    fitted_temperature,
    shifted,
    spread,
    student_loss,
    teacher_loss,
)
from littoral.core.affine import affine_names, clip_to_envelope, diff, encode_delta
from littoral.core.arrays import FloatArray, Frame, Tensors
from littoral.core.sample_labels import encode_label
from littoral.errors import BundleError, ModelOutputError
from littoral.models.factory import load_model
from littoral.models.frames import normalise
from littoral.models.norm import adaptive_state, learn, prepare
from littoral.models.precision import autocast, uses_bfloat16

_STATE_SCHEMA = "1"
MIRROR_AGREEMENT = 0.9
"""Of the teacher's labels for source frames and their mirror images, from which on mirroring is taken for harmless."""


class Worker:
    """Teacher and student of a bundle, ready for jobs.

    Args:
        bundle: Opened with ``require_cloud``.
        device: ``auto`` (CUDA where torch has it), ``cpu`` or ``cuda``.
    Raises:
        BundleError: the bundle's task is not adapted, student and teacher answer for different classes, or a network
            cannot be rebuilt.
        ValueError: there is nothing to adapt, the device is not to be had, or there is no such precision.
    """

    def __init__(self, bundle: Bundle, config: AdaptConfig | None = None, *, device: str = "auto") -> None:
        if not bundle.manifest.adapts or bundle.manifest.teacher is None:
            raise BundleError(
                f"bundle {bundle.manifest.name!r} is for {bundle.manifest.task}; classifiers alone are adapted"
            )
        self.bundle, self.config = bundle, config or AdaptConfig()
        self.device = choose_device(device)
        self.bfloat16 = uses_bfloat16(self.config.precision, self.device)
        """Whether networks compute in bfloat16 while they learn."""
        torch.set_num_threads(self.config.threads)
        self.student = self._load(bundle.manifest.student, "student")
        self.teacher = self._load(bundle.manifest.teacher, "teacher")
        exits = TaughtExits.of(bundle, self.student) if self.config.exit_weight else None
        self._exits = None if exits is None else exits.to(self.device)
        if exits is not None and self.config.precision == "auto":
            self.bfloat16 = False  # exits are sure of far fewer frames after it (docs/adr/0032)
        self._source = {role: _copy_state(model) for role, model in self._models()}
        self._start = {role: dict(state) for role, state in self._source.items()}
        if bundle.manifest.rehearsed_file is not None:
            rehearsed = bundle.load_tensors(bundle.manifest.rehearsed_file)
            self._start["student"] |= {n: torch.from_numpy(np.array(v)).to(self.device) for n, v in rehearsed.items()}
        known = {name for name, _ in adaptive_state(self.student)}
        if missing := [name for name in affine_names(bundle.manifest.norm_layers) if name not in known]:
            raise BundleError(f"the student lacks the bundle's affine tensors {missing[:3]}; build the bundle again")
        self.mirrors = self.config.augment and self._mirror_agreement() >= MIRROR_AGREEMENT
        """Whether a frame and its mirror image mean the same here; the teacher says so of the bundle's probe frames."""

    def adapt(self, job: AdaptJob) -> AdaptResult:
        """One job: a step of a teacher that learns on the new frames, then student steps on new and replayed ones.

        Raises:
            ModelOutputError: a loss or a value became infinite or NaN; nothing of it is kept.
        """
        started = time.perf_counter()
        rng = torch.Generator().manual_seed(job.seed)  # of this job alone: others may draw in the same process
        optimisers = self._restore(job.state)
        new, replay = self._input(job.new_frames), self._input(job.replay_frames)
        learns = self.config.teacher_lr > 0
        if learns:
            self._teacher_step(new, optimisers["teacher"])
        targets = self._targets(new, replay)
        restarted = learns and self._collapsed(new, targets[: len(new)])
        if restarted:
            _put(self.teacher, self._source["teacher"])
            optimisers["teacher"] = self._optimisers()["teacher"]
            targets = self._targets(new, replay)
        loss = divergence = float("nan")
        steps = 0
        while steps < self.config.inner_steps and not divergence < self.config.settled_nats:
            loss, divergence = self._student_step(*self._draw(new, replay, targets, rng), optimisers["student"])
            steps += 1
        finite = np.isfinite(loss) and all(
            bool(tensor.isfinite().all()) for _, model in self._models() for _, tensor in adaptive_state(model)
        )
        if not finite:  # asked before the envelope, which would make a bound of an infinity
            raise ModelOutputError(
                f"adaptation from version {job.base_version} diverged (loss {loss}); lower student_lr "
                f"({self.config.student_lr}) or inner_steps ({self.config.inner_steps})"
            )
        affine = self._shipped_affine()
        report: dict[str, float | str] = {
            "student_loss": loss,
            "divergence_nats": divergence,
            "student_steps": float(steps),
            "teacher_entropy_nats": float(entropy(targets[: len(new)]).mean()),
            "teacher_restarted": float(restarted),
            "new_frames": float(len(new)),
            "replay_frames": float(len(replay)),
            "device": str(self.device),
            "precision": "bfloat16" if self.bfloat16 else "float32",
        }
        layers = self.bundle.manifest.norm_layers
        payload = encode_delta(diff(affine, self.bundle.source_affine, layers), layers)
        state = self._state(optimisers)
        said = targets[: len(new)].double().softmax(1).cpu().numpy()
        labels = tuple(encode_label(row) for row in said) if np.isfinite(said).all() else ()
        report["seconds"] = time.perf_counter() - started
        return AdaptResult(state=state, payload=payload, report=report, labels=labels)

    def logits(
        self, frames: Frame, *, role: Literal["student", "teacher"], affine: Tensors | None = None
    ) -> FloatArray:
        """Logits ``(N, K)`` under the frames' own batch statistics; the source's student or the teacher as it stands.

        Args:
            frames: uint8 ``(N, H, W, C)``.
            affine: Values that the student gets first; its adaptation state is lost, as before every job.
        """
        model = self.student if role == "student" else self.teacher
        if role == "student":
            _put(model, self._source["student"])
            _put(model, {name: torch.from_numpy(np.array(value)) for name, value in (affine or {}).items()})
        kept = _copy_state(model)
        with torch.no_grad():
            learn(model, True)
            out: FloatArray = self._forward(model, self._input(frames)).cpu().numpy()
            learn(model, False)
        _put(model, kept)
        return out

    def source_logits(self, frames: Frame, affine: Tensors) -> FloatArray:
        """Logits ``(N, K)`` of the student with these affine values under the *source's* statistics."""
        learn(self.student, False)
        _put(self.student, self._source["student"])
        _put(self.student, {name: torch.from_numpy(np.array(value)) for name, value in affine.items()})
        with torch.no_grad():
            out: FloatArray = self.student(self._input(frames)).cpu().numpy()
        return out

    # -- the two steps -------------------------------------------------------------------------------------------------

    def _teacher_step(self, new: Tensor, optimiser: torch.optim.Optimizer) -> None:
        learn(self.teacher, True)
        logits = self._forward(self.teacher, new)
        optimiser.zero_grad()
        teacher_loss(logits, mean_one=self.config.mean_one_weights).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        learn(self.teacher, False)
        if self.config.teacher_recall:
            with torch.no_grad():
                for name, tensor in adaptive_state(self.teacher):
                    tensor.lerp_(self._source["teacher"][name], self.config.teacher_recall)

    def _targets(self, new: Tensor, replay: Tensor) -> Tensor:
        """The teacher's logits, after its step: they serve all student steps of the job.

        The published targets come from running statistics, which follow only what was uploaded and so lag behind every
        shift; a batch's own do not. Where mirroring is harmless, the answers to a frame and to its mirror image are
        averaged.
        """
        with torch.no_grad():
            learn(self.teacher, self.config.normalisation == "batch")
            targets = self._by_parts(self.teacher, new, replay)
            if self.mirrors:
                mirrored = self._by_parts(self.teacher, new.flip(3), replay.flip(3))
                targets = ((targets.softmax(1) + mirrored.softmax(1)) / 2).clamp_min(1e-12).log()
            learn(self.teacher, False)
        return targets

    def _collapsed(self, new: Tensor, targets: Tensor) -> bool:
        """Whether the teacher gives few classes where its source gives many: entropy minimisation run away."""
        share = self.config.teacher_min_spread
        if not share:
            return False
        kept = _copy_state(self.teacher)
        _put(self.teacher, self._source["teacher"])
        with torch.no_grad():
            learn(self.teacher, True)
            source = self._forward(self.teacher, new)
            learn(self.teacher, False)
        _put(self.teacher, kept)
        return spread(targets.cpu().numpy()) < share * spread(source.cpu().numpy())

    def _draw(
        self, new: Tensor, replay: Tensor, targets: Tensor, rng: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The frames and targets of one student step, drawn by the job's generator."""
        config = self.config
        if config.minibatch_size is not None and len(new) + len(replay) > config.minibatch_size:
            chosen = torch.randperm(len(targets), generator=rng)[: config.minibatch_size].sort().values
            ours, old = chosen[chosen < len(new)], chosen[chosen >= len(new)] - len(new)
            new, replay, targets = new[ours], replay[old], targets[chosen]
        if config.augment:
            mirror = self.mirrors and bool(torch.rand((), generator=rng) < 0.5)
            shift = [int(torch.randint(-(side // 16), side // 16 + 1, (), generator=rng)) for side in new.shape[2:]]
            new, replay = shifted(new, shift, mirror), shifted(replay, shift, mirror)
        return new, replay, targets

    def _student_step(
        self, new: Tensor, replay: Tensor, targets: Tensor, optimiser: torch.optim.Optimizer
    ) -> tuple[float, float]:
        """One step; the loss and the divergence from the teacher (nats) before it, both at the step's temperature."""
        config = self.config
        learn(self.student, True)
        if self._exits is not None:
            self._exits.watch()
        logits, loss = self._loss(self._by_parts(self.student, new, replay), targets)
        for exit_logits in [] if self._exits is None else self._exits.answers():
            loss = loss + config.exit_weight * self._loss(exit_logits, targets)[1]
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        learn(self.student, False)
        return float(loss.detach()), float(divergence_from_teacher(logits.detach(), targets).mean())

    def _loss(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The logits at the temperature at which they differ least from the teacher's, and their loss."""
        config = self.config
        logits = logits / (fitted_temperature(logits.detach(), targets) if config.fitted_temperature else 1.0)
        loss = student_loss(
            logits,
            targets,
            entropy_weight=config.entropy_weight,
            distillation_weight=config.distillation_weight,
            label_weight=config.label_weight,
            mean_one=config.mean_one_weights,
        )
        return logits, loss

    def _by_parts(self, model: nn.Module, new: Tensor, replay: Tensor) -> Tensor:
        """Where new and replayed frames are of different domains, each part has its own batch statistics."""
        if len(replay) == 0:
            return self._forward(model, new)
        if self.config.normalisation == "batch" and not self.config.one_domain:
            return torch.cat([self._forward(model, part) for part in (new, replay) if len(part)])
        return self._forward(model, torch.cat([new, replay]))

    def _forward(self, model: nn.Module, x: Tensor) -> Tensor:
        with autocast(self.device, bfloat16=self.bfloat16):
            out: Tensor = model(x)
        return out.float()

    def _mirror_agreement(self) -> float:
        """The share of source frames whose mirror image the teacher gives the same label: near 1 for photographs of
        things, low for digits and text."""
        frames = self._input(self.bundle.probe[0])
        with torch.no_grad():
            same = self.teacher(frames).argmax(1) == self.teacher(frames.flip(3)).argmax(1)
        return float(same.float().mean())

    # -- state ---------------------------------------------------------------------------------------------------------

    def _models(self) -> list[tuple[str, nn.Module]]:
        return [("student", self.student), ("teacher", self.teacher)]

    def _load(self, spec: TorchModel, role: str) -> nn.Module:
        model = load_model(spec, self.bundle.load_tensors(spec.file))
        shape = self.bundle.manifest.input.shape
        with torch.no_grad():
            blank = normalise(torch.zeros((1, *shape), dtype=torch.uint8), self.bundle.manifest.input)
            answered = tuple(model(blank).shape)
        if answered != (1, self.bundle.manifest.num_classes):
            raise BundleError(
                f"the {role} answers with shape {answered} for one frame, the bundle has "
                f"{self.bundle.manifest.num_classes} classes; give a {role} of the same classes"
            )
        model = prepare(model, self.config.normalisation).to(self.device)
        return model.to(memory_format=torch.channels_last)  # type: ignore[no-any-return,call-overload]

    def _input(self, frames: Frame) -> Tensor:
        x = normalise(torch.from_numpy(np.ascontiguousarray(frames)).to(self.device), self.bundle.manifest.input)
        return x.contiguous(memory_format=torch.channels_last)

    def _shipped_affine(self) -> dict[str, FloatArray]:
        """The student's affine values, drawn back into the envelope; the student keeps what is shipped."""
        names = affine_names(self.bundle.manifest.norm_layers)
        now = dict(adaptive_state(self.student))
        values = {name: now[name].detach().cpu().numpy() for name in names}
        inside = clip_to_envelope(values, self.bundle.source_affine, self.bundle.manifest.envelope_max_delta)
        _put(self.student, {name: torch.from_numpy(value) for name, value in inside.items()})
        return inside

    def _optimisers(self) -> dict[str, torch.optim.Optimizer]:
        def learning(model: nn.Module) -> list[nn.Parameter]:
            return [p for p in model.parameters() if p.requires_grad]

        student: torch.optim.Optimizer
        if self.config.optimiser == "adam":
            student = torch.optim.Adam(learning(self.student), lr=self.config.student_lr)
        else:
            student = torch.optim.SGD(learning(self.student), lr=self.config.student_lr, momentum=0.9)
        teacher = torch.optim.SGD(learning(self.teacher), lr=self.config.teacher_lr, momentum=0.9)
        return {"student": student, "teacher": teacher}

    def _state(self, optimisers: Mapping[str, torch.optim.Optimizer]) -> bytes:
        tensors: dict[str, np.ndarray] = {}
        slots_of = self._slots()
        for role, model in self._models():
            for name, tensor in adaptive_state(model):
                tensors[f"{role}/{name}"] = tensor.detach().cpu().numpy().copy()
            for index, slots in optimisers[role].state_dict()["state"].items():
                for slot, value in slots.items():
                    if value is not None:
                        tensors[f"{slots_of[role]}/{index}/{slot}"] = value.detach().cpu().numpy().copy()
        # One entry of metadata: safetensors writes several in an order of its own, and equal states have equal bytes.
        return save_safetensors(tensors, metadata={"schema": _STATE_SCHEMA})

    def _slots(self) -> dict[str, str]:
        """Where the state keeps each optimiser's slots: another optimiser does not find them and starts new."""
        return {"student": f"student.{self.config.optimiser}", "teacher": "teacher.sgd"}

    def _restore(self, state: bytes) -> dict[str, torch.optim.Optimizer]:
        for role, model in self._models():
            learn(model, False)  # a step that failed half-way leaves batch statistics on
            _put(model, self._start[role])
        optimisers = self._optimisers()
        if not state:
            return optimisers
        tensors = {name: torch.from_numpy(value) for name, value in load_safetensors(state).items()}
        for role, model in self._models():
            if role == "teacher" and not self.config.teacher_lr:
                continue  # it stands still at its source, whatever an earlier configuration made of it
            _put(model, {n.removeprefix(f"{role}/"): t for n, t in tensors.items() if n.startswith(f"{role}/")})
            slots: dict[int, dict[str, Tensor]] = {}
            for name, tensor in tensors.items():
                if name.startswith(f"{self._slots()[role]}/"):
                    _, index, slot = name.split("/")
                    slots.setdefault(int(index), {})[slot] = tensor
            optimisers[role].load_state_dict({**optimisers[role].state_dict(), "state": slots})
        return optimisers


def choose_device(device: str) -> torch.device:
    """Where torch runs: ``auto`` (CUDA where torch has it), ``cpu`` or ``cuda``.

    Raises:
        ValueError: another word, or no CUDA where it was asked for.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device is {device!r}, expected 'auto', 'cpu' or 'cuda'")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device 'cuda' was asked for, but torch finds no CUDA here; use 'auto' or 'cpu'")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def _copy_state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in adaptive_state(model)}


def _put(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, tensor in adaptive_state(model):
            if name in values:
                tensor.copy_(values[name])
