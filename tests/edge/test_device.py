"""The device answers, whatever happens to the link, the disk or the cloud, and says what happened."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, save

from littoral.bundle import Bundle, Envelope, SignedVersion, SigningKey
from littoral.core.affine import NormLayer, apply_delta, decode_delta, encode_delta
from littoral.core.arrays import FloatArray, Frame
from littoral.core.budget import BudgetConfig
from littoral.core.drift import StatisticsConfig, from_moments
from littoral.core.product import SAMPLE_OVERHEAD_BYTES, ProductConfig
from littoral.core.recall import MEAN_SUFFIX, encode_fingerprint, fingerprint_layer
from littoral.core.scenes import RecallConfig
from littoral.core.selection import SelectionConfig, entropy, softmax
from littoral.edge.device import Answer, Device
from littoral.edge.device_config import DeviceConfig
from littoral.edge.exit_config import ExitConfig
from littoral.edge.maintenance import Maintenance
from littoral.edge.outbox import Outbox
from littoral.edge.session import Model
from littoral.edge.sources import decode_image
from littoral.edge.updater import UpdaterConfig
from littoral.errors import FrameError, ModelOutputError
from littoral.wire.envelope import decode_frame
from littoral.wire.messages import Message, Receipt, Sample, Scene, from_frame

KEY = SigningKey(b"k" * 32)
EVERYTHING = SelectionConfig(entropy_min_fraction=0.0, entropy_max_fraction=1.0, diversity_margin=1.1)
STILL = DeviceConfig(adapt_statistics=False, selection=SelectionConfig())


class FakeLink:
    """A link to nowhere: keeps what the device gives it, and lets a test be the cloud."""

    def __init__(self, *, connected: bool = False) -> None:
        self.connected, self.last_error = connected, None if connected else "the cloud at nowhere does not answer"
        self.bytes_up = self.bytes_down = self.woken = 0
        self.ports: dict[str, Any] = {}
        self.stopped_with: float | None = None

    def start(self, **ports: Any) -> None:
        self.ports = ports

    def wake(self) -> None:
        self.woken += 1

    def stop(self, flush_s: float) -> None:
        self.stopped_with = flush_s

    def send(self, tiny: Bundle, version: int, payload: bytes, *, domain: int = 0, fingerprint: bytes = b"") -> None:
        signed = SignedVersion.make(
            key=KEY,
            cohort="c",
            bundle_digest=tiny.digest,
            version=version,
            payload=payload,
            domain=domain,
            fingerprint=fingerprint,
        )
        self.ports["on_version"](signed)

    def allow(self, tiny: Bundle) -> None:
        bounds = tiny.manifest.envelope_max_delta
        envelope = Envelope(cohort="c", cohort_key=KEY.public.hex, bundle_digest=tiny.digest.hex(), max_delta=bounds)
        self.ports["on_envelope"](envelope)


@pytest.fixture(scope="module")
def tiny(tiny_bundle: Path) -> Bundle:
    return Bundle.open(tiny_bundle)


@contextmanager
def linked(tiny: Bundle, state: Path, config: DeviceConfig = STILL) -> Iterator[tuple[Device, FakeLink]]:
    link = FakeLink()
    with Device(tiny, state_dir=state, link=link, config=config) as device:  # type: ignore[arg-type]
        link.allow(tiny)
        yield device, link
        device.close(1.0)


def payload(tiny: Bundle, share: float, seed: int = 0) -> bytes:
    rng = np.random.default_rng(seed)
    bounds = tiny.manifest.envelope_max_delta
    delta = {
        name: (share * bounds[name] * rng.uniform(-1, 1, size=value.shape)).astype(np.float32)
        for name, value in tiny.source_affine.items()
    }
    return encode_delta(delta, tiny.manifest.norm_layers)


def printed(tiny: Bundle) -> NormLayer:
    """The layer that the bundle's fingerprints are of."""
    layer = fingerprint_layer(tiny.manifest.norm_layers)
    assert layer is not None
    return layer


def affine(tiny: Bundle, data: bytes) -> dict[str, FloatArray]:
    layers = tiny.manifest.norm_layers
    return apply_delta(tiny.source_affine, decode_delta(data, layers), layers)


def changed(tiny: Bundle, tmp_path: Path, change: Callable[[dict[str, np.ndarray]], None]) -> Bundle:
    """The bundle with other weights, made consistent again."""
    copy = tmp_path / "changed"
    shutil.copytree(tiny.path, copy)
    document = json.loads((copy / "bundle.json").read_bytes())
    file = document["weights_file"]
    tensors = {name: value.copy() for name, value in load((copy / file).read_bytes()).items()}
    change(tensors)
    (copy / file).write_bytes(save(tensors))
    document["files"][file] = hashlib.sha256((copy / file).read_bytes()).hexdigest()
    (copy / "bundle.json").write_text(json.dumps(document))
    return Bundle.open(copy)


