"""The cheapest stems: means over a grid of places, then a fixed projection, both found without training anything.

For comparison with trained stems, and for a run without them. Heads are the source's linear discriminants.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import nn

from littoral.bench.exits.chain import Chain, ChainExit, Step, step_of
from littoral.bundle import InputSpec
from littoral.core.arrays import FloatArray, Frame, Tensors
from littoral.core.exits import fit_temperature
from littoral.core.heads import LinearHead, SourceMoments, lda_matrix, with_one
from littoral.train.cuts import CutPoint, find_cut_points, split, total_macs
from littoral.train.export import export_model, external_names

_BATCH = 100
_SHRINKAGE = 0.02


def pooled_chain(
    network: nn.Module,
    spec: InputSpec,
    frames: Frame,
    labels: np.ndarray,
    *,
    shares: Sequence[float],
    grid: int = 4,
    num_features: int = 64,
) -> Chain:
    """A chain whose stems are means over ``grid`` x ``grid`` places and a projection.

    Args:
        frames, labels: Source frames; the last fifth of them fits temperatures and nothing else.
        shares: Where exits stand: behind these shares of the work, at the next cut point of each.
    """
    exported = export_model(network, spec)
    points = [point for point in find_cut_points(exported.graph) if 0 < point.share_of_macs < 1]
    chosen = [*_nearest(points, shares), points[-1]]
    graphs = split(exported.graph, [point.tensor for point in chosen])

    def remake(values: Tensors) -> tuple[Step, ...]:
        tensors = {**exported.tensors, **values}
        return tuple(
            step_of(g.SerializeToString(), external_names(g), tensors, g.graph.input[0].name, g.graph.output[0].name)
            for g in graphs
        )

    steps = remake({})
    edges = np.rint(total_macs(exported.graph) * np.array([0, *(p.share_of_macs for p in chosen), 1])).astype(int)
    final = exported.tensors
    head_names = external_names(graphs[-1])
    weights = next(final[name] for name in head_names if final[name].ndim == 2)
    bias = next(final[name] for name in head_names if final[name].ndim == 1)
    shipped = LinearHead(weights_KD=np.ascontiguousarray(weights), bias_K=bias)
    outputs = _outputs(steps, frames, grid)
    exits = []
    for index, found in enumerate(outputs):
        deepest = index == len(outputs) - 1
        stem = None if deepest else _PooledStem.fit(found, grid=grid, num_features=num_features)
        features = found if stem is None else stem.project(found)
        exits.append(_exit(index, stem, features, labels, shipped if deepest else None))
    counts = np.bincount(labels, minlength=shipped.num_classes)
    return Chain(
        segments=steps,
        exits=tuple(exits),
        segment_macs=tuple(int(macs) for macs in np.diff(edges)),
        class_shares_K=counts / counts.sum(),
        remake=remake,
    )


class _PooledStem:
    """Means over a grid of places, less their mean, projected."""

    def __init__(self, mean: FloatArray, projection: FloatArray, grid: int) -> None:
        self.mean, self.projection, self.grid = mean, projection, grid

    @classmethod
    def fit(cls, means: FloatArray, *, grid: int, num_features: int) -> _PooledStem:
        """The directions in which these means over places ``(N, D)`` differ most, on a scale of about 1."""
        pooled = means.astype(np.float64)
        mean = pooled.mean(axis=0)
        covariance = np.cov((pooled - mean).T)
        values, vectors = np.linalg.eigh(covariance)
        kept = min(num_features, len(values))
        scale = np.sqrt(max(float(values[-kept:].mean()), 1e-12))
        return cls(mean.astype(np.float32), (vectors[:, -kept:] / scale).astype(np.float32), grid)

    def __call__(self, maps: FloatArray) -> FloatArray:
        return self.project(_pool(maps, self.grid))

    def for_one_frame(self) -> _PooledStem:
        return self

    def project(self, means: FloatArray) -> FloatArray:
        projected = (means - self.mean) @ self.projection
        return projected.astype(np.float32, copy=False)

    @property
    def macs(self) -> int:
        return int(self.projection.size)


def _exit(
    index: int, stem: _PooledStem | None, features: FloatArray, labels: np.ndarray, shipped: LinearHead | None
) -> ChainExit:
    fitted = len(features) - len(features) // 5
    num_classes = int(labels.max()) + 1 if shipped is None else shipped.num_classes
    x, answers = features[:fitted].astype(np.float64), np.eye(num_classes)[labels[:fitted]]
    means = (answers.T @ x) / answers.sum(axis=0)[:, None]
    covariance = np.cov((x - means[labels[:fitted]]).T)
    moments = SourceMoments(means_KD=means.astype(np.float32), covariance_DD=covariance.astype(np.float32))
    head = shipped
    if head is None:
        one = with_one(x)
        matrix = lda_matrix(
            one.T @ one,
            one.T @ answers,
            moments,
            mean_frames=1.0,
            covariance_frames=1.0,
            shrinkage=_SHRINKAGE,
            log_prior_K=np.log(answers.mean(axis=0)),
        )
        head = LinearHead.of_matrix(matrix)
    temperature = fit_temperature(head.logits(features[fitted:]), labels[fitted:])
    macs = head.weights_KD.size + (0 if stem is None else stem.macs)
    return ChainExit(
        segment=index, stem=stem, head=head, moments=moments, temperature=max(temperature, 1.0), macs=int(macs)
    )


def _pool(maps: FloatArray, grid: int) -> FloatArray:
    num_frames, channels, height, width = maps.shape
    tiles = maps.reshape(num_frames, channels, grid, height // grid, grid, width // grid)
    pooled: FloatArray = tiles.mean(axis=(3, 5)).reshape(num_frames, -1)
    return pooled


def _outputs(steps: Sequence[Step], frames: Frame, grid: int) -> list[FloatArray]:
    """What every segment but the last gives, maps as means over places: ``(N, D)`` each."""
    found: list[list[FloatArray]] = [[] for _ in steps[:-1]]
    for start in range(0, len(frames), _BATCH):
        value: FloatArray = frames[start : start + _BATCH]  # type: ignore[assignment]
        for part, step in zip(found, steps[:-1], strict=True):
            value = step(value)
            part.append(value if value.ndim == 2 else _pool(value, grid))
    return [np.concatenate(part) for part in found]


def _nearest(points: Sequence[CutPoint], shares: Sequence[float]) -> list[CutPoint]:
    """The last cut point at the share nearest to each of these, none twice, the network's end left out."""
    end = points[-1].share_of_macs
    last = {point.share_of_macs: point for point in points if point.share_of_macs < 0.99 * end}
    chosen = sorted({min(last, key=lambda share: abs(share - wanted)) for wanted in shares})
    return [last[share] for share in chosen]
