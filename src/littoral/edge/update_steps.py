"""What becomes of a version on a device, as a pure function: `step(state, event) -> (state, actions)`.

    received ─▶ verified ─▶ staged ─▶ built ─▶ probed ─▶ committed ─▶ watched ─▶ trusted
        └───────────┴──────────┴────────┴────────┴─ rejected             └─ reverted

``watched`` and ``trusted`` are where it rests between versions. Every action but `Keep`, `GoBack`, `Say` and `Tidy` is
answered by one event: the one named in its docstring, or `Failed`. The state on the disk changes in two places only:
`Record` before a version is built, so that a crash while it is built is known of, and `Record` when it is committed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from littoral.edge.versions import VersionState

Phase = Literal["received", "verified", "staged", "built", "probed", "committed", "watched", "trusted"]


@dataclass(frozen=True, kw_only=True)
class UpdaterConfig:
    """When a version is taken and when it is taken back.

    Attributes:
        watch_frames: For how many frames a new version is watched before it is trusted, and over how many the mean
            entropy before it is taken.
        max_entropy_rise_nats: How far the mean entropy over the watch may be above the mean before.
        max_attempts: A version whose building was cut short (power, memory) this often is not tried again.
        max_boots: A version that was not trusted after this many starts of the device is taken back.
    """

    watch_frames: int = 256
    max_entropy_rise_nats: float = 0.5
    max_attempts: int = 3
    max_boots: int = 5


@dataclass(frozen=True, kw_only=True)
class UpdateState:
    """Where the device is with its versions; ``disk`` is what a power cut would leave."""

    phase: Phase = "trusted"
    disk: VersionState = field(default_factory=VersionState)
    version: int = 0
    recent: tuple[tuple[float, int], ...] = ()
    """Mean entropies in nats over so many frames each, of the version in service, newest last."""


# Events.


@dataclass(frozen=True)
class Received:
    """Signed bytes came."""


@dataclass(frozen=True)
class Verified:
    """The signature holds and the manifest says ``version``."""

    version: int


@dataclass(frozen=True)
class Decoded:
    """The values are finite and inside the envelope."""


@dataclass(frozen=True)
class Staged:
    """The version's file is on the disk."""


@dataclass(frozen=True)
class Recorded:
    """The state is on the disk."""

    disk: VersionState


@dataclass(frozen=True)
class Built:
    """A model with the version's values exists."""


@dataclass(frozen=True)
class Probed:
    """The share of probe frames that kept their label; NaN when an output was not finite."""

    agreement: float
    min_agreement: float


@dataclass(frozen=True)
class Installed:
    """The version is in service."""


@dataclass(frozen=True)
class Failed:
    """The action did not work; ``version`` is set once a signature vouches for it."""

    code: str
    reason: str
    version: int | None = None


@dataclass(frozen=True)
class Observed:
    """The mean entropy of recent frames, in nats; not finite when an answer was not."""

    entropy_nats: float
    frames: int


Event = Received | Verified | Decoded | Staged | Recorded | Built | Probed | Installed | Failed | Observed


# Actions.


@dataclass(frozen=True)
class Verify:
    """Check the signature. -> Verified"""


@dataclass(frozen=True)
class Decode:
    """Decode the values and hold them against the envelope. -> Decoded"""


@dataclass(frozen=True)
class Stage:
    """Write the version's file durably. -> Staged"""

    version: int


@dataclass(frozen=True)
class Record:
    """Write the state durably. -> Recorded"""

    disk: VersionState


@dataclass(frozen=True)
class Build:
    """Make a model with the decoded values. -> Built"""


@dataclass(frozen=True)
class Probe:
    """Run the model on the probe frames. -> Probed"""


@dataclass(frozen=True)
class Install:
    """Put the built model into service. -> Installed"""

    version: int


@dataclass(frozen=True)
class Keep:
    """Write the state if the disk takes it; it holds in memory in any case."""

    disk: VersionState


@dataclass(frozen=True)
class GoBack:
    """Build ``version`` from the disk, or the source, and put it into service."""

    version: int


@dataclass(frozen=True)
class Say:
    """Tell the cloud what became of a version."""

    version: int
    outcome: Literal["installed", "rejected", "reverted"]
    code: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Tidy:
    """Remove files that the state does not name."""


Action = Verify | Decode | Stage | Record | Build | Probe | Install | Keep | GoBack | Say | Tidy
Step = tuple[UpdateState, list[Action]]


