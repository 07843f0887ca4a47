"""Adaptation as a function: (state after version v, new and replayed frames, seed, config) -> (state, version v + 1).

`Worker` holds the torch networks and nothing else that lasts: whatever it is given, it first puts the networks into the
job's state. Restart, retry and double execution are therefore harmless, and every executor gives the same numbers.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import torch
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors
from torch import Tensor, nn

from littoral.bundle import Bundle, TorchModel
from littoral.cloud.norm import Normalisation, adaptive_state, learn, prepare
from littoral.cloud.teacher import divergence_from_teacher, entropy, student_loss, teacher_loss
from littoral.core.affine import affine_names, clip_to_envelope, diff, encode_delta
from littoral.core.arrays import FloatArray, Frame, Tensors
from littoral.errors import BundleError, ModelOutputError
from littoral.models.factory import load_model
from littoral.models.frames import normalise

_STATE_SCHEMA = "1"


@dataclass(frozen=True, kw_only=True)
class AdaptConfig:
    """How the cloud learns. The defaults are what we run; `parity` is the published configuration."""

    batch_size: int = 32
    """New samples per job."""
    max_batches_per_job: int = 8
    """A cloud that has fallen behind takes so many batches at once, and learns from the newest."""
    replay_ratio: int = 1
    """Replayed samples per new one; 3 as published."""
    replay_after: int = 256
    """Samples that must be in the replay buffer before it is used."""
    replay_capacity: int = 10_000
    inner_steps: int = 16
    """The most student steps per job; the published system takes one."""
    settled_nats: float = 0.03
    """A job ends early once the student's mean divergence from the teacher is below this; 0 takes every step."""
    optimiser: Literal["sgd", "adam"] = "adam"
    student_lr: float = 0.002
    teacher_lr: float = 0.00025
    """Of the teacher's SGD with momentum 0.9."""
    entropy_weight: float = 0.0
    distillation_weight: float = 3.0
    label_weight: float = 1.0
    mean_one_weights: bool = True
    """Divide the certainty weights by their mean, so that one learning rate serves 10 classes and 1000."""
    normalisation: Normalisation = "batch"
    seed: int = 0
    threads: int = 1
    """Of torch, for the whole process: two threads on a busy machine of two cores are slower than one."""

    def __post_init__(self) -> None:
        if min(self.max_batches_per_job, self.inner_steps, self.replay_capacity) < 1 or self.batch_size < 2:
            raise ValueError(
                "adaptation needs batch_size >= 2, and max_batches_per_job, inner_steps and replay_capacity >= 1"
            )

    @classmethod
    def parity(cls) -> Self:
        """The authors' shipped configuration (dossier of CEMA, 1.1 to 1.5), but for source-initialised statistics."""
        return cls(
            max_batches_per_job=1,
            replay_ratio=3,
            inner_steps=1,
            settled_nats=0.0,
            optimiser="sgd",
            student_lr=0.0025,
            entropy_weight=3.0,
            mean_one_weights=False,
            normalisation="renorm",
        )


@dataclass(frozen=True, kw_only=True)
class AdaptJob:
    """Everything that an adaptation depends on."""

    base_version: int
    state: bytes
    """`AdaptResult.state` of the version before; empty at the source."""
    new_frames: Frame
    """uint8 ``(N, H, W, C)`` in commit order."""
    replay_frames: Frame
    """uint8 ``(M, H, W, C)``; M may be 0."""
    seed: int


@dataclass(frozen=True, kw_only=True)
class AdaptResult:
    """What a job made. ``payload`` is the coded delta to the source affine values: what would ship."""

    state: bytes
    payload: bytes
    report: dict[str, float | str]


