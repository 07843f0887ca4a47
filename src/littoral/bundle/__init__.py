"""The deployable artefact: what a device can trust and run. NumPy, safetensors and signatures; no torch."""

from littoral.bundle.bundle import Bundle
from littoral.bundle.exits import ExitHeads
from littoral.bundle.manifest import (
    ExitPromise,
    ExitSpec,
    InputSpec,
    Manifest,
    ProbeSpec,
    Segment,
    SplitSpec,
    StatisticsSpec,
    TorchModel,
)
from littoral.bundle.route_tables import RouteTables
from littoral.bundle.signing import PublicKey, SigningKey
from littoral.bundle.split import SplitCodec
from littoral.bundle.update import Envelope, SignedVersion, VersionManifest

__all__ = [
    "Bundle",
    "Envelope",
    "ExitHeads",
    "ExitPromise",
    "ExitSpec",
    "InputSpec",
    "Manifest",
    "ProbeSpec",
    "PublicKey",
    "RouteTables",
    "Segment",
    "SignedVersion",
    "SigningKey",
    "SplitCodec",
    "SplitSpec",
    "StatisticsSpec",
    "TorchModel",
    "VersionManifest",
]
