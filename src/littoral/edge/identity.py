"""Who the device is: its own key, and what it was told when it was enrolled.

A one-time token carries the fingerprint of the cloud's release key, so a device cannot be enrolled with a cloud that
only claims to be the right one: ``lit1-<secret in base32>-<16 hexadecimal digits>``.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import json
import logging
import re
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from littoral.bundle import Bundle
from littoral.bundle.files import replace_file
from littoral.bundle.signing import PublicKey, SigningKey
from littoral.errors import BundleError, LinkError, LinkRefused, ProtocolError, StorageError

KEY_FILE = "device.key"
ENROLMENT_FILE = "enrolment.json"
ENROL_PATH = "/v1/enrol"
TIMEOUT_S = 10.0
MAX_ANSWER_BYTES = 65_536
MAX_DIGESTS = 16
"""Of bundles that a device may go back to without their signature."""
log = logging.getLogger("littoral.edge.link")
_TOKEN = re.compile(r"lit1-([A-Za-z2-7]+)-([0-9a-f]{16})")
_UNTRUSTED = (18, 19, 20)
"""OpenSSL's codes of a certificate that signed itself, alone or in a chain, and of one whose issuer is not known."""
_MISNAMED = (62, 64)
"""Of a certificate for other names, and for other addresses."""
_MISTIMED = (9, 10)
"""Of one that is not valid yet, and of one that is not any more."""
_NO_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE")
_NO_HTTP = (ConnectionResetError, http.client.BadStatusLine, EOFError)
_SCHEMES = {"ws": "http", "wss": "https", "http": "http", "https": "https"}


@dataclass(frozen=True)
class Token:
    """A one-time token as a person pastes it; does not show its secret."""

    text: str
    fingerprint: str

    def __repr__(self) -> str:
        return f"Token(lit1-…-{self.fingerprint})"

    @classmethod
    def parse(cls, text: str) -> Token:
        """Take a token apart.

        Raises:
            ValueError: not the form of a token.
        """
        match = _TOKEN.fullmatch(text.strip())
        if match is None:
            raise ValueError(
                "a token looks like lit1-<letters and digits>-<16 hexadecimal digits>; 'littoral enrol make' makes one"
            )
        return cls(text=text.strip(), fingerprint=match[2])


@dataclass(frozen=True, kw_only=True)
class Identity:
    """An enrolled device."""

    device_id: str
    cohort: str
    cloud_url: str
    release_key: PublicKey
    key: SigningKey
    bundle_digests: tuple[str, ...] = ()
    """Hexadecimal; of the bundles that the release key has spoken for in an envelope, the newest last."""

    @classmethod
    def load(cls, state_dir: Path) -> Identity | None:
        """Read the identity in a state folder; None when the device is not enrolled or its record is damaged.

        A damaged record is not an error: the device goes on answering, and enrolling again makes a new one.
        """
        try:
            raw = json.loads((state_dir / ENROLMENT_FILE).read_bytes())
            texts = [raw[name] for name in ("device_id", "cohort", "cloud_url", "release_key")]
            if not all(isinstance(text, str) for text in texts):
                return None
            release_key = PublicKey.from_hex(texts[3])
            digests = raw.get("bundle_digests", [])
            if not isinstance(digests, list) or not all(isinstance(digest, str) for digest in digests):
                return None
            if not (state_dir / KEY_FILE).exists():
                return None
            key = SigningKey.load_or_make(state_dir / KEY_FILE)
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        return cls(
            device_id=texts[0],
            cohort=texts[1],
            cloud_url=texts[2],
            release_key=release_key,
            key=key,
            bundle_digests=tuple(digests),
        )

    def save(self, state_dir: Path) -> None:
        """Write the record durably; the key is there already."""
        record = {
            "device_id": self.device_id,
            "cohort": self.cohort,
            "cloud_url": self.cloud_url,
            "release_key": self.release_key.hex,
            "bundle_digests": list(self.bundle_digests),
        }
        replace_file(state_dir / ENROLMENT_FILE, json.dumps(record).encode())


