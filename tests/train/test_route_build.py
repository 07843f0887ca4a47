"""A router's tables come from what a bundle's own graphs answer to held-out frames, the same for each build."""

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
import torch
from exit_bundles import source_like
from route_bundles import write_routeless_bundle
from safetensors.numpy import load, save

from littoral.bundle import Bundle, InputSpec, RouteTables
from littoral.bundle.images import encode_image
from littoral.core.route_words import Moment, RouteConfig
from littoral.core.switcher import Switcher, all_switch_features, fit_switcher
from littoral.models.factory import load_model
from littoral.models.frames import normalise
from littoral.train import route_build as route_build_module
from littoral.train import watched as watched_module
from littoral.train.options import RouterSource
from littoral.train.route_build import (
    FOLDS,
    RouteAnswers,
    check_router,
    cross_scores,
    make_tables,
    measure_answers,
    way_name,
    write_router,
)

FRAMES, LABELS = source_like(240, seed=5, noise=0.7)
SOURCE = RouterSource(frames=FRAMES, labels=LABELS, num_bins=10)


@pytest.fixture(scope="module")
def routeless(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_routeless_bundle(tiny_bundle, tmp_path_factory.mktemp("routeless") / "b")


@pytest.fixture(scope="module")
def answers(routeless: Bundle) -> RouteAnswers:
    return measure_answers(routeless, FRAMES, SOURCE.pictures)


def copy_of(bundle: Bundle, path: Path) -> Bundle:
    shutil.copytree(bundle.path, path)
    return Bundle.open(path, require_cloud=True)


def silent(_line: str) -> None:
    pass


@pytest.fixture(scope="module")
def routed(routeless: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    bundle = copy_of(routeless, tmp_path_factory.mktemp("routed") / "b")
    write_router(bundle.path, SOURCE, silent)
    return Bundle.open(bundle.path, require_cloud=True)


def test_a_router_is_added_and_nothing_else_of_the_bundle_changes(routeless: Bundle, routed: Bundle) -> None:
    before, after = json.loads(routeless.manifest.to_json()), json.loads(routed.manifest.to_json())
    assert after.pop("route_file") == "route.safetensors"
    assert set(after["files"]) - set(before["files"]) == {"route.safetensors"}
    del after["files"]["route.safetensors"]
    added = {name for name in after["source_metrics"] if name.startswith("router.")}
    assert {"router.num_frames", "router.point3.wrong", "router.split1.level2.wrong"} <= added
    after["source_metrics"] = {k: v for k, v in after["source_metrics"].items() if k not in added}
    assert after == before


def test_the_same_bundle_and_frames_give_the_same_digest(routeless: Bundle, routed: Bundle, tmp_path: Path) -> None:
    again = copy_of(routeless, tmp_path / "b")
    write_router(again.path, SOURCE, silent)
    assert Bundle.open(again.path).digest == routed.digest
    other = copy_of(routeless, tmp_path / "other")
    write_router(other.path, dataclasses.replace(SOURCE, frames=FRAMES[::-1], labels=LABELS[::-1]), silent)
    assert Bundle.open(other.path).digest != routed.digest


def test_the_curves_are_of_what_was_measured(routed: Bundle, answers: RouteAnswers) -> None:
    tables, metrics = RouteTables.open(routed), routed.manifest.source_metrics
    wrong_NP = answers.probabilities_NPK.argmax(axis=2) != LABELS[:, None]
    shares = tables.curves.first
    for point in range(3):
        assert metrics[f"router.point{point + 1}.wrong"] == pytest.approx(wrong_NP[:, point].mean(), rel=1e-5)
    assert shares @ tables.curves.local[0] == pytest.approx(wrong_NP[:, 0].mean(), abs=0.02)
    assert len(set(tables.curves.local[2].round(6))) > 3, "a curve that is flat would say nothing"
    for index, way in enumerate(tables.ways):
        sizes = answers.payload_bytes_NW[:, index]
        assert way.num_bytes == pytest.approx(sizes.mean(), rel=1e-5)
        share = (answers.cloud_answers_NW[:, index] != LABELS).mean()
        assert metrics[f"router.{way_name(way)}.wrong"] == pytest.approx(share, rel=1e-5)
        assert tables.curves.cloud_mean[index] == pytest.approx(share, abs=0.04)


def test_first_guesses_of_times_follow_the_work_and_not_the_clock(routeless: Bundle, answers: RouteAnswers) -> None:
    def steps(macs_per_ms: float) -> np.ndarray:
        source = dataclasses.replace(SOURCE, device_macs_per_ms=macs_per_ms)
        return np.array(make_tables(routeless, answers, LABELS, "labels", source)[0].step_ms)

    manifest = routeless.manifest
    first, second, *rest = manifest.segment_macs
    macs = [first + manifest.exits[0].macs, second + manifest.exits[1].macs, sum(rest)]
    np.testing.assert_allclose((steps(1e3) - steps(1e6)) / (1e-3 - 1e-6), macs, rtol=1e-3)


def test_without_labels_the_teacher_says_what_is_wrong(routeless: Bundle, tmp_path: Path) -> None:
    bundle = copy_of(routeless, tmp_path / "b")
    write_router(bundle.path, dataclasses.replace(SOURCE, labels=None), silent)
    tables = RouteTables.open(Bundle.open(bundle.path))
    assert tables.wrong_by == "teacher"
    shares = [Bundle.open(bundle.path).manifest.source_metrics[f"router.point{p}.wrong"] for p in (1, 2, 3)]
    assert shares != [pytest.approx(float(x), abs=1e-9) for x in (0, 0, 0)]


def test_a_device_that_is_never_wrong_gets_tables_too_and_offloads_nothing(
    routeless: Bundle, answers: RouteAnswers
) -> None:
    own = answers.probabilities_NPK[:, -1].argmax(axis=1)
    tables, metrics = make_tables(routeless, answers, own, "labels", SOURCE)
    assert metrics["router.point3.wrong"] == 0
    router = RouteTables.from_bytes(tables.to_bytes()).router(RouteConfig(audit_share=0.0))
    for number in range(6):
        ticket = router.sent(number % 6, 100, encode_ms=0.5, now_ms=float(number))
        router.answered(ticket, 1.0, queue_ms=0, compute_ms=1, now_ms=float(number))
    features = all_switch_features(answers.probabilities_NPK)
    for index in range(40):
        router.new_frame()
        moment = Moment(
            point=3,
            elapsed_ms=1.0,
            now_ms=7.0,
            thresholds=(0.9, 0.9),
            confidence=float(answers.probabilities_NPK[index, 2].max()),
            features=features[index, 2],
        )
        assert router.route(moment).action == "finish"


def world(n: int = 500, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((n, 2, 4))
    right = (rng.random((n, 2)) < 1 / (1 + np.exp(-features[:, :, 0]))).astype(float)
    return features, right, (rng.random(n) < 0.9).astype(float)


def test_no_frames_score_depends_on_what_was_right_for_it() -> None:
    features, right, cloud = world()
    mine = np.random.default_rng(0).permutation(len(right)) % FOLDS == 0
    spoiled = right.copy()
    spoiled[mine] = 1 - spoiled[mine]
    before, after = cross_scores(features, right, cloud), cross_scores(features, spoiled, cloud)
    np.testing.assert_array_equal(before[mine], after[mine])
    assert not np.array_equal(before[~mine], after[~mine])
    one, other = (Switcher(fit_switcher(features, x, cloud)).scores(features)[mine] for x in (right, spoiled))
    assert np.abs(one - other).max() > 0.05, "the negative control: a switcher that was fitted on these frames too"


def test_scores_of_the_folds_are_about_those_of_the_switcher_that_ships() -> None:
    """A router looks its own switcher's scores up in the curves' bins."""
    features, right, cloud = world()
    shipped = Switcher(fit_switcher(features, right, cloud)).scores(features)
    scores = cross_scores(features, right, cloud)
    for point in range(2):
        assert np.corrcoef(scores[:, point], shipped[:, point])[0, 1] > 0.98


MODEL = InputSpec(height=16, width=16, channels=1, mean=(0.0,), std=(1.0,))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param({"has_exits": False}, "there are no exits", id="no-exits"),
        pytest.param({"has_splits": False, "pictures": ()}, "nobody to ask", id="no-way"),
        pytest.param({"frames": FRAMES[:99], "labels": LABELS[:99]}, "at least 100", id="too-few"),
        pytest.param({"frames": FRAMES[:, :8]}, r"expected uint8 \(N, 16, 16, 1\)", id="shape"),
        pytest.param({"frames": FRAMES.astype(np.float32)}, "float32", id="type"),
        pytest.param({"labels": LABELS[1:]}, r"expected int64 \(240,\)", id="labels-of-others"),
        pytest.param({"labels": LABELS.astype(float)}, "labels are float64", id="labels-no-integers"),
        pytest.param({"labels": LABELS + 1}, "from 1 to 10, there are classes 0 to 9", id="labels-too-high"),
        pytest.param({"labels": LABELS - 1}, "from -1 to 8", id="labels-below-0"),
    ],
)
def test_a_router_that_cannot_be_made_is_refused_before_anything_is_built(changes: dict[str, Any], words: str) -> None:
    has = {name: changes.get(name, True) for name in ("has_exits", "has_splits")}
    source = dataclasses.replace(SOURCE, **{k: v for k, v in changes.items() if k in ("frames", "labels", "pictures")})
    with pytest.raises(ValueError, match=words):
        check_router(source, MODEL, 10, **has)
    check_router(SOURCE, MODEL, 10, has_exits=True, has_splits=True)


@pytest.mark.parametrize("changes", [{"num_bins": 1}, {"device_macs_per_ms": 0.0}, {"device_macs_per_ms": np.inf}])
def test_options_that_cannot_be_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="at least 2, and a positive number"):
        dataclasses.replace(SOURCE, **changes)


