"""The bottleneck: what is rounded and when, which gradients pass, and that the cloud's side makes the same of it."""

from __future__ import annotations

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the networks need the cloud extra")

from torch import nn  # noqa: E402

from littoral.bundle import TorchModel  # noqa: E402
from littoral.models import load_model, zoo  # noqa: E402
from littoral.models.architectures import (  # noqa: E402
    calibrate_8_bit,
    channel_reduction,
    entropic_student,
    product,
    rac_shaped,
)
from littoral.models.bottleneck import (  # noqa: E402
    Bottleneck,
    count_macs,
    make_split_tail,
    split_tail_kwargs,
    to_split_tail,
)
from littoral.models.decoders import make_decoder  # noqa: E402
from littoral.models.entropy import FactorisedPrior  # noqa: E402
from littoral.models.gdn import GDN1  # noqa: E402
from littoral.models.layers import lower_bound  # noqa: E402
from littoral.models.parts import tail_of  # noqa: E402

RESNET20_MACS = 40_551_040


def small(**kwargs) -> Bottleneck:
    torch.manual_seed(0)
    sizes = {"num_channels": 4, "width": 8, "decoder_width": 8, "decoder_blocks": 1, "out_channels": 6}
    return product(**{**sizes, "starting_gains": (1.0, 6.0), "kept": (2, 4), **kwargs})


def frames(batch: int = 4) -> torch.Tensor:
    return torch.randn(batch, 3, 16, 16, generator=torch.Generator().manual_seed(2))


LEVELS = torch.tensor([0, 1, 1, 0])


def test_in_eval_mode_the_decoder_gets_what_the_device_sends():
    bottleneck = small().eval()
    with torch.no_grad():
        out = bottleneck(frames(), LEVELS)
        symbols = bottleneck.symbols(bottleneck.device_encoder()(frames()), LEVELS)
        assert symbols.dtype == torch.int32
        assert symbols.any()
        assert torch.equal(bottleneck.decode(symbols.float(), LEVELS), out.features)
        kept = torch.tensor(bottleneck.kept)[LEVELS]
        assert torch.equal(bottleneck.prior.bits(symbols.float(), LEVELS, kept), out.rate_bits)


def test_symbols_are_the_rounded_latent_times_the_gain_of_the_level():
    bottleneck = small().eval()
    with torch.no_grad():
        latent = bottleneck.latent(frames())
    symbols = bottleneck.symbols(latent, LEVELS).numpy()
    for frame, level in enumerate(LEVELS.tolist()):
        kept = bottleneck.kept[level]
        gains = bottleneck.gains[level].detach().numpy()[:kept, None, None]
        assert np.array_equal(symbols[frame, :kept], np.rint(latent[frame, :kept].numpy() * gains))
        assert not symbols[frame, kept:].any()


def test_in_training_noise_of_one_step_stands_for_rounding():
    bottleneck = small().train()
    bottleneck.decoder = nn.Identity()
    with torch.no_grad():
        bottleneck.encoder.eval()
        noise = (bottleneck(frames(), LEVELS).features - bottleneck.latent(frames())) * bottleneck.gains[LEVELS][
            :, :, None, None
        ]
    sent = noise[1:3]
    assert sent.abs().max() <= 0.5 + 1e-5
    assert sent.std() == pytest.approx(12**-0.5, rel=0.1)
    assert len(sent.unique()) > 100


@pytest.mark.parametrize(("hard", "reached"), [(True, False), (False, True)], ids=["rounded", "noisy"])
def test_no_gradient_passes_what_is_rounded(hard, reached):
    bottleneck = small().train()
    bottleneck.hard = hard
    out = bottleneck(frames(), LEVELS)
    (out.features.square().sum() + out.rate_bits.sum()).backward()
    grads = [value.grad for value in bottleneck.encoder.parameters()]
    assert any(grad is not None and bool(grad.any()) for grad in grads) is reached
    assert all(value.grad is not None for value in bottleneck.decoder.parameters())


def test_mixed_gives_the_decoder_whole_numbers_and_the_encoder_a_gradient():
    bottleneck = small(mixed=True).train()
    seen = []
    bottleneck.decoder.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    bottleneck(frames(), LEVELS).features.square().sum().backward()
    symbols = seen[0].detach() * bottleneck.gains.detach()[LEVELS][:, :, None, None]
    assert torch.allclose(symbols, symbols.round(), atol=1e-4)
    assert all(value.grad is not None for value in bottleneck.encoder.parameters())


