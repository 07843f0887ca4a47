"""A build writes a whole bundle or nothing, and the same bytes for the same seed."""

from __future__ import annotations

import copy
import dataclasses
import functools
import hashlib
import shutil
import tarfile

import numpy as np
import onnxruntime as ort
import pytest
import torch
from made_once import keep_the_exporters_operators
from torch import nn
from traced import random_frames, square

from littoral.bundle import Bundle, SigningKey
from littoral.core.affine import affine_names
from littoral.core.recall import fingerprint_distance, fingerprint_layer, fingerprint_of_moments
from littoral.core.tasks import Classification
from littoral.errors import BundleError
from littoral.models.factory import load_model
from littoral.models.frames import normalise
from littoral.models.zoo import small_cnn
from littoral.train import BuildOptions, TorchSource, build_bundle
from littoral.train import build as build_module
from littoral.train.export import export_model
from littoral.train.fit import settle_statistics
from littoral.train.run import measure

SPEC = square(16, 1)
FRAMES = random_frames(SPEC, 120)
LABELS = np.arange(120, dtype=np.int64) % 10
FACTORY = "littoral.models.zoo:small_cnn"
GUARD = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # Python 3.11.0 to 3.11.3 knows none


@functools.cache
def source(**kwargs):
    kwargs = {"width": 4, "num_classes": 10, "depth": 1, **kwargs}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(kwargs["width"])
        model = small_cnn(**kwargs)
    settle_statistics(model, FRAMES, input=SPEC)
    return TorchSource(model, FACTORY, kwargs)


def make(out, **changes):
    keep_the_exporters_operators()
    arguments = {
        "student": source(),
        "teacher": source(width=6),
        "out": out,
        "name": "test",
        "class_names": [str(i) for i in range(10)],
        "input": SPEC,
        "source_frames": FRAMES,
        "source_labels": LABELS,
        "options": BuildOptions(num_segments=2, probe_frames=24, replay_frames=40, drift_batches=4),
    }
    return build_bundle(**{**arguments, **changes})


@functools.cache
def traced_once(student, input, output_shape, taps):
    return export_model(student, input, output_shape=output_shape, taps=taps)


