"""Open a bundle, verify every byte of it, and hand out its tensors."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors

from littoral.bundle.files import replace_file
from littoral.bundle.manifest import CLOUD_FOLDER, Manifest
from littoral.bundle.signing import PublicKey, SigningKey
from littoral.core.affine import affine_names
from littoral.core.arrays import FloatArray, Frame
from littoral.core.nearness import SourceWorld, last_layer
from littoral.core.truths import truths_from_tensors
from littoral.errors import BundleError

MANIFEST_FILE = "bundle.json"
SIGNATURE_FILE = "bundle.sig"
SIGNATURE_PURPOSE = "bundle"


@dataclass(frozen=True)
class Bundle:
    """An opened bundle. The files of the device's part were read and verified when it was opened.

    A device's copy may leave out the folder ``cloud/``; the cloud asks for it with ``require_cloud``.
    """

    path: Path
    manifest: Manifest
    digest: bytes
    """SHA-256 of bundle.json: the bundle's name on the wire, 32 bytes."""

    @classmethod
    def open(cls, path: Path | str, *, require_cloud: bool = False, trust: PublicKey | None = None) -> Bundle:
        """Open and verify.

        Args:
            path: The bundle's directory.
            require_cloud: Also verify the cloud's part (teacher, student, replay sample).
            trust: If given, the bundle must be signed by this release key.
        Raises:
            BundleError: a file is missing or has a changed byte, the manifest or the source's world is not readable, or
                the signature is missing or by another key.
        """
        path = Path(path)
        if path.is_file():
            told = f"{path} is a file, a bundle is a folder"
            name = path.name.removesuffix(".tar")
            if name == path.name:
                raise BundleError(f"{told}; give the folder that 'littoral build' made")
            raise BundleError(f"{told}; unpack a .tar for devices with: mkdir {name} && tar xf {path} -C {name}")
        try:
            raw = (path / MANIFEST_FILE).read_bytes()
        except OSError as error:
            raise BundleError(
                f"no bundle at {path}: {MANIFEST_FILE} cannot be read ({error.strerror}); "
                "make one with 'littoral build'"
            ) from error
        bundle = cls(path=path, manifest=Manifest.from_json(raw), digest=hashlib.sha256(raw).digest())
        for name in bundle.manifest.files:
            if require_cloud or not name.startswith(CLOUD_FOLDER):
                bundle.read(name)
        if trust is not None:
            bundle.verify_signature(trust)
        _ = bundle.source_world  # a device would find out while it answers, the cloud in the middle of a job
        return bundle

    @property
    def short_digest(self) -> str:
        return self.digest.hex()[:12]

    def read(self, name: str) -> bytes:
        """The bytes of a file of the bundle, checked against the manifest's SHA-256.

        Raises:
            BundleError: the file is not listed, missing, or changed.
        """
        expected = self.manifest.files.get(name)
        if expected is None or Path(name).is_absolute() or ".." in Path(name).parts:
            raise BundleError(f"{name!r} is not a file of the bundle {self.path}")
        try:
            data = (self.path / name).read_bytes()
        except OSError as error:
            raise BundleError(f"{self.path / name} cannot be read ({error.strerror}); copy the bundle again") from error
        came = hashlib.sha256(data).hexdigest()
        if came != expected:
            raise BundleError(
                f"{self.path / name} has changed: SHA-256 {came[:12]}…, the manifest says {expected[:12]}…; "
                "copy the bundle again"
            )
        return data

    def load_tensors(self, name: str) -> dict[str, np.ndarray]:
        """The tensors of a safetensors file of the bundle."""
        try:
            return dict(load_safetensors(self.read(name)))
        except (SafetensorError, KeyError, ValueError) as error:
            raise BundleError(f"{name} is not a safetensors file ({error}); build the bundle again") from error

    @cached_property
    def weights(self) -> dict[str, FloatArray]:
        """All tensors of all segments, statistics and affine values included, by state-dict name."""
        return self.load_tensors(self.manifest.weights_file)

    @cached_property
    def source_affine(self) -> dict[str, FloatArray]:
        """Gamma and beta of every normalisation layer, as shipped."""
        return {name: self.weights[name] for name in affine_names(self.manifest.norm_layers)}

    @cached_property
    def probe(self) -> tuple[Frame, np.ndarray]:
        """Probe frames ``(N, H, W, C)`` uint8 and the labels that the source model gives them.

        int64 ``(N,)``; for other tasks than classification see `littoral.core.truths`, and `probe_truths`.
        """
        tensors = self.load_tensors(self.manifest.probe.file)
        return tensors["frames"], tensors["labels"]

    @cached_property
    def probe_truths(self) -> list[Any]:
        """For each probe frame what the task's metric holds answers against: what the source answered.

        Raises:
            BundleError: the file holds something else.
        """
        tensors = self.load_tensors(self.manifest.probe.file)
        try:
            return truths_from_tensors(self.manifest.make_task(), tensors, num_frames=len(tensors["frames"]))
        except (ValueError, KeyError) as error:
            raise BundleError(f"{self.manifest.probe.file} does not fit the task: {error}; build it again") from error

    @cached_property
    def source_world(self) -> SourceWorld | None:
        """What the source's frames look like at the last BatchNorm; None where there is none, or no such file.

        Raises:
            BundleError: the file holds something else.
        """
        statistics, layer = self.manifest.statistics, last_layer(self.manifest.norm_layers)
        if statistics is None or statistics.source_world_file is None or layer is None:
            return None
        num_classes = self.manifest.num_classes if self.manifest.adapts else 1
        try:
            return SourceWorld.from_tensors(self.load_tensors(statistics.source_world_file), layer, num_classes)
        except ValueError as error:
            raise BundleError(f"{statistics.source_world_file}: {error}; build the bundle again") from error

    def sign(self, key: SigningKey) -> None:
        """Write ``bundle.sig`` next to the manifest, and pack the tar for devices anew if there is one beside."""
        signature = key.sign(SIGNATURE_PURPOSE, self.digest)
        said = json.dumps({"public_key": key.public.hex, "signature": signature.hex()})
        replace_file(self.path / SIGNATURE_FILE, said.encode())
        if self.device_tar.exists():
            self.pack()

    @property
    def device_tar(self) -> Path:
        """Where `pack` puts the tar for devices: beside the bundle's folder."""
        return self.path.with_name(self.path.name + ".tar")

    def pack(self) -> None:
        """Pack what a device needs, with the signature if there is one: the same bytes for the same bundle."""
        names = [name for name in self.manifest.files if not name.startswith(CLOUD_FOLDER)]
        names += [name for name in (MANIFEST_FILE, SIGNATURE_FILE) if (self.path / name).exists()]
        temporary = self.device_tar.with_name(f".{self.device_tar.name}.new")
        with tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar:
            for name in sorted(names):
                data = (self.path / name).read_bytes()
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode = len(data), 0o644
                tar.addfile(entry, io.BytesIO(data))
        os.replace(temporary, self.device_tar)

    def signer(self) -> PublicKey | None:
        """The key that signed this bundle, its signature verified; None when there is no signature.

        Raises:
            BundleError: there is a signature and it is not valid.
        """
        path = self.path / SIGNATURE_FILE
        if not path.exists():
            return None
        try:
            raw = json.loads(path.read_text())
            key, signature = PublicKey.from_hex(raw["public_key"]), bytes.fromhex(raw["signature"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise BundleError(f"{path} is not a signature file; sign again with 'littoral bundle sign'") from error
        if not key.verifies(SIGNATURE_PURPOSE, self.digest, signature):
            raise BundleError(
                f"the signature in {path} is not valid for this bundle.json; "
                "one of the two was changed. Copy the bundle again"
            )
        return key

    def verify_signature(self, trust: PublicKey) -> None:
        """Check that ``trust`` signed this bundle.

        Raises:
            BundleError: not signed, wrongly signed, or signed by another key.
        """
        signer = self.signer()
        if signer is None:
            raise BundleError(f"bundle {self.path} is not signed; sign it with 'littoral bundle sign'")
        if signer != trust:
            raise BundleError(
                f"bundle {self.path} is signed by {signer.fingerprint}, this device trusts "
                f"{trust.fingerprint}; install the bundle that your cloud serves"
            )