def rewrite(bundle: Bundle, file: str, change: Callable[[dict[str, np.ndarray]], None]) -> Bundle:
    """Other tensors in a file, whose hash is right."""
    tensors = dict(load(bundle.read(file)))
    change(tensors)
    data = save(tensors)
    (bundle.path / file).write_bytes(data)
    files = bundle.manifest.files | {file: hashlib.sha256(data).hexdigest()}
    (bundle.path / "bundle.json").write_bytes(dataclasses.replace(bundle.manifest, files=files).to_json())
    return Bundle.open(bundle.path, require_cloud=True)


def no_number(pick: Callable[[str], bool]) -> Callable[[dict[str, np.ndarray]], None]:
    def change(tensors: dict[str, np.ndarray]) -> None:
        name = next(name for name in sorted(tensors) if pick(name))
        tensors[name] = np.full_like(tensors[name], np.nan)

    return change


@pytest.mark.parametrize(
    ("file", "pick", "words"),
    [
        ("weights.safetensors", lambda name: name == "head.bias", "the network gives what is not finite for 64"),
        ("weights.safetensors", lambda name: name == "stem.conv.weight", "exit 0 gives what is not finite"),
        ("cloud/split-1.safetensors", lambda name: name == "decoder.0.weight", "the tail of split 1 gives"),
        ("cloud/teacher.safetensors", lambda name: name == "head.bias", "the teacher gives"),
    ],
    ids=["network", "exit", "tail", "teacher"],
)
def test_outputs_that_are_not_finite_make_no_router(
    routeless: Bundle, tmp_path: Path, file: str, pick: Callable[[str], bool], words: str
) -> None:
    rewrite(copy_of(routeless, tmp_path / "b"), file, no_number(pick))
    before = (tmp_path / "b" / "bundle.json").read_bytes()
    with pytest.raises(ValueError, match=words):
        write_router(tmp_path / "b", dataclasses.replace(SOURCE, labels=None), silent)
    assert (tmp_path / "b" / "bundle.json").read_bytes() == before