def test_the_cloud_scales_what_symbols_stand_for_and_the_device_does_not_see_it():
    bottleneck = small().eval()
    with torch.no_grad():
        latent = bottleneck.latent(frames())
        before, symbols = bottleneck(frames(), LEVELS), bottleneck.symbols(latent, LEVELS)
        bottleneck.log_scales.add_(1.0)
        after = bottleneck(frames(), LEVELS)
        assert torch.equal(bottleneck.symbols(latent, LEVELS), symbols)
        assert torch.equal(after.rate_bits, before.rate_bits)
        assert not torch.allclose(after.features, before.features)
        tail = to_split_tail(bottleneck, nn.Identity())
        assert torch.equal(tail(symbols.float(), LEVELS), after.features)


def test_a_coarse_level_is_deaf_to_the_channels_that_it_does_not_send():
    bottleneck = small().eval()
    symbols = torch.ones(2, 4, 4, 4)
    changed = symbols.clone()
    changed[:, 2:] = 9.0
    level_B = torch.tensor([0, 1])
    with torch.no_grad():
        one, other = bottleneck.decode(symbols, level_B), bottleneck.decode(changed, level_B)
    assert torch.equal(one[0], other[0])
    assert not torch.equal(one[1], other[1])


@pytest.mark.parametrize(
    "make", [small, entropic_student, channel_reduction, rac_shaped], ids=lambda make: make.__name__
)
def test_the_cloud_builds_its_side_anew_of_json_and_tensors(make):
    torch.manual_seed(0)
    sizes = {"entropic_student": {"widths": (8, 8), "decoder_widths": (8, 8)}}.get(
        make.__name__, {"width": 8, "decoder_width": 8}
    )
    bottleneck = make(**{**sizes, "out_channels": 32}).eval()
    network = {"factory": "littoral.models.zoo:resnet20", "kwargs": {"num_classes": 5}, "cut": "layer2"}
    tail = tail_of(zoo.resnet20(num_classes=5).eval(), "layer2")
    level_B = LEVELS.clamp(max=bottleneck.num_levels - 1)
    x = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        latent = bottleneck.latent(x)
        if not bottleneck.learned_gains:
            bottleneck.round_about(latent.mean((0, 2, 3)))
        expected = tail(bottleneck(x, level_B).features)
        symbols = bottleneck.symbols(bottleneck.latent(x), level_B).float()
    kwargs = json.loads(json.dumps(split_tail_kwargs(bottleneck, network)))
    spec = TorchModel(factory="littoral.models.bottleneck:make_split_tail", kwargs=kwargs, file="split-0.safetensors")
    tensors = {name: value.numpy() for name, value in to_split_tail(bottleneck, tail).state_dict().items()}
    rebuilt = load_model(spec, tensors)
    with torch.no_grad():
        assert torch.allclose(rebuilt(symbols, level_B), expected, atol=1e-5)
        assert not torch.allclose(make_split_tail(**kwargs).eval()(symbols, level_B), expected, atol=1e-2)


def test_rounding_about_a_median_moves_symbols_and_nothing_else():
    torch.manual_seed(0)
    bottleneck = entropic_student(widths=(4, 4), decoder_widths=(4, 4), num_channels=2, out_channels=3).eval()
    with torch.no_grad():
        latent = bottleneck.latent(frames())
        medians = torch.tensor([3.0, -2.0])
        symbols = bottleneck.symbols(latent, LEVELS * 0)
        features = bottleneck(frames(), LEVELS * 0).features
        bottleneck.round_about(medians)
        moved = bottleneck.symbols(bottleneck.device_encoder()(frames()), LEVELS * 0)
        assert torch.equal(moved + medians[:, None, None].int(), symbols)
        assert torch.allclose(bottleneck(frames(), LEVELS * 0).features, features, atol=1e-5)
    with pytest.raises(ValueError, match="learned gains rounds about 0"):
        small().round_about(torch.zeros(4))


def test_calibration_spreads_each_channels_range_over_8_bits():
    torch.manual_seed(0)
    bottleneck = channel_reduction(width=8).eval()
    with torch.no_grad():
        calibrate_8_bit(bottleneck, bottleneck.latent(frames()))
        symbols = bottleneck.symbols(bottleneck.latent(frames()), LEVELS * 0)
    assert symbols.amin((0, 2, 3)).tolist() == [-128, -128]
    assert symbols.amax((0, 2, 3)).tolist() == [127, 127]


def test_a_decoder_gives_the_size_of_the_tails_input_also_where_doubling_does_not():
    decoder = make_decoder(
        kind="residual", in_channels=2, out_channels=3, width=4, blocks=0, upsamplings=2, size=(11, 14)
    )
    assert decoder(torch.zeros(1, 2, 3, 4)).shape == (1, 3, 11, 14)


