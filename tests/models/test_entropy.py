"""The learned prior: what it costs, that it learns, and that the integer tables say the same."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the networks need the cloud extra")

from littoral.core import codec  # noqa: E402
from littoral.core.codec_tables import CodecTables, FrequencyTable  # noqa: E402
from littoral.models.entropy import FactorisedPrior, UniformPrior  # noqa: E402


def disturbed(num_levels: int = 2, num_channels: int = 3, **kwargs) -> FactorisedPrior:
    """A prior that is not at its start: other shapes and medians for each level and channel."""
    torch.manual_seed(4)
    prior = FactorisedPrior(num_levels, num_channels, **kwargs)
    with torch.no_grad():
        for parameter in (*prior.matrices, *prior.biases, *prior.factors):
            parameter.add_(0.4 * torch.randn_like(parameter))
    return prior


def whole_numbers(*shape: int) -> torch.Tensor:
    return torch.randint(-6, 7, shape, generator=torch.Generator().manual_seed(1)).float()


def level_of(batch: int, level: int) -> torch.Tensor:
    return torch.full((batch,), level)


def test_a_channel_of_a_level_has_58_parameters():
    prior = FactorisedPrior(1, 1)
    assert sum(value.numel() for name, value in prior.named_parameters() if name != "quantiles") == 58


def test_every_channel_is_a_distribution_over_whole_numbers():
    for prior in disturbed().channel_priors(1):
        assert (prior.pmf >= 0).all()
        assert prior.pmf.sum() + prior.escape == pytest.approx(1, abs=1e-12)
        assert prior.escape < 1e-6


def test_bits_are_what_the_channel_priors_say():
    prior, symbols = disturbed(), whole_numbers(4, 3, 2, 5)
    expected = np.zeros(4)
    for channel, table in enumerate(prior.channel_priors(1)):
        slots = symbols[:, channel].numpy().astype(int) - table.first_value
        expected -= np.log2(table.pmf[slots]).sum((1, 2))
    got = prior.bits(symbols, level_of(4, 1)).detach().numpy()
    assert np.allclose(got, expected, rtol=1e-4)
    assert not np.allclose(prior.bits(symbols, level_of(4, 0)).detach().numpy(), expected, rtol=1e-2)


def test_bits_are_what_the_coder_takes():
    prior, symbols = disturbed(1), whole_numbers(1, 3, 16, 16)
    table = FrequencyTable.from_priors(prior.channel_priors(0), max_bytes=100_000)
    tables = CodecTables(height=16, width=16, levels=(table,))
    array = symbols[0].numpy().astype(np.int32)
    bits = prior.bits(symbols, level_of(1, 0)).item()
    assert codec.rate_bits(array, tables, level=0) == pytest.approx(bits, rel=1e-3)
    assert len(codec.encode(array, tables, level=0)) <= bits / 8 * 1.01 + 12


def test_a_batch_of_mixed_levels_costs_what_its_frames_cost_alone():
    prior, symbols = disturbed(), whole_numbers(5, 3, 2, 2)
    level_B, kept_B = torch.tensor([1, 0, 0, 1, 1]), torch.tensor([3, 1, 2, 2, 3])
    alone = [prior.bits(symbols[n : n + 1], level_B[n : n + 1], kept_B[n : n + 1]) for n in range(5)]
    assert torch.allclose(prior.bits(symbols, level_B, kept_B), torch.cat(alone), rtol=1e-5)


def test_channels_that_are_not_kept_cost_nothing():
    prior, symbols = disturbed(), whole_numbers(2, 3, 2, 2).requires_grad_()
    kept_B = torch.tensor([1, 3])
    prior.bits(symbols, level_of(2, 0), kept_B).sum().backward()
    assert (symbols.grad[0, 1:] == 0).all()
    assert (symbols.grad[1, 1:] != 0).all()


def test_a_value_in_the_very_middle_of_its_distribution_has_its_probability():
    prior = FactorisedPrior(1, 1)
    with torch.no_grad():
        for bias in prior.biases:
            bias.zero_()
    (table,) = prior.channel_priors(0)
    bits = float(prior.bits(torch.zeros(1, 1, 1, 1), level_of(1, 0)).detach())
    assert bits == pytest.approx(-math.log2(table.pmf[-table.first_value]), abs=1e-3)


def test_what_is_far_out_costs_30_bits_and_is_still_drawn_back():
    prior = FactorisedPrior(1, 1)
    far = torch.tensor([[[[400.0]]], [[[-400.0]]]]).requires_grad_()
    bits = prior.bits(far, level_of(2, 0))
    assert bits.tolist() == pytest.approx([-math.log2(1e-9)] * 2, rel=1e-4)
    bits.sum().backward()
    assert far.grad[0].item() > 0
    assert far.grad[1].item() < 0
    assert all(bool(torch.isfinite(value.grad).all()) for value in prior.parameters() if value.grad is not None)


def test_the_prior_learns_what_it_sees():
    torch.manual_seed(0)
    prior = FactorisedPrior(1, 2)
    optimizer = torch.optim.Adam(prior.parameters(), lr=0.1)
    sigma = torch.tensor([1.5, 4.0])[:, None, None]
    ideal = sum(0.5 * math.log2(2 * math.pi * math.e * s**2) for s in (1.5, 4.0)) * 64

    def draw() -> torch.Tensor:
        return torch.round(torch.randn(8, 2, 8, 8) * sigma)

    before = prior.bits(draw(), level_of(8, 0)).mean().item()
    for _ in range(50):
        loss = prior.bits(draw(), level_of(8, 0)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = prior.bits(draw(), level_of(8, 0)).mean().item()
    assert before > 1.3 * ideal
    assert after == pytest.approx(ideal, rel=0.05)


def test_medians_halve_the_distributions():
    prior = disturbed()
    cdf = torch.sigmoid(prior._logits_of_cdf(prior.medians(1)[:, None], 1))
    assert torch.allclose(cdf, torch.full_like(cdf, 0.5), atol=1e-9)


def test_the_quantile_loss_finds_the_medians_and_trains_nothing_else():
    prior = disturbed(1, learns_quantiles=True)
    prior.quantile_loss().backward()
    assert all(value.grad is None for name, value in prior.named_parameters() if name != "quantiles")
    optimizer = torch.optim.Adam([prior.quantiles], lr=0.3)
    for step in range(100):
        optimizer.param_groups[0]["lr"] = 0.3 * (1 - step / 100)
        optimizer.zero_grad()
        prior.quantile_loss().backward()
        optimizer.step()
    learned = prior.medians(0)
    prior.learns_quantiles = False
    assert torch.allclose(learned, prior.medians(0), atol=0.05)


def test_offsets_move_bits_and_tables_alike():
    prior, symbols = disturbed(1), whole_numbers(2, 3, 2, 2)
    plain = prior.bits(symbols + 2, level_of(2, 0))
    tables = prior.channel_priors(0)
    prior.offsets.fill_(2.0)
    assert torch.allclose(prior.bits(symbols, level_of(2, 0)), plain)
    assert [p.first_value + int(p.pmf.argmax()) + 2 for p in prior.channel_priors(0)] == [
        p.first_value + int(p.pmf.argmax()) for p in tables
    ]


def test_a_code_of_fixed_length_takes_8_bits_a_symbol():
    prior = UniformPrior(1, 3)
    assert prior.bits(whole_numbers(2, 3, 2, 2), level_of(2, 0), torch.tensor([3, 1])).tolist() == [96, 32]
    assert [(p.first_value, len(p.pmf)) for p in prior.channel_priors(0)] == [(-128, 256)] * 3
