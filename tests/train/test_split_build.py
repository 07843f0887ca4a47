"""A trained split in a build: the device's encoder gives torch's symbols, its bytes give the tail's answers."""

from __future__ import annotations

import copy
import dataclasses
import functools
import types

import numpy as np
import pytest
import torch
from safetensors.numpy import load as load_safetensors
from torch import nn
from traced import network, random_frames

from littoral.bundle import Bundle, InputSpec
from littoral.core.codec import decode
from littoral.core.tasks import Classification
from littoral.errors import BundleError
from littoral.models.architectures import product
from littoral.models.bottleneck import split_tail_kwargs, to_split_tail
from littoral.models.factory import load_model
from littoral.models.frames import normalise
from littoral.models.parts import tail_of
from littoral.train import BuildOptions, SplitSource, TorchSource, build_bundle
from littoral.train import build as build_module
from littoral.train import split as split_module
from littoral.train import watched as watched_module
from littoral.train.encoder import check_latents, export_encoder, run_encoder
from littoral.train.run import open_session, run_chain
from littoral.train.split import build_split
from littoral.train.tables import TableOptions

NETWORK = {"width": 4, "num_classes": 10, "depth": 1}
FACTORY = "littoral.models.zoo:small_cnn"
LEVELS = 3
CUT = ("relu",)
"""After the stem."""


@pytest.fixture(scope="module")
def student():
    return network("small_cnn")


@pytest.fixture(scope="module")
def frames(student):
    return random_frames(student.spec, 48)


LABELS = np.arange(48, dtype=np.int64) % 10


@pytest.fixture(scope="module")
def sources(student):
    """A split from the frames and one from segment 0; their encoders' BatchNorm has seen something."""
    made = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for segment, channels, patch in ((None, 1, 4), (0, 4, 2)):
            bottleneck = product(
                in_channels=channels,
                out_channels=8,
                num_channels=6,
                starting_gains=(2.0, 4.0, 16.0),
                kept=(3, 6, 6),
                patch=patch,
                width=8,
                blocks=0,
                decoder_width=8,
                decoder_blocks=0,
                upsamplings=1 if segment is None else 0,
            )
            bottleneck.train()(torch.randn(64, channels, 16, 16), torch.zeros(64, dtype=torch.int64))
            tail = to_split_tail(bottleneck.eval(), tail_of(student.model, "blocks.0"))
            kwargs = split_tail_kwargs(bottleneck, {"factory": FACTORY, "kwargs": NETWORK, "cut": "blocks.0"})
            factory = "littoral.models.bottleneck:make_split_tail"
            plain = TableOptions(deadzones=())  # as torch rounds, to compare with it
            made.append(SplitSource(bottleneck, TorchSource(tail, factory, kwargs), segment, plain))
    return made


def make(out, student, frames, splits):
    """A build whose student was traced before."""
    source = TorchSource(student.model, FACTORY, NETWORK)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build_module, "export_model", lambda *args, **kwargs: student.exported)
        return build_bundle(
            student=source,
            teacher=source,
            out=out,
            name="split",
            class_names=[str(i) for i in range(10)],
            input=student.spec,
            source_frames=frames,
            source_labels=LABELS,
            splits=splits,
            options=BuildOptions(cut_points=CUT, probe_frames=16, replay_frames=16, drift_batches=2),
        )


@pytest.fixture(scope="module")
def exported(student, frames, sources):
    """Each encoder, traced once; a build takes them from here where tracing is not what is tested."""
    found = {}

    def once(encoder, value, *, spec):
        if (spec is None) not in found:
            found[spec is None] = export_encoder(encoder, value, spec=spec)
        return found[spec is None]

    return once


@pytest.fixture(scope="module")
def built(tmp_path_factory, student, frames, sources, exported):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(split_module, "export_encoder", exported)
        return make(tmp_path_factory.mktemp("split") / "b", student, frames, sources)


def test_a_split_is_measured_with_the_truths_of_its_very_frames(student, sources, monkeypatch):
    frames, given = random_frames(student.spec, 40), {}
    label_of = {frame.tobytes(): place for place, frame in enumerate(frames)}
    monkeypatch.setattr(build_module, "build_split", lambda _index, _source, **told: given.update(told))
    options = BuildOptions(metric_frames=30, seed=3)
    task = Classification(num_classes=10)
    more = (student.spec, frames, np.arange(40), options, print)
    build_module._build_splits(sources[:1], [], task, *more)
    assert len(given["frames"]) == 30
    assert [label_of[frame.tobytes()] for frame in given["frames"]] == [int(label) for label in given["truths"]]


