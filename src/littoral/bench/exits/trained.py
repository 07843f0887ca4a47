"""Rivals that train networks: the whole one, all exits with it, or published-like exits on a frozen one.

They need a deep-learning framework on the device and hours where ours needs seconds; so they are run for a few users.
All of them see the same personal frames, with labels or with what the shipped network says (hard answers, as it does
where no label is given), for five epochs of SGD, momentum 0.9, gradients clipped at 5, statistics of the batch
normalisations frozen.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from littoral.bench.exits.costs import NUM_EPOCHS
from littoral.bench.exits.measure import Row
from littoral.bench.exits.scored import (
    Policy,
    Scored,
    certify,
    equal_accuracy,
    outcome,
    outcomes_of,
    within_budget,
)
from littoral.bench.exits.seen import Seen, frames_of
from littoral.bundle import InputSpec
from littoral.core.arrays import FloatArray, Frame
from littoral.core.exits import OFF, ExitCosts, confidence, fit_temperature
from littoral.core.risk import shared_path
from littoral.models.frames import normalise

Tell = Callable[[str], None]
FINE_TUNING, JOINT, PUBLISHED, LAST_SGD = "full fine-tuning", "joint", "published exits", "last layer, SGD"
LEARNING_RATE = 1e-3
_BATCH, _CLIP = 32, 5.0


class MultiExit(nn.Module):
    """A network with exits on modules' outputs, trained through: logits of all exits, the network's own last.

    Args:
        places: Paths of the modules on which exits stand.
        exits: One module for each: maps to logits.
    """

    def __init__(self, network: nn.Module, places: Sequence[str], exits: Sequence[nn.Module]) -> None:
        super().__init__()
        self.network, self.exits, self._maps = network, nn.ModuleList(exits), dict[str, Tensor]()
        self._places = tuple(places)
        for name in places:
            network.get_submodule(name).register_forward_hook(lambda _m, _i, out, name=name: self._keep(name, out))

    def _keep(self, name: str, out: Tensor) -> None:
        self._maps[name] = out

    def forward(self, x_BCHW: Tensor) -> list[Tensor]:
        logits = self.network(x_BCHW)
        return [*(exit(self._maps[name]) for name, exit in zip(self._places, self.exits, strict=True)), logits]


def trained_rows(
    make: Callable[[], MultiExit],
    spec: InputSpec,
    costs: ExitCosts,
    seen: Seen,
    frames: Frame,
    *,
    methods: Sequence[str] = (FINE_TUNING, JOINT, PUBLISHED, LAST_SGD),
    labels: Sequence[bool] = (True, False),
    num_epochs: int = NUM_EPOCHS,
    tell: Tell = lambda text: None,
) -> list[Row]:
    """A row per method and with or without labels.

    Args:
        make: The shipped network and exits, fresh.
        frames: The data set's test images.
    """
    user = seen.user
    shown = {part: frames_of(user, frames, part) for part in ("personal", "calibration", "test")}
    rows = []
    for method in methods:
        for labelled in labels:
            tell(f"{method}, {'labels' if labelled else 'no labels'}")
            model = make()
            wanted = seen.personal.labels_N if labelled else seen.personal.shipped_N
            begun = time.process_time()
            train(model, spec, shown["personal"], wanted, method=method, seed=user.index, num_epochs=num_epochs)
            seconds = time.process_time() - begun
            rows.append(
                {
                    "user": user.index,
                    "style": user.style,
                    "hard": user.hard,
                    "method": method,
                    "labels": float(labelled),
                    "frames": len(wanted),
                    "epochs": num_epochs,
                    "training_cpu_seconds": round(seconds, 2),
                    **_measured(model, spec, costs, seen, shown),
                }
            )
    return rows


def train(
    model: MultiExit,
    spec: InputSpec,
    frames: Frame,
    labels: np.ndarray,
    *,
    method: str,
    seed: int,
    num_epochs: int = NUM_EPOCHS,
) -> None:
    """Train what the method trains, in place; left in eval mode, as it was all along."""
    model.eval()
    parts: dict[str, list[nn.Module]] = {
        FINE_TUNING: [model.network],
        JOINT: [model],
        PUBLISHED: [model.exits],
        LAST_SGD: [_last_linear(model.network)],
    }
    learned = [parameter for part in parts[method] for parameter in part.parameters()]
    chosen = {id(parameter) for parameter in learned}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in chosen)
    rate = LEARNING_RATE if method != LAST_SGD else 10 * LEARNING_RATE
    optimizer = torch.optim.SGD(learned, lr=rate, momentum=0.9)
    rng = np.random.default_rng(seed)
    targets = torch.from_numpy(labels.astype(np.int64))
    for _ in range(num_epochs):
        order = rng.permutation(len(frames))
        for start in range(0, len(order), _BATCH):
            rows = order[start : start + _BATCH]
            answers = model(normalise(torch.from_numpy(np.ascontiguousarray(frames[rows])), spec))
            counted = answers[:-1] if method == PUBLISHED else answers if method == JOINT else answers[-1:]
            loss = torch.stack([F.cross_entropy(logits, targets[rows]) for logits in counted]).sum()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(learned, _CLIP)
            optimizer.step()


def _measured(model: MultiExit, spec: InputSpec, costs: ExitCosts, seen: Seen, shown: dict[str, Frame]) -> Row:
    cut = len(seen.calibration) // 5
    calibration, test = (_logits(model, spec, shown[part]) for part in ("calibration", "test"))
    labels = seen.calibration.labels_N
    temperatures = tuple(fit_temperature(found[:cut], labels[:cut]) for found in calibration)
    scored = _scored(test, temperatures, seen.test.labels_N, seen.test.shipped_N)
    held = [found[cut:] for found in calibration]
    rest = _scored(held, temperatures, labels[cut:], seen.calibration.shipped_N[cut:])
    policy = Policy(heads=(), temperatures=temperatures, path_LE=shared_path(len(test)), costs=costs)
    steps = outcomes_of(policy, scored)
    same = equal_accuracy(steps, scored.shipped_right)
    safe = outcome(policy, scored, certify(policy.path_LE, rest, loss="excess", level=0.0).thresholds)
    return {
        "shipped_right": round(scored.shipped_right, 2),
        "full_right": round(outcome(policy, scored, (OFF,) * (len(test) - 1)).right, 2),
        "first_exit_right": round(scored.exits_right[0], 2),
        "right_50": round(within_budget(steps, 0.5).right, 2),
        "eq_compute": round(1.0 if same is None else same.compute, 4),
        "cert_x_compute": round(safe.compute, 4),
        "cert_x_right": round(safe.right, 2),
    }


@torch.inference_mode()
def _logits(model: MultiExit, spec: InputSpec, frames: Frame) -> list[FloatArray]:
    parts: list[list[FloatArray]] = [[] for _ in range(len(model.exits) + 1)]
    for start in range(0, len(frames), 250):
        batch = torch.from_numpy(np.ascontiguousarray(frames[start : start + 250]))
        for part, logits in zip(parts, model(normalise(batch, spec)), strict=True):
            part.append(logits.numpy())
    return [np.concatenate(part) for part in parts]


def _scored(
    logits: Sequence[FloatArray], temperatures: Sequence[float], labels: np.ndarray, shipped: np.ndarray
) -> Scored:
    sure = [confidence(found, temperature=t) for found, t in zip(logits, temperatures, strict=True)]
    return Scored(
        confidences_NE=np.stack(sure, axis=1),
        answers_NE=np.stack([found.argmax(axis=1) for found in logits], axis=1).astype(np.int64),
        labels_N=labels,
        shipped_N=shipped,
    )


def _last_linear(network: nn.Module) -> nn.Linear:
    found = [module for module in network.modules() if isinstance(module, nn.Linear)]
    return found[-1]


def fresh_copy(network: nn.Module, places: Sequence[str], exits: Sequence[nn.Module]) -> MultiExit:
    """All that is trained, copied, so that each training starts from what was shipped."""
    return MultiExit(copy.deepcopy(network), places, [copy.deepcopy(exit) for exit in exits])


def costs_row(rows: Sequence[Row]) -> dict[str, Any]:
    """Mean processor seconds by method."""
    out: dict[str, list[float]] = {}
    for row in rows:
        out.setdefault(row["method"], []).append(row["training_cpu_seconds"])
    return {method: round(float(np.mean(values)), 2) for method, values in out.items()}
