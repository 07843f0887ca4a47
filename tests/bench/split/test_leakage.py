"""What the leakage rows measure: nothing is lost of what is sent whole, and a decoder learns what can be learned."""

from __future__ import annotations

import numpy as np
import pytest
from stripes import Stripes

from littoral.bench.split.leakage import dequantised, fit_inverter, psnr_db, rebuild, ssim
from littoral.bench.split.training import Trained


def test_a_frame_that_came_whole_is_told_from_one_that_did_not(stripes: Stripes) -> None:
    frames, _ = stripes.test
    noisy = frames + np.random.default_rng(0).normal(0, 25.5, frames.shape)
    assert psnr_db(frames, frames.astype(np.float32)) == 60
    assert psnr_db(frames, noisy) == pytest.approx(20, abs=0.1)  # a tenth of the range
    assert ssim(frames, frames.astype(np.float32)) == pytest.approx(1)
    assert ssim(frames, noisy) < 0.97


def test_a_decoder_rebuilds_what_the_latent_shows() -> None:
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (128, 2, 2, 3))
    frames = small.repeat(4, axis=1).repeat(4, axis=2).astype(np.uint8)
    latents = (small.repeat(2, axis=1).repeat(2, axis=2).transpose(0, 3, 1, 2) / 127.5 - 1).astype(np.float32)
    inverter = fit_inverter(latents[:96], frames[:96], epochs=8, batch_size=16, width=8)
    seen, unseen = latents[96:], np.zeros_like(latents[96:])  # held out, and the same frames with nothing sent
    assert psnr_db(frames[96:], rebuild(inverter, seen)) > psnr_db(frames[96:], rebuild(inverter, unseen)) + 2


def test_latents_of_a_size_that_no_doubling_gives_are_refused() -> None:
    with pytest.raises(ValueError, match="latents of 7 rows for frames of 32"):
        fit_inverter(np.zeros((2, 3, 7, 7), np.float32), np.zeros((2, 32, 32, 3), np.uint8), epochs=1)


def test_the_attacker_has_rounded_latents_and_not_the_device_s_own(trained: Trained, stripes: Stripes) -> None:
    frames, _ = stripes.first("test", 2)
    gains = trained.codec.gains[0][:, None, None]
    steps = dequantised(trained, frames, 0) * gains
    assert np.abs(steps - np.rint(steps)).max() < 1e-4
    assert np.abs(dequantised(trained, frames, 0) - trained.latents(frames)).max() > 1e-3
