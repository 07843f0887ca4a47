"""Linear heads on the features of trained stems, what the source looks like there, and files of both.

Axes: N frames, D features, K classes.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor, nn

from littoral.bundle.exits import CLASS_SHARES, heads_to_tensors
from littoral.bundle.manifest import InputSpec
from littoral.core.arrays import Float64s, FloatArray, Frame
from littoral.core.exits import fit_temperature
from littoral.core.heads import LinearHead, SourceMoments, lda_matrix, softmax64, with_one
from littoral.models.exits import Stem, make_stem
from littoral.train.exit_places import ExitPlaces
from littoral.train.exit_trunk import Trunk
from littoral.train.split_data import write_whole

_BATCH = 250
_DESCENT_STEPS = 60
_DECAY = 1e-4
_SHRINKAGE = 0.01
_FORMAT = "littoral/trained-exits/1"


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainedExit:
    """One exit.

    Attributes:
        place: The module on whose output it stands; of the deep exit the last linear layer, whose input it takes.
        stem: In eval mode; None of the deep exit.
        head: On the stem's features.
        moments: Of the source's features.
        temperature: Fitted to the whole network's answers on held-out frames; 1 of the deep exit, which gives them.
        fit: What made the head: ``descent``, ``lda`` (closed form), or ``shipped`` (the network's own layer).
        agreement: The share of held-out frames on which it answers as the whole network does.
    """

    place: str
    stem: Stem | None
    head: LinearHead
    moments: SourceMoments
    temperature: float
    fit: str
    agreement: float

    @property
    def is_deep(self) -> bool:
        return self.stem is None


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainedExits:
    """All exits of a network, from the earliest, and the shares of the source's classes (float64, sum 1)."""

    exits: tuple[TrainedExit, ...]
    class_shares_K: Float64s

    @property
    def places(self) -> ExitPlaces:
        """For a `Trunk`; the shares of work are not known here."""
        early = tuple(each.place for each in self.exits if not each.is_deep)
        deep = next((each.place for each in self.exits if each.is_deep), None)
        return ExitPlaces(modules=early, shares=(0.0,) * len(early), last_linear=deep)


def fit_heads(
    trunk: Trunk,
    stems: Sequence[Stem],
    layers: Sequence[nn.Linear] | None,
    frames: Frame,
    labels: np.ndarray | None,
    *,
    fitted: np.ndarray,
    held: np.ndarray,
) -> tuple[tuple[TrainedExit, ...], Float64s]:
    """A head for each stem and, where there is a last linear layer, the deep exit.

    A head is fitted to the network's own probabilities by descent from its trained layer, and to classes in closed
    form; the one that agrees with the network on more held-out frames is taken. Class means and shares are those of the
    labels, without labels those of the network's answers.

    Args:
        layers: Trained on the way, or None.
        fitted, held: Positions of the frames to learn from, and of those to choose on.
    Returns:
        The exits, and the class shares.
    """
    features, logits_NK = run_stems(trunk, stems, frames)
    answers_N = logits_NK.argmax(axis=1)
    classes_N = answers_N if labels is None else labels.astype(np.int64)
    counts_K = np.bincount(classes_N[fitted], minlength=trunk.num_classes).astype(np.float64)
    shares_K = counts_K / counts_K.sum()
    exits = []
    for index, features_ND in enumerate(features):
        moments = class_moments(features_ND[fitted], classes_N[fitted], trunk.num_classes)
        if index < len(stems):
            start = None if layers is None else layers[index]
            candidates = {
                "descent": _by_descent(features_ND[fitted], logits_NK[fitted], start),
                "lda": _by_lda(features_ND[fitted], classes_N[fitted], moments, shares_K),
            }
        else:
            assert trunk.last_linear is not None
            candidates = {"shipped": head_of(trunk.last_linear)}
        agreements = {
            name: float((head.logits(features_ND[held]).argmax(axis=1) == answers_N[held]).mean())
            for name, head in candidates.items()
        }
        best = max(agreements, key=lambda name: agreements[name])
        head = candidates[best]
        is_deep = best == "shipped"
        exits.append(
            TrainedExit(
                place=str(trunk.places.last_linear) if is_deep else trunk.places.modules[index],
                stem=None if is_deep else stems[index],
                head=head,
                moments=moments,
                temperature=1.0 if is_deep else fit_temperature(head.logits(features_ND[held]), answers_N[held]),
                fit=best,
                agreement=agreements[best],
            )
        )
    return tuple(exits), shares_K


def exit_features(
    model: nn.Module, spec: InputSpec, trained: TrainedExits, frames: Frame
) -> tuple[list[FloatArray], FloatArray]:
    """What each exit's head takes of these frames, float32 ``(N, D)`` each, and the network's logits ``(N, K)``."""
    trunk = Trunk(model, spec, trained.places)
    stems = [copy.deepcopy(each.stem).to(trunk.device).eval() for each in trained.exits if each.stem is not None]
    return run_stems(trunk, stems, frames)


def run_stems(trunk: Trunk, stems: Sequence[Stem], frames: Frame) -> tuple[list[FloatArray], FloatArray]:
    """As `exit_features`; the deep exit's features are last, if there is one."""
    parts: list[list[Tensor]] = []
    with torch.no_grad():
        for start in range(0, len(frames), _BATCH):
            maps, deep, logits = trunk(frames[start : start + _BATCH])
            of_batch = [stem(features) for stem, features in zip(stems, maps, strict=True)]
            if deep is not None:
                of_batch.append(deep)
            parts.append([*of_batch, logits])
    *features, logits_NK = (np.asarray(torch.cat(column).float().cpu().numpy()) for column in zip(*parts, strict=True))
    return features, logits_NK


def class_moments(features_ND: FloatArray, classes_N: np.ndarray, num_classes: int) -> SourceMoments:
    """Each class's mean, and the covariance within classes. A class that is not there has the mean of all."""
    wide = features_ND.astype(np.float64)
    means_KD = np.repeat(wide.mean(axis=0, keepdims=True), num_classes, axis=0)
    for k in np.unique(classes_N):
        means_KD[k] = wide[classes_N == k].mean(axis=0)
    away = wide - means_KD[classes_N]
    covariance_DD = away.T @ away / len(wide)
    return SourceMoments(
        means_KD=means_KD.astype(np.float32),
        covariance_DD=((covariance_DD + covariance_DD.T) / 2).astype(np.float32),
    )


def head_of(layer: nn.Linear) -> LinearHead:
    """The values of a layer; a bias that it lacks is 0."""
    weights_KD = layer.weight.detach().float().cpu().numpy().copy()
    bias = np.zeros(len(weights_KD), np.float32) if layer.bias is None else layer.bias.detach().float().cpu().numpy()
    return LinearHead(weights_KD=weights_KD, bias_K=bias.copy())


def _by_descent(features_ND: FloatArray, logits_NK: FloatArray, start: nn.Linear | None) -> LinearHead:
    """Softmax regression on the network's probabilities. The features are whitened roughly: by their own scales."""
    x = torch.from_numpy(features_ND).double()
    mean, scale = x.mean(dim=0), x.std(dim=0).clamp(min=1e-6)
    x = (x - mean) / scale
    targets = torch.from_numpy(softmax64(logits_NK))
    weights = torch.zeros(targets.shape[1], x.shape[1], dtype=torch.float64)
    bias = torch.zeros(targets.shape[1], dtype=torch.float64)
    if start is not None:
        given = start.weight.detach().double().cpu()
        weights, bias = given * scale, start.bias.detach().double().cpu() + given @ mean
    weights.requires_grad_(), bias.requires_grad_()
    optimizer = torch.optim.LBFGS([weights, bias], max_iter=_DESCENT_STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value: Tensor = F.cross_entropy(F.linear(x, weights, bias), targets) + _DECAY * weights.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        plain = weights / scale
        offset = bias - plain @ mean
    return LinearHead(weights_KD=plain.float().numpy(), bias_K=offset.float().numpy())


def _by_lda(features_ND: FloatArray, classes_N: np.ndarray, moments: SourceMoments, shares_K: Float64s) -> LinearHead:
    """The moments weigh one frame as their own prior: so that a class which is not there has a mean."""
    x_NA = with_one(features_ND)
    matrix_AK = lda_matrix(
        x_NA.T @ x_NA,
        x_NA.T @ np.eye(len(shares_K))[classes_N],
        moments,
        mean_frames=1.0,
        covariance_frames=1.0,
        shrinkage=_SHRINKAGE,
        log_prior_K=np.log(np.maximum(shares_K, 1e-6)),
    )
    return LinearHead.of_matrix(matrix_AK)


def save_trained_exits(file: Path, trained: TrainedExits) -> None:
    """Write exits to one safetensors file: the tensors of ``heads.safetensors``, each stem's state dict as
    ``stem-<i>.<name>``, and all else as JSON in the metadata.
    """
    tensors = heads_to_tensors(
        [each.head for each in trained.exits], [each.moments for each in trained.exits], trained.class_shares_K
    )
    told = []
    for index, each in enumerate(trained.exits):
        if each.stem is not None:
            state = each.stem.state_dict()
            tensors |= {f"stem-{index}.{name}": value.cpu().numpy() for name, value in state.items()}
        told.append(
            {
                "place": each.place,
                "stem": None if each.stem is None else dict(each.stem.config),
                "temperature": each.temperature,
                "fit": each.fit,
                "agreement": each.agreement,
            }
        )
    tensors = {name: np.ascontiguousarray(value) if value.ndim else value for name, value in tensors.items()}
    write_whole(file, save(tensors, {"format": _FORMAT, "exits": json.dumps(told)}))


def load_trained_exits(file: Path) -> TrainedExits:
    """The inverse of `save_trained_exits`.

    Raises:
        ValueError: the file is not one of these.
    """
    try:
        with safe_open(file, framework="numpy") as opened:
            meta = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  # it is no dict
        if meta.get("format") != _FORMAT:
            raise ValueError(f"its format is {meta.get('format')!r}, expected {_FORMAT!r}")
        exits = []
        for index, told in enumerate(json.loads(meta["exits"])):
            stem = None
            if told["stem"] is not None:
                stem = make_stem(told["stem"])
                prefix = f"stem-{index}."
                state = {
                    k.removeprefix(prefix): torch.from_numpy(v) for k, v in tensors.items() if k.startswith(prefix)
                }
                stem.load_state_dict(state)
                stem.eval()
            weights_KD, bias_K, means_KD, covariance_DD = (
                tensors[f"exit-{index}.{part}"] for part in ("weights", "bias", "means", "covariance")
            )
            exits.append(
                TrainedExit(
                    place=told["place"],
                    stem=stem,
                    head=LinearHead(weights_KD=weights_KD, bias_K=bias_K),
                    moments=SourceMoments(means_KD=means_KD, covariance_DD=covariance_DD),
                    temperature=told["temperature"],
                    fit=told["fit"],
                    agreement=told["agreement"],
                )
            )
        return TrainedExits(exits=tuple(exits), class_shares_K=tensors[CLASS_SHARES])
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"{file} does not hold trained exits ({error}); train them again") from error
