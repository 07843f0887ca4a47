"""A real device and a real cloud, pictures between them: a bundle without any split has its frames answered."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from cloud_peer import FakeGate, FakeWorker, until
from exit_bundles import source_like, write_exit_bundle
from route_bundles import drawn_tables, with_tables

from littoral.bundle import Bundle
from littoral.cloud.cloud import Cloud, CloudConfig
from littoral.cloud.tails import TailConfig
from littoral.core.arrays import FloatArray
from littoral.core.route_plan import Prices
from littoral.core.route_words import REASONS, RouteConfig
from littoral.edge.answer import Answer
from littoral.edge.device import Device
from littoral.edge.device_config import DeviceConfig
from littoral.edge.exit_config import ExitConfig
from littoral.edge.link import CloudLink, LinkConfig
from littoral.edge.offload_config import OffloadConfig
from littoral.models.factory import load_model
from littoral.models.frames import normalise

DEADLINE_MS = 5_000.0


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1,localhost")


def serving(folder: Path, state: Path, **tails: object) -> Cloud:
    worker, gate = FakeWorker(), FakeGate()
    config = CloudConfig(port=0, tails=TailConfig(**tails))  # type: ignore[arg-type]
    return Cloud(folder, state, config, worker_factory=lambda *_: (worker, gate.check))


def teachers(folder: Path, frames: np.ndarray) -> FloatArray:
    bundle = Bundle.open(folder, require_cloud=True)
    spec = bundle.manifest.teacher
    assert spec is not None
    model = load_model(spec, bundle.load_tensors(spec.file))
    with torch.inference_mode():
        return model(normalise(torch.from_numpy(np.array(frames)), bundle.manifest.input)).numpy()  # type: ignore[no-any-return]


def test_a_plain_bundle_has_every_frame_answered_by_the_teacher_and_the_device_goes_on_when_it_stops(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, folder)  # the cloud signs it
    frames = Bundle.open(folder).probe[0][:6]
    with serving(folder, tmp_path / "cloud") as cloud:
        link = CloudLink(cloud.url, token=cloud.new_token(), config=LinkConfig(close_timeout_s=0.2))
        config = DeviceConfig(
            adapt_statistics=False,
            offload=OffloadConfig(mode="always", picture="lossless", deadline_ms=DEADLINE_MS),
        )
        with Device(Bundle.open(folder), state_dir=tmp_path / "device", link=link, config=config) as device:
            until(lambda: link.connected, "a session")
            asked = [device.infer(frame) for frame in frames]
            text = cloud._hub.metrics.exposition().decode()
            cloud.stop()
            until(lambda: not link.connected, "the session to end")
            alone = device.infer(frames[0])
            status = device.status()
            device.close(0.0)
    assert [(answer.source, answer.way, answer.reason) for answer in asked] == [("cloud", "picture", "")] * 6
    np.testing.assert_allclose([answer.logits for answer in asked], teachers(folder, frames), rtol=1e-4, atol=1e-4)
    assert (alone.source, alone.reason, alone.degraded) == ("device", "away", True)
    assert (status.offloaded, status.pictures, status.degraded) == (6, 6, 1)
    assert 'littoral_offloads_total{code="ok",cohort="default"} 6.0' in text
    assert 'littoral_pictures_total{cohort="default"} 6.0' in text


def test_a_cloud_that_takes_none_is_sent_none(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, folder)
    with serving(folder, tmp_path / "cloud", pictures=False) as cloud:
        link = CloudLink(cloud.url, token=cloud.new_token(), config=LinkConfig(close_timeout_s=0.2))
        config = DeviceConfig(
            adapt_statistics=False,
            offload=OffloadConfig(mode="always", picture="lossless", deadline_ms=DEADLINE_MS),
        )
        with Device(Bundle.open(folder), state_dir=tmp_path / "device", link=link, config=config) as device:
            until(lambda: link.connected, "a session")
            answer = device.infer(device.bundle.probe[0][0])
            device.close(0.0)
    assert (answer.source, answer.reason, answer.way) == ("device", "no-pictures", "")
    assert link.bytes_by_purpose.get("offload", 0) == 0


def routed(device: Device, frames: np.ndarray) -> list[Answer]:
    answers = []
    for frame in frames:
        answers.append(device.infer(frame))
        assert device.settle()
    assert all(isinstance(answer, Answer) for answer in answers)
    return answers  # type: ignore[return-value]


@pytest.mark.parametrize("takes", [True, False], ids=["takes", "takes-none"])
def test_a_router_without_splits_asks_for_pictures_and_only_where_they_are_answered(
    tiny_bundle: Path, tmp_path: Path, takes: bool
) -> None:
    plain = write_exit_bundle(tiny_bundle, tmp_path / "plain", thresholds=(0.9, 0.9, None), promised=True)
    folder = tmp_path / "bundle"
    with_tables(plain, drawn_tables(plain, pictures=("png", "lossless")), folder)
    frames, _ = source_like(40, seed=4, noise=0.9)
    with serving(folder, tmp_path / "cloud", pictures=takes) as cloud:
        link = CloudLink(cloud.url, token=cloud.new_token(), config=LinkConfig(close_timeout_s=0.2))
        route = RouteConfig(deadline_ms=DEADLINE_MS, prices=Prices(ms=0.0, byte=0.0), audit_share=0.1)
        config = DeviceConfig(adapt_statistics=False, exits=ExitConfig(), route=route)
        with Device(Bundle.open(folder), state_dir=tmp_path / "device", link=link, config=config) as device:
            until(lambda: link.connected, "a session")
            if takes:
                until(
                    lambda: any(answer.source == "cloud" for answer in routed(device, frames)),
                    "a frame that the cloud answers",
                )
            answers = routed(device, frames)
            status = device.status()
            device.close(0.0)
    assert {answer.reason for answer in answers} <= set(REASONS)
    by_cloud = [(answer, frame) for answer, frame in zip(answers, frames, strict=True) if answer.source == "cloud"]
    assert status.pictures == status.offloaded
    if not takes:
        assert by_cloud == []
        assert (status.payload_bytes, status.pings, status.audits) == (0, 0, 0)
        return
    assert len(by_cloud) > 3
    assert {answer.way for answer, _ in by_cloud} == {"picture"}
    expected = teachers(folder, np.stack([frame for _, frame in by_cloud]))
    np.testing.assert_allclose([answer.logits for answer, _ in by_cloud], expected, rtol=1e-4, atol=1e-4)
    assert link.bytes_by_purpose["offload"] >= status.payload_bytes > 0


def test_the_answer_of_a_split_says_that_it_is_one(split_bundle: Path, tmp_path: Path) -> None:
    """With both, and pictures off: the word is of the way and not of the bundle."""
    folder = tmp_path / "bundle"
    shutil.copytree(split_bundle, folder)
    with serving(folder, tmp_path / "cloud") as cloud:
        link = CloudLink(cloud.url, token=cloud.new_token(), config=LinkConfig(close_timeout_s=0.2))
        offload = OffloadConfig(mode="always", split=0, level=2, deadline_ms=DEADLINE_MS)
        for config, way in ((offload, "split"), (dataclasses.replace(offload, picture="png"), "picture")):
            link = CloudLink(cloud.url, token=cloud.new_token(), config=LinkConfig(close_timeout_s=0.2))
            with Device(
                Bundle.open(folder),
                state_dir=tmp_path / way,
                link=link,
                config=DeviceConfig(adapt_statistics=False, offload=config),
            ) as device:
                until(lambda link=link: link.connected, "a session")
                answer = device.infer(device.bundle.probe[0][0])
                device.close(0.0)
            assert (answer.source, answer.way) == ("cloud", way)
