"""A real device and a real cloud on one bundle with split points: frames go up as payloads and come back as answers."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from cloud_peer import FakeGate, FakeWorker, until

from littoral.bundle import Bundle
from littoral.cloud.cloud import Cloud, CloudConfig
from littoral.edge.device import Device
from littoral.edge.device_config import DeviceConfig
from littoral.edge.link import CloudLink, LinkConfig
from littoral.edge.offload_config import OffloadConfig
from littoral.edge.session import Model


@pytest.mark.parametrize("split", [0, 1], ids=["from-the-frames", "from-a-segment"])
def test_the_cloud_answers_as_the_device_would_and_the_device_goes_on_when_it_stops(
    split_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split: int
) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1,localhost")
    folder = tmp_path / "bundle"
    shutil.copytree(split_bundle, folder)  # the cloud signs it
    worker, gate = FakeWorker(), FakeGate()
    cloud = Cloud(folder, tmp_path / "cloud", CloudConfig(port=0), worker_factory=lambda *_: (worker, gate.check))
    with cloud:
        bundle = Bundle.open(folder)
        frames = bundle.probe[0][:6]
        own = Model(bundle).run(frames)
        link = CloudLink(cloud.url, token=cloud.new_token(), config=LinkConfig(close_timeout_s=0.2))
        config = DeviceConfig(
            adapt_statistics=False,
            offload=OffloadConfig(mode="always", split=split, level=2, deadline_ms=5_000.0),
        )
        with Device(bundle, state_dir=tmp_path / "device", link=link, config=config) as device:
            until(lambda: link.connected, "a session")
            offloaded = [device.infer(frame) for frame in frames]
            cloud.stop()
            until(lambda: not link.connected, "the session to end")
            alone = [device.infer(frame) for frame in frames]
            status = device.status()
            device.close(0.0)
    assert [answer.reason for answer in offloaded] == [""] * 6
    assert [answer.source for answer in offloaded] == ["cloud"] * 6
    np.testing.assert_allclose([answer.logits for answer in offloaded], own, atol=0.5)
    assert any(not np.array_equal(answer.logits, logits) for answer, logits in zip(offloaded, own, strict=True))
    assert [(answer.source, answer.reason) for answer in alone] == [("device", "away")] * 6
    np.testing.assert_allclose([answer.logits for answer in alone], own, atol=1e-4)
    assert [answer.label for answer in offloaded] == [answer.label for answer in alone]
    assert (status.offloaded, status.degraded) == (6, 6)
    assert link.bytes_by_purpose["offload"] > 0
