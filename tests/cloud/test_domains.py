"""Scenes become domains once, in order, within bounds; and where a new domain's versions begin."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cloud_peer import LAYER, enrolled, fingerprint, sample, scene
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from littoral.bundle import Bundle
from littoral.cloud.domains import DomainConfig, DomainEntry, DomainRule, start_version
from littoral.cloud.ledger import Ledger
from littoral.cloud.store import EnrolledDevice, Store
from littoral.core.affine import NormLayer
from littoral.core.recall import decode_fingerprint
from littoral.wire.messages import DurableMessage, Scene


def domains_of_samples(store: Store, device: EnrolledDevice) -> list[int]:
    return [row[0] for row in store.read("SELECT domain FROM samples WHERE device_id = ? ORDER BY id", device.id)]


def domains_of_scenes(store: Store) -> list[int]:
    return [row[0] for row in store.read("SELECT domain FROM scenes ORDER BY id")]


def record(store: Store, device: EnrolledDevice, first: int, *messages: DurableMessage, stream: int = 7) -> None:
    store.record(device.id, stream, list(enumerate(messages, first)), now=5.0).result()


def known(store: Store) -> list[int]:
    return [entry.number for entry in Ledger(store, "default").domains() if entry.known]


def test_a_sample_is_of_the_domain_of_its_scene_and_of_0_before_the_first(store: Store, device: EnrolledDevice) -> None:
    record(store, device, 1, sample(1), scene(1, 4), sample(2, scene=1), scene(2, 9), sample(3, scene=2))
    record(store, device, 6, scene(3, 4, jitter=0.1), sample(4, scene=3), sample(5, scene=77), sample(6, scene=1))
    assert domains_of_samples(store, device) == [0, 1, 2, 1, 0, 1]
    found = store.device(device.id)
    assert found is not None
    assert found.domain == 1
    [first, second] = Ledger(store, "default").domains()
    assert (first.num_scenes, second.num_scenes, first.founder) == (2, 1, device.id)


def test_a_centre_lies_between_its_devices_and_nobody_draws_it_away_by_coming_often(
    store: Store, device: EnrolledDevice
) -> None:
    def centre() -> float:
        return float(Ledger(store, "default").domains()[0].centre[0])

    record(store, device, 1, scene(1, 4))
    record(store, enrolled(store, 2), 1, scene(1, 4, jitter=0.1))
    between = float(decode_fingerprint(fingerprint(4, jitter=0.05), LAYER)[0])
    assert centre() == pytest.approx(between, rel=2e-3)
    before = centre()
    record(store, device, 2, *(scene(number, 4, jitter=0.2) for number in range(2, 20)))
    assert centre() == before
    assert Ledger(store, "default").domains()[0].num_scenes == 20
    record(store, enrolled(store, 3), 1, scene(1, 4, jitter=0.2))
    assert centre() != before, "a device that was not there before does move it"


def test_devices_share_domains_and_domains_stay_within_a_cohort(store: Store, device: EnrolledDevice) -> None:
    other, stranger = enrolled(store, 2), enrolled(store, 3, cohort="north")
    record(store, device, 1, scene(1, 4))
    record(store, other, 1, scene(1, 9), scene(2, 4))
    record(store, stranger, 1, scene(1, 9))
    assert domains_of_scenes(store) == [1, 2, 1, 1]
    assert [e.num_scenes for e in Ledger(store, "default").domains()] == [2, 1]
    assert [e.num_scenes for e in Ledger(store, "north").domains()] == [1]


def test_a_scene_that_comes_twice_counts_once(store: Store, device: EnrolledDevice) -> None:
    for _ in range(3):
        record(store, device, 1, scene(1, 4), scene(2, 9))
    assert [e.num_scenes for e in Ledger(store, "default").domains()] == [1, 1]
    assert domains_of_scenes(store) == [1, 2]


def test_a_scene_of_an_older_stream_is_still_known_and_a_newer_one_of_its_own_stream_wins(
    store: Store, device: EnrolledDevice
) -> None:
    record(store, device, 1, scene(1, 4), scene(2, 9))
    record(store, device, 1, sample(1, scene=2), stream=8)
    record(store, device, 2, scene(2, 4), sample(2, scene=2), stream=8)
    record(store, device, 3, sample(3, scene=2), stream=7)
    assert domains_of_samples(store, device) == [2, 1, 2]


@pytest.mark.parametrize(
    "bad",
    [b"", bytes(7), bytes(100_000), np.array([np.nan, 0, 1, 1], "<f2").tobytes(), np.full(4, -1, "<f2").tobytes()],
    ids=["empty", "short", "long", "nan", "variance-below-zero"],
)
def test_a_fingerprint_that_is_none_undoes_everything_beside_it(
    store: Store, device: EnrolledDevice, bad: bytes
) -> None:
    """The session refuses it before; the record does not rely on that."""
    with pytest.raises(ValueError, match="fingerprint"):
        record(store, device, 1, scene(1, 4), sample(1, scene=1), Scene(scene=2, version=0, fingerprint=bad))
    assert (domains_of_scenes(store), domains_of_samples(store, device), known(store)) == ([], [], [])
    assert store.acked_sequence(device.id, 7) == 0
    found = store.device(device.id)
    assert found is not None
    assert (found.domain, found.last_scene) == (0, None)


def test_domains_survive_a_restart_and_go_on_from_where_they_were(
    store: Store, device: EnrolledDevice, opened: Bundle
) -> None:
    record(store, device, 1, scene(1, 4), scene(2, 9))
    store.close()
    again = Store(store.path.parent, bundle_digest=None, rule=DomainRule.of(opened.manifest))
    record(again, device, 3, scene(3, 4), scene(4, 14))
    assert domains_of_scenes(again) == [1, 2, 1, 3]
    again.close()


def bounded(store: Store, opened: Bundle, **changes: int) -> None:
    store.rule = DomainRule.of(opened.manifest, DomainConfig(**changes))  # type: ignore[arg-type]


def test_beyond_the_bound_the_least_visited_gives_way_and_no_number_is_used_twice(
    store: Store, device: EnrolledDevice, opened: Bundle
) -> None:
    bounded(store, opened, max_domains=2, max_founded=2)
    worlds = [4, 4, 9, 14, 9, 19]
    record(store, device, 1, *(scene(n, world) for n, world in enumerate(worlds, 1)))
    assert domains_of_scenes(store) == [1, 1, 2, 3, 4, 5]
    assert known(store) == [1, 5]
    assert [entry.number for entry in Ledger(store, "default").domains()] == [1, 2, 3, 4, 5], (
        "their samples stay theirs"
    )


def test_a_device_that_claims_new_worlds_without_end_pushes_out_its_own_only(
    store: Store, device: EnrolledDevice, opened: Bundle
) -> None:
    bounded(store, opened, max_domains=6, max_founded=3)
    liar = enrolled(store, 2)
    record(store, device, 1, scene(1, 1), scene(2, 2))
    record(store, liar, 1, *(scene(n, 10 + n) for n in range(1, 30)))
    assert known(store) == [1, 2, 29, 30, 31]
    bounded(store, opened, max_domains=6, max_founded=6)  # the negative control
    record(store, liar, 30, *(scene(n, 10 + n) for n in range(30, 60)))
    assert not {1, 2} & set(known(store))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(worlds=st.lists(st.integers(0, 6), min_size=1, max_size=30), cuts=st.sets(st.integers(1, 29)), data=st.data())
def test_however_scenes_are_batched_and_repeated_the_domains_are_the_same(
    tmp_path_factory: pytest.TempPathFactory, opened: Bundle, worlds: list[int], cuts: set[int], data: st.DataObject
) -> None:
    rule = DomainRule.of(opened.manifest, DomainConfig(max_domains=4, max_founded=4))
    found = []
    for batched in (False, True):
        store = Store(tmp_path_factory.mktemp("record"), bundle_digest=b"d" * 32, rule=rule)
        device = enrolled(store)
        entries = [(n, scene(n, world, jitter=0.01 * n)) for n, world in enumerate(worlds, 1)]
        edges = [0, *sorted(cut for cut in cuts if cut < len(entries)), len(entries)] if batched else [0, len(entries)]
        for begin, end in itertools.pairwise(edges):
            back = data.draw(st.integers(0, begin)) if batched else 0
            store.record(device.id, 7, entries[begin - back : end], now=5.0).result()
        centres = [(e.number, e.centre.tolist(), e.num_scenes, e.known) for e in Ledger(store, "default").domains()]
        found.append((domains_of_scenes(store), centres))
        store.close()
    assert found[0] == found[1]


# -- the rule ----------------------------------------------------------------------------------------------------------


def test_a_bundle_without_batchnorm_or_statistics_has_one_domain_0(
    opened: Bundle, tmp_path: Path, device: EnrolledDevice, store: Store
) -> None:
    group = NormLayer(name="gn", kind="group", num_channels=2, eps=1e-5)
    assert DomainRule.of(replace(opened.manifest, norm_layers=(group,))) is None
    assert DomainRule.of(replace(opened.manifest, statistics=None)) is None
    store.rule = None
    record(store, device, 1, Scene(scene=1, version=0, fingerprint=b""), sample(1, scene=1))
    assert (domains_of_scenes(store), domains_of_samples(store, device)) == ([0], [0])


def test_the_radius_is_a_factor_of_the_bundles_threshold(opened: Bundle) -> None:
    rule = DomainRule.of(opened.manifest)
    assert rule is not None
    assert rule.radius == pytest.approx(2.5 * 0.05)
    everything = DomainRule.of(opened.manifest, DomainConfig(domain_factor=math.inf))
    assert everything is not None
    assert everything.radius == math.inf


def test_an_infinite_factor_puts_all_into_one_domain(store: Store, device: EnrolledDevice, opened: Bundle) -> None:
    store.rule = DomainRule.of(opened.manifest, DomainConfig(domain_factor=math.inf))
    record(store, device, 1, *(scene(n, n) for n in range(1, 9)))
    assert domains_of_scenes(store) == [1] * 8


@pytest.mark.parametrize(
    "wrong",
    [
        {"domain_factor": -1.0},
        {"domain_factor": math.nan},
        {"start": "best"},
        {"replay": "none"},
        {"max_founded": 0},
        {"reissue_interval_s": -1.0},
        {"reissue_interval_s": math.nan},
        {"max_domains": 3, "max_founded": 4},
    ],
    ids=str,
)
def test_a_wrong_setting_is_a_value_error(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="got"):
        DomainConfig(**wrong)  # type: ignore[arg-type]


# -- where a domain's versions begin -----------------------------------------------------------------------------------


def entry(number: int, mean: float) -> DomainEntry:
    centre = np.array([mean, 0.0, 1.0, 1.0], dtype=np.float32)
    return DomainEntry(number=number, centre=centre, num_scenes=1, known=True, founder="d")


@pytest.mark.parametrize(
    ("start", "domain", "shipped", "expected"),
    [
        pytest.param("source", 1, {2: 8, 3: 9}, 0, id="source"),
        pytest.param("nearest", 1, {2: 8, 3: 9}, 9, id="nearest"),
        pytest.param("nearest", 1, {2: 8}, 8, id="nearest-that-has-one"),
        pytest.param("nearest", 1, {}, 0, id="none-has-one"),
        pytest.param("nearest", 1, {0: 5}, 0, id="domain-0-has-no-place"),
        pytest.param("nearest", 0, {2: 8}, 0, id="domain-0-is-near-nothing"),
    ],
)
def test_a_new_domain_starts_where_the_policy_says(
    start: str, domain: int, shipped: dict[int, int], expected: int
) -> None:
    config = DomainConfig(start=start)  # type: ignore[arg-type]
    domains = [entry(1, 0.0), entry(2, -3.0), entry(3, 2.0)]
    assert start_version(domain, domains, shipped, config=config, eps=1e-5) == expected
