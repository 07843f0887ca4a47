"""What the steps of an update are said in: the events that come and the actions that follow. No code.

Every action but `Keep`, `GoBack`, `Say` and `Tidy` is answered by one event: the one that its docstring names, or
`Failed`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from littoral.core.scenes import Remembered
from littoral.edge.versions import VersionState

Outcome = Literal["installed", "remembered", "recalled", "rejected", "reverted"]


# Events.


@dataclass(frozen=True)
class Received:
    """Signed bytes came."""


@dataclass(frozen=True)
class Verified:
    """The signature holds and the manifest says ``version``, and ``claim`` what world it is for.

    ``fits``: it may serve in the scene that the device is in; else it is only remembered.
    """

    version: int
    claim: Remembered | None = None
    fits: bool = True


@dataclass(frozen=True)
class Wanted:
    """A remembered version is wanted in service."""

    version: int


@dataclass(frozen=True)
class Loaded:
    """The remembered version's values were read from the disk and hold."""


@dataclass(frozen=True)
class Moved:
    """The device's world changed: what was observed before says nothing about answers from now on.

    Attributes:
        waits: Whether from now on the installed version waits while the source's values serve, as near the source;
            None: as before.
        counts: Whether this start of the device counts against the installed version, since it serves; None: as before.
    """

    waits: bool | None = None
    counts: bool | None = None


@dataclass(frozen=True)
class SourceWanted:
    """The source's values are wanted in service."""


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


Ask = Received | Wanted | Moved | SourceWanted | Observed
Event = Ask | Verified | Loaded | Decoded | Staged | Recorded | Built | Probed | Installed | Failed


# Actions.


@dataclass(frozen=True)
class Verify:
    """Check the signature. -> Verified"""


@dataclass(frozen=True)
class Load:
    """Read a remembered version's values. -> Loaded"""

    version: int


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
    outcome: Outcome
    code: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Tidy:
    """Remove files that the state does not name."""


Action = Verify | Load | Decode | Stage | Record | Build | Probe | Install | Keep | GoBack | Say | Tidy
