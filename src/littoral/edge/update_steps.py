"""What becomes of a version on a device, as a pure function: `step(state, event) -> (state, actions)`.

    received ─▶ verified ─▶ staged ─▶ built ─▶ probed ─▶ committed ─▶ watched ─▶ trusted
        └───────────┴──────────┴────────┴────────┴─ rejected             └─ reverted
                     wanted ─▶ loading ─▶ staged                a remembered version is recalled
                                               probed ─▶ remembered       it is for another world than this one

``watched`` and ``trusted`` are where it rests between versions. A version changes the state on the disk in two places
only: `Record` before it is built, so that a crash while it is built is known of, and `Record` when it is committed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from littoral.core.scenes import SOURCE, Remembered, find, forget, remember, trust, trusted_of
from littoral.edge.update_words import (
    Action,
    Build,
    Built,
    Decode,
    Decoded,
    Event,
    Failed,
    GoBack,
    Install,
    Installed,
    Keep,
    Load,
    Loaded,
    Moved,
    Observed,
    Outcome,
    Probe,
    Probed,
    Received,
    Record,
    Recorded,
    Say,
    SourceWanted,
    Stage,
    Staged,
    Tidy,
    Verified,
    Verify,
    Wanted,
)
from littoral.edge.versions import VersionState

Phase = Literal["received", "verified", "loading", "staged", "built", "probed", "committed", "watched", "trusted"]


@dataclass(frozen=True, kw_only=True)
class UpdaterConfig:
    """When a version is taken and when it is taken back.

    Attributes:
        watch_frames: For how many frames a new version is watched before it is trusted, and over how many the mean
            entropy before it is taken.
        min_frames: What fewer frames say is neither a mean to hold a version against, nor makes one that it is gone
            back to; never more than ``watch_frames``.
        max_entropy_rise_nats: How far the mean entropy over the watch may be above the mean before.
        max_attempts: A version whose building was cut short (power, memory) this often is not tried again.
        max_boots: A version that was not trusted after this many starts of the device is taken back; starts after
            which it waits near the source do not count.
        remembered_versions: How many versions with a domain are kept on the disk to be recalled, the one in service
            among them; 0 switches recall off, and every version that is good is installed.
    """

    watch_frames: int = 256
    min_frames: int = 64
    max_entropy_rise_nats: float = 0.5
    max_attempts: int = 3
    max_boots: int = 5
    remembered_versions: int = 8


@dataclass(frozen=True, kw_only=True)
class UpdateState:
    """Where the device is with its versions; ``disk`` is what a power cut would leave."""

    phase: Phase = "trusted"
    disk: VersionState = field(default_factory=VersionState)
    version: int = 0
    claim: Remembered | None = None
    """What the version under way is for."""
    recalled: bool = False
    """The version under way is a remembered one."""
    fits: bool = True
    """The version under way may serve; else it is only remembered."""
    recent: tuple[tuple[float, int], ...] = ()
    """Mean entropies in nats over so many frames each, of the version in service, newest last."""


Step = tuple[UpdateState, list[Action]]


def step(state: UpdateState, event: Event, config: UpdaterConfig) -> Step:
    """What follows from an event.

    Raises:
        ValueError: the event cannot come in this phase; whoever runs the actions is wrong.
    """
    match state.phase, event:
        case (("watched" | "trusted"), Received()):
            return replace(state, phase="received", version=0, claim=None, recalled=False, fits=True), [Verify()]
        case "received", Verified(version, claim, fits):
            return _on_verified(state, version, claim, fits or config.remembered_versions < 1)
        case (("watched" | "trusted"), Wanted(version)):
            return _on_wanted(state, version)
        case (("watched" | "trusted"), Moved(waits, counts)):
            return _on_moved(state, waits, counts)
        case (("watched" | "trusted"), SourceWanted()):
            return _on_unknown(state)
        case "loading", Loaded():
            return replace(state, phase="staged"), [Record(_pending(state))]
        case "verified", Decoded():
            return state, [Stage(state.version)]
        case "verified", Staged():
            return replace(state, phase="staged"), [Record(_pending(state))]
        case "staged", Recorded(disk):
            return replace(state, disk=disk), [Build()]
        case "staged", Built():
            return replace(state, phase="built"), [Probe()]
        case "built", Probed(agreement, min_agreement):
            return _on_probed(state, agreement, min_agreement, config)
        case "probed", Recorded(disk) if not state.fits:
            said: list[Action] = [Say(state.version, "remembered"), Tidy()]
            return replace(state, phase=_rest(disk), disk=disk), said
        case "probed", Recorded(disk):
            return replace(state, phase="committed", disk=disk), [Install(state.version)]
        case "committed", Installed():
            outcome: Outcome = "recalled" if state.recalled else "installed"
            return replace(state, phase="watched", recent=()), [Say(state.version, outcome), Tidy()]
        case "committed", Failed(code, reason):
            return _take_back(state, "rejected", code, reason)
        case (("watched" | "trusted"), Observed(entropy_nats, frames)):
            return _on_observed(state, entropy_nats, frames, config)
        case (("watched" | "trusted"), Failed()):  # nothing is under way that could be stopped
            return state, []
        case _, Failed(code, reason, version):
            return _reject(state, code, reason, version)
    raise ValueError(f"{type(event).__name__} cannot come while the updater is in the phase {state.phase!r}")


def _rest(disk: VersionState) -> Phase:
    return "trusted" if disk.trusted else "watched"


def _on_verified(state: UpdateState, version: int, claim: Remembered | None, fits: bool) -> Step:
    if version == state.disk.installed:
        return replace(state, phase=_rest(state.disk)), []
    state = replace(state, version=version, claim=claim, fits=fits)
    if version <= state.disk.highest_seen:
        reason = f"version {version} is not newer than {state.disk.highest_seen}, the highest that this device has seen"
        return _reject(state, "older", reason, version)
    return replace(state, phase="verified"), [Decode()]


def _on_wanted(state: UpdateState, version: int) -> Step:
    entry = find(state.disk.remembered, version)
    if entry is None or version == state.disk.installed:
        return state, []
    return replace(state, phase="loading", version=version, claim=entry, recalled=True, fits=True), [Load(version)]


def _on_moved(state: UpdateState, waits: bool | None, counts: bool | None) -> Step:
    """What was observed in another world is forgotten, and a start counts only against a version that serves."""
    old = state.disk
    disk = replace(
        old,
        baseline_nats=None,
        waits=old.waits if waits is None else waits,
        boots=old.boots if counts is None or old.trusted else max(old.boots + (1 if counts else -1), 0),
    )
    # Near the source nothing is observed, so what a version in its watch has shown is its own.
    recent = state.recent if waits is not None and state.phase == "watched" else ()
    return replace(state, disk=disk, recent=recent), [Keep(disk)] if disk != old else []


def _on_unknown(state: UpdateState) -> Step:
    """The source serves; what served stays remembered."""
    old = state.disk
    if old.installed == SOURCE:
        return state, []
    disk = replace(old, installed=SOURCE, previous=SOURCE, trusted=True, baseline_nats=None, boots=0)
    return replace(state, phase="trusted", disk=disk, recent=()), [Keep(disk), GoBack(SOURCE), Tidy()]


def _pending(state: UpdateState) -> VersionState:
    again = state.disk.pending == state.version
    return replace(state.disk, pending=state.version, attempts=state.disk.attempts + 1 if again else 1)


def _on_probed(state: UpdateState, agreement: float, min_agreement: float, config: UpdaterConfig) -> Step:
    if not math.isfinite(agreement):
        return _reject(state, "not-finite", "an output on the probe frames is not finite", state.version)
    if agreement < min_agreement:
        reason = f"{agreement:.1%} of the probe's answers are kept, the bundle asks for {min_agreement:.1%}"
        return _reject(state, "probe", reason, state.version)
    old, capacity = state.disk, config.remembered_versions
    serving = {old.installed, old.previous}
    disk = replace(old, highest_seen=max(old.highest_seen, state.version), pending=None, attempts=0)
    if state.claim is not None:
        disk = replace(disk, remembered=remember(old.remembered, state.claim, capacity=capacity, serving=serving))
    if state.fits:
        disk = replace(
            disk,
            installed=state.version,
            previous=_way_back(state, config),
            trusted=False,
            baseline_nats=_baseline(state, config),
            boots=0,
        )
    return replace(state, phase="probed"), [Record(disk)]


def _way_back(state: UpdateState, config: UpdaterConfig) -> int:
    """What serves if the version under way fails: for one recalled, the last that was trusted in its own domain."""
    disk = state.disk
    if state.recalled and state.claim is not None:
        known = trusted_of(disk.remembered, state.claim.domain, but=state.version)
        if known is not None:
            return known.version
    back = disk.installed if _has_served_well(state, config) else disk.previous
    return back if back != state.version else SOURCE


def _has_served_well(state: UpdateState, config: UpdaterConfig) -> bool:
    """Whether the installed version got through its watch, or so far through it that it is better than nothing.

    Where versions come faster than watches end none is ever trusted, and what was before the first is long past.
    """
    return state.disk.trusted or (_says_enough(state.recent, config) and not _has_risen(state, config))


def _baseline(state: UpdateState, config: UpdaterConfig) -> float | None:
    """The mean entropy that the watch compares with; None where too little is known.

    A version that is recalled serves in another world than the one before it did, so it is held against its own past.
    Of a chain in which no version is trusted yet all are held against the first mean that is known.
    """
    disk = state.disk
    if state.recalled and state.claim is not None:
        known = state.claim if state.claim.trusted else None
        known = known or trusted_of(disk.remembered, state.claim.domain, but=state.version)
        return known.entropy_nats if known is not None else None
    if not disk.trusted and disk.baseline_nats is not None:
        return disk.baseline_nats
    if _says_enough(state.recent, config):
        return mean_nats(state.recent)
    past = None if state.claim is None else trusted_of(disk.remembered, state.claim.domain, but=state.version)
    return past.entropy_nats if past is not None else None


def _says_enough(recent: tuple[tuple[float, int], ...], config: UpdaterConfig) -> bool:
    return num_frames(recent) >= min(config.min_frames, config.watch_frames)


def _has_risen(state: UpdateState, config: UpdaterConfig) -> bool:
    """Whether the version in service is less sure than its watch allows."""
    mean, before = mean_nats(state.recent), state.disk.baseline_nats
    return mean is not None and before is not None and mean > before + config.max_entropy_rise_nats


def _reject(state: UpdateState, code: str, reason: str, version: int | None) -> Step:
    """Stay with what is installed. A full disk is nobody's fault, so the version may come again."""
    disk = state.disk
    if disk.pending == state.version:
        disk = replace(disk, pending=None, attempts=0)
    if version is not None and code not in ("older", "storage"):
        disk = replace(disk.because(version, f"{code}: {reason}"), highest_seen=max(disk.highest_seen, version))
    if state.recalled and (code != "storage" or state.phase == "loading"):
        disk = replace(disk, remembered=forget(disk.remembered, state.version))
    say: list[Action] = [Say(version or state.version, "rejected", code, reason)]
    changed: list[Action] = [Keep(disk), Tidy()] if disk != state.disk or state.phase == "staged" else []
    return replace(state, phase=_rest(disk), disk=disk), changed + say


