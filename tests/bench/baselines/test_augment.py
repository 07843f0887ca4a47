"""The augmentations: each step against its definition."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from littoral.bench.baselines import augment
from littoral.bench.baselines.augment import Augmentation, blur, grey, jitter, move, turn_hue


def frames(size: int = 8, channels: int = 3) -> torch.Tensor:
    return torch.rand((4, channels, size, size), generator=torch.Generator().manual_seed(0))


def fixed(monkeypatch: pytest.MonkeyPatch, values: list[float]) -> None:
    given: Iterator[float] = iter(values)
    monkeypatch.setattr(augment, "_uniform", lambda bounds, rng: next(given))


@pytest.mark.parametrize("cotta", [True, False])
@pytest.mark.parametrize("channels", [1, 3])
def test_augmented_frames_keep_shape_and_range_and_follow_the_seed(cotta: bool, channels: int) -> None:
    x = frames(channels=channels)
    first, second, other = (Augmentation(cotta=cotta)(x, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert first.shape == x.shape
    assert float(first.min()) >= 0
    assert float(first.max()) <= 1
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert not torch.allclose(first, x, atol=0.05)


def test_a_third_of_the_circle_swaps_the_colours_and_none_leaves_them() -> None:
    x = frames()
    torch.testing.assert_close(turn_hue(x, 0.0), x)
    torch.testing.assert_close(turn_hue(x, 1 / 3), x.roll(1, dims=1), atol=1e-5, rtol=1e-5)
    pale = grey(x).expand(-1, 3, -1, -1)
    torch.testing.assert_close(turn_hue(pale, 0.2), pale)


@pytest.mark.parametrize(("padding", "rule"), [("border", "edge"), ("reflection", "reflect")])
def test_a_shift_looks_up_what_padding_and_cropping_would(
    padding: str, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixed(monkeypatch, [0.0, 2.0, -1.0, 1.0])  # degrees, right, up, scale
    x = frames()
    moved = move(x, torch.Generator(), padding=padding, margin=0)
    padded = np.pad(x.numpy(), ((0, 0), (0, 0), (4, 4), (4, 4)), mode=rule)  # type: ignore[call-overload]
    np.testing.assert_allclose(moved.numpy(), padded[:, :, 5:13, 2:10], atol=1e-5)


def test_a_quarter_turn_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed(monkeypatch, [90.0, 0.0, 0.0, 1.0])
    x = frames()
    turned = move(x, torch.Generator(), padding="border", margin=0)
    assert any(torch.allclose(turned, x.rot90(turns, dims=(2, 3)), atol=1e-5) for turns in (1, 3))


def test_blur_spends_its_margin_and_spreads_a_point_without_loss() -> None:
    point = torch.zeros(1, 1, 9, 9)
    point[0, 0, 4, 4] = 1
    spread = blur(point, 0.5)
    assert spread.shape == (1, 1, 5, 5)
    assert float(spread.sum()) == pytest.approx(1, abs=1e-5)
    assert 0.5 < float(spread[0, 0, 2, 2]) < 0.7
    torch.testing.assert_close(blur(point, 0.01), point[:, :, 2:-2, 2:-2])


def test_jitter_touches_every_property_that_a_frame_has(monkeypatch: pytest.MonkeyPatch) -> None:
    x = frames()
    neutral = [1.0, 1.0, 1.0, 0.0, 1.0]
    order = torch.randperm(5, generator=torch.Generator().manual_seed(3)).tolist()
    for changed, value in enumerate([0.7, 0.7, 0.5, 0.05, 1.3]):
        values = [value if which == changed else neutral[which] for which in order]
        fixed(monkeypatch, values)
        assert not torch.allclose(jitter(x, torch.Generator().manual_seed(3)), x, atol=1e-3)
    fixed(monkeypatch, [neutral[which] for which in order])
    torch.testing.assert_close(jitter(x, torch.Generator().manual_seed(3)), x, atol=1e-5, rtol=1e-4)