def trust_bundle(state_dir: Path, session: Identity, digest: str) -> None:
    """Keep that the release key of a session has spoken for a bundle, if the device is still enrolled with it.

    Args:
        digest: Of the bundle, hexadecimal.
    Raises:
        OSError: it cannot be kept.
    """
    known = Identity.load(state_dir)
    if known is None or known.release_key != session.release_key or known.device_id != session.device_id:
        return  # enrolled elsewhere meanwhile
    if digest not in known.bundle_digests:
        digests = (*known.bundle_digests, digest)[-MAX_DIGESTS:]
        replace(known, bundle_digests=digests).save(state_dir)


def check_bundle(bundle: Bundle, state_dir: Path, get_token: Callable[[], str | None]) -> None:
    """Refuse a bundle that the cloud of an enrolled device does not stand for.

    A device that is not enrolled runs what it is given. An enrolled one runs what its release key has signed, or has
    spoken for in an envelope; and with a token for another cloud, what that cloud's release key has signed.

    Args:
        get_token: The token that the device was given; asked only where the release key does not stand for the bundle.
    Raises:
        BundleError: the bundle is not signed, wrongly signed, or signed by a key that this device does not trust.
    """
    identity = Identity.load(state_dir)
    if identity is None or bundle.digest.hex() in identity.bundle_digests:
        return
    try:
        bundle.verify_signature(identity.release_key)
    except BundleError as error:
        with contextlib.suppress(BundleError, ValueError):  # a token that is none is for no cloud
            signer, token = bundle.signer(), get_token()
            if signer is not None and token is not None and signer.fingerprint == Token.parse(token).fingerprint:
                return
        raise BundleError(
            f"this device was enrolled by release key {identity.release_key.fingerprint} and runs what that key signs: "
            f"{error}. Copy the bundle that its cloud serves, with bundle.sig, or give the device another state folder"
        ) from error


def http_url(url: str, path: str = "") -> str:
    """``url`` with the scheme http or https, and a path below it."""
    return _with_scheme(url, path, secure="https", plain="http")


def websocket_url(url: str, path: str = "") -> str:
    """``url`` with the scheme ws or wss, and a path below it."""
    return _with_scheme(url, path, secure="wss", plain="ws")


def _with_scheme(url: str, path: str, *, secure: str, plain: str) -> str:
    parts = urllib.parse.urlsplit(url.strip())
    if parts.scheme not in _SCHEMES or not parts.hostname:
        raise ValueError(f"a cloud's URL looks like wss://host:port or https://host:port, got {url!r}")
    scheme = secure if _SCHEMES[parts.scheme] == "https" else plain
    return urllib.parse.urlunsplit((scheme, parts.netloc, parts.path.rstrip("/") + path, "", ""))


def is_in_the_clear(url: str) -> bool:
    """Whether what goes to this cloud can be read and changed on its way: it has no TLS and leaves this machine."""
    parts = urllib.parse.urlsplit(websocket_url(url))
    if parts.scheme == "wss" or parts.hostname == "localhost":
        return False
    try:
        return not ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:  # a name
        return True


def warn_if_in_the_clear(url: str) -> None:
    """Say in the log that others can read and change what goes to this cloud, if they can."""
    if is_in_the_clear(url):
        told = websocket_url(url)
        log.warning("no TLS: whoever is on the way to %s can read frames and forge answers; use https", told)


def tls_context(url: str, ca_file: Path | None = None) -> ssl.SSLContext | None:
    """The TLS settings for a URL: the system's authorities, or those in ``ca_file``; None when it is not secure."""
    if not http_url(url).startswith("https:"):
        return None
    return ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))


def why_unreachable(url: str, error: Exception) -> str:
    """That a cloud cannot be reached, why, and what to do where TLS is what the two do not agree on."""
    causes = (error, error.reason if isinstance(error, urllib.error.URLError) else error.__cause__)
    is_tls = http_url(url).startswith("https:")
    hint = ""
    if any(isinstance(cause, ssl.SSLCertVerificationError) and cause.verify_code in _UNTRUSTED for cause in causes):
        hint = "; give the certificates to trust with --ca-file"
    elif any(isinstance(cause, ssl.SSLCertVerificationError) and cause.verify_code in _MISNAMED for cause in causes):
        hint = "; dial one of the certificate's alternative names"
    elif any(isinstance(cause, ssl.SSLCertVerificationError) and cause.verify_code in _MISTIMED for cause in causes):
        hint = "; is the clock of this machine right?"
    elif is_tls and any(isinstance(cause, ssl.SSLError) and cause.reason in _NO_TLS for cause in causes):
        hint = "; does it speak TLS? Without it its address begins with http"
    elif not is_tls and any(isinstance(cause, _NO_HTTP) for cause in causes):
        hint = "; does it speak TLS? Then its address begins with https"
    return f"the cloud at {url} cannot be reached ({error or type(error).__name__}){hint}"


