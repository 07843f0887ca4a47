"""What a frame is, and the scale on which its mean and deviation are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from littoral.bundle import Bundle, InputSpec, Manifest
from littoral.errors import BundleError


def spec(mean: float, std: float) -> InputSpec:
    return InputSpec(height=4, width=4, channels=1, mean=(mean,), std=(std,))


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.45, 0.25), (0.0, 1 / 255), (-1.0, 2.0)])
def test_usual_ones_are_taken(mean: float, std: float) -> None:
    assert spec(mean, std).mean == (mean,)


@pytest.mark.parametrize(
    ("mean", "std", "told"),
    [
        (127.0, 0.25, "mean is of each channel on the scale 0..1, got .*divide by 255"),
        (float("nan"), 0.25, "mean is of each channel"),
        (0.45, 64.0, "std is of each channel on the scale 0..1 and above 0, got .*divide by 255"),
        (0.45, 0.0, "std is of each channel"),
        (0.45, -0.2, "std is of each channel"),
        (0.45, float("inf"), "std is of each channel"),
    ],
)
def test_the_other_scale_is_refused(mean: float, std: float, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        spec(mean, std)


def test_in_a_manifest_it_is_a_bundle_error(tiny_bundle: Path) -> None:
    raw = json.loads((tiny_bundle / "bundle.json").read_bytes())
    raw["input"]["std"] = [0.0]
    with pytest.raises(BundleError, match="std is of each channel"):
        Manifest.from_json(json.dumps(raw).encode())
    assert Bundle.open(tiny_bundle).manifest.input.std[0] > 0
