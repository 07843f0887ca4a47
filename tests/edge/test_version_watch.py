"""What the watch over versions compares with and goes back to, where versions come faster than watches end."""

from __future__ import annotations

import json
import logging
import math
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from attacks.target import Target, make_bundle, make_envelope, make_version
from littoral.bundle import Bundle, Envelope, SignedVersion, SigningKey
from littoral.core.affine import encode_delta
from littoral.edge.device import Device
from littoral.edge.device_config import DeviceConfig
from littoral.edge.entropies import Entropies
from littoral.edge.update_steps import UpdaterConfig
from littoral.edge.versions import BACKUP_FILE, STATE_FILE
from littoral.wire.messages import Receipt

WATCH, BATCH = 256, 32
SURE_AND_WRONG, UNSURE, LOST = 0.048, 0.895, 2.0


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def target(bundle: Bundle, tmp_path: Path) -> Target:
    return ready(Target(bundle, tmp_path, config=UpdaterConfig()))


def ready(target: Target) -> Target:
    target.updater.set_envelope(make_envelope(target.bundle))
    return target


def play(target: Target, num_frames: int, nats: float) -> list[Receipt]:
    """So many frames of such entropy, in batches; what the cloud is told."""
    said = []
    while num_frames > 0:
        said.append(target.updater.observe(nats, frames=min(num_frames, BATCH)))
        num_frames -= BATCH
    return [receipt for receipt in said if receipt is not None]


def come(target: Target, *versions: int, nats: float, num_frames: int = 100, domain: int = 0) -> None:
    """Versions, each so many frames after the one before."""
    for version in versions:
        receipt = target.updater.receive(make_version(target.bundle, version, change=version / 100, domain=domain))
        assert receipt is not None
        assert receipt.outcome == "installed"
        assert play(target, num_frames, nats) == []


def serves(target: Target, version: int) -> bool:
    return target.version == version and target.change == round(version / 100, 3)


@pytest.mark.parametrize("restarts", [False, True], ids=["stays-on", "restarts"])
def test_a_few_sure_answers_before_the_first_version_do_not_condemn_the_last_when_the_cloud_is_quiet(
    target: Target, restarts: bool
) -> None:
    """As a user saw it: version 17 was held against 32 frames on which the source was as sure as it was wrong."""
    play(target, 32, SURE_AND_WRONG)
    come(target, *range(1, 18), nats=UNSURE)
    if restarts:
        target.start()
    assert play(target, 2 * WATCH, UNSURE) == []
    assert serves(target, 17)
    assert target.updater.state.phase == "trusted"


@pytest.mark.parametrize("restarts", [False, True], ids=["stays-on", "restarts"])
@pytest.mark.parametrize(("rise", "serving"), [(0.5, 3), (math.inf, 5)], ids=["watched", "control-without-a-bound"])
def test_a_harmful_version_of_a_quick_chain_gives_way_to_the_last_that_served_well(
    bundle: Bundle, tmp_path: Path, restarts: bool, rise: float, serving: int
) -> None:
    """Nothing is known of before the first version; the chain is held against what that one showed."""
    target = ready(Target(bundle, tmp_path, config=UpdaterConfig(max_entropy_rise_nats=rise)))
    come(target, 1, 2, 3, nats=UNSURE)
    come(target, 4, 5, nats=LOST)
    if restarts:
        target.start()
    told = play(target, WATCH, LOST)
    assert [(receipt.version, receipt.outcome, receipt.code) for receipt in told] == (
        [(5, "reverted", "watch")] if serving == 3 else []
    )
    assert serves(target, serving)
    target.start()
    assert serves(target, serving)


def test_a_quick_chain_is_held_against_the_last_version_that_was_trusted(target: Target) -> None:
    """Each is a little less sure than the one before: only together they are worse than what the watch allows."""
    come(target, 1, nats=0.1, num_frames=WATCH)
    come(target, 2, nats=0.4)
    come(target, 3, nats=0.7)
    (receipt,) = play(target, WATCH, 0.7)
    assert (receipt.version, receipt.outcome) == (3, "reverted")
    assert "it was 0.100 before" in receipt.reason
    assert serves(target, 2)


@pytest.mark.parametrize(("num_frames", "back"), [(63, 1), (64, 2)])
def test_a_version_is_gone_back_to_once_it_has_served_enough_frames(target: Target, num_frames: int, back: int) -> None:
    come(target, 1, nats=0.1, num_frames=WATCH)
    come(target, 2, nats=0.1, num_frames=num_frames)
    come(target, 3, nats=0.1, num_frames=1)
    assert target.updater.observe(math.nan) is not None
    assert serves(target, back)


