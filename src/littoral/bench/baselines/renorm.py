"""Test-time batch renormalisation as the published cloud-edge code runs it.

Forward, a frame is normalised by running statistics, whatever the batch. Backward, the gradient is that of batch
normalisation: mean and deviation of the batch count as functions of the frames, their ratio to the running ones as
constants. The statistics start from the first batch that comes, whoever sends it; the source's are thrown away. In
training they move by momentum 0.1 after the batch.

Source: Zhao et al., arXiv 2301.13018 (DELTA); chenyaofo/CEMA ``tbr.py``. Variances are the unbiased ones, as there.

The normalisation itself is torch's own, which divides by the biased deviation: with gamma scaled by biased over running
deviation the values are the same, and the gradient differs by a share of eps / (n var) for n values in a channel.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from littoral.bench.baselines.networks import BATCH_NORMS, affine_parameters


class RenormBatchNorm(nn.Module):
    """A BatchNorm without statistics of its own until the first batch. In ``train`` mode they move."""

    def __init__(self, source: nn.Module, *, momentum: float) -> None:
        super().__init__()
        assert isinstance(source, BATCH_NORMS)
        if source.weight is None:
            raise ValueError("adaptation needs BatchNorm layers with affine values")
        self.weight = nn.Parameter(source.weight.detach().clone())
        self.bias = nn.Parameter(source.bias.detach().clone())
        self.register_buffer("mean", torch.zeros_like(self.weight.detach()))
        self.register_buffer("var", torch.ones_like(self.weight.detach()))
        self.mean: Tensor
        self.var: Tensor
        self.has_statistics = False
        self.eps, self.momentum = source.eps, momentum

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``(B, C, ...)``; with gradients on, by the rule above."""
        if self.has_statistics and not self.training and not torch.is_grad_enabled():
            return F.batch_norm(x, self.mean, self.var, self.weight, self.bias, False, 0.0, self.eps)
        mean, var = _moments(x)
        if not self.has_statistics:
            self.mean.copy_(mean)
            self.var.copy_(var)
            self.has_statistics = True
        running = (self.var + self.eps).sqrt()
        count = x.numel() // x.shape[1]
        ratio = (var * ((count - 1) / count) + self.eps).sqrt() / running
        offset = (mean - self.mean) / running
        scale, shift = self.weight * ratio, self.bias + self.weight * offset
        y = F.batch_norm(x, None, None, scale, shift, True, 0.0, self.eps)
        if self.training:
            self.mean.lerp_(mean, self.momentum)
            self.var.lerp_(var, self.momentum)
        return y


@torch.no_grad()
def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance of each channel, ``(C,)``; torch's own pass over the data, ten times `var_mean`."""
    kept = torch.promote_types(x.dtype, torch.float32)  # of bfloat16 frames, too, statistics are float32
    mean, var = x.new_zeros(x.shape[1], dtype=kept), x.new_ones(x.shape[1], dtype=kept)
    torch.batch_norm_update_stats(x.detach(), mean, var, 1.0)
    return mean, var


def renormalised(model: nn.Module, *, momentum: float = 0.1) -> tuple[nn.Module, list[nn.Parameter]]:
    """The model, its BatchNorm layers replaced in place, and its gammas and betas, which alone learn."""
    model.eval().requires_grad_(False)
    for name, module in list(model.named_modules()):
        if isinstance(module, BATCH_NORMS):
            parent, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(parent), attribute, RenormBatchNorm(module, momentum=momentum).eval())
    layers = [m for m in model.modules() if isinstance(m, RenormBatchNorm)]
    parameters = [parameter for layer in layers for parameter in (layer.weight, layer.bias)]
    others = [m for m in model.modules() if isinstance(m, (nn.GroupNorm, nn.LayerNorm))]
    if others:
        parameters += affine_parameters(model)
    if not parameters:
        raise ValueError("the model has no normalisation layer with affine values, so there is nothing to adapt")
    return model, parameters


def layers_of(model: nn.Module) -> list[RenormBatchNorm]:
    """The replaced layers, in order."""
    return [module for module in model.modules() if isinstance(module, RenormBatchNorm)]


def set_moving(model: nn.Module, on: bool) -> None:
    """Whether statistics move with the batches that come."""
    for layer in layers_of(model):
        layer.train(on)


def adapted_tensors(model: nn.Module, parameters: list[nn.Parameter]) -> list[Tensor]:
    """All that adaptation changes: gamma and beta, and the statistics of BatchNorm."""
    return [*parameters, *(tensor for layer in layers_of(model) for tensor in (layer.mean, layer.var))]
