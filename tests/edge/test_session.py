"""One runner of graphs: the answers are torch's, a swap of values changes them, and what is missing is named."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from littoral.bundle import Bundle
from littoral.core.arrays import FloatArray, Frame
from littoral.core.recall import MEAN_SQUARE_SUFFIX, MEAN_SUFFIX, fingerprint_layer, fingerprint_of_moments
from littoral.edge.session import FingerprintModel, Model, SessionConfig, StatisticsModel, open_session
from littoral.errors import BundleError


@pytest.fixture(scope="module")
def tiny(tiny_bundle: Path) -> Bundle:
    return Bundle.open(tiny_bundle)


def moved(tiny: Bundle, share: float = 0.2, seed: int = 0) -> dict[str, FloatArray]:
    """Affine values within the envelope that are not the source's."""
    rng = np.random.default_rng(seed)
    bounds = tiny.manifest.envelope_max_delta
    return {
        name: (value + share * bounds[name] * rng.uniform(-1, 1, size=value.shape)).astype(np.float32)
        for name, value in tiny.source_affine.items()
    }


def by_torch(tiny: Bundle, frames: Frame, values: dict[str, FloatArray]) -> FloatArray:
    torch = pytest.importorskip("torch")
    from littoral.models.factory import load_model
    from littoral.models.frames import normalise

    spec = tiny.manifest.student
    model = load_model(spec, {**tiny.load_tensors(spec.file), **values})
    with torch.no_grad():
        out: FloatArray = model(normalise(torch.from_numpy(frames), tiny.manifest.input)).numpy()
    return out


@pytest.mark.parametrize("batch", [1, 4, 32])
@pytest.mark.parametrize("swapped", [False, True], ids=["source", "swapped"])
def test_answers_are_torchs(tiny: Bundle, batch: int, swapped: bool) -> None:
    values, frames = moved(tiny) if swapped else {}, tiny.probe[0][:batch]
    np.testing.assert_allclose(Model(tiny, values).run(frames), by_torch(tiny, frames, values), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "name", ["stem.norm.weight", "stem.norm.bias", "stem.norm.running_mean", "stem.norm.running_var"]
)
def test_a_swap_of_any_one_tensor_changes_the_answers_and_is_torchs(tiny: Bundle, name: str) -> None:
    frames = tiny.probe[0][:4]
    values = {name: (tiny.weights[name] * 1.5 + 0.1).astype(np.float32)}
    swapped = Model(tiny, values).run(frames)
    assert np.abs(swapped - Model(tiny).run(frames)).max() > 1e-3
    np.testing.assert_allclose(swapped, by_torch(tiny, frames, values), atol=1e-5, rtol=1e-5)


def test_a_model_keeps_its_values_when_the_callers_array_changes(tiny: Bundle) -> None:
    values, frames = moved(tiny), tiny.probe[0][:2]
    model = Model(tiny, values)
    before = model.run(frames)
    for value in values.values():
        value[:] = 0
    np.testing.assert_array_equal(model.run(frames), before)


def test_equal_values_give_equal_bits(tiny: Bundle) -> None:
    frames = tiny.probe[0][:3]
    np.testing.assert_array_equal(*(Model(tiny, moved(tiny)).run(frames) for _ in range(2)))


@pytest.mark.parametrize("layout", ["turned", "every-second", "fortran"])
def test_frames_of_any_memory_layout_answer_alike(tiny: Bundle, layout: str) -> None:
    frames = tiny.probe[0][:4]
    other = {
        "turned": frames[::-1].copy()[::-1],
        "every-second": np.repeat(frames, 2, axis=1)[:, ::2],
        "fortran": np.asfortranarray(frames),
    }[layout]
    assert not other.flags.c_contiguous
    np.testing.assert_array_equal(Model(tiny).run(other), Model(tiny).run(frames))


def test_a_missing_tensor_is_named_before_anything_runs(tiny: Bundle) -> None:
    segment = tiny.manifest.segments[0]
    some = {name: value for name, value in tiny.weights.items() if name != "stem.norm.bias"}
    with pytest.raises(BundleError, match=r"lacks: \['stem.norm.bias'\]; build the bundle again"):
        open_session(tiny.read(segment.file), segment.tensors, some)


@pytest.mark.parametrize("skeleton", [b"", b"no graph", b"\x08\x07" * 40], ids=["empty", "text", "noise"])
def test_what_is_no_graph_is_a_bundle_error(skeleton: bytes) -> None:
    with pytest.raises(BundleError, match=r"ONNX Runtime .* does not take the skeleton"):
        open_session(skeleton, [], {})