def _on_observed(state: UpdateState, entropy_nats: float, frames: int, config: UpdaterConfig) -> Step:
    if not math.isfinite(entropy_nats):
        if state.disk.installed == 0:
            return state, []
        return _take_back(state, "reverted", "watch", "an answer of this version was not finite")
    recent = (*state.recent, (entropy_nats, frames))
    if state.phase == "trusted":
        while num_frames(recent[1:]) >= config.watch_frames:
            recent = recent[1:]
        return replace(state, recent=recent), []
    state = replace(state, recent=recent)
    if num_frames(recent) < config.watch_frames:
        return state, []
    mean = mean_nats(recent)
    if _has_risen(state, config):
        reason = (
            f"the mean entropy over {num_frames(recent)} frames is {mean:.3f} nats, it was "
            f"{state.disk.baseline_nats:.3f} before; at most {config.max_entropy_rise_nats:.3f} more are allowed"
        )
        return _take_back(state, "reverted", "watch", reason)
    remembered = trust(state.disk.remembered, state.disk.installed, mean, capacity=config.remembered_versions)
    disk = replace(state.disk, trusted=True, baseline_nats=None, boots=0, remembered=remembered)
    return replace(state, phase="trusted", disk=disk), [Keep(disk), Tidy()]


def _take_back(state: UpdateState, outcome: Literal["rejected", "reverted"], code: str, reason: str) -> Step:
    bad, back = state.disk.installed, state.disk.previous
    disk = gone_back(state.disk, f"{code}: {reason}")
    new = replace(state, phase="trusted", disk=disk, recent=())
    return new, [Keep(disk), GoBack(back), Say(bad, outcome, code, reason), Tidy()]


def gone_back(disk: VersionState, reason: str) -> VersionState:
    """The state after the installed version was taken back, with the reason noted; it is never recalled."""
    remembered = forget(disk.remembered, disk.installed)
    back = replace(
        disk,
        installed=disk.previous,
        previous=SOURCE,
        trusted=True,
        baseline_nats=None,
        boots=0,
        remembered=remembered,
    )
    return back.because(disk.installed, reason)


def num_frames(recent: tuple[tuple[float, int], ...]) -> int:
    """How many frames were observed."""
    return sum(count for _, count in recent)


def mean_nats(recent: tuple[tuple[float, int], ...]) -> float | None:
    """The mean over all frames; None when there were none."""
    frames = num_frames(recent)
    return sum(nats * count for nats, count in recent) / frames if frames else None