def ceiling(max_bytes: int) -> Callable[[dict[str, np.ndarray]], None]:
    def change(tensors: dict[str, np.ndarray]) -> None:
        tensors["level0.max_bytes"] = np.array([max_bytes], np.uint32)

    return change


def test_a_frame_that_no_level_takes_counts_as_the_device_answers_it(
    routeless: Bundle, answers: RouteAnswers, tmp_path: Path
) -> None:
    usual = int(np.median(answers.payload_bytes_NW[:, 0]))
    tight = rewrite(copy_of(routeless, tmp_path / "b"), "codec-0.safetensors", ceiling(usual))
    came = measure_answers(tight, FRAMES)
    left_out = came.payload_bytes_NW[:, 0] == 0
    assert 0 < left_out.sum() < len(FRAMES)
    own = answers.probabilities_NPK[:, -1].argmax(axis=1)
    np.testing.assert_array_equal(came.cloud_answers_NW[left_out, 0], own[left_out])
    np.testing.assert_array_equal(came.cloud_answers_NW[~left_out, 0], answers.cloud_answers_NW[~left_out, 0])


def test_a_level_that_takes_no_frame_makes_no_router(routeless: Bundle, tmp_path: Path) -> None:
    none = rewrite(copy_of(routeless, tmp_path / "b"), "codec-0.safetensors", ceiling(14))
    with pytest.raises(ValueError, match="no held-out frame's payload of split 0 at level 0"):
        measure_answers(none, FRAMES)