class Worker:
    """Teacher and student of a bundle, ready for jobs.

    Args:
        bundle: Opened with ``require_cloud``.
        device: ``auto`` (CUDA where torch has it), ``cpu`` or ``cuda``.
    Raises:
        BundleError: student and teacher answer for different classes, or a network cannot be rebuilt.
        ValueError: there is nothing to adapt, or the device is not to be had.
    """

    def __init__(self, bundle: Bundle, config: AdaptConfig | None = None, *, device: str = "auto") -> None:
        self.bundle, self.config = bundle, config or AdaptConfig()
        self.device = _choose(device)
        torch.set_num_threads(self.config.threads)
        self.student = self._load(bundle.manifest.student, "student")
        self.teacher = self._load(bundle.manifest.teacher, "teacher")
        self._source = {role: _copy_state(model) for role, model in self._models()}
        known = {name for name, _ in adaptive_state(self.student)}
        if missing := [name for name in affine_names(bundle.manifest.norm_layers) if name not in known]:
            raise BundleError(f"the student lacks the bundle's affine tensors {missing[:3]}; build the bundle again")

    def adapt(self, job: AdaptJob) -> AdaptResult:
        """One job: a teacher step on the new frames, then student steps on new and replayed ones.

        Raises:
            ModelOutputError: a loss or a value became infinite or NaN; nothing of it is kept.
        """
        started = time.perf_counter()
        torch.manual_seed(job.seed)
        optimisers = self._restore(job.state)
        new, replay = self._input(job.new_frames), self._input(job.replay_frames)
        teacher_logits = self._teacher_step(new, optimisers["teacher"])
        targets = self._targets(new, replay)
        loss = divergence = float("nan")
        steps = 0
        while steps < self.config.inner_steps and not divergence < self.config.settled_nats:
            loss, divergence = self._student_step(new, replay, targets, optimisers["student"])
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
            "teacher_entropy_nats": float(entropy(teacher_logits).mean()),
            "new_frames": float(len(new)),
            "replay_frames": float(len(replay)),
            "device": str(self.device),
        }
        layers = self.bundle.manifest.norm_layers
        payload = encode_delta(diff(affine, self.bundle.source_affine, layers), layers)
        state = self._state(optimisers)
        report["seconds"] = time.perf_counter() - started
        return AdaptResult(state=state, payload=payload, report=report)

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
        _put(self.student, self._source["student"])
        _put(self.student, {name: torch.from_numpy(np.array(value)) for name, value in affine.items()})
        with torch.no_grad():
            out: FloatArray = self.student(self._input(frames)).cpu().numpy()
        return out

    # -- the two steps -------------------------------------------------------------------------------------------------

    def _teacher_step(self, new: Tensor, optimiser: torch.optim.Optimizer) -> Tensor:
        learn(self.teacher, True)
        logits = self._forward(self.teacher, new)
        optimiser.zero_grad()
        teacher_loss(logits, mean_one=self.config.mean_one_weights).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        learn(self.teacher, False)
        return logits.detach()

    def _targets(self, new: Tensor, replay: Tensor) -> Tensor:
        """The teacher's logits, after its step: they serve all student steps of the job.

        The published targets come from running statistics, which follow only what was uploaded and so lag behind every
        shift; a batch's own do not.
        """
        with torch.no_grad():
            learn(self.teacher, self.config.normalisation == "batch")
            targets = self._by_parts(self.teacher, new, replay)
            learn(self.teacher, False)
        return targets

    def _student_step(
        self, new: Tensor, replay: Tensor, targets: Tensor, optimiser: torch.optim.Optimizer
    ) -> tuple[float, float]:
        """One step; the loss and the divergence from the teacher (nats) before it."""
        config = self.config
        learn(self.student, True)
        logits = self._by_parts(self.student, new, replay)
        loss = student_loss(
            logits,
            targets,
            entropy_weight=config.entropy_weight,
            distillation_weight=config.distillation_weight,
            label_weight=config.label_weight,
            mean_one=config.mean_one_weights,
        )
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        learn(self.student, False)
        return float(loss.detach()), float(divergence_from_teacher(logits.detach(), targets).mean())

    def _by_parts(self, model: nn.Module, new: Tensor, replay: Tensor) -> Tensor:
        """New and replayed frames are of different domains, so under batch statistics each part has its own."""
        if len(replay) == 0:
            return self._forward(model, new)
        if self.config.normalisation == "batch":
            return torch.cat([self._forward(model, new), self._forward(model, replay)])
        return self._forward(model, torch.cat([new, replay]))

    def _forward(self, model: nn.Module, x: Tensor) -> Tensor:
        out: Tensor = model(x)
        return out

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
        return prepare(model, self.config.normalisation).to(self.device)

    def _input(self, frames: Frame) -> Tensor:
        return normalise(torch.from_numpy(np.ascontiguousarray(frames)).to(self.device), self.bundle.manifest.input)

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
            _put(model, self._source[role])
        optimisers = self._optimisers()
        if not state:
            return optimisers
        tensors = {name: torch.from_numpy(value) for name, value in load_safetensors(state).items()}
        for role, model in self._models():
            _put(model, {n.removeprefix(f"{role}/"): t for n, t in tensors.items() if n.startswith(f"{role}/")})
            slots: dict[int, dict[str, Tensor]] = {}
            for name, tensor in tensors.items():
                if name.startswith(f"{self._slots()[role]}/"):
                    _, index, slot = name.split("/")
                    slots.setdefault(int(index), {})[slot] = tensor
            optimisers[role].load_state_dict({**optimisers[role].state_dict(), "state": slots})
        return optimisers


def _choose(device: str) -> torch.device:
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


def as_dict(config: AdaptConfig) -> dict[str, object]:
    """The configuration for reports and the record."""
    return dataclasses.asdict(config)
