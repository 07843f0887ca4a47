"""Keys are made once and kept; a bundle of another owner is not taken over; a token shows nothing of the record."""

from __future__ import annotations

import hashlib
import logging
import re
from pathlib import Path

import pytest
from cloud_peer import running, write_bundle

from littoral.bundle import Bundle, Envelope, SigningKey
from littoral.cloud.keys import Keys, make_token, token_digest
from littoral.errors import BundleError


def test_keys_are_made_once_and_readable_by_their_owner_only(tmp_path: Path) -> None:
    keys = Keys.load_or_make(tmp_path)
    again = Keys.load_or_make(tmp_path)
    assert (keys.release.public, keys.cohort.public) == (again.release.public, again.cohort.public)
    assert keys.release.public != keys.cohort.public
    for path in (tmp_path / "keys").iterdir():
        assert path.stat().st_mode & 0o077 == 0


def test_a_damaged_key_is_an_error_not_a_new_key(tmp_path: Path) -> None:
    Keys.load_or_make(tmp_path)
    (tmp_path / "keys" / "cohort.key").write_text("??")
    with pytest.raises(BundleError, match="backup"):
        Keys.load_or_make(tmp_path)


def test_an_unsigned_bundle_is_signed_and_the_log_says_so(
    opened: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys = Keys.load_or_make(tmp_path / "state")
    with caplog.at_level(logging.WARNING):
        keys.adopt(opened)
    assert keys.release.public.fingerprint in caplog.text
    opened.verify_signature(keys.release.public)
    keys.adopt(opened)


def test_a_bundle_of_another_release_key_is_refused(opened: Bundle, tmp_path: Path) -> None:
    opened.sign(SigningKey(b"o" * 32))
    with pytest.raises(BundleError, match="littoral bundle sign"):
        Keys.load_or_make(tmp_path / "state").adopt(opened)


def test_a_bundle_that_the_state_folder_does_not_belong_to_is_not_signed(bundle: Path, tmp_path: Path) -> None:
    with running(bundle, tmp_path / "state"):
        pass
    other = write_bundle(tmp_path / "other", name="other")
    with pytest.raises(BundleError, match="the state folder belongs to bundle"), running(other, tmp_path / "state"):
        pass
    assert Bundle.open(other).signer() is None, "it would be refused in a state folder of its own"


def key_files(state: Path) -> list[str]:
    return sorted(path.name for path in state.rglob("*.key"))


@pytest.fixture
def release_key(tmp_path: Path) -> Path:
    """The file of a release key, as of `littoral build --key`."""
    SigningKey(b"r" * 32).save(tmp_path / "release.key")
    return tmp_path / "release.key"


def test_a_signed_bundle_makes_no_keys_in_a_new_state_folder_and_says_how_to_give_its_own(
    opened: Bundle, tmp_path: Path
) -> None:
    opened.sign(SigningKey(b"r" * 32))
    with pytest.raises(BundleError, match=r"none is given; give the key that signed it with --release-key FILE"):
        Keys.for_bundle(tmp_path / "state", opened, is_new=True)
    assert key_files(tmp_path / "state") == []


def test_the_given_release_key_is_copied_for_its_owner_only_and_the_next_start_may_give_it_again(
    opened: Bundle, tmp_path: Path, release_key: Path
) -> None:
    state = tmp_path / "state"
    opened.sign(SigningKey.load(release_key))
    first = Keys.for_bundle(state, opened, is_new=True, release_key=release_key)
    assert first.release.public == SigningKey.load(release_key).public
    assert (state / "keys" / "release.key").stat().st_mode & 0o777 == 0o600
    assert (state / "keys").stat().st_mode & 0o777 == 0o700
    for given in (release_key, None):
        again = Keys.for_bundle(state, opened, is_new=False, release_key=given)
        assert (again.release.public, again.cohort.public) == (first.release.public, first.cohort.public)


def test_an_unsigned_bundle_is_signed_by_the_given_release_key(
    opened: Bundle, tmp_path: Path, release_key: Path
) -> None:
    Keys.for_bundle(tmp_path / "state", opened, is_new=True, release_key=release_key)
    opened.verify_signature(SigningKey.load(release_key).public)


def test_a_given_key_that_did_not_sign_the_bundle_or_is_none_is_not_copied(
    opened: Bundle, tmp_path: Path, release_key: Path
) -> None:
    opened.sign(SigningKey(b"o" * 32))
    (tmp_path / "bad.key").write_text("??")
    for given, told in (
        (release_key, "signed by release key .* is "),
        (tmp_path / "none.key", "cannot be read"),
        (tmp_path / "bad.key", "is no key of 64"),
    ):
        with pytest.raises(BundleError, match=told):
            Keys.for_bundle(tmp_path / "state", opened, is_new=True, release_key=given)
    assert key_files(tmp_path / "state") == []


@pytest.mark.parametrize("is_new", [True, False])
def test_another_release_key_than_the_state_folders_is_refused_and_changes_nothing(
    opened: Bundle, tmp_path: Path, release_key: Path, is_new: bool
) -> None:
    before = Keys.load_or_make(tmp_path / "state")
    with pytest.raises(BundleError, match=f"has {before.release.public.fingerprint}, which its devices know"):
        Keys.for_bundle(tmp_path / "state", opened, is_new=is_new, release_key=release_key)
    assert Keys.load(tmp_path / "state").release.public == before.release.public
    assert opened.signer() is None


def test_a_record_without_its_release_key_is_not_given_another(
    opened: Bundle, tmp_path: Path, release_key: Path
) -> None:
    with pytest.raises(BundleError, match="is missing; put it back"):
        Keys.for_bundle(tmp_path / "state", opened, is_new=False, release_key=release_key)
    assert key_files(tmp_path / "state") == []


def test_the_envelope_is_the_manifests_bounds_signed_by_the_release_key(opened: Bundle, tmp_path: Path) -> None:
    keys = Keys.load_or_make(tmp_path / "state")
    signed = keys.envelope(opened, "north")
    envelope = Envelope.verify(signed.data, signed.signature, trust=keys.release.public, bundle_digest=opened.digest)
    assert (envelope.cohort, envelope.cohort_key) == ("north", keys.cohort.public.hex)
    assert envelope.max_delta == opened.manifest.envelope_max_delta


def test_a_token_carries_a_secret_and_the_release_keys_fingerprint() -> None:
    release = SigningKey(b"r" * 32).public
    token, digest = make_token(release)
    assert re.fullmatch(rf"lit1-[a-z2-7]{{32}}-{release.fingerprint}", token)
    assert token_digest(token) == token_digest(f" {token.upper()}\n") == digest
    assert len(digest) == hashlib.sha256().digest_size
    assert make_token(release)[0] != token


@pytest.mark.parametrize(
    "text", ["", "lit1", "lit1--", "lit1-a-b", "lit2-" + "a" * 32 + "-00", "lit1-" + "1" * 32 + "-0"]
)
def test_what_is_not_a_token_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match="lit1-"):
        token_digest(text)