def darker(frames: Frame) -> Frame:
    out: Frame = (frames // 3 + 20).astype(np.uint8)
    return out


# Answers.


def test_an_answer_says_what_the_model_says(tiny: Bundle) -> None:
    frames, _ = tiny.probe
    logits = Model(tiny).run(frames)
    expected = softmax(logits)
    with Device(tiny, config=STILL) as device:
        answers = [device.infer(frame) for frame in frames]
    for i, answer in enumerate(answers):
        assert (answer.frame_id, answer.version, answer.cloud) == (i + 1, 0, "none")
        assert answer.label == logits[i].argmax()
        assert answer.name == tiny.manifest.class_names[answer.label]
        assert answer.confidence == pytest.approx(float(expected[i].max()), rel=1e-4)
        assert answer.entropy_nats == pytest.approx(float(entropy(expected[i : i + 1])[0]), abs=1e-4)
        np.testing.assert_allclose(answer.probabilities, expected[i], atol=1e-5)
        assert answer.latency_ms > 0


@pytest.mark.parametrize(
    ("wrong", "came"),
    [
        (np.zeros((16, 15, 1), np.uint8), r"uint8 \(16, 15, 1\)"),
        (np.zeros((16, 16, 3), np.uint8), r"uint8 \(16, 16, 3\)"),
        (np.zeros((16, 16), np.uint8), r"uint8 \(16, 16\)"),
        (np.zeros((1, 16, 16, 1), np.uint8), r"uint8 \(1, 16, 16, 1\)"),
        (np.zeros((16, 16, 1), np.float32), r"float32 \(16, 16, 1\)"),
        (np.zeros((16, 16, 1), np.int8), r"int8 \(16, 16, 1\)"),
        ([[0]], "list"),
        (None, "NoneType"),
        (b"\0" * 256, "bytes"),
    ],
    ids=["size", "channels", "no-channels", "batch", "float", "signed", "list", "none", "bytes"],
)
def test_a_wrong_frame_is_an_error_that_says_what_came_and_what_to_do(tiny: Bundle, wrong: Any, came: str) -> None:
    told = rf"a frame of {came} came, bundle 'tiny' takes uint8 \(16, 16, 1\); resize it and convert it"
    with Device(tiny, config=STILL) as device:
        with pytest.raises(FrameError, match=told) as caught:
            device.infer(wrong)
        assert isinstance(caught.value, ValueError)
        assert device.infer(tiny.probe[0][0]).frame_id == 1, "a refused frame must not count"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_an_output_that_is_not_finite_is_an_error_that_names_the_version_and_the_classes(
    tiny: Bundle, tmp_path: Path, bad: float
) -> None:
    def poison(tensors: dict[str, np.ndarray]) -> None:
        tensors["head.bias"][3] = bad

    told = r"affine version 0 gave an output that is not finite for classes \[3\] of frame 1; .* build it again"
    with Device(changed(tiny, tmp_path, poison), config=STILL) as device, pytest.raises(ModelOutputError, match=told):
        device.infer(tiny.probe[0][0])


def test_a_device_without_link_or_state_folder_works(tiny: Bundle) -> None:
    with Device(tiny) as device:
        for frame in tiny.probe[0]:
            device.infer(frame)
        assert device.settle()
        status = device.status()
    assert (status.cloud, status.frames, status.selected, status.accepted) == ("none", 32, 0, 0)
    assert status.link_error is None
    assert status.storage_error is None


def test_a_link_without_a_state_folder_is_refused(tiny: Bundle) -> None:
    with pytest.raises(ValueError, match="a device with a link needs a state_dir"):
        Device(tiny, link=FakeLink())  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"statistics_batch_frames": 1}, {"statistics_stride_frames": 0}], ids=str)
def test_statistics_of_one_frame_or_of_none_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="statistics need statistics_batch_frames >= 2"):
        DeviceConfig(**wrong)  # type: ignore[arg-type]


def test_closing_twice_is_harmless_and_so_is_an_answer_afterwards(tiny: Bundle) -> None:
    device = Device(tiny)
    device.close()
    device.close()
    assert device.infer(tiny.probe[0][0]).label == tiny.probe[1][0]


