"""One world after another, with the device's own decisions: is the promise kept with the re-check, and without it?

A user's frames pass through one corruption after another. In each new world the network runs on as it was for some
frames; then the device adapts, and another affine version is in force. Here it adapts to the world's own statistics
(those of its batch normalisations over some frames): the whole adaptation loop would make the same kind of version, and
takes hours. The user's heads follow through a map fitted on probe frames, in both runs; what differs is whether
thresholds are found anew.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from littoral.bench.exits.chain import Chain
from littoral.bench.exits.learn import labelled_frames, new_heads, show
from littoral.bench.exits.scored import Scored, score
from littoral.bench.exits.seen import Part, Seen
from littoral.bench.streams.corruptions import corrupt_at
from littoral.bundle import InputSpec
from littoral.core.arrays import FloatArray, Frame
from littoral.core.calibration_ring import NO_LABEL, RingScores
from littoral.core.exit_control import ControlConfig, ExitControl, Purpose, certify
from littoral.core.exits import OFF, ExitCosts, Float64s, exit_of_frame
from littoral.core.head_memory import fit_feature_map
from littoral.core.heads import LinearHead
from littoral.core.personal import PersonalConfig, PersonalHead
from littoral.core.risk import Certified
from littoral.models.frames import normalise

WORLDS: tuple[tuple[str, int], ...] = (
    ("none", 0), ("gaussian_noise", 3), ("defocus_blur", 5), ("contrast", 5), ("fog", 5), ("pixelate", 4), ("none", 0),
)  # fmt: skip
LAG_FRAMES = 64
"""Of a new world before the device has noticed it and adapted."""
ADAPT_FRAMES = 256
_PROBE_FRAMES = 128
_WORLD_SEED = 5


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """Frames of one world under one version, as its heads answer them.

    Attributes:
        begins_version: A new affine version comes into force with its first frame.
    """

    world: str
    scored: Scored
    begins_version: bool


def stretches(
    chain: Chain,
    network: nn.Module,
    spec: InputSpec,
    seen: Seen,
    frames: Frame,
    *,
    per_world: int,
    worlds: Sequence[tuple[str, int]] = WORLDS,
    config: PersonalConfig | None = None,
) -> list[Stretch]:
    """The whole stream, computed: what every exit says of every frame under the version in force.

    Args:
        seen: The user, whose heads learn from the personal part without labels before the stream begins.
        frames: The data set's test images; the user's own places of them are played, through no camera.
    """
    config = config or PersonalConfig()
    taught = _taught(chain, seen, config)
    places = [int(place) for place in np.resize(seen.user.places["test"], per_world * len(worlds))]
    probe = frames[seen.user.places["personal"][:_PROBE_FRAMES]]
    probe_before, _ = chain.run(probe)
    now, heads, out = chain, _serving(taught), []
    for number, (name, severity) in enumerate(worlds):
        own = places[number * per_world : (number + 1) * per_world]
        shown = _shown(frames[own], own, name, severity)
        world = f"{number + 1} {name}" + (f" {severity}" if severity else "")
        labels = seen.test.labels_N[np.arange(number * per_world, (number + 1) * per_world) % len(seen.test)]
        if number:
            out.append(_stretch(world, now, heads, shown[:LAG_FRAMES], labels[:LAG_FRAMES], begins=False))
            values = _statistics(network, spec, shown[:ADAPT_FRAMES])
            now = replace(chain, segments=chain.remake(values))
            probe_after, _ = now.run(probe)
            heads = _rebased(taught, number, probe_before, probe_after)
        rest = slice(LAG_FRAMES if number else 0, None)
        out.append(_stretch(world, now, heads, shown[rest], labels[rest], begins=bool(number)))
    return out


def played(
    stream: Sequence[Stretch], config: ControlConfig, costs: ExitCosts, *, seed: int = 0
) -> list[dict[str, Any]]:
    """The device's rules on a stream: by world, and of all of it, how often an early answer was not the full depth's.

    With ``config.recheck`` off nothing but the first calibration ever finds thresholds.
    """
    num_early = stream[0].scored.confidences_NE.shape[1] - 1
    control, thresholds, checking = ExitControl(config, seed=seed), (OFF,) * num_early, True
    ring: list[tuple[Float64s, np.ndarray, int]] = []
    worlds: dict[str, dict[str, float]] = {}

    def begin_checking() -> bool:
        if not control.recheck():
            return checking
        ring.clear()
        return True

    for stretch in stream:
        scored = stretch.scored
        tally = worlds.setdefault(
            stretch.world, dict.fromkeys(("frames", "lost", "early", "checking", "right", "full"), 0)
        )
        if stretch.begins_version and (now := begin_checking()) != checking:
            checking, thresholds = now, (OFF,) * num_early
        for i in range(len(scored.labels_N)):
            sure, answers = scored.confidences_NE[i], scored.answers_NE[i]
            purpose = control.purpose(checking=checking)
            leaves = exit_of_frame(sure.tolist(), thresholds)
            loss = float(answers[leaves] != answers[-1])
            goes_on = checking or purpose is not Purpose.NOTHING
            given = answers[-1] if goes_on else answers[leaves]
            tally["frames"] += 1
            tally["checking"] += checking
            tally["early"] += leaves < num_early and not goes_on
            tally["lost"] += 0 if goes_on else loss
            tally["right"] += bool(given == scored.labels_N[i])
            tally["full"] += bool(answers[-1] == scored.labels_N[i])
            if purpose is Purpose.RING:
                ring.append((sure, answers, int(scored.shipped_N[i])))
                del ring[: -config.ring_frames]
                control.keep()
            if checking and control.due():
                control.tried()
                scores = _scores(ring)
                found = certify(scores, config, share_of_delta=1 / len(config.looks), costs=costs)
                if isinstance(found, Certified):
                    control.enter_serving(found, scores)
                    checking, thresholds = False, found.thresholds
            elif not checking and purpose is not Purpose.NOTHING and control.audit(loss) and begin_checking():
                checking, thresholds = True, (OFF,) * num_early
    rows = [_row(world, tally) for world, tally in worlds.items()]
    total = {key: sum(tally[key] for tally in worlds.values()) for key in next(iter(worlds.values()))}
    drifted = {key: total[key] - next(iter(worlds.values()))[key] for key in total}
    ends = {"rechecks": control.num_rechecks, "alarms": control.num_alarms}
    return [*rows, {**_row("all", total), **ends}, {**_row("all but the first", drifted), **ends}]


def _row(world: str, tally: dict[str, float]) -> dict[str, Any]:
    frames = tally["frames"]
    return {
        "world": world,
        "frames": int(frames),
        "risk": round(tally["lost"] / frames, 4),
        "risk_among_early": round(tally["lost"] / max(tally["early"], 1), 4),
        "early": round(tally["early"] / frames, 4),
        "checking": round(tally["checking"] / frames, 4),
        "right": round(100 * tally["right"] / frames, 2),
        "full_right": round(100 * tally["full"] / frames, 2),
    }


def _scores(ring: Sequence[tuple[Float64s, np.ndarray, int]]) -> RingScores:
    confidences = np.stack([sure for sure, _, _ in ring])
    confidences[:, -1] = 1
    return RingScores(
        confidences_NE=confidences,
        answers_NE=np.stack([answers for _, answers, _ in ring]).astype(np.intp),
        shipped_N=np.array([shipped for *_, shipped in ring], dtype=np.intp),
        labels_N=np.full(len(ring), NO_LABEL, dtype=np.intp),
    )


def _taught(chain: Chain, seen: Seen, config: PersonalConfig) -> list[PersonalHead]:
    heads = new_heads(chain, config=config, seed=seen.user.index)
    given, deep = labelled_frames(len(seen.personal), 0.0, seed=seen.user.index), seen.personal.deep_NK
    for i in range(len(seen.personal)):
        show(heads, seen.personal, i, day=0, labelled=bool(given[i]), deep=deep)
    return heads


def _serving(heads: Sequence[PersonalHead]) -> tuple[LinearHead, ...]:
    return tuple(head.refresh()[0] for head in heads)


def _rebased(
    taught: Sequence[PersonalHead], version: int, before: Sequence[FloatArray], after: Sequence[FloatArray]
) -> tuple[LinearHead, ...]:
    heads = copy.deepcopy(list(taught))
    for head, old, new in zip(heads, before, after, strict=True):
        head.rebase(version, feature_map=fit_feature_map(old, new))
    return _serving(heads)


def _stretch(
    world: str, chain: Chain, heads: tuple[LinearHead, ...], frames: Frame, labels: np.ndarray, *, begins: bool
) -> Stretch:
    features, logits = chain.run(frames)
    part = Part(features=features, logits_NK=logits, labels_N=labels)
    temperatures = [exit.temperature for exit in chain.exits]
    return Stretch(world=world, scored=score(heads, part, temperatures), begins_version=begins)


def _shown(frames: Frame, places: Sequence[int], name: str, severity: int) -> Frame:
    if name == "none":
        return frames
    return corrupt_at(frames, places, name, severity=severity, seed=_WORLD_SEED)


@torch.no_grad()
def _statistics(network: nn.Module, spec: InputSpec, frames: Frame) -> dict[str, FloatArray]:
    """What every batch normalisation sees of these frames, by the names of the state dict."""
    measured = copy.deepcopy(network).train()
    norms = {name: m for name, m in measured.named_modules() if isinstance(m, nn.BatchNorm2d)}
    for norm in norms.values():
        norm.momentum = 1.0
    measured(normalise(torch.from_numpy(np.ascontiguousarray(frames)), spec))
    values: dict[str, FloatArray] = {}
    for name, norm in norms.items():
        assert norm.running_mean is not None
        assert norm.running_var is not None
        values[f"{name}.running_mean"] = norm.running_mean.numpy().copy()
        values[f"{name}.running_var"] = norm.running_var.numpy().copy()
    return values
