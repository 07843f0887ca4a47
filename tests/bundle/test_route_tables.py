"""The router's tables of a bundle: read as written, refused where damaged or made for other exits or splits."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from route_bundles import ROUTE_FILE, drawn_tables, with_tables, write_routeless_bundle
from safetensors.numpy import load, save

from littoral.bundle import Bundle, Manifest, RouteTables
from littoral.bundle.route_tables import way_places
from littoral.core.route_words import Moment
from littoral.core.switcher import NUM_FEATURES
from littoral.errors import BundleError


@pytest.fixture(scope="module")
def routeless(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_routeless_bundle(tiny_bundle, tmp_path_factory.mktemp("routeless") / "b")


@pytest.fixture(scope="module")
def tables(routeless: Bundle) -> RouteTables:
    return drawn_tables(routeless)


@pytest.fixture(scope="module")
def routed(routeless: Bundle, tables: RouteTables, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return with_tables(routeless, tables, tmp_path_factory.mktemp("routed") / "b")


def tensors_of(tables: RouteTables) -> dict[str, np.ndarray]:
    return dict(load(tables.to_bytes()))


def test_tables_come_back_from_their_bytes_as_they_were(tables: RouteTables) -> None:
    again = RouteTables.from_bytes(tables.to_bytes())
    assert again.to_bytes() == tables.to_bytes()
    assert (again.ways, again.step_ms, again.wrong_by) == (tables.ways, tables.step_ms, "labels")
    for name in ("edges", "sure", "local", "cloud", "cloud_mean", "first", "onward"):
        np.testing.assert_array_equal(getattr(again.curves, name), getattr(tables.curves, name))
    assert again.switcher.shipped.digest() == tables.switcher.shipped.digest()


def test_what_answers_were_held_against_is_kept(routeless: Bundle) -> None:
    assert RouteTables.from_bytes(drawn_tables(routeless, wrong_by="teacher").to_bytes()).wrong_by == "teacher"


def test_what_a_switcher_learned_is_not_shipped_and_each_router_has_its_own(tables: RouteTables) -> None:
    before = tables.to_bytes()
    first, second = tables.router(), tables.router()
    assert first.switcher is not None
    assert second.switcher is not None
    for _ in range(200):
        first.switcher.observe(0, np.ones(NUM_FEATURES), device_right=False, cloud_right=True, propensity=1.0)
    first.switcher.refit()
    shipped = tables.switcher.shipped.coefficients
    assert not np.array_equal(first.switcher.coefficients, shipped)
    np.testing.assert_array_equal(second.switcher.coefficients, shipped)
    assert tables.to_bytes() == before


def test_a_bundles_tables_make_a_router_that_decides(routed: Bundle) -> None:
    opened = RouteTables.open(routed)
    router = opened.router()
    router.new_frame()
    decision = router.route(Moment(point=0, elapsed_ms=0.0, now_ms=0.0, thresholds=(0.9, 0.9)))
    assert (decision.action, decision.degraded) == ("go-on", False)
    assert [way.point for way in opened.ways] == [0, 0, 0, 1, 1, 1]


def test_the_tables_are_of_the_devices_part_and_the_same_at_each_writing(
    routed: Bundle, routeless: Bundle, tables: RouteTables, tmp_path: Path
) -> None:
    assert ROUTE_FILE in routed.manifest.files
    assert with_tables(routeless, tables, tmp_path / "again").digest == routed.digest
    shutil.copytree(routed.path, tmp_path / "device")
    shutil.rmtree(tmp_path / "device" / "cloud")
    assert RouteTables.open(Bundle.open(tmp_path / "device")).to_bytes() == tables.to_bytes()


def test_a_bundle_without_a_router_keeps_its_bytes_and_says_so(routeless: Bundle, routed: Bundle) -> None:
    assert "route_file" not in json.loads(routeless.manifest.to_json())
    assert "route_file" in json.loads(routed.manifest.to_json())
    without = dataclasses.replace(routed.manifest, route_file=None, files=routeless.manifest.files)
    assert without.to_json() == routeless.manifest.to_json()
    with pytest.raises(BundleError, match="has no router"):
        RouteTables.open(routeless)


def test_a_changed_byte_of_the_tables_is_refused(routed: Bundle, tmp_path: Path) -> None:
    shutil.copytree(routed.path, tmp_path / "b")
    file = tmp_path / "b" / ROUTE_FILE
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(BundleError, match=f"{ROUTE_FILE} has changed"):
        Bundle.open(tmp_path / "b")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param(
            {"exits": (), "heads_file": None, "exit_promise": None, "segment_macs": ()}, "no exits", id="exits"
        ),
        pytest.param({"splits": (), "teacher": None}, "a teacher", id="teacher"),
        pytest.param({"route_file": "nothing.safetensors"}, "expected a listed file", id="not-listed"),
        pytest.param({"route_file": "cloud/student.safetensors"}, "outside cloud/", id="of-the-cloud"),
        pytest.param({"route_file": 3}, "route_file is int", id="no-name"),
    ],
)
def test_a_manifest_whose_router_cannot_be_is_refused(routed: Bundle, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(BundleError, match=words):
        Manifest.from_json(dataclasses.replace(routed.manifest, **changes).to_json())


def one_way_less(tables: RouteTables) -> RouteTables:
    curves = tables.curves
    fewer = dataclasses.replace(curves, cloud=curves.cloud[:-1], cloud_mean=curves.cloud_mean[:-1])
    return dataclasses.replace(tables, curves=fewer, ways=tables.ways[:-1])


def other_point(tables: RouteTables) -> RouteTables:
    *ways, last = tables.ways
    return dataclasses.replace(tables, ways=(*ways, dataclasses.replace(last, point=2)))


def other_level(tables: RouteTables) -> RouteTables:
    first, *ways = tables.ways
    return dataclasses.replace(tables, ways=(dataclasses.replace(first, level=2), *ways))


def one_exit_less(bundle: Bundle) -> Bundle:
    manifest = bundle.manifest
    return dataclasses.replace(bundle, manifest=dataclasses.replace(manifest, exits=manifest.exits[1:]))


@pytest.mark.parametrize("change", [one_way_less, other_point, other_level])
def test_tables_of_other_splits_are_refused(
    routeless: Bundle, tables: RouteTables, tmp_path: Path, change: Callable[[RouteTables], RouteTables]
) -> None:
    bundle = with_tables(routeless, change(tables), tmp_path / "b")  # every hash is right
    with pytest.raises(BundleError, match=r"has ways .*, expected "):
        RouteTables.open(bundle)


def test_tables_of_other_exits_are_refused(routeless: Bundle, tmp_path: Path) -> None:
    bundle = with_tables(routeless, drawn_tables(one_exit_less(routeless)), tmp_path / "b")
    with pytest.raises(BundleError, match="is for 2 points"):
        RouteTables.open(bundle)


def test_a_split_is_taken_from_the_first_point_that_has_its_input(routeless: Bundle) -> None:
    manifest = routeless.manifest
    assert [each.segment for each in manifest.exits] == [0, 1, 2]  # the last is the deep exit, and no point
    splits = tuple(dataclasses.replace(manifest.splits[1], segment=segment) for segment in (None, 0, 1, 2))
    places = way_places(dataclasses.replace(manifest, splits=splits), [1, 1, 2, 1])
    assert places == ((0, 0, 0), (1, 0, 1), (2, 0, 2), (2, 1, 2), (3, 0, 3))


def put(name: str, value: Any, *, at: tuple[int, ...] | None = None) -> Callable[[dict[str, np.ndarray]], None]:
    def change(tensors: dict[str, np.ndarray]) -> None:
        if at is None:
            tensors[name] = value
        else:
            tensors[name] = tensors[name].copy()
            tensors[name][at] = value

    return change


def drop(name: str) -> Callable[[dict[str, np.ndarray]], None]:
    def change(tensors: dict[str, np.ndarray]) -> None:
        del tensors[name]

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param(drop("curves.sure"), "'curves.sure'", id="missing"),
        pytest.param(put("more", np.zeros(1)), "'more'", id="unknown"),
        pytest.param(put("format", np.array([2], np.uint16)), "format", id="format"),
        pytest.param(put("wrong_by", np.array([2], np.uint8)), "wrong_by", id="wrong-by"),
        pytest.param(put("step_ms", np.zeros(3, np.float32)), "float32", id="type"),
        pytest.param(put("curves.local", np.zeros(3)), "of 1 axes", id="axes"),
        pytest.param(put("step_ms", np.zeros(2)), "3 points", id="steps"),
        pytest.param(put("step_ms", np.nan, at=(0,)), "finite", id="step-not-a-number"),
        pytest.param(put("step_ms", -1.0, at=(0,)), "below 0", id="step-below-0"),
        pytest.param(put("ways", np.zeros((6, 2), np.uint16)), "of shape", id="ways"),
        pytest.param(put("ways", 9, at=(5, 2)), "the last is 3", id="way-after-the-end"),
        pytest.param(put("ways.num_bytes", 0.0, at=(0,)), "num_bytes > 0", id="payload-of-nothing"),
        pytest.param(put("ways.num_bytes", np.inf, at=(0,)), "finite", id="payload-without-end"),
        pytest.param(put("ways.encode_ms", np.nan, at=(0,)), "finite", id="encoding-not-a-number"),
        pytest.param(put("curves.local", 1.5, at=(0, 0)), "leaves", id="more-wrong-than-all"),
        pytest.param(put("curves.sure", np.nan, at=(0, 0)), "confidence", id="confidence-not-a-number"),
        pytest.param(put("curves.edges", 99.0, at=(0, 0)), "rising", id="edges-that-fall"),
        pytest.param(put("curves.edges", np.nan, at=(0, 0)), "rising", id="edges-not-numbers"),
        pytest.param(put("curves.first", 0.9, at=(0,)), "curves.first", id="shares"),
        pytest.param(put("curves.onward", np.nan, at=(0, 0, 0)), "curves.onward", id="shares-not-numbers"),
        pytest.param(put("curves.cloud", np.zeros((5, 3, 8))), "shapes", id="ways-of-curves"),
        pytest.param(put("switcher.coefficients", np.inf, at=(0, 0, 0)), "not finite", id="coefficient"),
        pytest.param(put("switcher.precision", 0.0, at=(0, 0)), "positive definite", id="precision"),
        pytest.param(put("switcher.precision", 99.0, at=(0, 0, 0, 1)), "symmetric", id="not-symmetric"),
    ],
)  # fmt: skip
def test_values_that_cannot_be_are_refused(
    routeless: Bundle, tables: RouteTables, tmp_path: Path, change: Callable[[Any], None], words: str
) -> None:
    tensors = tensors_of(tables)
    change(tensors)
    data = save(tensors)
    with pytest.raises(ValueError, match=words):
        RouteTables.from_bytes(data)
    (tmp_path / ROUTE_FILE).write_bytes(data)
    files = routeless.manifest.files | {ROUTE_FILE: hashlib.sha256(data).hexdigest()}
    manifest = dataclasses.replace(routeless.manifest, route_file=ROUTE_FILE, files=files)
    with pytest.raises(BundleError, match="build it again"):
        RouteTables.open(Bundle(path=tmp_path, manifest=manifest, digest=bytes(32)))


@pytest.mark.parametrize("data", [b"", b"x" * 50, b"\x08" + bytes(7) + b"{}      "], ids=["empty", "noise", "nothing"])
def test_bytes_that_are_no_tables_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="tables"):
        RouteTables.from_bytes(data)


# Pictures.

CODINGS = ("webp-90", "lossless")


@pytest.fixture(scope="module")
def pictured(routeless: Bundle) -> RouteTables:
    return drawn_tables(routeless, pictures=CODINGS)


def test_ways_that_are_pictures_come_back_with_their_codings(
    routeless: Bundle, pictured: RouteTables, tmp_path: Path
) -> None:
    again = RouteTables.open(with_tables(routeless, pictured, tmp_path / "b"))
    assert again.ways == pictured.ways
    assert [way.coding for way in again.ways if way.is_picture] == list(CODINGS)
    assert again.to_bytes() == pictured.to_bytes()
    assert again.router().ways == pictured.ways


def test_tables_without_pictures_have_the_bytes_that_they_had(tables: RouteTables, pictured: RouteTables) -> None:
    assert "ways.coding" not in tensors_of(tables)
    assert tensors_of(pictured)["ways.coding"].shape == (len(pictured.ways), 16)


def test_a_bundle_without_splits_has_pictures_alone(routeless: Bundle, tmp_path: Path) -> None:
    bare = dataclasses.replace(routeless, manifest=dataclasses.replace(routeless.manifest, splits=()))
    made = with_tables(bare, drawn_tables(bare, pictures=CODINGS), tmp_path / "b")
    assert [way.coding for way in RouteTables.open(Bundle.open(made.path)).ways] == list(CODINGS)


def without_teacher(bundle: Bundle) -> Bundle:
    return dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, teacher=None))


def test_pictures_for_a_teacher_that_is_not_there_are_refused(
    routeless: Bundle, pictured: RouteTables, tmp_path: Path
) -> None:
    bundle = with_tables(routeless, pictured, tmp_path / "b")
    with pytest.raises(BundleError, match="a teacher that it has not"):
        RouteTables.open(without_teacher(bundle))


def coded(*texts: str, width: int = 16) -> np.ndarray:
    return np.stack([np.frombuffer(text.encode().ljust(width, b"\0"), np.uint8) for text in texts])


@pytest.mark.parametrize(
    ("codings", "words"),
    [
        pytest.param(coded(*[""] * 6, "gif", "png"), "a picture is coded as", id="of-no-coding"),
        pytest.param(coded(*[""] * 6, "png", "png"), "each with another coding", id="twice"),
        pytest.param(coded("png", *[""] * 6, "webp"), "pictures come last", id="before-a-split"),
        pytest.param(coded(*[""] * 7, "png", width=8), "expected ASCII", id="narrower"),
        pytest.param(coded(*[""] * 5, "webp", "png"), "expected ASCII", id="of-fewer-ways"),
        pytest.param(coded(*[""] * 8).astype(np.uint16), "expected ASCII", id="of-another-type"),
        pytest.param(coded(*[""] * 6, "png", "\xff"), "expected ASCII", id="no-ascii"),
    ],
)  # fmt: skip
def test_codings_that_cannot_be_are_refused(
    pictured: RouteTables, routeless: Bundle, tmp_path: Path, codings: np.ndarray, words: str
) -> None:
    tensors = tensors_of(pictured) | {"ways.coding": codings}
    assert len(pictured.ways) == 8
    with pytest.raises((ValueError, BundleError), match=words):
        RouteTables.open(with_tables(routeless, RouteTables.from_bytes(save(tensors)), tmp_path / "b"))