def step(state: UpdateState, event: Event, config: UpdaterConfig) -> Step:
    """What follows from an event.

    Raises:
        ValueError: the event cannot come in this phase; whoever runs the actions is wrong.
    """
    match state.phase, event:
        case (("watched" | "trusted"), Received()):
            return replace(state, phase="received", version=0), [Verify()]
        case "received", Verified(version):
            return _on_verified(state, version)
        case "verified", Decoded():
            return state, [Stage(state.version)]
        case "verified", Staged():
            return replace(state, phase="staged"), [Record(_pending(state))]
        case "staged", Recorded(disk):
            return replace(state, disk=disk), [Build()]
        case "staged", Built():
            return replace(state, phase="built"), [Probe()]
        case "built", Probed(agreement, min_agreement):
            return _on_probed(state, agreement, min_agreement)
        case "probed", Recorded(disk):
            return replace(state, phase="committed", disk=disk), [Install(state.version)]
        case "committed", Installed():
            return replace(state, phase="watched", recent=()), [Say(state.version, "installed"), Tidy()]
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


def _on_verified(state: UpdateState, version: int) -> Step:
    if version == state.disk.installed:
        return replace(state, phase=_rest(state.disk)), []
    state = replace(state, version=version)
    if version <= state.disk.highest_seen:
        reason = f"version {version} is not newer than {state.disk.highest_seen}, the highest that this device has seen"
        return _reject(state, "older", reason, version)
    return replace(state, phase="verified"), [Decode()]


def _pending(state: UpdateState) -> VersionState:
    again = state.disk.pending == state.version
    return replace(state.disk, pending=state.version, attempts=state.disk.attempts + 1 if again else 1)


def _on_probed(state: UpdateState, agreement: float, min_agreement: float) -> Step:
    if not math.isfinite(agreement):
        return _reject(state, "not-finite", "an output on the probe frames is not finite", state.version)
    if agreement < min_agreement:
        reason = f"{agreement:.1%} of the probe frames keep their label, the bundle asks for {min_agreement:.1%}"
        return _reject(state, "probe", reason, state.version)
    old = state.disk
    disk = replace(
        old,
        installed=state.version,
        previous=old.installed if old.trusted else old.previous,
        highest_seen=max(old.highest_seen, state.version),
        pending=None,
        attempts=0,
        trusted=False,
        baseline_nats=mean_nats(state.recent) if old.trusted else old.baseline_nats,
        boots=0,
    )
    return replace(state, phase="probed"), [Record(disk)]


def _reject(state: UpdateState, code: str, reason: str, version: int | None) -> Step:
    """Stay with what is installed. A full disk is nobody's fault, so the version may come again."""
    disk = state.disk
    if disk.pending == state.version:
        disk = replace(disk, pending=None, attempts=0)
    if version is not None and code not in ("older", "storage"):
        disk = replace(disk.because(version, f"{code}: {reason}"), highest_seen=max(disk.highest_seen, version))
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
        while sum(count for _, count in recent[1:]) >= config.watch_frames:
            recent = recent[1:]
        return replace(state, recent=recent), []
    state = replace(state, recent=recent)
    if sum(count for _, count in recent) < config.watch_frames:
        return state, []
    mean, before = mean_nats(recent), state.disk.baseline_nats
    if mean is not None and before is not None and mean > before + config.max_entropy_rise_nats:
        reason = (
            f"the mean entropy over {config.watch_frames} frames is {mean:.3f} nats, it was {before:.3f} before; "
            f"at most {config.max_entropy_rise_nats:.3f} more are allowed"
        )
        return _take_back(state, "reverted", "watch", reason)
    disk = replace(state.disk, trusted=True, baseline_nats=None, boots=0)
    return replace(state, phase="trusted", disk=disk), [Keep(disk), Tidy()]


def _take_back(state: UpdateState, outcome: Literal["rejected", "reverted"], code: str, reason: str) -> Step:
    bad, back = state.disk.installed, state.disk.previous
    disk = gone_back(state.disk, f"{code}: {reason}")
    new = replace(state, phase="trusted", disk=disk, recent=())
    return new, [Keep(disk), GoBack(back), Say(bad, outcome, code, reason), Tidy()]


def gone_back(disk: VersionState, reason: str) -> VersionState:
    """The state after the installed version was taken back, with the reason noted."""
    back = replace(disk, installed=disk.previous, previous=0, trusted=True, baseline_nats=None, boots=0)
    return back.because(disk.installed, reason)


def mean_nats(recent: tuple[tuple[float, int], ...]) -> float | None:
    """The mean over all frames; None when there were none."""
    frames = sum(count for _, count in recent)
    return sum(nats * count for nats, count in recent) / frames if frames else None
