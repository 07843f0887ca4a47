"""A real device with exits and a real cloud: what only the teacher says of samples is what the heads learn."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from cloud_peer import FakeGate, until
from exit_bundles import source_like, write_exit_bundle
from route_bundles import drawn_tables, with_tables, write_routeless_bundle

from littoral.bundle import Bundle
from littoral.cloud.cloud import Cloud, CloudConfig
from littoral.cloud.jobs import AdaptConfig, AdaptJob, AdaptResult
from littoral.core.affine import encode_delta
from littoral.core.budget import BudgetConfig
from littoral.core.exit_control import Purpose
from littoral.core.personal import PersonalConfig
from littoral.core.product import ProductConfig
from littoral.core.route_words import RouteConfig
from littoral.core.sample_labels import encode_label
from littoral.edge.answer import Answer
from littoral.edge.counters import DeviceStatus
from littoral.edge.device import Device
from littoral.edge.device_config import DeviceConfig
from littoral.edge.exit_config import ExitConfig
from littoral.edge.link import CloudLink, LinkConfig

NUM_SAMPLES, NUM_NEW = 96, 60
EVERYTHING = ProductConfig(
    entropy_min_fraction=0.0,
    entropy_exponent=0.0,
    novelty_exponent=0.0,
    duplicate_distance=0.0,
    budget=BudgetConfig(bytes_per_1000_frames=1e9, burst_bytes=1e9),
)
QUICK = PersonalConfig(step=8.0, prior_frames=2.0, min_held=5, luck=0.3)


class Teacher:
    """Says of each frame what nobody else says: the class after the one that the source calls it."""

    def __init__(self, bundle: Bundle, said: dict[bytes, int], *, speaks: bool) -> None:
        layers, affine = bundle.manifest.norm_layers, bundle.source_affine
        self._said, self._speaks = said, speaks
        self._payload = encode_delta({name: np.zeros_like(value) for name, value in affine.items()}, layers)

    def adapt(self, job: AdaptJob) -> AdaptResult:
        sure = np.eye(10)
        labels = [encode_label(sure[self._said[frame.tobytes()]]) for frame in job.new_frames]
        return AdaptResult(state=b"", payload=self._payload, report={}, labels=tuple(labels) if self._speaks else ())


@dataclass
class Lived:
    """What became of a device."""

    answers: list[int]
    before: list[int]
    status: DeviceStatus
    bytes_up: int
    purposes: dict[str, int]


def live(bundle: Bundle, folder: Path, *, speaks: bool) -> Lived:
    """Upload every frame of a stream, get a version for it, and then answer new frames."""
    shutil.copytree(bundle.path, folder / "bundle")  # a cloud signs it
    frames, truths = source_like(NUM_SAMPLES, seed=4)
    new, _ = source_like(NUM_NEW, seed=5)
    said = {frame.tobytes(): int(truth + 1) % 10 for frame, truth in zip(frames, truths, strict=True)}
    teacher, gate = Teacher(bundle, said, speaks=speaks), FakeGate()
    settings = CloudConfig(port=0, adapt=AdaptConfig(batch_size=NUM_SAMPLES))
    cloud = Cloud(folder / "bundle", folder / "cloud", settings, worker_factory=lambda *_: (teacher, gate.check))
    with cloud:
        road = LinkConfig(close_timeout_s=0.2, status_interval_s=3600.0, ping_interval_s=3600.0)
        link = CloudLink(cloud.url, token=cloud.new_token(), config=road)
        exits = ExitConfig(personal=QUICK, pending_frames=32, learning_share=1.0)
        config = DeviceConfig(adapt_statistics=False, exits=exits, selection=EVERYTHING, max_waiting_bytes=10**9)
        with Device(bundle, state_dir=folder / "device", link=link, config=config) as device:
            assert device._exits is not None
            device._exits.control.purpose = lambda *, checking: Purpose.NOTHING  # type: ignore[method-assign]
            until(lambda: link.connected and link.bytes_by_purpose.get("status"), "a session")

            def infer(frame: np.ndarray) -> int:
                answer = device.infer(frame)
                assert device.settle()
                assert isinstance(answer, Answer)
                return answer.label

            before = [infer(frame) for frame in frames]
            until(lambda: device.status().versions_installed == 1, "a version")
            if speaks:
                until(lambda: device.status().sample_labels == NUM_SAMPLES, "all labels")
            until(lambda: device.status().acked == NUM_SAMPLES + 1, "the receipt's ack")
            status, bytes_up, purposes = device.status(), link.bytes_up, dict(link.bytes_by_purpose)
            device._maintenance.uplink = False
            answers = [infer(frame) for frame in new]
    return Lived(answers, before, status, bytes_up, purposes)


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_exit_bundle(tiny_bundle, tmp_path_factory.mktemp("labels") / "bundle")


def test_the_heads_learn_what_only_the_samples_labels_say_and_nothing_more_goes_up_for_it(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1,localhost")
    monkeypatch.setattr(
        "littoral.cloud.listener.PING_INTERVAL_S", 3600.0
    )  # a device answers pings with bytes of its own
    taught = live(bundle, tmp_path / "taught", speaks=True)
    silent = live(bundle, tmp_path / "silent", speaks=False)
    truths, later = source_like(NUM_SAMPLES, seed=4)[1], (source_like(NUM_NEW, seed=5)[1] + 1) % 10
    assert np.mean(np.array(taught.before) == truths) > 0.9, "the network itself says what the source says"
    assert np.mean(np.array(taught.answers) == later) > 0.8
    assert np.mean(np.array(silent.answers) == later) < 0.1, "the control: nothing else could have taught it"
    assert taught.status.personal_heads > 0
    assert (silent.status.personal_heads, silent.status.sample_labels) == (0, 0)
    assert (taught.status.sample_labels_unused, taught.status.sample_labels_refused) == (0, 0)
    up = ("hello", "status", "sample", "receipt")
    assert {name: taught.purposes[name] for name in up} == {name: silent.purposes[name] for name in up}
    assert taught.bytes_up == silent.bytes_up, "to the byte, at the socket"
    assert taught.purposes["labels"] == 2 * (19 + 2) + NUM_SAMPLES * 13 + 4
    assert "labels" not in silent.purposes


@pytest.mark.parametrize("wrong_by", ["teacher", "labels"])
def test_the_teacher_settles_who_was_right_only_where_the_tables_hold_answers_against_it(
    tiny_bundle: Path, tmp_path: Path, wrong_by: str
) -> None:
    plain = write_routeless_bundle(tiny_bundle, tmp_path / "plain")
    tables = replace(drawn_tables(plain), wrong_by=wrong_by)  # type: ignore[arg-type]
    with_tables(plain, tables, tmp_path / "bundle")
    link = CloudLink("ws://127.0.0.1:9", token="none")
    config = DeviceConfig(adapt_statistics=False, exits=ExitConfig(), route=RouteConfig(deadline_ms=100.0))
    routed = Bundle.open(tmp_path / "bundle")
    with Device(routed, state_dir=tmp_path / "device", link=link, config=config) as device:
        maintenance = device._maintenance
        assert maintenance.labels is not None
        assert maintenance.routing is not None
        learning = maintenance.labels._learning
        assert (learning is maintenance.routing.learning) == (wrong_by == "teacher")
        device.close(0.0)
