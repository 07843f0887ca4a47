"""The cloud as a whole: it takes its port and its folder or says why not, goes on after a kill, and leaves nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import pytest
from certificates import self_signed
from cloud_peer import SMALL, FakeGate, FakeWorker, Peer, fetch, running, sample, until, write_bundle
from websockets.exceptions import ConnectionClosed

from littoral.bundle import Bundle
from littoral.cloud import admin
from littoral.cloud.cloud import Cloud, CloudConfig
from littoral.cloud.cohort import Check
from littoral.cloud.tails import RunsTail
from littoral.errors import BundleError, LittoralError, StorageError
from littoral.wire.messages import Ack, Version

SERVE = """
import sys
from pathlib import Path
from cloud_peer import SMALL, FakeGate, FakeWorker
from littoral.cloud.cloud import Cloud, CloudConfig
factory = lambda bundle, config: (FakeWorker(), FakeGate().check)
config = CloudConfig(port=0, adapt=SMALL)
cloud = Cloud(sys.argv[1], sys.argv[2], config, worker_factory=factory, tail_factory=lambda bundle, config: {})
assert "torch" not in sys.modules, "who brings a worker of his own waits seconds for nothing"
cloud.serve()
"""


def serve(bundle: Path, state_dir: Path) -> subprocess.Popen[bytes]:
    """A cloud in a process of its own, listening."""
    (state_dir / "cloud.json").unlink(missing_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(bundle), str(state_dir)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
        stderr=subprocess.DEVNULL,
    )
    until(lambda: (state_dir / "cloud.json").exists() or process.poll() is not None, "the cloud to listen")
    assert process.poll() is None
    return process


class Remote:
    """As much of a `Cloud` as a `Peer` needs, for one in another process."""

    def __init__(self, bundle: Path, state_dir: Path) -> None:
        self.bundle, self.state_dir = Bundle.open(bundle), state_dir

    @property
    def url(self) -> str:
        return str(json.loads((self.state_dir / "cloud.json").read_text())["url"])

    def new_token(self) -> str:
        return admin.new_token(self.state_dir)


def test_a_cloud_that_was_killed_goes_on_from_its_record(bundle: Path, tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    process = serve(bundle, state_dir)
    peer = Peer(Remote(bundle, state_dir))  # type: ignore[arg-type]
    try:
        with peer.enrol().session() as line:
            line.upload(1, 6)
            first = line.wait(Version)
            process.send_signal(signal.SIGKILL)
            process.wait()
        process = serve(bundle, state_dir)
        with peer.session() as line:
            assert line.welcome is not None
            assert line.welcome.acked_sequence == 6
            assert line.wait(Version) == first
            line.upload(7, 2)
            second = line.wait(Version)
            assert peer.verified(second, line.welcome).version == 2
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
        assert not (state_dir / "cloud.json").exists()
    finally:
        process.kill()
        process.wait()


def test_a_port_in_use_is_one_clear_error_and_nothing_is_touched(bundle: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(LittoralError, match=f"port {port} .*in use.*--port"):
            Cloud(bundle, tmp_path / "state", CloudConfig(port=port))
    assert not (tmp_path / "state").exists()
    assert not (bundle / "bundle.sig").exists()


def test_two_clouds_cannot_share_a_state_folder(bundle: Path, tmp_path: Path) -> None:
    with running(bundle, tmp_path / "state"), pytest.raises(LittoralError, match="another cloud uses"):
        Cloud(bundle, tmp_path / "state", CloudConfig(port=0))
    with running(bundle, tmp_path / "state"):
        pass


def test_a_state_folder_that_is_a_file_is_a_storage_error(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    with pytest.raises(StorageError, match="writable"):
        Cloud(bundle, tmp_path / "state", CloudConfig(port=0))


def test_a_bundle_of_another_owner_or_another_state_folder_is_refused(bundle: Path, tmp_path: Path) -> None:
    with running(bundle, tmp_path / "state"):
        pass
    other = write_bundle(tmp_path / "other", name="other")
    with pytest.raises(BundleError, match="state folder of its own"):
        Cloud(other, tmp_path / "state", CloudConfig(port=0))
    with pytest.raises(BundleError, match=r"--release-key FILE.*littoral bundle sign"):
        Cloud(bundle, tmp_path / "second state", CloudConfig(port=0))
    assert not (tmp_path / "second state" / "keys").exists(), "so that the right key can still be put there"
    release_key = tmp_path / "state" / "keys" / "release.key"
    with running(bundle, tmp_path / "second state", release_key=release_key):
        pass


def test_a_damaged_cloud_part_is_found_before_anything_starts(bundle: Path, tmp_path: Path) -> None:
    (bundle / "cloud" / "model.safetensors").write_bytes(b"x")
    with pytest.raises(BundleError, match="has changed"):
        Cloud(bundle, tmp_path / "state", CloudConfig(port=0))


@pytest.mark.parametrize(
    "wrong",
    [{"port": 70_000}, {"cohort": ""}, {"cohort": "a\nb"}, {"tls_key": Path("key.pem")}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_wrong_setting_is_a_value_error(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"got|needs"):
        CloudConfig(**wrong)  # type: ignore[arg-type]


def test_a_cloud_that_stopped_leaves_no_thread_and_gives_its_port_back(bundle: Path, tmp_path: Path) -> None:
    before = {thread.name for thread in threading.enumerate()}
    with running(bundle, tmp_path / "state") as cloud:
        port = int(cloud.url.rsplit(":", 1)[1])
        peer = Peer(cloud).enrol()
        with peer.session() as line:
            line.upload(1, 4)
            line.wait(Version)
            cloud.stop()
            with pytest.raises(ConnectionClosed):
                line.wait(Ack)
    cloud.stop()
    assert {thread.name for thread in threading.enumerate() if "littoral" in thread.name} <= before
    with running(bundle, tmp_path / "state", port=port) as again:
        assert again.url == cloud.url
    with pytest.raises(LittoralError, match="make a new Cloud"):
        again.start()


def test_a_worker_that_cannot_be_made_leaves_port_and_folder_free(bundle: Path, tmp_path: Path) -> None:
    def broken(*_: object) -> tuple[FakeWorker, object]:
        raise BundleError("the teacher has other classes")

    cloud = Cloud(bundle, tmp_path / "state", CloudConfig(port=0), worker_factory=broken)  # type: ignore[arg-type]
    with pytest.raises(BundleError, match="other classes"):
        cloud.start()
    with running(bundle, tmp_path / "state"):
        pass


def test_a_token_made_beside_a_running_cloud_lets_a_device_in(bundle: Path, tmp_path: Path) -> None:
    with running(bundle, tmp_path / "state") as cloud:
        peer = Peer(cloud).enrol(admin.new_token(tmp_path / "state"))
        with peer.session() as line:
            line.send(sample(1), sequence=1)
            line.wait(Ack)
        assert [device.id for device in admin.list_devices(tmp_path / "state")] == [peer.device_id]
    with pytest.raises(StorageError, match="start a cloud"):
        admin.new_token(tmp_path / "nowhere")


def test_no_token_is_made_for_a_cloud_whose_release_key_is_not_there(bundle: Path, tmp_path: Path) -> None:
    """Of a key made on the spot it would name a cloud that there is not, and the next start would find that key."""
    state = tmp_path / "state"
    with running(bundle, state) as cloud:
        key = state / "keys" / "release.key"
        key.rename(tmp_path / "elsewhere")
        with pytest.raises(BundleError, match=r"release\.key is missing"):
            admin.new_token(state)
        assert not key.exists()
        (tmp_path / "elsewhere").rename(key)
        Peer(cloud).enrol(admin.new_token(state))


def test_a_record_without_its_keys_is_refused_and_no_other_keys_are_made(bundle: Path, tmp_path: Path) -> None:
    """A bundle without a signature would take any release key, and no enrolled device would believe the cloud."""
    state = tmp_path / "state"
    with running(bundle, state) as cloud:
        Peer(cloud).enrol()
    shutil.rmtree(state / "keys")
    (bundle / "bundle.sig").unlink()
    with pytest.raises(BundleError, match=r"release\.key is missing"):
        Cloud(bundle, state, CloudConfig(port=0))
    assert not (state / "keys").exists()


def test_a_version_that_is_made_while_the_cloud_still_starts_reaches_its_devices(bundle: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    with running(bundle, state) as cloud:
        peer = Peer(cloud).enrol()
        with peer.session() as line:
            line.upload(1, 3)
    with admin.open_record(state) as store:
        store.record(peer.device_id, peer.stream, [(4, sample(4))], now=1.0).result()

    def slow_tails(_bundle: Bundle, _config: CloudConfig) -> dict[int | None, RunsTail]:
        until(lambda: peer.cloud._ledger.head().version == 1, "the first version")
        return {}

    def factory(_bundle: Bundle, _config: CloudConfig) -> tuple[FakeWorker, Check]:
        return FakeWorker(), FakeGate().check

    config = CloudConfig(port=0, adapt=SMALL)
    peer.cloud = Cloud(bundle, state, config, worker_factory=factory, tail_factory=slow_tails)
    with peer.cloud, peer.session() as line:
        assert line.welcome is not None
        assert peer.verified(line.wait(Version), line.welcome).version == 1
        _, body, _ = fetch(f"{peer.cloud.url}/metrics")
        assert b'littoral_versions_total{cohort="default",status="shipped"} 1.0' in body


def test_a_held_version_never_reaches_a_device(bundle: Path, tmp_path: Path) -> None:
    gate = FakeGate()
    gate.hold = {1}
    with running(bundle, tmp_path / "state", gate=gate) as cloud:
        peer = Peer(cloud).enrol()
        with peer.session() as line:
            line.upload(1, 8)
            assert line.welcome is not None
            assert peer.verified(line.wait(Version), line.welcome).version == 2


def test_the_port_speaks_tls_when_it_has_a_certificate(bundle: Path, tmp_path: Path) -> None:
    chain, key = self_signed(tmp_path)
    with running(bundle, tmp_path / "state", tls_certificate=chain, tls_key=key) as cloud:
        assert cloud.url.startswith("https://")
        context = ssl.create_default_context(cafile=str(chain))
        with urllib.request.urlopen(f"{cloud.url}/healthz", context=context, timeout=20) as answer:
            assert answer.read() == b"ok\n"


@pytest.mark.parametrize(("host", "told"), [("0.0.0.0", True), ("127.0.0.1", False)])
def test_a_port_that_others_reach_without_tls_is_warned_of(
    bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, host: str, told: bool
) -> None:
    with running(bundle, tmp_path / "state", host=host):
        assert ("no TLS" in caplog.text) == told


def test_a_certificate_that_cannot_be_read_is_one_clear_error(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.pem").write_text("not a certificate")
    bad = {"tls_certificate": tmp_path / "bad.pem", "tls_key": tmp_path / "bad.pem"}
    with pytest.raises(LittoralError, match="TLS"), running(bundle, tmp_path / "state", **bad):
        pass
    with running(bundle, tmp_path / "state") as cloud:
        assert fetch(f"{cloud.url}/healthz")[0] == 200