def test_levels_that_take_long_to_measure_say_how_far_they_are(student, frames, sources, exported, monkeypatch):
    monkeypatch.setattr(split_module, "export_encoder", exported)
    monkeypatch.setattr(split_module, "frames_at_a_time", lambda _shape: 24)
    monkeypatch.setattr(watched_module, "_FIRST_SECONDS", -1.0)
    said: list[str] = []
    build_split(
        *(0, sources[0]),
        segments=[],
        input=student.spec,
        task=Classification(num_classes=10),
        frames=frames,
        truths=LABELS,
        progress=said.append,
    )
    far = [line for line in said if "done" in line]
    assert far == [
        f"split 0: level {level} ({level + 1} of {LEVELS}): 50 % done, 0.0 min left" for level in range(LEVELS)
    ]


def values_of(bundle: Bundle, segment: int | None, frames: np.ndarray) -> np.ndarray:
    """What a device has at the split."""
    import onnx

    parts = bundle.manifest.segments[: 0 if segment is None else segment + 1]
    sessions = [open_session(onnx.load_from_string(bundle.read(part.file)), bundle.weights) for part in parts]
    return run_chain(sessions, frames)


class Device:
    """The device's part of a split, of ONNX Runtime and the codec alone: this room does not know `littoral.edge`."""

    def __init__(self, bundle: Bundle, index: int) -> None:
        import onnxruntime as ort

        from littoral.bundle import SplitCodec

        self.spec, self.codec = bundle.manifest.splits[index], SplitCodec.open(bundle, index)
        self.session = ort.InferenceSession(bundle.read(self.spec.encoder_file), providers=["CPUExecutionProvider"])

    def latents(self, values: np.ndarray) -> np.ndarray:
        return self.session.run(["latent"], {self.session.get_inputs()[0].name: values})[0]


def test_the_splits_files_are_listed_by_the_manifest_and_tells_what_the_encoder_takes(built):
    first, second = built.manifest.splits
    assert (first.segment, first.encoder_file, first.codec_file) == (None, "encoder-0.onnx", "codec-0.safetensors")
    assert (second.segment, second.model.file) == (0, "cloud/split-1.safetensors")
    assert {"encoder-1.onnx", "codec-1.safetensors", "cloud/split-0.safetensors"} < set(built.manifest.files)
    inputs = [Device(built, index).session.get_inputs()[0] for index in (0, 1)]
    assert [(i.name, i.type, i.shape) for i in inputs] == [
        ("frames", "tensor(uint8)", ["batch", 16, 16, 1]),
        ("features", "tensor(float)", ["batch", 4, 16, 16]),
    ]
    assert Bundle.open(built.path, require_cloud=True).digest == built.digest


@pytest.mark.parametrize("index", [0, 1], ids=["frames", "segment"])
def test_the_devices_symbols_are_torchs(built, student, frames, sources, index):
    device, bottleneck = Device(built, index), sources[index].bottleneck
    values = values_of(built, sources[index].segment, frames)
    x = torch.from_numpy(values) if index else normalise(torch.from_numpy(frames), student.spec)
    with torch.no_grad():
        latent = bottleneck.latent(x)
        for level in range(LEVELS):
            expected = bottleneck.symbols(latent, torch.full((len(frames),), level)).numpy()
            scaled = (latent * bottleneck.gains[level][:, None, None]).numpy()
            kept = bottleneck.kept[level]
            came = np.stack([device.codec.symbols(each, level) for each in device.latents(values)])
            differs = came != expected[:, :kept]
            at_an_edge = np.abs(scaled[:, :kept] % 1 - 0.5) < 1e-4
            assert not (differs & ~at_an_edge).any()
            assert len(np.unique(came)) > 1
            assert not expected[:, kept:].any()


@pytest.mark.parametrize("index", [0, 1], ids=["frames", "segment"])
def test_the_metrics_are_what_the_very_bytes_give(built, frames, sources, index):
    device = Device(built, index)
    tail = load_model(device.spec.model, built.load_tensors(device.spec.model.file))
    latents = device.latents(values_of(built, device.spec.segment, frames))
    metrics = built.manifest.source_metrics
    sizes = []
    for level in range(LEVELS):
        payloads = [device.codec.encode(latent, level) for latent in latents]
        symbols = np.stack([device.codec.padded(decode(p, device.codec.tables).symbols) for p in payloads])
        with torch.no_grad():
            outputs = tail(torch.from_numpy(symbols), torch.full((len(symbols),), level))
            direct = sources[index].tail.module(torch.from_numpy(symbols), torch.full((len(symbols),), level))
        assert torch.equal(outputs, direct)
        sizes.append(metrics[f"split{index}.level{level}.payload_bytes"])
        assert sizes[-1] == pytest.approx(np.mean([len(payload) for payload in payloads]), rel=1e-5)
        accuracy = (outputs.argmax(1).numpy() == LABELS).mean()
        assert metrics[f"split{index}.level{level}.accuracy"] == pytest.approx(accuracy, rel=1e-5)
    assert sizes == sorted(set(sizes)), "finer levels take more bytes"
    macs = {0: 4 * 4 * (16 * 8 + 8 * 6), 1: 8 * 8 * (4 * 4 * 8 + 8 * 6)}[index]
    assert metrics[f"split{index}.encoder_macs"] == macs