def test_answers_that_take_long_say_how_far_they_are(routeless: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    measure_answers(routeless, FRAMES[:70], ("lossless", "png"), said.append)
    assert said == []
    monkeypatch.setattr(watched_module, "_FIRST_SECONDS", -1.0)
    measure_answers(routeless, FRAMES[:70], ("lossless", "png"), said.append)
    assert [line.split(",")[0] for line in said] == [
        "router: exits and splits: 50 % done",
        "router: pictures: 50 % done",
    ]


# Pictures.


def test_pictures_are_answered_by_the_teacher_through_the_very_bytes(routeless: Bundle, answers: RouteAnswers) -> None:
    assert answers.pictures == ("lossless",), "of one channel WebP serves nothing, and is the same"
    spec = routeless.manifest.teacher
    assert spec is not None
    model = load_model(spec, routeless.load_tensors(spec.file))
    with torch.inference_mode():
        expected = model(normalise(torch.from_numpy(np.array(FRAMES)), routeless.manifest.input)).argmax(1).numpy()
    np.testing.assert_array_equal(answers.cloud_answers_NW[:, -1], expected)
    coded = [len(encode_image(frame, "lossless")[1]) for frame in FRAMES]
    np.testing.assert_array_equal(answers.payload_bytes_NW[:, -1], coded)


def test_a_bundle_without_splits_gets_tables_of_pictures(routeless: Bundle, tmp_path: Path) -> None:
    bare = copy_of(routeless, tmp_path / "b")
    manifest = dataclasses.replace(bare.manifest, splits=())
    (bare.path / "bundle.json").write_bytes(manifest.to_json())
    write_router(bare.path, dataclasses.replace(SOURCE, pictures=("lossless",)), silent)
    made = Bundle.open(bare.path)
    assert [way.coding for way in RouteTables.open(made).ways] == ["lossless"]
    assert "router.picture.lossless.wrong" in made.manifest.source_metrics


def test_who_wants_no_pictures_has_the_tables_of_before(routeless: Bundle, tmp_path: Path) -> None:
    bare = copy_of(routeless, tmp_path / "b")
    write_router(bare.path, dataclasses.replace(SOURCE, pictures=()), silent)
    assert not any(way.is_picture for way in RouteTables.open(Bundle.open(bare.path)).ways)


@pytest.mark.parametrize("pictures", [("gif",), ("png", "png")], ids=["of-no-coding", "twice"])
def test_pictures_that_cannot_be_are_refused(pictures: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="picture"):
        dataclasses.replace(SOURCE, pictures=pictures)


def test_pictures_that_are_too_large_to_send_are_no_way(routeless: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = FRAMES[:60].copy()
    frames[::2, 8:] = 0  # else pictures of noise are all of one size
    answers = measure_answers(routeless, frames, ("lossless",))
    sizes = answers.payload_bytes_NW[:, -1]
    monkeypatch.setattr(route_build_module, "MAX_PICTURE_BYTES", int(sizes[::2].max()))
    over = sizes > sizes[::2].max()
    assert over.tolist() == [False, True] * 30
    some = measure_answers(routeless, frames, ("lossless",))
    assert (some.payload_bytes_NW[:, -1] == np.where(over, 0, sizes)).all()
    own = answers.probabilities_NPK[:, -1].argmax(axis=1)
    np.testing.assert_array_equal(some.cloud_answers_NW[over, -1], own[over])
    teacher = route_build_module._Teacher(routeless)
    theirs = teacher.answers(frames)
    others = (theirs + 1) % 10  # the device's, had it never said what the teacher says
    labels, came = teacher.picture_answers(frames, "lossless", others)
    np.testing.assert_array_equal(labels, np.where(over, others, theirs))
    np.testing.assert_array_equal(came, np.where(over, 0, sizes))
    monkeypatch.setattr(route_build_module, "MAX_PICTURE_BYTES", 1)
    assert measure_answers(routeless, frames, ("lossless",)).pictures == ()
