"""A real device and a real cloud for the dense tasks: the cloud finishes frames, and says that it adapts nothing."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cloud_peer import until
from dense_bundles import DETECTION, SEGMENTATION, SPEC, build_dense, dense_source, frames

from littoral.bundle import Bundle
from littoral.cloud.adapt import Worker
from littoral.cloud.cloud import Cloud, CloudConfig
from littoral.cloud.intake import check_message
from littoral.core.detections import Detections
from littoral.core.tasks import Task
from littoral.edge.device import Device
from littoral.edge.device_config import DeviceConfig
from littoral.edge.link import CloudLink, LinkConfig
from littoral.edge.offload_config import OffloadConfig
from littoral.errors import BundleError, FrameError
from littoral.train import BuildOptions
from littoral.train.split_make import fit_split
from littoral.train.transform import TransformOptions
from littoral.wire.messages import Sample


@pytest.mark.parametrize("task", [SEGMENTATION, DETECTION], ids=["segmentation", "detection"])
def test_the_cloud_finishes_frames_and_the_device_goes_on_when_it_stops(
    dense_bundles: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    task: Task[Any, Any],
) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1,localhost")
    folder = tmp_path / "bundle"
    shutil.copytree(dense_bundles / task.name, folder)  # the cloud signs it
    caplog.set_level(logging.WARNING, logger="littoral.cloud.cloud")
    with Cloud(folder, tmp_path / "cloud", CloudConfig(port=0)) as cloud:
        bundle = Bundle.open(folder)
        link = CloudLink(cloud.url, token=cloud.new_token(), config=LinkConfig(close_timeout_s=0.2))
        offload = OffloadConfig(mode="always", level=2, deadline_ms=5_000.0)
        config = DeviceConfig(adapt_statistics=False, offload=offload)
        with Device(bundle, state_dir=tmp_path / "device", link=link, config=config) as device:
            until(lambda: link.connected, "a session")
            offloaded = [device.infer(frame) for frame in frames(4)]
            cloud.stop()
            until(lambda: not link.connected, "the session to end")
            alone = [device.infer(frame) for frame in frames(4)]
            status = device.status()
            device.close(0.0)
    assert f"is for {task.name}: this cloud does not adapt it" in caplog.text
    assert [(a.source, a.reason, a.degraded) for a in offloaded] == [("cloud", "", False)] * 4
    assert [(a.source, a.reason, a.degraded) for a in alone] == [("device", "away", True)] * 4
    for ours, theirs in zip(alone, offloaded, strict=True):
        assert likeness(task, ours.answer, theirs.answer) > 0.9
    assert (status.offloaded, status.degraded, status.selected, status.accepted) == (4, 4, 0, 0)


def test_a_split_that_was_fitted_to_the_networks_features_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("littoral.train.transform._PRIOR_STEPS", 2)
    task = DETECTION
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1,localhost")
    source = dense_source(task)
    options = TransformOptions(num_channels=16, block=2, steps=(8.0, 0.05), decoder_width=4)
    before = {name: value.clone() for name, value in source.module.state_dict().items()}
    split = fit_split(source, SPEC, frames(), task, cut="norm", options=options)
    assert all(torch.equal(value, before[name]) for name, value in source.module.state_dict().items())
    build = BuildOptions(probe_frames=4, drift_batches=2, drift_batch=4, cut_points=("norm",))
    folder = build_dense(task, tmp_path / "bundle", splits=[split], options=build).path
    with Cloud(folder, tmp_path / "cloud", CloudConfig(port=0)) as cloud:
        link = CloudLink(cloud.url, token=cloud.new_token(), config=LinkConfig(close_timeout_s=0.2))
        offload = OffloadConfig(mode="always", level=1, deadline_ms=5_000.0)
        config = DeviceConfig(adapt_statistics=False, offload=offload)
        with Device(Bundle.open(folder), state_dir=tmp_path / "device", link=link, config=config) as device:
            until(lambda: link.connected, "a session")
            answers = [device.infer(frame) for frame in frames(4)]
            device.close(0.0)
    with Device(
        Bundle.open(folder), state_dir=tmp_path / "alone", config=DeviceConfig(adapt_statistics=False)
    ) as device:
        own = [device.infer(frame) for frame in frames(4)]
    assert [answer.source for answer in answers] == ["cloud"] * 4
    assert all(likeness(task, theirs.answer, ours.answer) > 0.9 for theirs, ours in zip(answers, own, strict=True))


def likeness(task: Task[Any, Any], ours: Any, theirs: Any) -> float:
    """Of label maps the share of pixels; of boxes how well those of ours that are sure are found again."""
    if isinstance(ours, Detections):
        metric = task.metric()
        metric.update([theirs], [task.as_truth(ours)])
        return float(metric.at_iou_50())
    return float((ours == theirs).mean())


def test_a_sample_for_a_task_that_is_not_adapted_is_refused_with_the_reason(dense_bundles: Path) -> None:
    bundle = Bundle.open(dense_bundles / "detection", require_cloud=True)
    image = np.zeros((32, 32, 3), np.uint8).tobytes()
    sample = Sample(frame_id=1, version=0, predicted=0, entropy_nats=0.0, coding="raw", image=image, scene=1)
    with pytest.raises(FrameError, match="bundle is for detection, which this cloud does not adapt"):
        check_message(sample, bundle.manifest)
    with pytest.raises(BundleError, match="classifiers alone are adapted"):
        Worker(bundle)
