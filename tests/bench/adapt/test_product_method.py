"""The product as a method: the same every time, every byte counted, the road respected."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from littoral.bench.adapt.cloud_end import SessionEnd
from littoral.bench.adapt.loopback import garbage
from littoral.bench.adapt.product import FINGERPRINT_SHARE, Product, ProductOptions, device_statistics, sweep
from littoral.bench.method import Road, Setup
from littoral.bundle import Bundle
from littoral.cloud.adapt import AdaptConfig
from littoral.wire.envelope import decode_frame, encode_frame
from littoral.wire.messages import Sample, from_frame, to_frame

Make = Callable[..., Setup]
World = tuple[np.ndarray, np.ndarray]
BATCH = 16
DEVICE = {
    "selection": {"entropy_min_fraction": 0.0, "duplicate_distance": 0.0, "budget": {"bytes_per_1000_frames": 2e5}},
    "statistics_batch_frames": 8,
}
OPTIONS = {"device": DEVICE, "adapt": {"batch_size": 8, "replay_after": 8, "inner_steps": 2, "settled_nats": 0.0}}


def options(**changes: object) -> ProductOptions:
    return ProductOptions.of({**OPTIONS, **changes})


def play(setup: Setup, chosen: ProductOptions, frames: np.ndarray) -> tuple[Product, np.ndarray, list[int]]:
    """All answers, and the version in service after each batch."""
    product = Product(setup, chosen)
    answers, versions = [], []
    for start in range(0, len(frames), BATCH):
        answers.append(product.answer(frames[start : start + BATCH]))
        versions.append(product._devices[0].version)
    product.close()
    return product, np.concatenate(answers), versions


@pytest.mark.parametrize("road", [Road(), Road(delay_batches=2, loss=0.2)], ids=["clear", "late and lossy"])
def test_the_same_seed_gives_the_same_answers_and_the_same_bytes(setup: Make, world: World, road: Road) -> None:
    first, second = (play(setup(road=road), options(), world[0][:96]) for _ in range(2))
    assert first[1].tobytes() == second[1].tobytes()
    assert first[2] == second[2]
    costs = [{**asdict(one[0].costs), "cloud_seconds": 0.0} for one in (first, second)]
    assert costs[0] == costs[1]


def test_it_learns_in_a_worse_light(setup: Make, world: World) -> None:
    frames, labels = world
    still = Product(setup(), ProductOptions.of({"cloud": "none", "device": {"adapt_statistics": False}}))
    frozen = (still.answer(frames) == labels).mean()
    still.close()
    product, answers, versions = play(setup(), options(), frames)
    assert product.costs.pushes == product.costs.notes["versions_installed"] > 0
    assert versions[-1] > 0
    assert (answers == labels)[-128:].mean() > frozen + 0.05


def test_the_passes_of_the_probe_are_paid_for_every_version(setup: Make, world: World, small: Bundle) -> None:
    product, _, _ = play(setup(), options(), world[0][:128])
    costs, notes = product.costs, product.costs.notes
    probes = notes["versions_installed"] * (small.manifest.probe.num_frames + 1)
    assert notes["probe_frames"] == probes > 0
    measured, looked = notes["measured_frames"], notes["looked_frames"]
    assert costs.forward_frames == 128 + measured + looked + round(FINGERPRINT_SHARE * (measured - looked)) + probes


def test_every_byte_is_that_of_a_wire_frame(setup: Make, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    up, down = [], []
    deliver, collect = SessionEnd.deliver, SessionEnd.collect

    def delivered(end: SessionEnd, frames: list[bytes]) -> None:
        up.extend(frames)
        deliver(end, frames)

    def collected(end: SessionEnd) -> list[bytes]:
        down.extend(out := collect(end))
        return out

    monkeypatch.setattr(SessionEnd, "deliver", delivered)
    monkeypatch.setattr(SessionEnd, "collect", collected)
    product, _, _ = play(setup(), options(), world[0][:96])
    assert product.costs.uplink_bytes == sum(map(len, up))
    assert product.costs.downlink_bytes == sum(map(len, down))
    assert product.costs.uploads == sum(decode_frame(data).type == Sample.TYPE for data in up) > 0


def test_a_version_comes_as_many_batches_later_as_the_road_says(setup: Make, world: World) -> None:
    first = {}
    for delay in (0, 3):
        _, _, versions = play(setup(road=Road(delay_batches=delay)), options(), world[0][:128])
        first[delay] = next(index for index, version in enumerate(versions) if version)
    assert first[3] == first[0] + 3


def test_what_is_lost_is_paid_again(setup: Make, world: World) -> None:
    clear, _, _ = play(setup(), options(adapt={**OPTIONS["adapt"], "batch_size": 128}), world[0][:96])
    lossy, _, _ = play(
        setup(road=Road(loss=0.3)), options(adapt={**OPTIONS["adapt"], "batch_size": 128}), world[0][:96]
    )
    assert lossy.costs.uploads == clear.costs.uploads
    assert 1.2 * clear.costs.uplink_bytes < lossy.costs.uplink_bytes < 1.8 * clear.costs.uplink_bytes


def test_without_a_cloud_nothing_is_sent_and_statistics_are_measured(setup: Make, world: World) -> None:
    product = device_statistics(setup())
    product.answer(world[0][:64])
    product.close()
    costs = product.costs
    assert (costs.uploads, costs.uplink_bytes, costs.downlink_bytes, costs.pushes) == (0, 0, 0, 0)
    measured, looked = costs.notes["measured_frames"], costs.notes["looked_frames"]
    assert looked == measured > 0
    assert costs.forward_frames == 64 + measured + looked


def test_a_device_that_does_not_look_how_far_it_is_takes_fingerprints_alone(setup: Make, world: World) -> None:
    statistics = {"half_trust_factor": 0.0, "near_factor": 0.0}
    product = Product(setup(), ProductOptions.of({"cloud": "none", "device": {"statistics": statistics}}))
    product.answer(world[0][:64])
    product.close()
    measured = product.costs.notes["measured_frames"]
    assert product.costs.notes["looked_frames"] == 0
    assert product.costs.forward_frames == 64 + measured + round(FINGERPRINT_SHARE * measured) > 64


@pytest.mark.parametrize(("mode", "clouds"), [("cohort", 1), ("isolated", 2)])
def test_devices_share_a_cloud_or_have_one_each(setup: Make, world: World, mode: str, clouds: int) -> None:
    product = Product(setup(num_devices=2), options(cloud=mode))
    for start in range(0, 64, BATCH):
        product.answer(world[0][start : start + BATCH], device=0)
    quiet = product.answer(world[0][:4], device=1)
    version = product._devices[1].version
    product.close()
    assert len(product.clouds) == clouds
    assert len(quiet) == 4
    assert (version > 0) == (mode == "cohort")


def test_a_hostile_device_sends_noise_and_one_colour_in_place_of_its_frames() -> None:
    sample = Sample(
        frame_id=5, version=2, predicted=1, entropy_nats=1.5, coding="png", image=b"a png", **_extra_fields()
    )
    data = encode_frame(to_frame(sample, stream=7, sequence=3))
    tamper = garbage((4, 5, 1), 10, seed=0)
    sent = [decode_frame(tamper(data)) for _ in range(2)]
    assert all((frame.stream, frame.sequence) == (7, 3) for frame in sent)
    images = [message.image for frame in sent if isinstance(message := from_frame(frame), Sample)]
    assert [len(image) for image in images] == [20, 20]
    assert len(set(images[0])) > 1
    assert len(set(images[1])) == 1
    other = encode_frame(to_frame(sample, stream=7, sequence=3).__class__(type=6, body=b""))
    assert tamper(other) == other


def _extra_fields() -> dict[str, int]:
    """Fields that this form of the wire has and an older one has not."""
    return {name: 0 for name in Sample.__dataclass_fields__ if name == "scene"}


def test_an_option_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="has no 'speed'"):
        ProductOptions.of({"device": {"speed": 3}})
    assert ProductOptions.of({"adapt": {"inner_steps": 4}}).adapt == AdaptConfig(inner_steps=4)


def test_what_a_killed_run_left_in_memory_is_removed_and_nothing_else(tmp_path: Path) -> None:
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    names = [f"littoral-bench-{gone.stdout.strip()}-a", f"littoral-bench-{os.getpid()}-b", "littoral-bench-x", "other"]
    for name in names:
        (tmp_path / name).mkdir()
    sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[1:])
