"""The heads of a bundle's exits as shipped, what the source looks like at each, and what leaving there costs."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from littoral.bundle.bundle import Bundle
from littoral.bundle.manifest import ExitSpec, Manifest
from littoral.core.arrays import Float64s
from littoral.core.exits import OFF, ExitCosts
from littoral.core.heads import LinearHead, SourceMoments
from littoral.errors import BundleError

CLASS_SHARES = "class_shares"
PARTS = ("weights", "bias", "means", "covariance")


@dataclass(frozen=True, kw_only=True, eq=False)
class ExitHeads:
    """What a device starts from at E exits, from the earliest.

    Attributes:
        heads: As shipped.
        moments: Of the source's pooled features at each exit.
        class_shares_K: Of the source, float64, sum 1.
        temperatures: By which each exit's logits are divided.
        thresholds: As shipped, `littoral.core.exits.OFF` for an exit that is off.
        costs: E + 1 entries: the exits, then the whole network.
    """

    heads: tuple[LinearHead, ...]
    moments: tuple[SourceMoments, ...]
    class_shares_K: Float64s
    temperatures: tuple[float, ...]
    thresholds: tuple[float, ...]
    costs: ExitCosts

    @classmethod
    def open(cls, bundle: Bundle) -> ExitHeads:
        """The exits of a bundle.

        Raises:
            BundleError: the bundle has no exits, or its heads are not what they should be.
        """
        manifest = bundle.manifest
        if not manifest.exits or manifest.heads_file is None:
            raise BundleError(f"bundle {bundle.path} has no exits; build one with 'littoral build --exits N'")
        try:
            heads, moments, shares_K = _from_tensors(bundle.load_tensors(manifest.heads_file), manifest)
        except (ValueError, KeyError) as error:
            raise BundleError(f"{manifest.heads_file} of bundle {bundle.path}: {error}; build it again") from error
        return cls(
            heads=heads,
            moments=moments,
            class_shares_K=shares_K,
            temperatures=tuple(each.temperature for each in manifest.exits),
            thresholds=tuple(OFF if each.threshold is None else each.threshold for each in manifest.exits),
            costs=exit_costs(manifest.exits, manifest.segment_macs),
        )


def exit_costs(exits: Sequence[ExitSpec], segment_macs: Sequence[int]) -> ExitCosts:
    """The segments before each exit and the exits' own work, then the rest of the network."""
    ends = [0, *(each.segment + 1 for each in exits), len(segment_macs)]
    return ExitCosts(
        segment_macs=tuple(sum(segment_macs[start:end]) for start, end in itertools.pairwise(ends)),
        head_macs=(*(each.macs for each in exits), 0),
    )


def heads_to_tensors(
    heads: Sequence[LinearHead], moments: Sequence[SourceMoments], class_shares_K: Float64s
) -> dict[str, NDArray[Any]]:
    """Named tensors for ``heads.safetensors``."""
    tensors: dict[str, NDArray[Any]] = {CLASS_SHARES: class_shares_K.astype(np.float64)}
    for index, (head, source) in enumerate(zip(heads, moments, strict=True)):
        parts = (head.weights_KD, head.bias_K, source.means_KD, source.covariance_DD)
        tensors |= {f"exit-{index}.{part}": value for part, value in zip(PARTS, parts, strict=True)}
    return tensors


def _from_tensors(
    tensors: Mapping[str, NDArray[Any]], manifest: Manifest
) -> tuple[tuple[LinearHead, ...], tuple[SourceMoments, ...], Float64s]:
    num_classes, known = manifest.num_classes, {CLASS_SHARES}
    shares_K = tensors[CLASS_SHARES]
    if shares_K.dtype != np.float64 or shares_K.shape != (num_classes,) or not (shares_K >= 0).all():
        raise ValueError(f"{CLASS_SHARES} are {shares_K.dtype} {shares_K.shape}, expected float64 ({num_classes},)")
    if not abs(float(shares_K.sum()) - 1) < 1e-6:
        raise ValueError(f"{CLASS_SHARES} sum to {shares_K.sum()}, expected 1")
    heads, moments = [], []
    for index, each in enumerate(manifest.exits):
        size = each.num_features
        shapes = ((num_classes, size), (num_classes,), (num_classes, size), (size, size))
        values = []
        for part, shape in zip(PARTS, shapes, strict=True):
            name = f"exit-{index}.{part}"
            value = tensors[name]
            if value.dtype != np.float32 or value.shape != shape or not np.isfinite(value).all():
                raise ValueError(f"{name} is {value.dtype} {value.shape}, expected finite float32 {shape}")
            known.add(name)
            values.append(value)
        weights_KD, bias_K, means_KD, covariance_DD = values
        if not np.allclose(covariance_DD, covariance_DD.T) or covariance_DD.diagonal().min() < 0:
            raise ValueError(f"exit-{index}.covariance is not a covariance: it must be symmetric")
        heads.append(LinearHead(weights_KD=weights_KD, bias_K=bias_K))
        moments.append(SourceMoments(means_KD=means_KD, covariance_DD=covariance_DD))
    if unknown := sorted(set(tensors) - known):
        raise ValueError(f"it has the unknown tensor {unknown[0]!r}")
    return tuple(heads), tuple(moments), shares_K