def test_a_tensor_of_another_shape_is_a_bundle_error(tiny: Bundle) -> None:
    with pytest.raises(BundleError, match="does not take the skeleton"):
        Model(tiny, {"stem.conv.weight": np.ones((2, 2), np.float32)})


def test_threads_are_a_setting_and_change_no_answer(tiny: Bundle) -> None:
    frames = tiny.probe[0][:4]
    two = Model(tiny, config=SessionConfig(threads=2)).run(frames)
    np.testing.assert_allclose(two, Model(tiny).run(frames), atol=1e-5)


# The statistics graph.


def test_moments_are_those_of_what_reaches_each_layer(tiny: Bundle) -> None:
    torch = pytest.importorskip("torch")
    from littoral.models.factory import load_model
    from littoral.models.frames import normalise

    frames = tiny.probe[0][:8]
    spec = tiny.manifest.student
    model, seen = load_model(spec, tiny.load_tensors(spec.file)), {}
    for layer in tiny.manifest.norm_layers:
        model.get_submodule(layer.name).register_forward_hook(
            lambda module, args, out, name=layer.name: seen.update({name: args[0]})
        )
    with torch.no_grad():
        model(normalise(torch.from_numpy(frames), tiny.manifest.input))
    moments = StatisticsModel(tiny).moments(frames, tiny.weights, 0.0)
    assert len(moments) == 2 * len(seen) == 2 * len(tiny.manifest.norm_layers)
    for name, x in seen.items():
        np.testing.assert_allclose(moments[name + MEAN_SUFFIX], x.mean((0, 2, 3)).numpy(), atol=1e-4)
        np.testing.assert_allclose(
            moments[name + MEAN_SQUARE_SUFFIX], (x**2).mean((0, 2, 3)).numpy(), rtol=1e-3, atol=1e-4
        )


def test_the_batchs_own_weight_changes_what_later_layers_see(tiny: Bundle) -> None:
    dark = (tiny.probe[0][:8] // 4).astype(np.uint8)
    measurer, (first, *_, last) = StatisticsModel(tiny), tiny.manifest.norm_layers
    none, all_of_it = (measurer.moments(dark, tiny.weights, alpha) for alpha in (0.0, 1.0))
    np.testing.assert_allclose(none[first.name + MEAN_SUFFIX], all_of_it[first.name + MEAN_SUFFIX], atol=1e-6)
    assert not np.allclose(none[last.name + MEAN_SUFFIX], all_of_it[last.name + MEAN_SUFFIX], atol=1e-2)


def test_a_bundle_without_batch_norm_has_no_statistics_to_measure(tiny: Bundle) -> None:
    without = dataclasses.replace(tiny, manifest=dataclasses.replace(tiny.manifest, statistics=None))
    with pytest.raises(BundleError, match="no BatchNorm layer, so there are no statistics"):
        StatisticsModel(without)


# The fingerprint graph.


def test_a_fingerprint_is_what_the_sources_network_sees_and_one_swapped_or_followed_is_not(tiny: Bundle) -> None:
    """The statistics graph measures the same layer: the same under the source's values, and something else later."""
    frames, layer = tiny.probe[0], fingerprint_layer(tiny.manifest.norm_layers)
    assert layer is not None
    assert layer != tiny.manifest.norm_layers[0], "the first layer sees the same whatever is adapted: no control"
    found, measurer = FingerprintModel(tiny).fingerprint(frames), StatisticsModel(tiny)
    assert (found.shape, found.dtype) == ((2 * layer.num_channels,), np.float32)

    def by_statistics(values: dict[str, FloatArray], alpha: float) -> FloatArray:
        return fingerprint_of_moments(measurer.moments(frames, {**tiny.weights, **values}, alpha), layer)

    np.testing.assert_allclose(by_statistics({}, 0.0), found, atol=1e-4, rtol=1e-3)
    assert np.abs(by_statistics(moved(tiny), 0.0) - found).max() > 1e-2
    assert np.abs(FingerprintModel(tiny).fingerprint(frames // 2) - found).max() > 1e-2


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_a_fingerprint_is_of_any_number_of_frames_in_any_order(tiny: Bundle, batch: int) -> None:
    frames, model = tiny.probe[0][:batch], FingerprintModel(tiny)
    np.testing.assert_allclose(model.fingerprint(frames[::-1]), model.fingerprint(frames), atol=1e-5)


def test_a_bundle_without_batch_norm_has_no_fingerprint_to_take(tiny: Bundle) -> None:
    without = dataclasses.replace(tiny, manifest=dataclasses.replace(tiny.manifest, statistics=None))
    with pytest.raises(BundleError, match="no BatchNorm layer, so there is no fingerprint"):
        FingerprintModel(without)