@pytest.mark.parametrize("fails", ["exits", "model", "link"])
def test_a_device_that_cannot_be_made_gives_its_state_folder_back(
    tiny: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    def cannot(*_: Any, **__: Any) -> None:
        raise ValueError("it cannot be made")

    link = FakeLink()
    config = replace(STILL, exits=ExitConfig()) if fails == "exits" else STILL
    with monkeypatch.context() as broken:
        places: dict[str, tuple[Any, str]] = {"model": (Maintenance, "_model"), "link": (link, "start")}
        if fails in places:
            broken.setattr(*places[fails], cannot)
        with pytest.raises(ValueError, match=r"cannot be made|has no exits"):
            Device(tiny, state_dir=tmp_path, link=link, config=config)  # type: ignore[arg-type]
    with linked(tiny, tmp_path) as (device, _):
        assert device.status().storage_error is None


# Statistics.


def play(device: Device, frames: Frame, rounds: int) -> list[Answer]:
    """Give the device all frames so often, waiting for its background work after each round."""
    answers = []
    for _ in range(rounds):
        answers += [device.infer(frame) for frame in frames]
        assert device.settle()
    return answers


@pytest.mark.parametrize("adapts", [True, False], ids=["following", "still"])
def test_statistics_follow_a_shifted_stream_and_bring_answers_back(tiny: Bundle, adapts: bool) -> None:
    frames, labels = tiny.probe
    config = DeviceConfig(statistics_batch_frames=32, statistics_stride_frames=1, adapt_statistics=adapts)

    def right(answers: list[Answer]) -> float:
        return float(np.mean([answer.label for answer in answers] == labels))

    with Device(tiny, config=config) as device:
        clean = right(play(device, frames, 3)[-32:])
        resets = device.status().statistics_resets
        at_once = right(play(device, darker(frames), 1))
        later = right(play(device, darker(frames), 3)[-32:])
        status = device.status()
        back = right(play(device, frames, 4)[-32:])
    assert resets == 0
    assert clean > 0.9
    assert at_once < 0.7, "the shift should hurt, or this tests nothing"
    assert back > 0.9
    if adapts:
        assert later > at_once + 0.2
        assert status.statistics_resets == 1
        assert status.swaps == 7
        assert status.measured_frames == 7 * 32, "each of 7 batches once"
    else:
        assert later == at_once
        assert (status.statistics_resets, status.swaps, status.measured_frames) == (0, 0, 0)


def test_every_second_frame_is_measured_by_default(tiny: Bundle) -> None:
    config = DeviceConfig(statistics_batch_frames=8)
    with Device(tiny, config=config) as device:
        play(device, tiny.probe[0][:16], 3)
        assert device.status().measured_frames == 24


def test_a_long_run_of_one_class_does_not_make_balanced_statistics_its_own(tiny: Bundle) -> None:
    """All classes, then one class alone; drift is off, or it would start afresh in both cases."""
    frames, labels = tiny.probe
    moved, measured = {}, {}
    for balanced in (True, False):
        config = DeviceConfig(
            statistics=StatisticsConfig(balanced=balanced, drift_factor=1e9),
            statistics_batch_frames=32,
            statistics_stride_frames=1,
        )
        with Device(tiny, config=config) as device:
            play(device, frames, 4)
            follower = device._maintenance.follower
            assert follower is not None
            before = dict(follower._estimate.values)
            play(device, np.repeat(frames[labels == labels[0]][:1], 32, axis=0), 8)
            moved[balanced] = sum(
                float(np.abs(follower._estimate.values[name] - value).mean()) for name, value in before.items()
            )
            measured[balanced] = device.status().measured_frames
    assert measured == {True: 12 * 32, False: 12 * 32}, "a balanced memory costs no further pass"
    assert moved[True] < 0.5 * moved[False], moved


# Samples.


def messages(outbox_path: Path) -> list[Message]:
    outbox = Outbox(outbox_path, capacity_bytes=1 << 24)
    try:
        return [from_frame(decode_frame(data)) for _, data in outbox.peek(0, 1 << 24)]
    finally:
        outbox.close()


def stored(outbox_path: Path) -> list[Sample]:
    return [message for message in messages(outbox_path) if isinstance(message, Sample)]


def test_chosen_frames_land_in_the_outbox_bit_by_bit_and_are_there_at_the_next_start(
    tiny: Bundle, tmp_path: Path
) -> None:
    frames = tiny.probe[0]
    config = DeviceConfig(adapt_statistics=False, selection=EVERYTHING)
    with linked(tiny, tmp_path, config) as (device, link):
        answers = play(device, frames, 1)
        status = device.status()
        assert status.cloud == "away"
        assert status.link_error == "the cloud at nowhere does not answer"
        assert status.selected == status.accepted == status.queued == len(frames)
        assert link.woken >= len(frames)
    samples = stored(tmp_path / "outbox.sqlite")
    assert [s.frame_id for s in samples] == list(range(1, 33))
    assert [s.predicted for s in samples] == [a.label for a in answers]
    assert [s.entropy_nats for s in samples] == pytest.approx([a.entropy_nats for a in answers], abs=1e-6)
    spec = tiny.manifest.input
    for sample, frame in zip(samples, frames, strict=True):
        raw = np.frombuffer(sample.image, np.uint8).reshape(spec.shape) if sample.coding == "raw" else None
        np.testing.assert_array_equal(decode_image(sample.image, spec, "") if raw is None else raw, frame)
    with linked(tiny, tmp_path, config) as (device, _):
        assert (device.status().queued, device.status().accepted) == (32, 32)
        play(device, frames[:4], 1)
        assert (device.status().queued, device.status().accepted) == (36, 36)


def test_every_selected_sample_is_acked_queued_or_counted_as_dropped(tiny: Bundle, tmp_path: Path) -> None:
    """With a tiny outbox, a background thread that cannot keep up, and a cloud that acks some."""
    config = DeviceConfig(
        adapt_statistics=False, selection=EVERYTHING, outbox_capacity_bytes=4_000, max_waiting_bytes=3 * 256
    )
    hold = threading.Event()
    with linked(tiny, tmp_path, config) as (device, link):
        device._maintenance._tasks.put(lambda: hold.wait(10) and None)
        for frame in tiny.probe[0]:
            device.infer(frame)
        overflowed = device.status()
        hold.set()
        assert device.settle()
        outbox = link.ports["outbox"]
        assert outbox.flush(10)
        sent = outbox.peek(0, 1_000)
        outbox.ack(sent[-1][0])
        assert outbox.flush(10)
        play(device, np.repeat(tiny.probe[0], 2, axis=0), 1)
        assert outbox.flush(10)
        status = device.status()
    assert overflowed.dropped == 32 - 3
    assert status.selected == status.accepted == 96
    assert status.accepted == status.acked + status.queued + status.dropped
    assert min(status.acked, status.queued, status.dropped) > 0, status


def product(**changes: Any) -> DeviceConfig:
    return DeviceConfig(adapt_statistics=False, selection=ProductConfig(**{"entropy_min_fraction": 0.0, **changes}))


def test_by_default_samples_keep_within_a_budget_that_counts_their_bytes_on_the_wire(
    tiny: Bundle, tmp_path: Path
) -> None:
    noisy = np.random.default_rng(0).integers(0, 256, (300, 16, 16, 1), dtype=np.uint8)  # nothing to compress
    budget = BudgetConfig(bytes_per_1000_frames=60_000, burst_bytes=3_000)
    with linked(tiny, tmp_path, product(budget=budget)) as (device, link):
        for at in range(0, 300, 10):
            play(device, noisy[at : at + 10], 1)
        status = device.status()
        outbox = link.ports["outbox"]
        assert outbox.flush(10)
        frames = [data for _, data in outbox.peek(0, 1 << 24)]
    samples = [data for data in frames if isinstance(from_frame(decode_frame(data)), Sample)]
    on_the_wire = sum(map(len, samples))
    assert status.selected == len(samples) > 20
    assert status.sample_bytes - 20 * len(samples) <= on_the_wire <= status.sample_bytes
    assert status.sample_bytes <= 3_000 + 60 * 301
    assert status.sample_bytes > 0.6 * (3_000 + 60 * 301)
    assert len(samples[0]) <= 256 + SAMPLE_OVERHEAD_BYTES


@pytest.mark.parametrize("killed", [False, True], ids=["stopped", "killed"])
def test_a_device_that_starts_again_and_again_keeps_within_one_budget(
    tiny: Bundle, tmp_path: Path, killed: bool
) -> None:
    config = product(budget=BudgetConfig(bytes_per_1000_frames=5_000, burst_bytes=3_000, horizon_frames=8))
    noisy = np.random.default_rng(0).integers(0, 256, (240, 16, 16, 1), dtype=np.uint8)
    state = tmp_path / "0"
    for life in range(8):
        with linked(tiny, state, config) as (device, _):
            for frame in noisy[30 * life : 30 * (life + 1)]:  # one by one: how busy the machine is must not choose
                play(device, frame[None], 1)
            after = tmp_path / str(life + 1)
            if killed:  # what a killed process leaves behind is what is on the disk
                assert device._maintenance.outbox is not None
                assert device._maintenance.outbox.flush(10)
                shutil.copytree(state, after)
        state = after if killed else state
    sizes = [len(sample.image) for sample in stored(state / "outbox.sqlite")]
    assert 3_000 / 2 < sum(sizes) <= 3_000 + 5 * 240, "the controller keeps half of the bucket"


def test_a_camera_that_does_not_move_sends_one_frame_and_says_that_others_were_alike(
    tiny: Bundle, tmp_path: Path
) -> None:
    with linked(tiny, tmp_path, product(budget=BudgetConfig(bytes_per_1000_frames=1e9))) as (device, _):
        play(device, tiny.probe[0][:1], 50)
        status = device.status()
    assert (status.selected, status.duplicates) == (1, 49)


def test_a_sample_that_the_outbox_does_not_take_costs_no_budget(tiny: Bundle, tmp_path: Path) -> None:
    config = replace(product(duplicate_distance=0.0, budget=BudgetConfig(burst_bytes=1e6)), outbox_capacity_bytes=10)
    with linked(tiny, tmp_path, config) as (device, _):
        play(device, tiny.probe[0], 1)
        status = device.status()
    assert status.selected == status.dropped == 32
    assert (status.sample_bytes, status.budget_bytes) == (0, 1_000_000)


@pytest.mark.parametrize(("max_bytes", "fit"), [(3 * 256, 3), (1 << 20, 64)], ids=["few-may-wait", "many-may-wait"])
def test_frames_that_the_background_thread_cannot_keep_up_with_are_not_chosen(
    tiny: Bundle, tmp_path: Path, max_bytes: int, fit: int
) -> None:
    """The bound is on what waits to be looked at, and what is over it is passed over without being counted."""
    hold = threading.Event()
    config = replace(
        product(duplicate_distance=0.0, budget=BudgetConfig(bytes_per_1000_frames=1e9)), max_waiting_bytes=max_bytes
    )
    with linked(tiny, tmp_path, config) as (device, _):
        device._maintenance._tasks.put(lambda: hold.wait(10) and None)
        for frame in np.concatenate([tiny.probe[0]] * 3):
            device.infer(frame)
        assert device._maintenance.waiting._kept == fit * 256
        hold.set()
        assert device.settle()
        assert device.settle()
        status = device.status()
    assert status.accepted == status.selected == status.queued
    assert status.dropped == 0
    assert status.selected == 3 if max_bytes == 3 * 256 else status.selected >= 32


def test_without_a_link_nothing_is_chosen_though_there_is_a_state_folder(tiny: Bundle, tmp_path: Path) -> None:
    with Device(tiny, state_dir=tmp_path, config=DeviceConfig(adapt_statistics=False, selection=EVERYTHING)) as device:
        play(device, tiny.probe[0], 1)
        assert (device.status().selected, device.status().accepted) == (0, 0)


def test_the_link_is_given_what_is_left_of_the_time_to_flush(tiny: Bundle, tmp_path: Path) -> None:
    link = FakeLink()
    device = Device(tiny, state_dir=tmp_path, link=link, config=STILL)  # type: ignore[arg-type]
    device.close(3.0)
    assert link.stopped_with is not None
    assert 0 < link.stopped_with <= 3.0


# Scenes.

FOLLOWS = DeviceConfig(
    statistics_batch_frames=32,
    statistics_stride_frames=1,
    selection=EVERYTHING,
    updater=UpdaterConfig(max_entropy_rise_nats=100.0),
)


def test_a_scene_is_opened_at_the_start_and_at_a_shift_and_samples_carry_its_number(
    tiny: Bundle, tmp_path: Path
) -> None:
    frames = tiny.probe[0]
    config = replace(FOLLOWS, statistics=StatisticsConfig(near_factor=0.0))  # near the source no frame is sent
    with linked(tiny, tmp_path, config) as (device, _):
        play(device, frames, 3)
        assert device.status().scene == 1
        play(device, darker(frames), 2)
        assert device.status().scene == 2
    with linked(tiny, tmp_path, config) as (device, _):
        assert device.status().scene == 0, "it does not know yet what world it is in"
        play(device, frames, 2)
        assert device.status().scene == 3, "the numbers go on after a restart"
    told = messages(tmp_path / "outbox.sqlite")
    scenes = [message for message in told if isinstance(message, Scene)]
    assert [scene.scene for scene in scenes] == [1, 2, 3]
    assert {len(scene.fingerprint) for scene in scenes} == {4 * printed(tiny).num_channels}
    current = 0
    for message in told[32 + 1 :]:  # samples handed over before the first statistics are of scene 0
        if isinstance(message, Scene):
            current = message.scene
        elif isinstance(message, Sample) and current:
            assert message.scene in (current, 0), "0 only right after a restart"
    numbers = {message.scene for message in told if isinstance(message, Sample)}
    assert numbers == {0, 1, 2, 3}


@pytest.mark.parametrize("noticed", [True, False], ids=["shift-noticed", "not-noticed"])
def test_entropies_of_a_changing_world_are_not_charged_to_the_version_of_the_old_one(
    tiny: Bundle, tmp_path: Path, noticed: bool
) -> None:
    """Neither those of the batch with the shift in it, nor those of the next, which opens the scene."""
    factor = StatisticsConfig().drift_factor if noticed else math.inf
    config = replace(FOLLOWS, statistics=StatisticsConfig(drift_factor=factor), recall=RecallConfig(scene_factor=1e9))
    frames = tiny.probe[0]
    with linked(tiny, tmp_path, config) as (device, _):
        charged: list[tuple[float, int]] = []
        device._maintenance._observe = lambda nats, count=1: charged.append((nats, count))  # type: ignore[method-assign]
        play(device, frames, 2)
        before, changed = len(charged), [answer.entropy_nats for answer in play(device, darker(frames), 2)]
        between = len(charged) - before
        settled = [answer.entropy_nats for answer in play(device, darker(frames), 1)]
    assert (before, between) == (2, 0 if noticed else 2)
    assert charged[-1] == (pytest.approx(np.mean(settled)), 32), "and from then on they are"
    assert noticed or charged[2][0] == pytest.approx(np.mean(changed[:32])), "the control: the old world's would pay"


def test_a_version_or_statistics_put_into_service_are_no_shift(tiny: Bundle, tmp_path: Path) -> None:
    """Any difference between two fingerprints is drift here; the same frames give the same one under all values."""
    config = replace(FOLLOWS, statistics=StatisticsConfig(drift_factor=0.0, near_factor=0.0))
    frames, data = tiny.probe[0], payload(tiny, 0.1)
    with linked(tiny, tmp_path, config) as (device, link):
        play(device, frames, 2)
        link.send(tiny, 1, data)
        assert device.settle()
        play(device, frames, 2)
        status = device.status()
        assert (status.version, status.swaps, status.statistics_resets, status.scene) == (1, 5, 0, 1)
        follower = device._maintenance.follower
        assert follower is not None
        name = printed(tiny).name + MEAN_SUFFIX
        seen = [
            follower._measurer.moments(frames, {**tiny.weights, **values}, 0.0)[name]
            for values in ({}, affine(tiny, data), {**affine(tiny, data), **follower._estimate.values})
        ]
        play(device, frames[::-1] // 2, 1)
        assert device.status().statistics_resets == 1, "the control: other frames"
    assert not np.allclose(seen[1], seen[0], atol=1e-3), "the control: what is served sees something else"
    assert not np.allclose(seen[2], seen[0], atol=1e-3)


def test_when_a_world_is_back_its_version_is_recalled_without_the_cloud(tiny: Bundle, tmp_path: Path) -> None:
    frames, day, night = tiny.probe[0], payload(tiny, 0.02, seed=1), payload(tiny, 0.02, seed=2)
    config = replace(FOLLOWS, statistics=StatisticsConfig(near_factor=0.0))
    with linked(tiny, tmp_path, config) as (device, link):
        play(device, frames, 2)
        by_day = device._maintenance.scenes._tracker
        assert by_day is not None
        assert by_day.reference is not None
        link.send(tiny, 1, day, domain=1, fingerprint=encode_fingerprint(by_day.reference))
        play(device, darker(frames), 2)
        link.send(tiny, 2, night, domain=2, fingerprint=encode_fingerprint(by_day.reference))
        assert device.settle()
        assert device.version == 2
    with Device(tiny, state_dir=tmp_path, config=config) as device:  # no cloud
        assert device.version == 2
        versions = []
        for light in (frames, darker(frames), frames):
            play(device, light, 2)
            versions.append(device.version)
            expected = affine(tiny, {1: day, 2: night}[device.version])
            assert all((device._maintenance._affine[name] == value).all() for name, value in expected.items())
        status = device.status()
    assert versions == [1, 2, 1]
    assert (status.recalls, status.scene) == (3, 5)
    receipts = [message for message in messages(tmp_path / "outbox.sqlite") if isinstance(message, Receipt)]
    assert [(r.version, r.outcome) for r in receipts] == [
        *((1, "installed"), (2, "installed")),
        *((1, "recalled"), (2, "recalled"), (1, "recalled")),
    ]


@pytest.mark.parametrize("near_factor", [StatisticsConfig().near_factor, 0.0], ids=["kept", "everywhere"])
def test_near_the_source_its_values_serve_and_nothing_is_learned_from(
    tiny: Bundle, tmp_path: Path, near_factor: float
) -> None:
    """And far from it what the cloud sent. The control: without the bound the version serves in both worlds."""
    config = replace(FOLLOWS, statistics=StatisticsConfig(near_factor=near_factor))
    frames, data = tiny.probe[0], payload(tiny, 0.1)
    kept = near_factor > 0
    with linked(tiny, tmp_path, config) as (device, link):
        play(device, frames, 2)
        sent = device.status().accepted
        link.send(tiny, 1, data)
        assert device.settle()
        play(device, frames, 3)
        near = device.status()
        play(device, frames // 4, 3)
        far = device.status()
    assert (near.version, near.near_source, near.versions_installed) == (0 if kept else 1, kept, 1)
    receipts = near.versions_installed + near.scene
    assert (near.accepted - receipts < 3 * len(frames)) == kept, "no frame of a world that is known to be near"
    assert (far.version, far.near_source) == (1, False)
    assert far.accepted > near.accepted >= sent
    with Device(tiny, state_dir=tmp_path, config=config) as again:
        assert again.version == 1, "what world it is in is seen with the first batch"


def test_where_a_version_serves_a_few_batches_are_looked_at_and_a_new_world_at_once(
    tiny: Bundle, tmp_path: Path
) -> None:
    """The control: while the source's values serve, every batch is."""
    frames = tiny.probe[0]

    def looks(device: Device, shown: Frame, batches: int) -> int:
        before = device.status()
        play(device, shown[:32], batches)
        after = device.status()
        assert after.measured_frames - before.measured_frames >= 32 * batches
        return (after.looked_frames - before.looked_frames) // 32

    with linked(tiny, tmp_path, FOLLOWS) as (device, link):
        assert looks(device, frames // 4, 4) == 4
        link.send(tiny, 1, payload(tiny, 0.1))
        assert device.settle()
        assert device.version == 1
        assert [looks(device, frames // 4, 4) for _ in range(3)] == [1, 1, 1]
        assert looks(device, 255 - frames // 4, 4) == 3, (
            "until it was seen on 64 frames, of which the first do not count"
        )
        assert looks(device, frames, 4) == 4
        assert device.status().near_source


@pytest.mark.parametrize("seed", [0, 1])
def test_a_version_that_answers_wrongly_does_not_hide_from_a_device_that_it_is_at_home(
    tiny: Bundle, tmp_path: Path, seed: int
) -> None:
    """What is near is judged by what the source answers: by wrong answers home looks like another world."""
    frames, rng = tiny.probe[0], np.random.default_rng(seed)
    bounds, layers = tiny.manifest.envelope_max_delta, tiny.manifest.norm_layers
    delta = {name: np.zeros_like(value) for name, value in tiny.source_affine.items()}
    for layer in layers:
        delta[layer.beta] = (bounds[layer.beta] * rng.choice([-1, 1], delta[layer.beta].shape)).astype(np.float32)
    with linked(tiny, tmp_path, replace(FOLLOWS, recall=RecallConfig(fit_factor=1e9))) as (device, link):
        updater = device._maintenance.updater
        assert updater is not None
        updater._probe = lambda _candidate: 1.0  # it got past that somehow
        play(device, frames // 4, 4)
        link.send(tiny, 1, encode_delta(delta, layers))
        assert device.settle()
        wrong = play(device, frames // 4, 4)[-len(frames) :]
        assert device.version == 1
        assert np.mean([answer.label for answer in wrong] == tiny.probe[1]) < 0.5
        near = []
        for _ in range(6):
            play(device, frames, 1)
            near.append((device.status().near_source, device.version))
    assert near[1:] == [(True, 0)] * 5


def test_a_device_that_no_longer_looks_serves_what_waited(tiny: Bundle, tmp_path: Path) -> None:
    with linked(tiny, tmp_path, FOLLOWS) as (device, link):
        play(device, tiny.probe[0], 2)
        link.send(tiny, 1, payload(tiny, 0.1))
        assert device.settle()
    for config in (FOLLOWS, replace(FOLLOWS, adapt_statistics=False)):
        with Device(tiny, state_dir=tmp_path, config=config) as again:
            updater = again._maintenance.updater
            assert updater is not None
            assert (again.version, updater.state.disk.waits) == ((0, True) if config is FOLLOWS else (1, False))


def test_a_version_that_waits_near_the_source_is_still_there_after_any_number_of_starts(
    tiny: Bundle, tmp_path: Path
) -> None:
    frames, data = tiny.probe[0], payload(tiny, 0.1)
    with linked(tiny, tmp_path, FOLLOWS) as (device, link):
        play(device, frames, 2)
        link.send(tiny, 1, data)
        assert device.settle()
    for _ in range(8):
        with Device(tiny, state_dir=tmp_path, config=FOLLOWS) as again:
            assert again.version == 0, "what was near is near until the first batch says otherwise"
            play(again, frames, 1)
            assert again.status().near_source
    with Device(tiny, state_dir=tmp_path, config=FOLLOWS) as again:
        play(again, frames // 4, 2)
        assert again.version == 1


def test_a_batch_that_cannot_be_measured_does_not_hide_that_the_world_is_another(
    tiny: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start in the world after it counts against the version that serves there."""
    frames = tiny.probe[0]
    with linked(tiny, tmp_path, FOLLOWS) as (device, link):
        play(device, frames, 2)
        link.send(tiny, 1, payload(tiny, 0.1))
        assert device.settle()
        play(device, frames, 1)
        updater, follower = device._maintenance.updater, device._maintenance.follower
        assert updater is not None
        assert follower is not None
        assert updater.state.disk.waits

        def fail(*_args: object) -> None:
            raise RuntimeError("out of memory")

        with monkeypatch.context() as patched:
            patched.setattr(follower._measurer, "moments", fail)
            play(device, frames[:32] // 4, 1)
        assert not updater.state.disk.waits
        play(device, frames[:32] // 4, 2)
        assert device.status().version == 1


@pytest.mark.parametrize("balanced", [True, False], ids=["kept", "nothing-kept"])
def test_a_first_version_is_served_by_statistics_that_were_measured_under_it(
    tiny: Bundle, tmp_path: Path, balanced: bool
) -> None:
    """At once, of the frames that are kept. The control: what was measured under the source's values."""
    config = replace(FOLLOWS, statistics=StatisticsConfig(near_factor=0.0, balanced=balanced))
    frames, data = darker(tiny.probe[0]), payload(tiny, 0.1)
    with linked(tiny, tmp_path, config) as (device, link):
        play(device, frames, 3)
        link.send(tiny, 1, data)
        assert device.settle()
        assert device.version == 1
        follower = device._maintenance.follower
        assert follower is not None
        served, measurer = dict(follower._estimate.values), follower._measurer
    expected = from_moments(
        measurer.moments(frames, {**tiny.weights, **affine(tiny, data)}, 1.0), tiny.manifest.norm_layers
    )
    last = [layer for layer in tiny.manifest.norm_layers if layer.kind == "batch"][-1]
    apart = np.abs(served[last.mean] - expected[last.mean]).max() / np.sqrt(expected[last.var]).max()
    assert (apart < 0.15) == balanced, apart


def test_a_device_that_does_not_follow_statistics_has_no_scenes_and_takes_every_version(
    tiny: Bundle, tmp_path: Path
) -> None:
    centre = encode_fingerprint(np.ones(2 * printed(tiny).num_channels, np.float32))
    with linked(tiny, tmp_path) as (device, link):
        play(device, tiny.probe[0], 2)
        link.send(tiny, 1, payload(tiny, 0.02), domain=7, fingerprint=centre)
        assert device.settle()
        assert (device.version, device.status().scene) == (1, 0)


# A state folder that fails.


def full_disk(path: Path) -> sqlite3.Connection:
    raise sqlite3.OperationalError("database or disk is full")


def test_with_a_full_disk_it_goes_on_answering_and_says_so(
    tiny: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("littoral.edge.maintenance.Outbox", functools.partial(Outbox, connect=full_disk))
    config = DeviceConfig(adapt_statistics=False, selection=EVERYTHING)
    with linked(tiny, tmp_path, config) as (device, link):
        answers = play(device, tiny.probe[0], 1)
        link.ports["outbox"].flush(0.2)
        status = device.status()
    assert [answer.label for answer in answers] == tiny.probe[1].tolist()
    assert status.storage_error is not None
    assert "disk is full" in status.storage_error
    assert "free some space" in status.storage_error
    assert status.selected == status.accepted == status.queued + status.dropped == 32


def test_a_state_folder_that_cannot_be_made_does_not_stop_the_answers(tiny: Bundle, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with linked(tiny, tmp_path / "file" / "state") as (device, link):
        assert device.infer(tiny.probe[0][0]).label == tiny.probe[1][0]
        link.send(tiny, 1, payload(tiny, 0.05))
        assert device.settle()
        status = device.status()
        assert device.infer(tiny.probe[0][0]).version == 0, "what cannot be kept must not be installed"
    assert status.storage_error is not None
    assert (status.versions_installed, status.versions_rejected) == (0, 1)


# Versions.


def test_a_cloud_that_floods_a_device_with_versions_fills_no_memory(tiny: Bundle, tmp_path: Path) -> None:
    with linked(tiny, tmp_path) as (device, link):
        tasks = device._maintenance._tasks
        busy, go_on = threading.Event(), threading.Event()

        def keep_busy() -> None:
            busy.set()
            go_on.wait(10.0)

        tasks.put(keep_busy)
        assert busy.wait(10.0)
        data = payload(tiny, 0.05)
        for version in range(1, 201):
            link.send(tiny, version, data)
        waiting = tasks.qsize()
        go_on.set()
        assert device.settle()
        link.send(tiny, 201, data)
        assert device.settle()
        assert device.version == 201, "and goes on taking versions afterwards"
    assert waiting < 20


def test_a_version_is_served_with_exactly_its_values_and_again_after_a_restart(tiny: Bundle, tmp_path: Path) -> None:
    frames, data = tiny.probe[0], payload(tiny, 0.05)
    expected = Model(tiny, affine(tiny, data)).run(frames[:1])[0]
    with linked(tiny, tmp_path) as (device, link):
        before = device.infer(frames[0])
        link.send(tiny, 3, data)
        assert device.settle()
        answer = device.infer(frames[0])
        status = device.status()
    assert (before.version, answer.version, device.version) == (0, 3, 3)
    np.testing.assert_allclose(answer.probabilities, softmax(expected), atol=1e-6)
    assert np.abs(answer.probabilities - before.probabilities).max() > 1e-4
    assert (status.swaps, status.versions_installed, status.versions_rejected) == (1, 1, 0)
    assert status.accepted == status.queued == 1, "the receipt"
    with Device(tiny, state_dir=tmp_path, config=STILL) as again:
        answer = again.infer(frames[0])
    assert answer.version == 3
    np.testing.assert_allclose(answer.probabilities, softmax(expected), atol=1e-6)


def test_a_version_that_forgets_the_probe_is_refused_and_the_one_before_goes_on_serving(
    tiny: Bundle, tmp_path: Path
) -> None:
    dead = {
        name: np.full_like(value, -0.99 * tiny.manifest.envelope_max_delta[name])
        for name, value in tiny.source_affine.items()
    }
    with linked(tiny, tmp_path) as (device, link):
        link.send(tiny, 1, payload(tiny, 0.05))
        link.send(tiny, 2, encode_delta(dead, tiny.manifest.norm_layers))
        assert device.settle()
        assert device.infer(tiny.probe[0][0]).version == 1
        status = device.status()
    assert (status.versions_installed, status.versions_rejected) == (1, 1)


def test_a_version_that_answers_with_nan_is_taken_back(tiny: Bundle, tmp_path: Path) -> None:
    with linked(tiny, tmp_path) as (device, link):
        link.send(tiny, 1, payload(tiny, 0.05))
        assert device.settle()
        good = device._maintenance.model

        class Broken:
            version = 1

            def run(self, frames: Frame) -> FloatArray:
                return good.run(frames) * np.float32("nan")

        device._maintenance.model = Broken()  # type: ignore[assignment]
        with pytest.raises(ModelOutputError, match=r"affine version 1 .* it is being reverted"):
            device.infer(tiny.probe[0][0])
        assert device.settle()
        assert device.infer(tiny.probe[0][0]).version == 0


def test_the_watch_over_a_version_counts_frames_and_not_batches(tiny: Bundle, tmp_path: Path) -> None:
    config = DeviceConfig(
        adapt_statistics=False,
        statistics_batch_frames=8,
        statistics_stride_frames=1,
        updater=UpdaterConfig(watch_frames=32),
    )
    with linked(tiny, tmp_path, config) as (device, link):
        link.send(tiny, 1, payload(tiny, 0.02))
        assert device.settle()
        updater = device._maintenance.updater
        assert updater is not None
        phases = []
        for i in range(0, 48, 8):
            play(device, np.resize(tiny.probe[0], (48, 16, 16, 1))[i : i + 8], 1)
            phases.append(updater.state.phase)
    assert phases[0] == "watched"
    assert phases[-1] == "trusted"


def test_a_frame_never_mixes_versions(tiny: Bundle, tmp_path: Path) -> None:
    """Answers while versions are swapped in: each equals what one version alone says, the one that it names."""
    frame = tiny.probe[0][0]
    payloads = {version: payload(tiny, 0.1, seed=version) for version in range(1, 7)}
    expected = {
        version: softmax(Model(tiny, affine(tiny, data)).run(frame[None]))[0] for version, data in payloads.items()
    }
    expected[0] = softmax(Model(tiny).run(frame[None]))[0]
    config = DeviceConfig(adapt_statistics=False, updater=UpdaterConfig(max_entropy_rise_nats=100.0))
    with linked(tiny, tmp_path, config) as (device, link):
        answers, sent = [device.infer(frame)], 0
        while answers[-1].version < 6 and len(answers) < 1_000_000:
            if answers[-1].version == sent:
                sent += 1
                link.send(tiny, sent, payloads[sent])
            answers.append(device.infer(frame))
    seen = [answer.version for answer in answers]
    assert seen == sorted(seen)
    assert set(seen) == set(expected)
    for answer in answers:
        np.testing.assert_allclose(answer.probabilities, expected[answer.version], rtol=0, atol=1e-6)
    apart = [np.abs(expected[a] - expected[b]).max() for a in expected for b in expected if a < b]
    assert min(apart) > 1e-5, "versions that say the same would hide a mixture"


def test_the_status_for_the_cloud_is_the_devices(tiny: Bundle, tmp_path: Path) -> None:
    with linked(tiny, tmp_path, DeviceConfig(adapt_statistics=False, selection=EVERYTHING)) as (device, link):
        play(device, tiny.probe[0], 1)
        told, status = link.ports["status"](), device.status()
    assert (told.version, told.frames, told.selected, told.queued, told.dropped) == (0, 32, 32, status.queued, 0)
    assert link.ports["bundle_digest"] == tiny.digest
    assert link.ports["highest_version"]() == 0


class Part:
    """Stands for exits: says in which thread it was closed."""

    def __init__(self) -> None:
        self.closed: list[str] = []
        self.done = threading.Event()

    def close(self) -> None:
        self.closed.append(threading.current_thread().name)
        self.done.set()


def test_what_was_learned_is_kept_also_where_a_task_outlasts_the_end(tiny: Bundle, tmp_path: Path) -> None:
    part, busy, go = Part(), threading.Event(), threading.Event()
    device = Device(tiny, state_dir=tmp_path, link=FakeLink(), config=STILL)  # type: ignore[arg-type]
    device._maintenance.exits = part  # type: ignore[assignment]

    def long() -> None:
        busy.set()
        go.wait(10)

    device._maintenance._tasks.put(long)
    assert busy.wait(10)
    device.close(0.0)
    assert part.closed == [], "its thread may still use it"
    device.close(0.0)
    assert part.closed == []
    go.set()
    assert part.done.wait(10)
    device.close(0.0)
    assert part.closed == ["littoral-maintenance"]


def test_where_nothing_outlasts_the_end_it_is_kept_when_close_returns(tiny: Bundle, tmp_path: Path) -> None:
    part = Part()
    device = Device(tiny, state_dir=tmp_path, link=FakeLink(), config=STILL)  # type: ignore[arg-type]
    device._maintenance.exits = part  # type: ignore[assignment]
    device.close(0.0)
    assert part.closed == [threading.current_thread().name]
