"""The cloud's keys, what they sign, and the one-time tokens that let a device in.

Both keys are made at the first start under ``<state>/keys``, readable by their owner only, and are there at every start
after it: a release key made anew would be another cloud's to every device that was enrolled. Where the bundle was
signed before, the release key that signed it is given at the first start and copied.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import secrets
from dataclasses import dataclass
from pathlib import Path

from littoral.bundle import Bundle, Envelope, PublicKey, SigningKey
from littoral.bundle.update import ENVELOPE_PURPOSE
from littoral.errors import BundleError

KEYS_FOLDER, KEY_FILES = "keys", ("release.key", "cohort.key")
TOKEN_PREFIX = "lit1"
SECRET_BYTES = 20

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SignedEnvelope:
    """An envelope's bytes and the release key's signature of them, as the Welcome carries them."""

    data: bytes
    signature: bytes


@dataclass(frozen=True, kw_only=True)
class Keys:
    """The release key and the cohort key of one cloud."""

    release: SigningKey
    cohort: SigningKey

    @classmethod
    def load_or_make(cls, state_dir: Path) -> Keys:
        """Read the keys under ``state_dir/keys``, or make them.

        Raises:
            BundleError: a key file is there and is not a key.
        """
        folder = _make_folder(state_dir)
        try:
            return cls(
                release=SigningKey.load_or_make(folder / KEY_FILES[0]),
                cohort=SigningKey.load_or_make(folder / KEY_FILES[1]),
            )
        except ValueError as error:
            raise BundleError(str(error)) from error

    @classmethod
    def load(cls, state_dir: Path) -> Keys:
        """Read the keys under ``state_dir/keys``.

        Raises:
            BundleError: one is missing, or is not a key.
        """
        for path in (state_dir / KEYS_FOLDER / name for name in KEY_FILES):
            if not path.exists():
                raise BundleError(f"{path} is missing; put it back, or restore it from a backup")
        return cls.load_or_make(state_dir)

    @classmethod
    def for_bundle(cls, state_dir: Path, bundle: Bundle, *, is_new: bool, release_key: Path | None = None) -> Keys:
        """The keys of a bundle's cloud, with the bundle signed by the release key.

        Args:
            is_new: Whether the state folder has no record yet; else its keys are never made, nor the given one copied.
            release_key: A file with the release key. Copied where there is none, and held against the one that is.
        Raises:
            BundleError: another key has signed the bundle, a key is missing or is none, or another release key is
                there. Nothing was written.
        """
        here = state_dir / KEYS_FOLDER / KEY_FILES[0]
        given = None if release_key is None else _read_key(release_key)
        if is_new and not here.exists():
            signer = bundle.signer()
            if signer is not None and (given is None or given.public != signer):
                raise BundleError(
                    f"bundle {bundle.path} is signed by release key {signer.fingerprint}, "
                    + ("and none is given" if given is None else f"{release_key} is {given.public.fingerprint}")
                    + "; give the key that signed it with --release-key FILE, or sign the bundle anew with 'littoral "
                    "bundle sign' and give that key"
                )
            if given is not None:
                _make_folder(state_dir)
                given.save(here)
        keys = cls.load_or_make(state_dir) if is_new else cls.load(state_dir)
        if given is not None and given.public != keys.release.public:
            raise BundleError(
                f"{release_key} is the release key {given.public.fingerprint}, the state folder {state_dir} has "
                f"{keys.release.public.fingerprint}, which its devices know; leave out --release-key, or give a new "
                "state folder"
            )
        keys.adopt(bundle)
        return keys

    def adopt(self, bundle: Bundle) -> None:
        """Make sure that the bundle carries our release key's signature; sign it if it carries none.

        Raises:
            BundleError: it is signed by another release key, or its signature is not valid.
        """
        signer = bundle.signer()
        if signer is None:
            bundle.sign(self.release)
            log.warning(
                "bundle %s was not signed; signed it with this cloud's release key %s",
                bundle.short_digest,
                self.release.public.fingerprint,
            )
        elif signer != self.release.public:
            raise BundleError(
                f"bundle {bundle.path} is signed by release key {signer.fingerprint}, this cloud's is "
                f"{self.release.public.fingerprint}; give a new state folder and that key with --release-key FILE, or "
                "sign the bundle again with 'littoral bundle sign' and the state folder's keys/release.key"
            )

    def envelope(self, bundle: Bundle, cohort: str) -> SignedEnvelope:
        """What our cohort key may change on this bundle and how far, signed by the release key."""
        data = Envelope(
            cohort=cohort,
            cohort_key=self.cohort.public.hex,
            bundle_digest=bundle.digest.hex(),
            max_delta=bundle.manifest.envelope_max_delta,
        ).to_bytes()
        return SignedEnvelope(data=data, signature=self.release.sign(ENVELOPE_PURPOSE, data))


def _make_folder(state_dir: Path) -> Path:
    folder = state_dir / KEYS_FOLDER
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def _read_key(path: Path) -> SigningKey:
    try:
        return SigningKey.load(path)
    except OSError as error:
        raise BundleError(f"the release key {path} cannot be read ({error.strerror}); give its file") from error
    except ValueError as error:
        raise BundleError(str(error)) from error


def make_token(release: PublicKey) -> tuple[str, bytes]:
    """A new token's text, ``lit1-<secret>-<release key fingerprint>``, and its secret's SHA-256, which is stored."""
    secret = secrets.token_bytes(SECRET_BYTES)
    text = base64.b32encode(secret).decode().lower()
    return f"{TOKEN_PREFIX}-{text}-{release.fingerprint}", hashlib.sha256(secret).digest()


def token_digest(token: str) -> bytes:
    """The SHA-256 of a token's secret.

    Raises:
        ValueError: the text does not have the form of a token.
    """
    parts = token.strip().lower().split("-")
    try:
        secret = base64.b32decode(parts[1].upper()) if len(parts) == 3 else b""
    except ValueError:
        secret = b""
    if parts[0] != TOKEN_PREFIX or len(secret) != SECRET_BYTES:
        raise ValueError("a token reads lit1-<32 letters and digits>-<16 digits>; copy it whole")
    return hashlib.sha256(secret).digest()
