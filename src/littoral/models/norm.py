"""A torch network prepared for adaptation: only the affine values of its normalisation layers can move.

BatchNorm normalises in one of two ways while it learns:

    batch    by the statistics of the batch at hand (TENT; the published system with its ``is_tbr`` off)
    renorm   by running statistics, with the gradient of batch statistics (test-time batch renormalisation, DELTA,
             arXiv 2301.13018; the published system as shipped). Here they start from the *source's* statistics: the
             published code throws those away and starts from its first batch.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from littoral.core.affine import NormKind

Normalisation = Literal["batch", "renorm"]
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def adaptable_kind(module: nn.Module, name: str, *, learns: bool = True) -> NormKind | None:
    """Which kind of normalisation layer a module is; None for one whose values cannot move.

    Those that can have gamma and beta, a value each for every channel.

    Args:
        name: For the message.
        learns: The network is one that adapts.
    Raises:
        ValueError: a BatchNorm has no affine values or no running statistics; or, where it learns, does more than
            torch's.
    """
    kind: NormKind
    if learns and isinstance(module, nn.SyncBatchNorm):
        raise ValueError(f"BatchNorm layer {name!r} is a SyncBatchNorm; make a BatchNorm2d of it, with the same state")
    if isinstance(module, _BATCH_NORMS):
        if learns and type(module).forward is not nn.BatchNorm2d.forward:
            raise ValueError(
                f"BatchNorm layer {name!r} is a {type(module).__name__} with a forward of its own, which would be lost "
                "where it learns; make it a BatchNorm of torch and a module for what it does besides"
            )
        if not module.affine or not module.track_running_stats:
            raise ValueError(
                f"BatchNorm layer {name!r} has affine={module.affine}, track_running_stats="
                f"{module.track_running_stats}; both must be True for a network that is to be adapted"
            )
        kind = "batch"
    elif isinstance(module, nn.GroupNorm):
        kind = "group"
    elif isinstance(module, nn.LayerNorm):
        kind = "layer"
    else:
        return None
    gamma, beta = getattr(module, "weight", None), getattr(module, "bias", None)
    return kind if gamma is not None and beta is not None and gamma.ndim == 1 else None


class AdaptiveBatchNorm(nn.Module):
    """A BatchNorm with the same state-dict names whose normalisation is chosen from outside.

    Modes: ``eval`` uses running statistics; ``train`` normalises as ``normalisation`` says and moves the running ones.
    """

    def __init__(self, source: nn.Module, normalisation: Normalisation) -> None:
        super().__init__()
        assert isinstance(source, _BATCH_NORMS)
        assert source.running_mean is not None
        assert source.running_var is not None
        self.weight = nn.Parameter(source.weight.detach().clone())
        self.bias = nn.Parameter(source.bias.detach().clone())
        self.register_buffer("running_mean", source.running_mean.detach().clone())
        self.register_buffer("running_var", source.running_var.detach().clone())
        self.running_mean: torch.Tensor
        self.running_var: torch.Tensor
        self.eps, self.momentum = source.eps, 0.1
        self.normalisation = normalisation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise ``(B, C, ...)``."""
        mean, var = self.running_mean, self.running_var
        if not self.training:
            return F.batch_norm(x, mean, var, self.weight, self.bias, training=False, eps=self.eps)
        if self.normalisation == "batch":
            return F.batch_norm(
                x, mean, var, self.weight, self.bias, training=True, momentum=self.momentum, eps=self.eps
            )
        return self._renormalised(x)

    def _renormalised(self, x: torch.Tensor) -> torch.Tensor:
        x = x.to(torch.promote_types(x.dtype, torch.float32))  # half the bits do not do for statistics
        shape = (1, -1) + (1,) * (x.dim() - 2)
        var, mean = torch.var_mean(x, [0, *range(2, x.dim())], correction=0)
        r = ((var + self.eps).sqrt() / (self.running_var + self.eps).sqrt()).detach()
        d = ((mean - self.running_mean) / (self.running_var + self.eps).sqrt()).detach()
        normal = (x - mean.view(shape)) / (var + self.eps).sqrt().view(shape) * r.view(shape) + d.view(shape)
        count = x.numel() // x.shape[1]
        with torch.no_grad():
            self.running_mean.lerp_(mean.detach(), self.momentum)
            self.running_var.lerp_(var.detach() * (count / max(count - 1, 1)), self.momentum)
        return normal * self.weight.view(shape) + self.bias.view(shape)


def prepare(model: nn.Module, normalisation: Normalisation) -> nn.Module:
    """A copy of ``model``, in float32, in which only normalisation layers learn.

    Raises:
        ValueError: the model has no normalisation layer with affine values, so there is nothing to adapt, or one that
            cannot learn (`adaptable_kind`).
    """
    model = copy.deepcopy(model).float().eval().requires_grad_(False)
    replaced: dict[nn.Module, nn.Module] = {}
    for name, module in model.named_modules():
        kind = adaptable_kind(module, name)
        if kind == "batch":
            replaced[module] = AdaptiveBatchNorm(module, normalisation).eval()
        elif kind is not None:
            module.requires_grad_(True)
            if kind == "group":
                module.register_forward_pre_hook(_with_a_gradient)
    for name, module in list(model.named_modules(remove_duplicate=False)):  # a module may have several names
        if module in replaced:
            parent, _, own_name = name.rpartition(".")
            setattr(model.get_submodule(parent), own_name, replaced[module])
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError(
            "the model has no normalisation layer with affine values (BatchNorm, GroupNorm or LayerNorm), "
            "so there is nothing to adapt; choose a model that has them"
        )
    return model


def _with_a_gradient(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """torch 2.13's GroupNorm ends the process in its backward pass where its input is channels-last, as frames are, and
    wants no gradient, as before the first layer that learns."""
    return tuple(x if x.requires_grad else x.detach().requires_grad_() for x in inputs)


def learn(model: nn.Module, on: bool) -> None:
    """Batch statistics on or off, in BatchNorm alone: dropout and stochastic depth stay as at inference."""
    for module in model.modules():
        if isinstance(module, AdaptiveBatchNorm):
            module.train(on)


def adaptive_state(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Names and tensors of all that adaptation changes: affine values, and running statistics of BatchNorm."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            yield name, parameter
    for name, module in model.named_modules():
        if isinstance(module, AdaptiveBatchNorm):
            yield f"{name}.running_mean", module.running_mean
            yield f"{name}.running_var", module.running_var