@pytest.fixture(scope="module")
def alone(student):
    """`build_split` with the student's segments, without a build around it."""
    graphs = build_module._cut(student.exported, BuildOptions(cut_points=CUT), lambda _line: None)
    sessions = [open_session(graph, student.exported.tensors) for graph in graphs]
    return functools.partial(
        build_split,
        segments=sessions,
        input=student.spec,
        task=Classification(num_classes=10),
        progress=lambda _line: None,
    )


def test_the_same_split_gives_the_same_bytes(built, alone, frames, sources):
    """Traced anew. The frames in the order of the build's own seed."""
    order = np.random.default_rng(0).permutation(len(frames))
    again = alone(1, sources[1], frames=frames[order], truths=LABELS[order])
    assert {name: built.read(name) for name in again.files} == again.files
    assert again.metrics.items() <= built.manifest.source_metrics.items()


def test_without_labels_bytes_are_measured_and_accuracy_is_not(alone, frames, sources, exported, monkeypatch):
    monkeypatch.setattr(split_module, "export_encoder", exported)
    told = alone(0, sources[0], frames=frames[:8], truths=None).metrics
    assert set(told) == {"split0.encoder_macs", *(f"split0.level{level}.payload_bytes" for level in range(LEVELS))}


def test_deadzones_are_chosen_by_held_back_frames_and_given_ones_are_kept(
    alone, frames, sources, exported, monkeypatch
):
    monkeypatch.setattr(split_module, "export_encoder", exported)
    seen = []

    def fit_codec(*args, held_NCHW, **told):
        seen.append(held_NCHW)
        return honest(*args, held_NCHW=held_NCHW, **told)

    honest = split_module.fit_codec
    monkeypatch.setattr(split_module, "fit_codec", fit_codec)
    source = changed(sources[0], held=frames[8:24], tables=TableOptions(deadzones=(0.0, 0.1, 0.2)))
    made = alone(0, source, frames=frames[:8], truths=None)
    tensors = load_safetensors(made.files[made.spec.codec_file])
    assert tensors["deadzones"].tolist() == pytest.approx([0, 0.1, 0.2])
    alone(0, changed(source, held=None, tables=TableOptions()), frames=frames[8:24], truths=None)
    held, nothing = seen
    assert nothing is None
    assert held.shape == (16, 6, 4, 4)
    with pytest.raises(ValueError, match="source_frames are uint8"):
        alone(0, changed(source, held=frames[:, 1:]), frames=frames[:8], truths=None)


def test_held_back_frames_go_through_the_segments_too(alone, frames, sources, exported, monkeypatch):
    monkeypatch.setattr(split_module, "export_encoder", exported)
    seen = []
    honest = split_module.fit_codec
    monkeypatch.setattr(
        split_module,
        "fit_codec",
        lambda *args, **told: (seen.append((args[2], told["held_NCHW"])), honest(*args, **told))[1],
    )
    alone(1, changed(sources[1], held=frames[:8]), frames=frames[:8], truths=None)
    ((latents, held),) = seen
    np.testing.assert_array_equal(latents, held)


def test_a_payload_of_a_coarser_level_is_finished_as_one_of_it(monkeypatch):
    """A codec whose every second payload is over the ceiling of level 1; the tail answers with the level it is told."""
    codec = types.SimpleNamespace(
        tables=None, padded=lambda symbols: symbols, encode=lambda latent, _level: bytes(latent)
    )
    came = lambda payload, _tables: types.SimpleNamespace(level=len(payload), symbols=np.zeros(1))  # noqa: E731
    monkeypatch.setattr(split_module, "decode", came)
    monkeypatch.setattr(
        split_module, "tail_outputs", lambda _tail, symbols, level: np.eye(2, dtype="f4")[[level] * len(symbols)]
    )
    levels, task = [0, 1, 0, 1, 1], Classification(num_classes=2)
    size, accuracy = split_module._measure(codec, 1, levels, None, task, levels, range(0, 5, 2), 2)
    assert (size, accuracy) == (0.6, 1.0)


def test_a_graph_that_differs_from_torch_fails_the_build(student, frames, sources, exported, tmp_path, monkeypatch):
    """Negative control of the check: one weight of the graph is another."""

    def wrong(*args, **kwargs):
        honest = exported(*args, **kwargs)
        graph = copy.deepcopy(honest.graph)
        (weight,) = [t for t in graph.graph.initializer if t.name == "encoder.network.0.weight"]
        values = np.frombuffer(weight.raw_data, np.float32).copy()
        values[0] += 0.1
        weight.raw_data = values.tobytes()
        return dataclasses.replace(honest, graph=graph)

    monkeypatch.setattr(split_module, "export_encoder", wrong)
    with pytest.raises(BundleError, match="gives other symbols than torch"):
        make(tmp_path / "b", student, frames, sources[:1])
    assert list(tmp_path.iterdir()) == []


