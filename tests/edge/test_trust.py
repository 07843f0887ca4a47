"""An enrolled device runs what its cloud stands for, and one that is not enrolled what it is given."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from littoral.bundle import Bundle, SigningKey
from littoral.bundle.bundle import MANIFEST_FILE, SIGNATURE_FILE
from littoral.edge.device import Device
from littoral.edge.identity import KEY_FILE, MAX_DIGESTS, Identity, trust_bundle
from littoral.edge.link import CloudLink
from littoral.errors import BundleError

OURS, OTHER = SigningKey(b"o" * 32), SigningKey(b"x" * 32)


@pytest.fixture
def folder(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A bundle that our cloud signed, in a folder to change."""
    folder = shutil.copytree(tiny_bundle, tmp_path / "b")
    Bundle.open(folder).sign(OURS)
    return folder


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """The state folder of a device that our cloud enrolled."""
    state = tmp_path / "state"
    identity(state).save(state)
    return state


def identity(state: Path) -> Identity:
    key = SigningKey.load_or_make(state / KEY_FILE)
    return Identity(device_id="d-1", cohort="c", cloud_url="ws://cloud", release_key=OURS.public, key=key)


def run(folder: Path, state: Path, *, token: str | None = None) -> None:
    """Start a device, and stop it."""
    link = None if token is None else CloudLink("ws://127.0.0.1:1", token=token)
    Device(Bundle.open(folder), state_dir=state, link=link).close(0.0)


def rename_classes(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST_FILE).read_bytes())
    manifest["class_names"] = manifest["class_names"][::-1]
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest, sort_keys=True, separators=(",", ":")))


def unsign(folder: Path) -> None:
    (folder / SIGNATURE_FILE).unlink()


def test_what_its_cloud_signed_runs(folder: Path, state: Path) -> None:
    run(folder, state)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (rename_classes, "signature"),
        (unsign, "is not signed"),
        (lambda folder: Bundle.open(folder).sign(OTHER), f"is signed by {OTHER.public.fingerprint}"),
        (lambda folder: (folder / SIGNATURE_FILE).write_text("{"), SIGNATURE_FILE),
    ],
    ids=["changed", "unsigned", "another-cloud", "half-a-signature"],
)
def test_anything_else_is_refused_and_nothing_is_touched(folder: Path, state: Path, change, told: str) -> None:
    change(folder)
    before = {path.name: path.read_bytes() for path in state.iterdir()}
    with pytest.raises(BundleError, match=f"enrolled by release key {OURS.public.fingerprint} .*{told}"):
        run(folder, state)
    assert {path.name: path.read_bytes() for path in state.iterdir()} == before


@pytest.mark.parametrize("change", [rename_classes, unsign], ids=["changed", "unsigned"])
def test_a_device_that_nobody_enrolled_runs_it(folder: Path, tmp_path: Path, change) -> None:
    """The negative control, and what somebody does who tries a bundle."""
    change(folder)
    run(folder, tmp_path / "fresh")


def test_a_copy_without_its_signature_runs_once_the_cloud_spoke_for_it(folder: Path, state: Path) -> None:
    unsign(folder)
    digest = Bundle.open(folder).digest.hex()
    replace(identity(state), bundle_digests=(digest,)).save(state)
    run(folder, state)
    rename_classes(folder)
    with pytest.raises(BundleError, match="is not signed"):
        run(folder, state)


def test_with_a_token_of_another_cloud_its_bundle_runs(folder: Path, state: Path) -> None:
    Bundle.open(folder).sign(OTHER)
    run(folder, state, token=f"lit1-abcdefgh-{OTHER.public.fingerprint}")
    for token in (None, "", "garbled", "lit1-abcdefgh-0123456789abcdef"):
        with pytest.raises(BundleError, match="is signed by"):
            run(folder, state, token=token)


@pytest.mark.parametrize("token", ["", "garbled", "lit1-abcdefgh"])
def test_a_token_that_is_none_keeps_no_device_with_the_right_bundle_from_starting(
    folder: Path, state: Path, token: str
) -> None:
    run(folder, state, token=token)


def test_with_a_token_what_nobody_signed_is_refused_all_the_same(folder: Path, state: Path) -> None:
    unsign(folder)
    with pytest.raises(BundleError, match="is not signed"):
        run(folder, state, token=f"lit1-abcdefgh-{OURS.public.fingerprint}")


def test_a_device_may_go_back_to_a_bundle_that_its_cloud_spoke_for_before(folder: Path, state: Path) -> None:
    unsign(folder)
    session = identity(state)
    for digest in (Bundle.open(folder).digest.hex(), "another"):
        trust_bundle(state, session, digest)
    run(folder, state)
    for number in range(MAX_DIGESTS):
        trust_bundle(state, session, f"{number}")
    with pytest.raises(BundleError, match="is not signed"):
        run(folder, state)


def test_a_session_that_ends_after_the_device_was_enrolled_elsewhere_changes_nothing(state: Path) -> None:
    session = identity(state)
    elsewhere = replace(session, device_id="d-2", release_key=OTHER.public, cloud_url="ws://elsewhere")
    elsewhere.save(state)
    trust_bundle(state, session, "of the first cloud")
    known = Identity.load(state)
    assert known is not None
    assert (known.cloud_url, known.bundle_digests) == ("ws://elsewhere", ())


def test_a_signature_that_cannot_be_read_is_no_signature(folder: Path, state: Path) -> None:
    unsign(folder)
    (folder / SIGNATURE_FILE).mkdir()
    with pytest.raises(BundleError, match=SIGNATURE_FILE):
        run(folder, state)


def test_an_enrolment_of_an_earlier_release_can_be_read(folder: Path, state: Path) -> None:
    path = state / "enrolment.json"
    record = json.loads(path.read_bytes())
    del record["bundle_digests"]
    path.write_text(json.dumps(record))
    known = Identity.load(state)
    assert known is not None
    assert (known.device_id, known.release_key, known.bundle_digests) == ("d-1", OURS.public, ())
    run(folder, state)