@pytest.mark.parametrize(("num_frames", "outcome"), [(63, []), (64, ["reverted"])])
def test_a_mean_over_few_frames_is_no_baseline(target: Target, num_frames: int, outcome: list[str]) -> None:
    play(target, num_frames, 0.1)
    come(target, 1, nats=LOST, num_frames=32)
    assert [receipt.outcome for receipt in play(target, WATCH, LOST)] == outcome


def test_where_little_was_seen_since_the_start_a_domains_own_past_is_the_baseline(target: Target) -> None:
    come(target, 1, nats=0.1, num_frames=WATCH, domain=1)
    target.start()
    target.updater.set_envelope(make_envelope(target.bundle))
    come(target, 2, nats=LOST, num_frames=32, domain=1)
    (receipt,) = play(target, WATCH, LOST)
    assert (receipt.version, receipt.outcome) == (2, "reverted")
    assert serves(target, 1)


def test_what_is_gone_back_to_has_served_well_whatever_the_order(bundle: Bundle, tmp_path: Path) -> None:
    """Random lives: a harmful version is never what a later one gives way to, once something better is known."""
    for seed in range(8):
        rng, harmful = random.Random(seed), set[int]()
        target = ready(Target(bundle, tmp_path / str(seed), config=UpdaterConfig()))
        come(target, 1, nats=0.1, num_frames=WATCH)
        for version in range(2, 14):
            if rng.random() < 0.4:
                harmful.add(version)
            target.updater.receive(make_version(bundle, version, change=version / 100))
            for _ in range(rng.choice([1, 2, 3, 6, 10])):
                target.updater.observe(LOST if target.version in harmful else 0.2, frames=BATCH)
            if rng.random() < 0.2:
                target.start()
                target.updater.set_envelope(make_envelope(bundle))
            assert target.updater.state.disk.previous not in harmful
        for _ in range(WATCH // BATCH):
            target.updater.observe(LOST if target.version in harmful else 0.2, frames=BATCH)
        assert target.version not in harmful
        assert target.change == round(target.version / 100, 3)


def test_a_state_of_before_goes_on_with_its_watch(target: Target) -> None:
    """Its fields say the same as then."""
    come(target, 1, nats=0.1, num_frames=WATCH)
    come(target, 2, nats=0.1, num_frames=32)
    for name in (STATE_FILE, BACKUP_FILE):
        document = json.loads((target.store.folder / name).read_bytes())
        assert set(document) == {
            *("installed", "previous", "highest_seen", "pending", "attempts", "trusted", "baseline_nats", "boots"),
            *("waits", "bundle", "cohort", "reasons", "remembered"),
        }
        (target.store.folder / name).write_text(json.dumps({**document, "baseline_nats": 0.3}))
    target.start()
    (receipt,) = play(target, WATCH, LOST)
    assert "it was 0.300 before" in receipt.reason
    assert serves(target, 1)


# What frames count.


def test_answers_of_another_rule_do_not_count_for_what_serves() -> None:
    entropies = Entropies(0, own=False)
    entropies.add(1.0)
    by_the_sources_statistics = entropies.take()
    assert entropies.charged(by_the_sources_statistics) == (1.0, 0)
    entropies.serve(0, own=True)
    entropies.add(2.0)
    entropies.serve(0, own=True)
    entropies.add(4.0)
    own = entropies.take()
    assert entropies.charged(own) == (3.0, 2)
    assert entropies.charged(by_the_sources_statistics)[1] == 0
    entropies.add(8.0)
    entropies.serve(1, own=True)
    assert entropies.charged(own) == (3.0, 0), "handed over before the version came"
    assert entropies.charged(entropies.take())[1] == 0
    entropies.add(8.0)
    entropies.serve(2, own=True)
    entropies.add(0.5)
    assert entropies.charged(entropies.take()) == (0.5, 1), "what version 1 said is left out"


def test_what_the_source_says_by_its_own_statistics_is_no_baseline(tiny_bundle: Path, tmp_path: Path) -> None:
    """The first batch of a run is answered so, after a restart with a version, too."""
    config = DeviceConfig(statistics_batch_frames=16, statistics_stride_frames=1)
    config = replace(config, statistics=replace(config.statistics, near_factor=0.0))
    bundle = Bundle.open(tiny_bundle)
    frames = (np.array(bundle.probe[0]) // 3 + 20).astype(np.uint8)
    for adapts, counts in ((True, [0, 16, 32]), (False, [16, 32, 48])):
        seen = []
        with Device(
            bundle, state_dir=tmp_path / str(adapts), config=replace(config, adapt_statistics=adapts)
        ) as device:
            for start in (0, 16, 0):
                for frame in frames[start : start + 16]:
                    device.infer(frame)
                assert device.settle()
                assert device._maintenance.updater is not None
                seen.append(sum(num for _, num in device._maintenance.updater.state.recent))
        assert seen == counts, "a device that never has others goes by the source's"


@pytest.mark.parametrize("nats", [UNSURE, LOST + SURE_AND_WRONG], ids=["unsure", "harmful"])
def test_a_device_that_is_new_in_a_dark_world_keeps_the_last_good_version(
    tiny_bundle: Path, tmp_path: Path, nats: float
) -> None:
    """The whole device, but that it is told how unsure it is. 32 frames are a batch; versions come every 96."""
    bundle = Bundle.open(tiny_bundle)
    config = DeviceConfig()
    config = replace(config, statistics=replace(config.statistics, near_factor=0.0))
    frames, bounds = (np.array(bundle.probe[0]) // 3 + 20).astype(np.uint8), bundle.manifest.envelope_max_delta
    key, digest = SigningKey(b"k" * 32), bundle.digest
    envelope = Envelope(cohort="c", cohort_key=key.public.hex, bundle_digest=digest.hex(), max_delta=bounds)
    with Device(bundle, state_dir=tmp_path, config=config) as device:
        maintenance, updater = device._maintenance, device._maintenance.updater
        assert updater is not None

        def see(batches: int, nats: float) -> None:
            for _ in range(batches):
                for frame in frames:
                    maintenance.saw(frame, 0, nats)
                assert device.settle()

        def come(version: int) -> None:
            delta = {name: np.full_like(value, bounds[name] * 0.01) for name, value in bundle.source_affine.items()}
            data = encode_delta(delta, bundle.manifest.norm_layers)
            signed = SignedVersion.make(key=key, cohort="c", bundle_digest=digest, version=version, payload=data)
            receipt = maintenance.call(lambda: updater.receive(signed), 10.0)
            assert receipt is not None
            assert receipt.outcome == "installed"

        maintenance.call(lambda: updater.set_envelope(envelope), 10.0)
        see(1, SURE_AND_WRONG)
        for version in (1, 2, 3):
            come(version)
            see(3, UNSURE)
        come(4)
        see(WATCH // len(frames), nats)
        status = device.status()
    assert (status.version, status.versions_reverted) == ((4, 0) if nats == UNSURE else (3, 1))
    assert updater.state.phase == "trusted"
    assert ("2.048 nats, it was 0.895 before" in status.last_refusal) == (nats != UNSURE)


# What is said of it.


def test_a_version_that_is_taken_back_or_refused_is_a_warning_and_others_are_none(
    target: Target, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="littoral"):
        come(target, 1, nats=0.1, num_frames=WATCH)
        assert caplog.records == []
        come(target, 2, nats=LOST, num_frames=32)
        play(target, WATCH, LOST)
        for _ in range(2):
            target.updater.receive(make_version(target.bundle, 2))
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2, "and what is refused again the same way is no news"
    assert said[0].startswith("version 2 reverted watch the mean entropy over 256 frames is 2.000 nats")
    assert said[1].startswith("version 2 rejected older")


def test_the_status_says_which_version_was_taken_back_and_why(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    config = DeviceConfig(adapt_statistics=False)
    with Device(bundle, state_dir=tmp_path, config=config) as device:
        assert (device.status().versions_reverted, device.status().last_refusal) == (0, "")
        device._maintenance._put_receipt(Receipt(version=4, outcome="installed", code="", reason=""))
        device._maintenance._put_receipt(Receipt(version=4, outcome="reverted", code="watch", reason="it was lost"))
        device._maintenance._put_receipt(Receipt(version=5, outcome="installed", code="", reason=""))
        status = device.status()
    assert (status.versions_installed, status.versions_reverted) == (2, 1)
    assert status.last_refusal == "version 4 reverted: watch: it was lost"


def test_the_status_says_what_the_start_took_back(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    config = DeviceConfig(adapt_statistics=False)
    with Device(bundle, state_dir=tmp_path, config=config) as device:
        assert device._maintenance.updater is not None
        store = device._maintenance.updater._store
    store.save(replace(store.state, bundle=bundle.digest.hex(), installed=3, highest_seen=3, trusted=False))
    with Device(bundle, state_dir=tmp_path, config=config) as device:
        assert device.version == 0
        assert device.status().last_refusal.startswith("version 3 taken back: storage: ")
    with Device(bundle, state_dir=tmp_path, config=config) as device:
        assert device.status().last_refusal == "", "it was in another run"
