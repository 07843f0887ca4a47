"""What ``bundle.json`` and ``heads.safetensors`` say of exits is held to what can be; without exits nothing changes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from littoral.bundle import Bundle, ExitHeads, ExitPromise, ExitSpec, InputSpec, Manifest, ProbeSpec, Segment
from littoral.bundle.exits import heads_to_tensors
from littoral.bundle.manifest import TorchModel
from littoral.core.exits import OFF
from littoral.core.heads import LinearHead, SourceMoments
from littoral.errors import BundleError

EARLY = ExitSpec(
    segment=0, stem_file="exit-0.onnx", temperature=1.5, threshold=0.9, macs=50, num_features=3, is_deep=False
)
DEEP = ExitSpec(segment=2, stem_file=None, temperature=1.0, threshold=None, macs=6, num_features=2, is_deep=True)
PROMISE = ExitPromise(level=0.05, delta=0.1, procedure="by hand", num_frames=100, empirical_risk=0.01)


def manifest(**changes: Any) -> Manifest:
    """Of a classifier of 3 classes in 4 segments, without exits but for the changes."""
    model = TorchModel(factory="a:b", kwargs={}, file="cloud/m.safetensors")
    plain = Manifest(
        name="x",
        task="classification",
        class_names=("a", "b", "c"),
        input=InputSpec(height=2, width=2, channels=1, mean=(0.0,), std=(1.0,)),
        segments=tuple(Segment(file=f"segment-{i}.onnx", input="x", output="y", tensors=()) for i in range(4)),
        weights_file="weights.safetensors",
        norm_layers=(),
        statistics=None,
        probe=ProbeSpec(file="probe.safetensors", num_frames=1, min_agreement=0.5),
        envelope_max_delta={},
        source_metrics={},
        student=model,
        teacher=model,
        replay_file="cloud/replay.safetensors",
        rehearsed_file=None,
        files={"exit-0.onnx": "0", "heads.safetensors": "0", "cloud/exit.onnx": "0"},
    )
    return dataclasses.replace(plain, **changes)


def with_exits(**changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "exits": (EARLY, DEEP),
        "heads_file": "heads.safetensors",
        "exit_promise": PROMISE,
        "segment_macs": (100, 200, 300, 6),
    }
    return manifest(**(fields | changes))


def test_a_bundle_without_exits_keeps_its_bytes() -> None:
    named = {"exits", "heads_file", "exit_promise", "segment_macs"}
    assert not named & set(json.loads(manifest().to_json()))
    assert hashlib.sha256(manifest().to_json()).hexdigest().startswith("48358b35bc400e2f")
    assert named <= set(json.loads(with_exits().to_json()))  # so the names above are those of the fields


def test_exits_are_read_as_they_were_written() -> None:
    assert Manifest.from_json(with_exits().to_json()) == with_exits()


def test_exits_that_are_all_off_need_no_promise() -> None:
    off = with_exits(exits=(dataclasses.replace(EARLY, threshold=None), DEEP), exit_promise=None)
    assert Manifest.from_json(off.to_json()) == off


def exits_but(index: int, **changes: Any) -> dict[str, Any]:
    exits = [EARLY, DEEP]
    exits[index] = dataclasses.replace(exits[index], **changes)
    return {"exits": tuple(exits)}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param({"exits": ()}, "no exits", id="heads-without-exits"),
        pytest.param(exits_but(0, segment=2), "rising", id="two-on-one-segment"),
        pytest.param({"exits": (DEEP, EARLY)}, "rising", id="out-of-order"),
        pytest.param({"exits": (dataclasses.replace(EARLY, segment=3),)}, "rising ones of 0 to 2", id="after-the-last"),
        pytest.param(exits_but(0, segment=-1), "rising", id="before-the-first"),
        pytest.param(exits_but(0, stem_file="other.onnx"), "listed", id="a-stem-that-is-not-there"),
        pytest.param(exits_but(0, stem_file="cloud/exit.onnx"), "outside", id="a-stem-of-the-cloud"),
        pytest.param({"heads_file": None}, "listed", id="no-heads"),
        pytest.param({"segment_macs": (1, 2)}, "one of 0 or more for each of 4", id="too-few-macs"),
        pytest.param({"segment_macs": (0, 0, 0, 0)}, "segment_macs", id="no-work-at-all"),
        pytest.param({"exit_promise": None}, "no exit_promise", id="a-threshold-without-a-promise"),
        pytest.param(
            {"exit_promise": dataclasses.replace(PROMISE, level=float("nan"))}, "must lie", id="a-promise-of-nothing"
        ),
        pytest.param(exits_but(1, segment=1), "deep", id="deep-but-early"),
        pytest.param(exits_but(1, stem_file="exit-0.onnx"), "deep", id="deep-with-a-stem"),
        pytest.param(exits_but(0, temperature=0.0), "temperature", id="no-temperature"),
        pytest.param(exits_but(0, temperature=float("nan")), "temperature", id="a-temperature-that-is-not-one"),
        pytest.param(exits_but(0, threshold=1.5), "threshold", id="a-threshold-above-1"),
        pytest.param(exits_but(0, threshold=float("nan")), "threshold", id="a-threshold-that-is-not-one"),
        pytest.param(exits_but(0, num_features=0), "num_features", id="no-features"),
        pytest.param({"task": "segmentation"}, "only a classifier", id="a-dense-task"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(BundleError, match=words):
        Manifest.from_json(with_exits(**changes).to_json())


def tensors() -> dict[str, np.ndarray]:
    heads = [LinearHead(weights_KD=np.ones((3, d), np.float32), bias_K=np.zeros(3, np.float32)) for d in (3, 2)]
    moments = [
        SourceMoments(means_KD=np.ones((3, d), np.float32), covariance_DD=np.eye(d, dtype=np.float32)) for d in (3, 2)
    ]
    return heads_to_tensors(heads, moments, np.array([0.2, 0.3, 0.5]))


def opened(path: Path, values: dict[str, np.ndarray]) -> ExitHeads:
    data = save(values)
    (path / "heads.safetensors").write_bytes(data)
    files = {"exit-0.onnx": "0", "heads.safetensors": hashlib.sha256(data).hexdigest()}
    return ExitHeads.open(Bundle(path=path, manifest=with_exits(files=files), digest=bytes(32)))


def test_the_heads_of_a_bundle_say_what_leaving_costs(tmp_path: Path) -> None:
    heads = opened(tmp_path, tensors())
    assert [head.num_features for head in heads.heads] == [3, 2]
    assert [source.means_KD.shape for source in heads.moments] == [(3, 3), (3, 2)]
    assert heads.class_shares_K.tolist() == [0.2, 0.3, 0.5]
    assert (heads.temperatures, heads.thresholds) == ((1.5, 1.0), (0.9, OFF))
    assert heads.costs.segment_macs == (100, 500, 6)
    assert heads.costs.full_macs == 606
    assert heads.costs.leaving([0.9, OFF]).tolist() == [150, 650, 656]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("exit-0.weights", None, "exit-0.weights"),
        ("exit-9.weights", np.zeros(3, np.float32), "unknown"),
        ("exit-1.means", np.zeros((3, 3), np.float32), "exit-1.means"),
        ("exit-1.bias", np.full(3, np.nan, np.float32), "finite"),
        ("exit-1.covariance", np.array([[1, 2], [3, 4]], np.float32), "symmetric"),
        ("class_shares", np.array([0.2, 0.3, 0.6]), "sum"),
        ("class_shares", np.array([0.5, 0.5]), "class_shares"),
    ],
)
def test_heads_that_do_not_fit_are_refused(tmp_path: Path, name: str, value: np.ndarray | None, words: str) -> None:
    values = {key: old for key, old in tensors().items() if key != name} | ({} if value is None else {name: value})
    with pytest.raises(BundleError, match=words):
        opened(tmp_path, values)


def test_a_bundle_without_exits_says_how_to_get_some(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="--exits"):
        ExitHeads.open(Bundle(path=tmp_path, manifest=manifest(), digest=bytes(32)))