@pytest.fixture
def quick_trace(monkeypatch):
    """Tracing takes a second or two: once is enough where it is not what is tested."""
    monkeypatch.setattr(
        build_module,
        "export_model",
        lambda model, input, *, output_shape, taps, learns: traced_once(model, input, output_shape, tuple(taps)),
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return make(tmp_path_factory.mktemp("build") / "first")


def test_every_file_is_there_and_the_bundle_verifies(built):
    assert set(built.manifest.files) == {
        "segment-0.onnx",
        "segment-1.onnx",
        "statistics.onnx",
        "fingerprint.onnx",
        "source_world.safetensors",
        "weights.safetensors",
        "probe.safetensors",
        "cloud/student.safetensors",
        "cloud/teacher.safetensors",
        "cloud/replay.safetensors",
    }
    assert Bundle.open(built.path, require_cloud=True).digest == built.digest
    assert built.signer() is None
    assert [s.input for s in built.manifest.segments] == ["frames", built.manifest.segments[0].output]
    assert set(built.weights) == {name for s in built.manifest.segments for name in s.tensors}
    assert all(value.dtype == np.float32 for value in built.weights.values())
    spec = built.manifest.statistics
    assert (spec.file, spec.fingerprint_file) == ("statistics.onnx", "fingerprint.onnx")
    assert set(spec.tensors) <= set(built.weights)
    assert {"stem.norm.weight", "stem.norm.running_var"} <= set(spec.fingerprint_tensors) <= set(built.weights)


def test_probe_holds_the_students_own_answers_and_is_balanced_by_class(built):
    frames, labels = built.probe
    assert frames.shape == (24, 16, 16, 1)
    assert labels.dtype == np.int64
    model = load_model(built.manifest.student, built.load_tensors("cloud/student.safetensors"))
    with torch.no_grad():
        assert (model(normalise(torch.from_numpy(frames), SPEC)).argmax(1).numpy() == labels).all()
    truth = [LABELS[np.flatnonzero((frame == FRAMES).all(axis=(1, 2, 3)))[0]] for frame in frames]
    assert set(np.bincount(truth, minlength=10)) == {2, 3}


def test_replay_is_a_sample_of_source_frames_without_labels(built):
    tensors = built.load_tensors("cloud/replay.safetensors")
    assert set(tensors) == {"frames"}
    assert tensors["frames"].shape == (40, 16, 16, 1)
    known = {frame.tobytes() for frame in FRAMES}
    assert all(frame.tobytes() in known for frame in tensors["frames"])


def test_the_teacher_is_made_again_from_the_bundle(built):
    teacher = load_model(built.manifest.teacher, built.load_tensors("cloud/teacher.safetensors"))
    x = normalise(torch.from_numpy(FRAMES[:4]), SPEC)
    with torch.no_grad():
        assert torch.equal(teacher(x), source(width=6).module.eval()(x))


def test_envelope_bounds_gamma_and_beta_by_the_layers_mean_gamma(built):
    bounds = built.manifest.envelope_max_delta
    assert set(bounds) == set(affine_names(built.manifest.norm_layers))
    for layer in built.manifest.norm_layers:
        expected = np.abs(built.weights[layer.gamma]).mean()
        assert bounds[layer.gamma] == bounds[layer.beta] == pytest.approx(expected, rel=1e-5)


def test_source_metrics_are_over_the_source_frames(built):
    metrics = built.manifest.source_metrics
    assert metrics["num_frames"] == 120
    assert 0 <= metrics["accuracy"] <= 1
    assert 0 < metrics["mean_entropy_nats"] <= np.log(10)


def fingerprints_of(bundle):
    """What the bundle's fingerprint graph says of frames, on the bundle's own weights."""
    spec, layer = bundle.manifest.statistics, fingerprint_layer(bundle.manifest.norm_layers)
    options = ort.SessionOptions()
    values = [ort.OrtValue.ortvalue_from_numpy(bundle.weights[name]) for name in spec.fingerprint_tensors]
    options.add_external_initializers(list(spec.fingerprint_tensors), values)
    session = ort.InferenceSession(bundle.read(spec.fingerprint_file), options, providers=["CPUExecutionProvider"])
    return lambda frames: fingerprint_of_moments(measure(session, frames), layer)


def test_drift_threshold_lies_between_two_source_batches_and_a_source_batch_and_other_frames(built):
    spec, layer = built.manifest.statistics, fingerprint_layer(built.manifest.norm_layers)
    seen = fingerprints_of(built)

    def apart(one, other):
        return fingerprint_distance(seen(one), seen(other), eps=layer.eps)

    assert 0 < apart(FRAMES[:40], FRAMES[40:80]) < 2 * spec.drift_threshold
    assert apart(FRAMES[:40], 255 - FRAMES[40:80]) > 6 * spec.drift_threshold


def test_drift_threshold_does_not_depend_on_the_layers_running_statistics(tmp_path, quick_trace):
    """Those of a training with augmentation do not fit the frames; the old threshold grew with that, and hid shifts."""
    told = {}
    for name, off in (("fits", 0.0), ("does-not", 3.0)):
        module = copy.deepcopy(source().module)
        with torch.no_grad():
            norm = module.blocks[0].norm
            norm.running_mean += off * norm.running_var.sqrt()
        bundle = make(tmp_path / name, student=TorchSource(module, FACTORY, source().kwargs))
        assert fingerprint_layer(bundle.manifest.norm_layers).name == "blocks.0.norm"
        told[name] = bundle.manifest.statistics.drift_threshold
    assert told["does-not"] == told["fits"] > 0


@pytest.mark.parametrize("count", [2, 32], ids=["two-frames", "as-many-as-a-batch"])
def test_few_source_frames_still_give_a_threshold_that_two_batches_of_them_keep(tmp_path, quick_trace, count):
    """Batches drawn without replacement would hold the same frames, and all that a device sees would be drift."""
    some = {"source_frames": FRAMES[:count], "source_labels": LABELS[:count]}
    bundle = make(tmp_path / "b", options=BuildOptions(drift_batches=8), **some)
    spec, layer, seen = bundle.manifest.statistics, bundle.manifest.norm_layers[1], fingerprints_of(bundle)
    rng = np.random.default_rng(9)
    one, other = (seen(FRAMES[rng.integers(0, count, size=spec.drift_batch)]) for _ in range(2))
    assert 1e-5 < fingerprint_distance(one, other, eps=layer.eps) < 2.5 * spec.drift_threshold


def test_same_seed_same_bytes_other_seed_other_probe(built, tmp_path):
    again = make(tmp_path / "second")
    assert again.digest == built.digest
    tars = [bundle.path.with_name(bundle.path.name + ".tar") for bundle in (built, again)]
    assert len({hashlib.sha256(tar.read_bytes()).hexdigest() for tar in tars}) == 1
    other = BuildOptions(num_segments=2, probe_frames=24, replay_frames=40, drift_batches=4, seed=1)
    third = make(tmp_path / "second", options=other)  # in the place of a bundle
    assert third.digest != built.digest
    assert third.manifest.files["segment-0.onnx"] == built.manifest.files["segment-0.onnx"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["second", "second.tar"]


def test_the_tar_is_the_devices_part_and_takes_a_signature(built, tmp_path):
    with tarfile.open(built.path.with_name("first.tar")) as tar:
        names = tar.getnames()
        tar.extractall(tmp_path / "device", **GUARD)
    assert names == sorted(names)
    assert not any(name.startswith("cloud") for name in names)
    device = Bundle.open(tmp_path / "device")
    assert device.digest == built.digest
    with pytest.raises(BundleError):
        Bundle.open(tmp_path / "device", require_cloud=True)
    copied = Bundle.open(shutil.copytree(built.path, tmp_path / "copy"))
    key = SigningKey(bytes(range(32)))
    copied.pack()
    copied.sign(key)
    with tarfile.open(tmp_path / "copy.tar") as tar:
        tar.extractall(tmp_path / "signed", **GUARD)
    assert Bundle.open(tmp_path / "signed", trust=key.public).digest == built.digest


def test_module_paths_and_tensor_names_are_cut_points(tmp_path):
    bundle = make(tmp_path / "b", options=BuildOptions(cut_points=("blocks.0", "relu"), drift_batches=1))
    assert [s.output for s in bundle.manifest.segments] == ["relu", "blocks.0", "logits"]


def test_a_network_without_batch_norm_two_frames_no_labels(tmp_path):
    lines: list[str] = []
    bundle = make(
        tmp_path / "b",
        student=source(norm="group"),
        source_frames=FRAMES[:2],
        source_labels=None,
        options=BuildOptions(),
        progress=lines.append,
    )
    assert bundle.manifest.statistics is None
    assert not {"statistics.onnx", "fingerprint.onnx", "source_world.safetensors"} & set(bundle.manifest.files)
    assert bundle.manifest.probe.num_frames == len(bundle.probe[0]) == 2
    assert set(bundle.manifest.source_metrics) == {"mean_entropy_nats", "num_frames"}
    assert any("tracing" in line for line in lines)


def test_a_build_that_fails_leaves_nothing_and_the_old_bundle_stays(built, tmp_path, monkeypatch, quick_trace):
    old = Bundle.open(shutil.copytree(built.path, tmp_path / "b"))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(build_module, "write_files", full)
    for name in ("b", "new"):
        with pytest.raises(OSError, match="No space"):
            make(tmp_path / name)
    assert Bundle.open(tmp_path / "b", require_cloud=True).digest == old.digest
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def test_a_place_that_cannot_be_written_is_told_before_anything_is_traced(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr("littoral.train.build.export_model", lambda *args, **options: pytest.fail("it was traced"))
    with pytest.raises(ValueError, match=r"file cannot be written .*; give another folder"):
        make(tmp_path / "file" / "b")


def test_a_folder_that_is_no_bundle_is_not_replaced(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="has files in it and is not a bundle"):
        make(tmp_path / "home")
    with pytest.raises(ValueError, match="is not a folder"):
        make(tmp_path / "home" / "thesis.tex")
    assert (tmp_path / "home" / "thesis.tex").read_text() == "years of work"


class Chancy(nn.Module):
    """Gives other logits at each call."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(256, 10)

    def forward(self, x):
        return self.head(nn.functional.dropout(x.flatten(1), 0.5, training=True))


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"teacher": source(num_classes=7)}, ValueError, "the teacher has 7 classes, the student 10"),
        ({"class_names": ["a", "b", "c"], "source_labels": None}, ValueError, "have 10 classes, class_names has 3"),
        ({"class_names": ["a"]}, ValueError, "at least 2"),
        ({"source_frames": FRAMES.astype(np.float32)}, ValueError, "source_frames are float32"),
        ({"source_frames": FRAMES[:, :8]}, ValueError, r"expected uint8 \(N, 16, 16, 1\)"),
        ({"source_frames": FRAMES[:1], "source_labels": LABELS[:1]}, ValueError, "N at least 2"),
        ({"source_labels": LABELS[:5]}, ValueError, r"source_labels are int64 \(5,\)"),
        ({"source_labels": LABELS + 1}, ValueError, r"source_labels lie in 1..10, expected 0..9"),
        ({"input": square(16, 3)}, ValueError, r"expected uint8 \(N, 16, 16, 3\)"),
        ({"options": BuildOptions(num_segments=9)}, ValueError, "can be cut into 1 to 4 segments"),
        ({"options": BuildOptions(cut_points=("layer9",))}, ValueError, "'layer9' is not a cut point.*relu"),
        (
            {"student": TorchSource(source().module, FACTORY, {"width": 5, "depth": 1})},
            BundleError,
            "does not fit the network",
        ),
        (
            {"student": TorchSource(source().module, "littoral.models.zoo:alexnet", {})},
            BundleError,
            "has no 'alexnet'",
        ),
        ({"student": TorchSource(Chancy(), f"{__name__}:Chancy", {})}, BundleError, "not the same network"),
    ],
    ids=[
        "teacher-classes",
        "class-names",
        "one-class",
        "float-frames",
        "frame-size",
        "one-frame",
        "label-count",
        "label-range",
        "channels",
        "too-many-segments",
        "unknown-cut",
        "other-kwargs",
        "no-factory",
        "chance",
    ],
)
def test_what_does_not_fit_is_refused_with_both_sides_named(tmp_path, quick_trace, changes, kind, words):
    with pytest.raises(kind, match=words):
        make(tmp_path / "b", **changes)
    assert list(tmp_path.iterdir()) == []


def test_segments_that_differ_from_torch_fail_the_build(tmp_path, monkeypatch, quick_trace):
    """Negative control of the last check: a wrong tensor in the export does not get into a bundle."""
    honest = build_module.export_model

    def wrong(*args, **kwargs):
        exported = honest(*args, **kwargs)
        return dataclasses.replace(
            exported, tensors={**exported.tensors, "head.bias": exported.tensors["head.bias"] + 1}
        )

    monkeypatch.setattr(build_module, "export_model", wrong)
    with pytest.raises(BundleError, match="the exported segments differ from torch"):
        make(tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("own", "off", "passes"),
    [(0.0, 3e-4, False), (1e-4, 3e-4, True), (1e-4, 6e-4, False), (1.0, 2e-3, False), (float("nan"), 3e-4, False)],
    ids=["exact", "as-inexact-as-torch", "less-exact", "more-than-any", "no-number"],
)
def test_segments_may_differ_by_what_a_networks_own_rounding_is(tmp_path, monkeypatch, quick_trace, own, off, passes):
    honest, outputs = build_module.predict, build_module._outputs
    scale = float(np.abs(outputs(source().module, SPEC, FRAMES[:8])).max())

    def inexact(model, spec, frames):
        in_float64 = next(model.parameters()).dtype == torch.float64
        return outputs(model, spec, frames) + (own * scale if in_float64 else 0.0)

    monkeypatch.setattr(build_module, "_outputs", inexact)
    monkeypatch.setattr(build_module, "predict", lambda sessions, batch: honest(sessions, batch) + off * scale)
    exported = traced_once(source().module, SPEC, (10,), ())
    if passes:
        build_module._check_segments([exported.graph], exported, source().module, SPEC, FRAMES[8:16])
    else:
        with pytest.raises(BundleError, match="the exported segments differ from torch"):
            build_module._check_segments([exported.graph], exported, source().module, SPEC, FRAMES[8:16])


def test_arguments_that_json_cannot_hold_are_refused():
    with pytest.raises(ValueError, match="do not survive JSON"):
        TorchSource(nn.Identity(), FACTORY, {"sizes": (1, 2)})


@pytest.mark.parametrize(
    "change",
    [{"num_segments": 0}, {"probe_frames": 0}, {"min_agreement": 1.5}, {"envelope_fraction": 0.0}],
    ids=lambda change: next(iter(change)),
)
def test_options_that_make_no_sense_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        BuildOptions(**change)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_a_network_of_another_precision_is_taken_as_its_float32_copy(dtype):
    given = dataclasses.replace(source(), module=copy.deepcopy(source().module).to(dtype))
    made = build_module.in_float32(given)
    assert {p.dtype for p in made.module.parameters()} == {torch.float32}
    assert {p.dtype for p in given.module.parameters()} == {dtype}
    build_module.check_sources(Classification(num_classes=10), {"student": made}, SPEC, FRAMES[:4])


def test_a_network_that_gives_a_dictionary_is_told_to_be_wrapped():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = source().module

        def forward(self, x):
            return {"logits": self.net(x)}

    with pytest.raises(ValueError, match="Named gives a dict, expected one tensor; wrap it"):
        build_module._outputs(Named(), SPEC, FRAMES[:2])


def test_a_network_whose_copy_that_learns_is_another_is_refused(monkeypatch):
    def other(model, normalisation):
        model = copy.deepcopy(model)
        with torch.no_grad():
            model.head.bias.add_(1.0)
        return model

    monkeypatch.setattr(build_module, "prepare", other)
    with pytest.raises(ValueError, match=r"the teacher differs by .* from its copy that learns"):
        build_module.check_sources(Classification(num_classes=10), {"teacher": source()}, SPEC, FRAMES[:4])