def enrol(url: str, token: str, state_dir: Path | str, name: str, *, ca_file: Path | None = None) -> Identity:
    """Redeem a one-time token and keep what the cloud answers.

    Args:
        url: The cloud; ws, wss, http or https.
        token: What ``littoral enrol`` made.
        state_dir: The device's folder; its key is made there if it has none.
        name: What people call the device.
        ca_file: Certificates to trust instead of the system's.
    Raises:
        ValueError: the URL or the token has the wrong form.
        LinkRefused: the cloud says no, or it is not the cloud that the token is for (``bad-token``).
        ProtocolError: the answer is not one to an enrolment.
        LinkError: the cloud cannot be reached.
        StorageError: the state folder cannot be written.
    """
    state_dir, wanted = Path(state_dir), Token.parse(token)
    warn_if_in_the_clear(url)
    try:
        key = SigningKey.load_or_make(state_dir / KEY_FILE)
    except OSError as error:
        raise _cannot_keep(state_dir, error) from error
    answer = _post(
        http_url(url, ENROL_PATH),
        {"token": wanted.text, "name": name, "public_key": key.public.hex},
        tls_context(url, ca_file),
    )
    fields = ("device_id", "cohort", "release_key", "bundle_digest")
    if not all(isinstance(answer.get(field), str) for field in fields):
        raise ProtocolError(f"the cloud's answer to the enrolment lacks one of {', '.join(fields)}")
    try:
        release_key = PublicKey.from_hex(answer["release_key"])
    except ValueError as error:
        raise ProtocolError(f"the cloud's answer has a release key that is none: {error}") from error
    if release_key.fingerprint != wanted.fingerprint:
        raise LinkRefused(
            "bad-token",
            f"the cloud at {url} has the release key {release_key.fingerprint}, the token is for {wanted.fingerprint}; "
            "this is another cloud, or someone stands between: nothing was kept",
        )
    before = Identity.load(state_dir)
    spoken_for = before.bundle_digests if before is not None and before.release_key == release_key else ()
    identity = Identity(
        device_id=answer["device_id"],
        cohort=answer["cohort"],
        cloud_url=url,
        release_key=release_key,
        key=key,
        bundle_digests=spoken_for,
    )
    try:
        identity.save(state_dir)
    except OSError as error:
        raise _cannot_keep(state_dir, error) from error
    return identity


def _cannot_keep(state_dir: Path, error: OSError) -> StorageError:
    return StorageError(f"{state_dir} cannot hold the device's key and enrolment ({error.strerror}); make it writable")


def _post(url: str, document: dict[str, str], context: ssl.SSLContext | None) -> dict[str, Any]:
    request = urllib.request.Request(
        url, data=json.dumps(document).encode(), headers={"Content-Type": "application/json"}, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S, context=context) as response:
            data = response.read(MAX_ANSWER_BYTES + 1)
    except urllib.error.HTTPError as error:
        with error:
            raise _refusal(error.code, error.read(MAX_ANSWER_BYTES)) from error
    except (OSError, ValueError, http.client.HTTPException) as error:  # the last where it is no HTTP that answers
        raise LinkError(why_unreachable(url, error)) from error
    if len(data) > MAX_ANSWER_BYTES:
        raise ProtocolError(f"the cloud's answer has more than {MAX_ANSWER_BYTES} bytes")
    return _object(data)


def _refusal(status: int, data: bytes) -> LinkError:
    try:
        raw = _object(data)
    except ProtocolError:
        return LinkError(f"the cloud answered the enrolment with status {status}")
    return LinkRefused(str(raw.get("code", "protocol")), f"the cloud refuses to enrol: {raw.get('message', status)}")


def _object(data: bytes) -> dict[str, Any]:
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"the cloud's answer is not JSON ({error})") from error
    if not isinstance(raw, dict):
        raise ProtocolError(f"the cloud's answer is {type(raw).__name__}, expected an object")
    return raw