@pytest.mark.parametrize(
    ("bottleneck", "side", "parameters", "mega_macs"),
    [
        (entropic_student(num_channels=24), 224, 138_672, 588),
        (rac_shaped(patch=8, width=128, num_channels=64, blocks=0), 224, 32_960, 26),
        (rac_shaped(patch=8, width=128, num_channels=64, blocks=4), 224, 623_552, 488),
        (rac_shaped(patch=8, width=128, num_channels=64, blocks=8), 224, 1_214_144, 951),
    ],
    ids=["entropic student", "rac n0", "rac n4", "rac n8"],
)
def test_baselines_are_as_large_as_published(bottleneck, side, parameters, mega_macs):
    encoder = bottleneck.encoder
    assert sum(value.numel() for value in encoder.parameters()) == parameters
    assert count_macs(encoder, (3, side, side)) / 1e6 == pytest.approx(mega_macs, abs=1)


def test_rac_has_the_published_layers():
    none, one = (rac_shaped(out_channels=8, blocks=blocks).encoder for blocks in (0, 1))
    assert [type(layer).__name__ for layer in none] == ["Conv2d", "GELU", "Conv2d"]
    kernels = [layer.kernel_size for layer in one.modules() if isinstance(layer, nn.Conv2d)]
    assert kernels == [(4, 4), (3, 3), (3, 3), (1, 1)]
    decoder = make_decoder(kind="rac", in_channels=64, out_channels=256, width=256)
    channels = [(layer.in_channels, layer.out_channels) for layer in decoder if not isinstance(layer, nn.GELU)]
    assert channels == [(64, 256), (256, 512), (512, 256), (256, 256)]


def test_the_published_decoder_has_its_published_size():
    decoder = make_decoder(kind="gdn", in_channels=24, out_channels=256)
    assert sum(value.numel() for value in decoder.parameters()) == 1_164_032
    small_decoder = make_decoder(kind="gdn", in_channels=2, out_channels=3, widths=[4, 4])
    assert small_decoder(torch.zeros(1, 2, 55, 55)).shape == (1, 3, 56, 56)


def test_the_default_encoders_cost_less_than_three_tenths_of_resnet20():
    assert count_macs(zoo.resnet20(), (3, 32, 32)) == RESNET20_MACS
    assert count_macs(product().encoder, (3, 32, 32)) < 0.3 * RESNET20_MACS
    behind = product(in_channels=16, patch=0, strides=(2, 2), width=32)
    assert count_macs(behind.encoder, (16, 32, 32)) < 0.3 * RESNET20_MACS


@pytest.mark.parametrize("inverse", [False, True], ids=["divides", "multiplies"])
def test_gdn_is_its_formula(inverse):
    layer = GDN1(2, inverse=inverse)
    with torch.no_grad():
        layer.gamma.copy_(torch.tensor([[0.5, 0.2], [0.1, 0.3]]).sqrt())
    x = torch.tensor([[[[-2.0]], [[3.0]]]])
    norm = np.array([1 + 0.5 * 2 + 0.2 * 3, 1 + 0.1 * 2 + 0.3 * 3])
    expected = np.array([-2.0, 3.0]) * (norm if inverse else 1 / norm)
    assert np.allclose(layer(x).detach().numpy().ravel(), expected, atol=1e-5)


def test_a_lower_bound_lets_a_gradient_in_that_leads_back():
    x = torch.tensor([0.5, 0.5, 2.0], requires_grad=True)
    lower_bound(x, 1.0).backward(torch.tensor([1.0, -1.0, 1.0]))
    assert lower_bound(x, 1.0).tolist() == [1.0, 1.0, 2.0]
    assert x.grad.tolist() == [0.0, -1.0, 1.0]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: small(kept=(2,)), "kept is"),
        (lambda: small(kept=(0, 4)), "kept is"),
        (lambda: small(starting_gains=(1.0, -1.0)), "gains are"),
        (lambda: small(starting_gains=[2.0] * 17, kept=None), "there are 17 levels, expected 1 to 16"),
        (lambda: small(patch=0), "a patch or at least one strided convolution"),
        (lambda: make_decoder(kind="linear"), "there is no decoder 'linear'"),
        (
            lambda: Bottleneck(nn.Identity(), nn.Identity(), FactorisedPrior(2, 3), num_channels=4, num_levels=2),
            "the prior has 2 levels of 3 channels",
        ),
        (
            lambda: split_tail_kwargs(
                Bottleneck(nn.Identity(), nn.Identity(), FactorisedPrior(1, 3), num_channels=3, num_levels=1), {}
            ),
            "decoder_spec",
        ),
    ],
    ids=["kept", "none", "gains", "levels", "stem", "decoder", "prior", "spec"],
)
def test_what_does_not_fit_together_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
