"""What is attacked: a small bundle with its keys, and a device's updater on it. NumPy only."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from littoral.bundle import (
    Bundle,
    Envelope,
    InputSpec,
    Manifest,
    ProbeSpec,
    SignedVersion,
    SigningKey,
    TorchModel,
)
from littoral.bundle.update import ENVELOPE_PURPOSE
from littoral.core.affine import NormLayer, encode_delta
from littoral.core.arrays import FloatArray
from littoral.core.recall import encode_fingerprint, fingerprint_layer
from littoral.core.scenes import RecallConfig, SceneTracker
from littoral.edge.scenes import recall_for
from littoral.edge.updater import Updater, UpdaterConfig
from littoral.edge.versions import Files, VersionStore
from littoral.wire.messages import Receipt

RELEASE, COHORT_KEY, STRANGER = SigningKey(b"R" * 32), SigningKey(b"C" * 32), SigningKey(b"S" * 32)
COHORT = "harbour"
LAYERS = (
    NormLayer(name="bn1", kind="batch", num_channels=4, eps=1e-5),
    NormLayer(name="bn2", kind="batch", num_channels=3, eps=1e-5),
    NormLayer(name="bn3", kind="batch", num_channels=5, eps=1e-5),
)
PRINTED = fingerprint_layer(LAYERS)
assert PRINTED is not None
BOUND = 0.5


def make_bundle(folder: Path, *, name: str = "attacked") -> Bundle:
    """A bundle whose hashes are right and whose networks are never loaded."""
    weights = {
        tensor: np.ones(layer.num_channels, dtype=np.float32)
        for layer in LAYERS
        for tensor in (layer.gamma, layer.beta, layer.mean, layer.var)
    }
    model = TorchModel(factory="nowhere:nothing", kwargs={}, file="weights.safetensors")
    data = save(weights)
    manifest = Manifest(
        name=name,
        task="classification",
        class_names=("sea", "land"),
        input=InputSpec(height=4, width=4, channels=1, mean=(0.5,), std=(0.5,)),
        segments=(),
        weights_file="weights.safetensors",
        norm_layers=LAYERS,
        statistics=None,
        probe=ProbeSpec(file="weights.safetensors", num_frames=1, min_agreement=0.9),
        envelope_max_delta={},
        source_metrics={},
        student=model,
        teacher=model,
        replay_file="weights.safetensors",
        rehearsed_file=None,
        files={"weights.safetensors": hashlib.sha256(data).hexdigest()},
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights.safetensors").write_bytes(data)
    (folder / "bundle.json").write_bytes(manifest.to_json())
    return Bundle.open(folder)


def make_envelope(bundle: Bundle, *, cohort: str = COHORT, bound: float = BOUND) -> Envelope:
    """What the release key allows the cohort key."""
    return Envelope(
        cohort=cohort,
        cohort_key=COHORT_KEY.public.hex,
        bundle_digest=bundle.digest.hex(),
        max_delta=dict.fromkeys(bundle.source_affine, bound),
    )


def sign_envelope(envelope: Envelope, key: SigningKey = RELEASE) -> tuple[bytes, bytes]:
    """An envelope's bytes and signature."""
    data = envelope.to_bytes()
    return data, key.sign(ENVELOPE_PURPOSE, data)


def make_payload(bundle: Bundle, change: float = 0.1) -> bytes:
    """A coded delta that moves every affine value by ``change``."""
    delta = {name: np.full_like(value, change) for name, value in bundle.source_affine.items()}
    return encode_delta(delta, LAYERS)


def make_version(
    bundle: Bundle,
    version: int,
    *,
    change: float = 0.1,
    key: SigningKey = COHORT_KEY,
    cohort: str = COHORT,
    payload: bytes | None = None,
    domain: int = 0,
    fingerprint: bytes | None = None,
) -> SignedVersion:
    """A signed version; as it should be unless told otherwise. A domain's fingerprint is `world` of its number."""
    centre = encode_fingerprint(world(domain)) if domain else b""
    return SignedVersion.make(
        key=key,
        cohort=cohort,
        bundle_digest=bundle.digest,
        version=version,
        payload=make_payload(bundle, change) if payload is None else payload,
        domain=domain,
        fingerprint=centre if fingerprint is None else fingerprint,
    )


def world(number: float) -> FloatArray:
    """The fingerprint of a world; two are the further apart, the more their numbers differ."""
    channels = PRINTED.num_channels
    return np.concatenate([np.full(channels, number), np.ones(channels)]).astype(np.float32)


class QuickFiles(Files):
    """A disk that is not waited for; power cuts are tried elsewhere."""

    def sync(self, path: Path) -> None:
        return


@dataclass
class Target:
    """A device without a network: its "model" is the affine values themselves.

    ``agreement`` is what the probe finds; ``serving`` what answers frames. An exception put in ``build_error`` or
    ``install_error`` is raised there, by the latter only for a newer version. `move` puts it into another world.
    """

    bundle: Bundle
    state_dir: Path
    files: Files = field(default_factory=QuickFiles)
    config: UpdaterConfig = field(default_factory=lambda: UpdaterConfig(watch_frames=4))
    recall: RecallConfig = field(default_factory=RecallConfig)
    agreement: float = 1.0
    build_error: Exception | None = None
    install_error: Exception | None = None

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Switch the device on, as after a power cut: only the disk is left of what was before."""
        self.tracker = SceneTracker(layer=PRINTED, drift_threshold=0.05, config=self.recall)
        self.store = VersionStore(self.state_dir, files=self.files)
        self.updater: Updater[dict[str, FloatArray]] = Updater(
            self.bundle,
            self.store,
            build=self._build,
            probe=self._probe,
            install=self._install,
            fits=self.tracker.fits,
            config=self.config,
        )
        self.version, self.serving = self.updater.boot()

    def _build(self, values: dict[str, FloatArray]) -> dict[str, FloatArray]:
        if self.build_error is not None:
            raise self.build_error
        return values

    def _probe(self, candidate: dict[str, FloatArray]) -> float:
        return self.agreement

    def _install(self, candidate: dict[str, FloatArray], version: int) -> None:
        if self.install_error is not None and version > self.version:
            raise self.install_error
        self.version, self.serving = version, candidate

    def move(self, number: float) -> list[Receipt]:
        """The device's world changes; what is told of the versions that are recalled."""
        self.tracker.open(world(number))
        self.updater.moved()
        said: list[Receipt] = []
        recall_for(self.tracker, self.updater, lambda receipt: said.append(receipt) if receipt else None)
        return said

    @property
    def change(self) -> float:
        """How far the values in service are from the source's; the same for all of them."""
        moved = {
            round(float(x), 3) for name, value in self.serving.items() for x in value - self.bundle.source_affine[name]
        }
        assert len(moved) == 1, "a frame would be answered with a mixture of versions"
        return moved.pop()