def changed(source: SplitSource, **kwargs) -> SplitSource:
    return dataclasses.replace(source, **kwargs)


def other_gains(source: SplitSource) -> SplitSource:
    bottleneck = copy.deepcopy(source.bottleneck)
    bottleneck.log_gains.data += 1
    return changed(source, bottleneck=bottleneck)


def other_tail(source: SplitSource, **kwargs) -> SplitSource:
    return changed(source, tail=dataclasses.replace(source.tail, **kwargs))


@pytest.mark.parametrize(
    ("spoil", "kind", "words"),
    [
        (lambda s: changed(s, segment=1), ValueError, "segment is 1, expected None or one of 0 to 0"),
        (lambda s: changed(s, segment=0), ValueError, "the encoder does not take float32"),
        (other_gains, ValueError, "other gains than its bottleneck"),
        (lambda s: other_tail(s, kwargs=s.tail.kwargs | {"num_channels": 7}), BundleError, "does not fit the network"),
        (lambda s: other_tail(s, module=nn.Flatten()), BundleError, "does not fit the network.*lacks decoder"),
    ],
    ids=["last-segment", "wrong-segment", "gains", "factory", "no-tail"],
)
def test_a_split_that_does_not_fit_is_refused(alone, frames, sources, exported, monkeypatch, spoil, kind, words):
    source = spoil(sources[0])
    if source.segment is None:
        monkeypatch.setattr(split_module, "export_encoder", exported)
    with pytest.raises(kind, match=words):
        alone(0, source, frames=frames[:8], truths=None)


GAINS = np.array([[1.0, 1.0], [8.0, 8.0]], np.float32)


def latents_at(*scaled: float) -> np.ndarray:
    """``(1, 2, 1, N)``; level 1's scaled values are these."""
    return (np.float64([scaled, scaled])[None, :, None, :] / 8).astype(np.float32)


@pytest.mark.parametrize(
    ("came", "expected"),
    [
        (latents_at(2.49998), latents_at(2.50002)),
        (latents_at(-0.50001), latents_at(-0.49999)),
        (latents_at(3.1), latents_at(3.3)),  # the same symbols
        (latents_at(4000.4999), latents_at(4000.5001)),  # float32 holds no more of it
    ],
)
def test_a_value_at_a_rounding_edge_may_fall_on_either_side(came, expected):
    check_latents(came, expected, GAINS, (1, 2))


@pytest.mark.parametrize(
    ("came", "expected"),
    [
        (latents_at(2.49), latents_at(2.51)),
        (latents_at(2.5001), latents_at(2.4998)),
        (latents_at(3.50001), latents_at(2.49999)),  # near an edge, but beyond the neighbour
        (latents_at(np.nan), latents_at(0)),
        (latents_at(1, 2), latents_at(1)),
    ],
)
def test_a_value_that_is_rounded_otherwise_elsewhere_is_refused(came, expected):
    with pytest.raises(BundleError):
        check_latents(came, expected, GAINS, (1, 2))


def test_channels_that_a_level_does_not_send_are_not_compared():
    came, expected = latents_at(2.4), latents_at(2.4)
    came[:, 1] = 9
    check_latents(came, expected, GAINS, (1, 1))
    with pytest.raises(BundleError):
        check_latents(came, expected, GAINS, (1, 2))


def test_an_encoder_whose_frames_are_no_whole_patches_is_the_same_on_both_engines():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = product(in_channels=1, patch=4, frame_size=(11, 14), width=4, blocks=0, num_channels=2)
    frames = np.random.default_rng(0).integers(0, 256, (3, 11, 14, 1), np.uint8)
    spec = InputSpec(height=11, width=14, channels=1, mean=(0.4,), std=(0.3,))
    encoder = export_encoder(made.device_encoder(), frames, spec=spec)
    came = run_encoder(open_session(encoder.graph, {}), frames)
    assert came.shape == (3, 2, 3, 4)
    np.testing.assert_allclose(came, encoder.torch_latent(frames), atol=1e-5)


def test_an_encoder_that_gives_no_latent_is_refused_before_it_is_traced():
    value = np.zeros((2, 4, 8, 8), np.float32)
    with pytest.raises(ValueError, match=r"gives \(2, 256\), expected a latent"):
        export_encoder(nn.Flatten(), value, spec=None)
    with pytest.raises(ValueError, match="the encoder does not take float32"):
        export_encoder(nn.Conv2d(3, 4, 1), value, spec=None)
