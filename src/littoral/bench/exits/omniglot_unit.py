"""What personal heads make of Omniglot's writers, with what there is to gain at most.

Every figure is of held-out writers, on drawings that nothing was fitted on. Axes: N drawings, E exits.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from littoral.bench.alone import alone
from littoral.bench.exits.omniglot import (
    Drawings,
    OmniglotNetwork,
    OmniglotTask,
    WriterUser,
    add_exits,
    load_omniglot,
    source_of,
    train_backbone,
    users_of,
)
from littoral.bench.exits.seen import Part
from littoral.core.arrays import Float64s, FloatArray
from littoral.core.exits import compute_share, confidence, exit_indices
from littoral.core.heads import LinearHead
from littoral.core.personal import PersonalConfig, PersonalHead
from littoral.core.risk import shared_path
from littoral.models.small_cnn import small_cnn

TASKS: tuple[OmniglotTask, ...] = ("characters", "alphabets")
LABELS = (0.0, 0.1, 1.0)
"""The share of personal drawings whose label the user gives."""
_OFFSET_FRAMES = 10
"""How many drawings the source's own mean weighs where a hand's offset is estimated."""
_FLOOR = 0.02
"""Of the shares of alphabets: so much of the source's stays."""


@dataclass(frozen=True, kw_only=True)
class OmniglotUnit:
    """What is made at one go: the network, both tasks, all their users.

    Attributes:
        draws: How often users and their parts are drawn anew.
    """

    width: int = 8
    epochs: int = 20
    seed: int = 0
    draws: int = 5
    fit: str = "logits"

    def config(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    @property
    def key(self) -> str:
        """Names the configuration: 16 hexadecimal digits."""
        return hashlib.sha256(json.dumps(self.config(), sort_keys=True).encode()).hexdigest()[:16]

    @property
    def name(self) -> str:
        """For people."""
        return f"omniglot {self.fit} seed {self.seed}"

    @property
    def num_frames(self) -> int:
        """Of work, for bars."""
        return self.epochs * 2904 + self.draws * 1452


def make_omniglot(unit: OmniglotUnit, data: Path, work: Path, tell: Callable[..., None]) -> dict[str, Any]:
    """Train the network, or take it from the work folder, and measure; see `littoral.bench.rows.MakeUnit`."""
    drawings = load_omniglot(data)
    source, settling = source_of(drawings)
    folder = work / "trained" / f"omniglot-{unit.width}-{unit.epochs}-{unit.seed}"
    with alone(folder):
        path = folder / "network.pt"
        if path.exists():
            model = small_cnn(width=unit.width, num_classes=int(source.characters_N.max()) + 1, channels=1, depth=3)
            model.load_state_dict(torch.load(path, weights_only=True))
            model.eval()
        else:
            model = train_backbone(
                source,
                width=unit.width,
                epochs=unit.epochs,
                seed=unit.seed,
                say=lambda line: tell(0, unit.num_frames, line),
            )
            temporary = path.with_suffix(".new")
            torch.save(model.state_dict(), temporary)
            temporary.replace(path)
    tasks = {}
    for task in TASKS:
        network = add_exits(model, source, settling, task, seed=unit.seed)
        users = [user for draw in range(unit.draws) for user in users_of(network, drawings, seed=draw)]
        rows = [user_row(network, user, fit=unit.fit, seed=unit.seed) for user in users]
        tasks[task] = {
            "users": len(users),
            "classes": network.heads[-1].num_classes,
            "segment_macs": list(network.costs.segment_macs),
            "head_macs": list(network.costs.head_macs),
            "summary": summary(rows),
            "hand": hand(network, drawings),
            "rows": rows,
        }
    return {"drawings": len(drawings), "drawings_of_a_character_by_a_writer": most_alike(drawings), "tasks": tasks}


def most_alike(drawings: Drawings) -> int:
    """The most drawings that any writer made of one character."""
    pairs = np.stack([drawings.characters_N, drawings.writers_N], axis=1)
    return int(np.unique(pairs, axis=0, return_counts=True)[1].max())


def user_row(network: OmniglotNetwork, user: WriterUser, *, fit: str, seed: int) -> dict[str, Any]:
    """One user: percent right of every exit with shipped and with personal heads, and work at equal accuracy."""
    personal, test = user.parts["personal"], user.parts["test"]
    row: dict[str, Any] = {
        "user": user.name,
        "personal": len(personal),
        "test": len(test),
        "test_classes_shown": round(float(np.isin(test.labels_N, personal.labels_N).mean()), 4),
        "shipped": _scored(network, network.heads, test),
    }
    for share in LABELS:
        heads = personal_heads(network, personal, labels=share, fit=fit, seed=seed)
        fitted = [head.fitted() for head in heads]
        served = [head.refresh()[0] for head in heads]
        row[f"labels {share:g}"] = {
            "corrected": _scored(network, [head.prior_corrected() for head in heads], test),
            "fitted": _scored(network, fitted, test),
            "served": _scored(network, served, test),
        }
    row["alphabet, no labels"] = _scored(network, of_known_alphabet(network, personal), test)
    row["offset, labels"] = _scored(network, network.heads, shifted(network, personal, test, labels=True))
    row["offset, no labels"] = _scored(network, network.heads, shifted(network, personal, test, labels=False))
    return row


def personal_heads(
    network: OmniglotNetwork, personal: Part, *, labels: float, fit: str, seed: int
) -> list[PersonalHead]:
    """One for each exit, after all the user's personal drawings, of which a share has labels."""
    config = PersonalConfig(fit=fit)  # type: ignore[arg-type]
    order = np.random.default_rng([seed, 11]).permutation(len(personal))
    given = order < math.ceil(labels * len(personal))
    heads = [
        PersonalHead(
            head, affine_version=0, seed=seed, config=config, source_shares_K=network.class_shares_K, moments=moments
        )
        for head, moments in zip(network.heads, network.moments, strict=True)
    ]
    deep = personal.deep_NK
    for i in range(len(personal)):
        label = int(personal.labels_N[i]) if given[i] else None
        for head, features in zip(heads, personal.features, strict=True):
            head.observe(features[i], day=0, affine_version=0, label=label, deep_K=deep[i])
    return heads


def of_known_alphabet(network: OmniglotNetwork, personal: Part) -> list[LinearHead]:
    """The shipped heads with the shares of *alphabets* corrected, as the shipped network sees them, without a label.

    An alphabet's characters share its share, so that one that was not shown yet is as likely as one that was. In
    ``alphabets`` these are the class shares.
    """
    groups_K = network.alphabets_K
    known = np.zeros((len(groups_K), int(groups_K.max()) + 1))
    known[np.arange(len(groups_K)), groups_K] = 1
    source = network.class_shares_K @ known
    shares = (personal.deep_NK @ known).mean(axis=0)
    shares = (1 - _FLOOR) * shares + _FLOOR * source
    moved_K = np.log(shares / source)[groups_K].astype(np.float32)
    return [LinearHead(weights_KD=head.weights_KD, bias_K=head.bias_K + moved_K) for head in network.heads]


def shifted(network: OmniglotNetwork, personal: Part, test: Part, *, labels: bool) -> Part:
    """Test drawings less what the user's hand adds to every class alike: the mean distance from the class's mean.

    The least that a writer can be known by, and the most that carries over to characters that were not shown.

    Args:
        labels: The classes of personal drawings are known, or else as the shipped network says.
    """
    known = personal.labels_N if labels else personal.shipped_N
    moved: list[FloatArray] = []
    for found, wanted, moments in zip(personal.features, test.features, network.moments, strict=True):
        offset: FloatArray = (found - moments.means_KD[known]).mean(axis=0)
        moved.append((wanted - offset * (len(found) / (len(found) + _OFFSET_FRAMES))).astype(np.float32))
    logits = network.heads[-1].logits(moved[-1])
    return Part(features=tuple(moved), logits_NK=logits, labels_N=test.labels_N)


def hand(network: OmniglotNetwork, drawings: Drawings) -> list[float]:
    """By exit: of the variance within characters, the share that is the writer's (one-way analysis of variance).

    0: two drawings of one writer are no more alike than two of different ones, class for class.
    """
    held = drawings.take(drawings.writers_N > int(drawings.writers_N.max()) - 6)
    groups = held.alphabets_N * 100 + held.writers_N
    out = []
    for z in network.features(held.frames):
        means = np.stack([z[held.characters_N == k].mean(axis=0) for k in range(int(held.characters_N.max()) + 1)])
        out.append(round(share_of_groups(z - means[held.characters_N], groups), 4))
    return out


def share_of_groups(residuals_ND: FloatArray, groups_N: np.ndarray) -> float:
    """The intraclass correlation of groups of any sizes, over all features together; below 0 where it is by chance."""
    names, counts = np.unique(groups_N, return_counts=True)
    total = residuals_ND.mean(axis=0)
    means = np.stack([residuals_ND[groups_N == name].mean(axis=0) for name in names])
    between = float((counts[:, None] * (means - total) ** 2).sum()) / (len(names) - 1)
    inside = sum(float(((residuals_ND[groups_N == n] - m) ** 2).sum()) for n, m in zip(names, means, strict=True)) / (
        len(groups_N) - len(names)
    )
    size = (len(groups_N) - float((counts**2).sum()) / len(groups_N)) / (len(names) - 1)
    return (between - inside) / (between + (size - 1) * inside)


def _scored(network: OmniglotNetwork, heads: Sequence[LinearHead], part: Part) -> dict[str, Any]:
    """Percent right of every exit, and the least work with which these heads are as right as the shipped network."""
    logits = [head.logits(found) for head, found in zip(heads, part.features, strict=True)]
    right_NE = np.stack([found.argmax(axis=1) == part.labels_N for found in logits], axis=1)
    sure_NE: Float64s = np.stack(
        [confidence(found, temperature=t) for found, t in zip(logits, network.temperatures, strict=True)], axis=1
    )
    wanted = float((part.shipped_N == part.labels_N).mean())
    rows, shares = np.arange(len(part)), []
    for thresholds in shared_path(len(heads)):
        leaving = exit_indices(sure_NE, thresholds.tolist())
        if right_NE[rows, leaving].mean() >= wanted:
            shares.append(compute_share(leaving, network.costs, thresholds.tolist()))
    return {
        "exits": [round(100 * float(each), 3) for each in right_NE.mean(axis=0)],
        "work_at_shipped_accuracy": round(min(shares), 4) if shares else None,
    }


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over users: percent right by exit and points gained over the shipped heads, users improved at exit 0."""
    shipped = np.array([row["shipped"]["exits"] for row in rows])
    out: dict[str, Any] = {
        "shipped": _round(shipped.mean(axis=0)),
        "test_classes_shown": round(float(np.mean([row["test_classes_shown"] for row in rows])), 4),
        "work_shipped": _work([row["shipped"] for row in rows]),
    }
    for share in LABELS:
        for kind in ("corrected", "fitted", "served"):
            found = [row[f"labels {share:g}"][kind] for row in rows]
            gains = np.array([each["exits"] for each in found]) - shipped
            out[f"labels {share:g}, {kind}"] = {**_gains(gains), "work": _work(found)}
    for name in ("alphabet, no labels", "offset, labels", "offset, no labels"):
        found = [row[name] for row in rows]
        out[name] = {**_gains(np.array([each["exits"] for each in found]) - shipped), "work": _work(found)}
    return out


def _gains(gains_UE: Float64s) -> dict[str, Any]:
    error = (
        gains_UE.std(axis=0, ddof=1) / math.sqrt(len(gains_UE)) if len(gains_UE) > 1 else np.zeros(gains_UE.shape[1])
    )
    return {
        "points": _round(gains_UE.mean(axis=0)),
        "standard_error": _round(error),
        "worst_user": _round(gains_UE.min(axis=0)),
        "users_improved": _round((gains_UE > 0).mean(axis=0)),
    }


def _work(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    reached = [each["work_at_shipped_accuracy"] for each in found if each["work_at_shipped_accuracy"] is not None]
    return {
        "reached": round(len(reached) / len(found), 4),
        "mean": round(float(np.mean(reached)), 4) if reached else None,
    }


def _round(values: Float64s) -> list[float]:
    return [round(float(each), 3) for each in values]


def omniglot_points(result: dict[str, Any]) -> list[dict[str, Any]]:
    """A unit's flat rows: by task and method the mean points over the shipped head at each exit."""
    return [
        {
            "task": task,
            "method": method,
            "num_users": made["users"],
            **{f"points_exit_{i}": points for i, points in enumerate(found["points"])},
            "worst_user_points": min(found["worst_user"]),
        }
        for task, made in result["tasks"].items()
        for method, found in made["summary"].items()
        if isinstance(found, dict) and "points" in found
    ]
