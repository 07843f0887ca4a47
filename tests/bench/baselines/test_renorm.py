"""Batch renormalisation: values by running statistics, gradients by the batch's, as the published formula says."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from littoral.bench.baselines.renorm import RenormBatchNorm, renormalised, set_moving


def layer_with_statistics() -> RenormBatchNorm:
    torch.manual_seed(1)
    source = nn.BatchNorm2d(3)
    with torch.no_grad():
        source.weight.copy_(torch.tensor([0.5, 1.0, 2.0]))
        source.bias.copy_(torch.tensor([0.1, -0.2, 0.3]))
    layer = RenormBatchNorm(source, momentum=0.1).double().eval()
    layer.mean.copy_(torch.tensor([0.2, -0.1, 0.4]))
    layer.var.copy_(torch.tensor([0.5, 1.5, 2.5]))
    layer.has_statistics = True
    return layer


def published(layer: RenormBatchNorm, x: Tensor) -> Tensor:
    """The formula: normalise by the batch, then by the constants r and d; unbiased variances."""
    var, mean = torch.var_mean(x, dim=(0, 2, 3), keepdim=True)
    deviation = (var + layer.eps).sqrt()
    running_mean, running_var = layer.mean.view(1, -1, 1, 1), layer.var.view(1, -1, 1, 1)
    running = (running_var + layer.eps).sqrt()
    r = (deviation / running).detach()
    d = ((mean - running_mean) / running).detach()
    y = (x - mean) / deviation * r + d
    return y * layer.weight.view(1, -1, 1, 1) + layer.bias.view(1, -1, 1, 1)


@pytest.mark.parametrize("moving", [False, True])
def test_values_gradients_and_statistics_are_those_of_the_published_formula(moving: bool) -> None:
    layer = layer_with_statistics().train(moving)
    x = torch.randn(5, 3, 4, 4, dtype=torch.double, requires_grad=True)
    pull = torch.randn(5, 3, 4, 4, dtype=torch.double)
    inputs = [x, layer.weight, layer.bias]
    expected = published(layer, x)
    wanted = torch.autograd.grad((expected * pull).sum(), inputs)
    old_mean, old_var = layer.mean.clone(), layer.var.clone()
    values = layer(x)
    got = torch.autograd.grad((values * pull).sum(), inputs)
    torch.testing.assert_close(values, expected)
    for mine, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)
    var, mean = torch.var_mean(x.detach(), dim=(0, 2, 3))
    share = 0.1 if moving else 0.0
    torch.testing.assert_close(layer.mean, old_mean + share * (mean - old_mean))
    torch.testing.assert_close(layer.var, old_var + share * (var - old_var))


def test_of_frames_of_half_the_bits_values_are_nearly_the_same_and_statistics_float32() -> None:
    x = torch.randn(64, 3, 8, 8)
    whole, half = (layer_with_statistics().float().train() for _ in range(2))
    values = half(x.bfloat16())
    assert values.dtype == torch.bfloat16
    torch.testing.assert_close(values.float(), whole(x), rtol=0.02, atol=0.05)
    assert (half.mean.dtype, half.var.dtype) == (torch.float32, torch.float32)
    torch.testing.assert_close(half.mean, whole.mean, rtol=0, atol=1e-3)
    torch.testing.assert_close(half.var, whole.var, rtol=1e-2, atol=0)


def test_the_gradient_is_not_that_of_plain_running_statistics() -> None:
    layer = layer_with_statistics()
    x = torch.randn(5, 3, 4, 4, dtype=torch.double, requires_grad=True)
    pull = torch.randn(5, 3, 4, 4, dtype=torch.double)
    plain = nn.functional.batch_norm(x, layer.mean, layer.var, layer.weight, layer.bias, False, 0.0, layer.eps)
    (by_plain,) = torch.autograd.grad((plain * pull).sum(), x)
    (by_layer,) = torch.autograd.grad((layer(x) * pull).sum(), x)
    assert float((by_plain - by_layer).abs().max()) > 0.01


def test_the_first_batch_makes_the_statistics_and_inference_is_then_independent_of_the_batch() -> None:
    torch.manual_seed(0)
    model, parameters = renormalised(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)))
    assert len(parameters) == 2
    first, later = torch.randn(8, 1, 5, 5) + 3, torch.randn(4, 1, 5, 5)
    with torch.no_grad():
        y = model(first)
        assert float(y.mean().abs()) < 1e-5  # normalised by itself
        together, alone = model(later), torch.cat([model(later[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(together, alone)


def test_statistics_stay_where_they_are_unless_they_are_told_to_move() -> None:
    model, _ = renormalised(nn.Sequential(nn.BatchNorm2d(2)))
    model(torch.randn(8, 2, 3, 3))
    layer = model[0]  # type: ignore[index]
    still = layer.mean.clone()
    model(torch.randn(8, 2, 3, 3) + 5)
    assert torch.equal(layer.mean, still)
    set_moving(model, True)
    model(torch.randn(8, 2, 3, 3) + 5)
    assert not torch.equal(layer.mean, still)


def test_a_model_without_normalisation_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to adapt"):
        renormalised(nn.Sequential(nn.Linear(2, 2)))
