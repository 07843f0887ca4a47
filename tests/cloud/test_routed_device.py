"""A real device that routes and a real cloud, on one bundle with exits, splits and tables; and the cloud goes away."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from cloud_peer import FakeGate, FakeWorker, until
from exit_bundles import source_like
from route_bundles import drawn_tables, with_tables, write_routeless_bundle

from littoral.bundle import Bundle
from littoral.cloud.cloud import Cloud, CloudConfig
from littoral.core.route_plan import Prices
from littoral.core.route_words import REASONS, RouteConfig
from littoral.edge.answer import Answer
from littoral.edge.device import Device
from littoral.edge.device_config import DeviceConfig
from littoral.edge.exit_config import ExitConfig
from littoral.edge.link import CloudLink, LinkConfig
from littoral.edge.session import Model

DEADLINE_MS = 1000.0


def test_some_frames_are_the_clouds_and_when_it_is_gone_the_device_answers_all_in_time(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1,localhost")
    plain = write_routeless_bundle(tiny_bundle, tmp_path / "plain")
    folder = tmp_path / "bundle"
    shutil.rmtree(folder, ignore_errors=True)
    with_tables(plain, drawn_tables(plain), folder)
    worker, gate = FakeWorker(), FakeGate()
    cloud = Cloud(folder, tmp_path / "cloud", CloudConfig(port=0), worker_factory=lambda *_: (worker, gate.check))
    frames, _ = source_like(60, seed=4)
    with cloud:
        bundle = Bundle.open(folder)
        link = CloudLink(cloud.url, token=cloud.new_token(), config=LinkConfig(close_timeout_s=0.2))
        route = RouteConfig(deadline_ms=DEADLINE_MS, prices=Prices(ms=0.0, byte=0.0), audit_share=0.1)
        config = DeviceConfig(adapt_statistics=False, exits=ExitConfig(), route=route)
        with Device(bundle, state_dir=tmp_path / "device", link=link, config=config) as device:
            until(lambda: link.connected, "a session")

            def infer(frame: np.ndarray) -> Answer:
                answer = device.infer(frame)
                assert device.settle()
                assert isinstance(answer, Answer)
                return answer

            def by_the_cloud() -> Answer | None:
                answer = infer(frames[0])
                return answer if answer.source == "cloud" else None

            until(by_the_cloud, "a frame that the cloud answers")
            with_cloud = [infer(frame) for frame in frames]
            before = device.status()
            cloud.stop()
            alone = [infer(frame) for frame in frames]
            status = device.status()
            device.close(0.0)
    own = Model(bundle)
    answers = with_cloud + alone
    assert {answer.reason for answer in answers} <= set(REASONS)
    assert np.mean([answer.latency_ms <= DEADLINE_MS for answer in answers]) >= 0.99
    sources = [answer.source for answer in with_cloud]
    assert sources.count("cloud") > 20
    for answer, frame in zip(with_cloud, frames, strict=True):
        if answer.source == "cloud":
            np.testing.assert_allclose(answer.logits, own.run(frame[None])[0], atol=4.0)
    assert {answer.source for answer in alone[5:]} == {"device"}
    for answer, frame in zip(alone[5:], frames[5:], strict=True):
        np.testing.assert_allclose(answer.logits, own.run(frame[None])[0], atol=1e-4)
    assert sum(answer.degraded for answer in alone) > 20
    assert before.payload_bytes > 0
    assert link.bytes_by_purpose["offload"] >= status.payload_bytes
    assert link.bytes_by_purpose["sample"] == 0 or status.selected > 0
