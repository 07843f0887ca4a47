"""The device's half of a split: bytes of a frame or of a segment's output, within a limit, without torch."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from littoral.bundle import Bundle, SplitCodec
from littoral.core.codec import decode, read_header
from littoral.edge.encoder import PictureEncoder, SplitEncoder
from littoral.edge.session import open_session
from littoral.errors import BundleError, PayloadError

LEVELS = [0, 1, 2]


@pytest.fixture(scope="module")
def bundle(split_bundle: Path) -> Bundle:
    return Bundle.open(split_bundle)


def input_of(bundle: Bundle, encoder: SplitEncoder, frame: int = 0) -> np.ndarray:
    """What the encoder takes of a probe frame."""
    value = bundle.probe[0][frame : frame + 1]
    if encoder.segment is not None:
        segment = bundle.manifest.segments[encoder.segment]
        session = open_session(bundle.read(segment.file), segment.tensors, bundle.weights)
        (value,) = session.run([segment.output], {segment.input: value})
    return value


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("index", [0, 1], ids=["frames", "segment"])
def test_a_payload_holds_the_symbols_of_the_latent(bundle: Bundle, index: int, level: int) -> None:
    encoder = SplitEncoder(bundle, index)
    value = input_of(bundle, encoder)
    latent = encoder.latent(value)
    came = decode(encoder.encode(value, level), SplitCodec.open(bundle, index).tables)
    gains = encoder.codec.gains[level, : encoder.codec.kept(level), None, None]
    assert came.level == level
    np.testing.assert_array_equal(came.symbols, np.rint(latent[: len(gains)] * gains))
    assert np.abs(came.symbols).max() > 0


def test_what_an_adapted_segment_gives_is_encoded_too(bundle: Bundle) -> None:
    """The affine values of segment 0 as far away as an envelope lets them go; the encoder stays as it is."""
    encoder, segment = SplitEncoder(bundle, 1), bundle.manifest.segments[0]
    moved = {name: bundle.weights[name] + bound for name, bound in bundle.manifest.envelope_max_delta.items()}
    session = open_session(bundle.read(segment.file), segment.tensors, {**bundle.weights, **moved})
    (value,) = session.run([segment.output], {segment.input: bundle.probe[0][:1]})
    source = input_of(bundle, encoder)
    assert np.abs(value - source).max() > 0.1
    came = decode(encoder.encode(value, 1), encoder.codec.tables)
    np.testing.assert_array_equal(came.symbols, encoder.codec.symbols(value[0], came.level))


def with_codec(folder: Path, codec: SplitCodec) -> Bundle:
    """The bundle with another codec file for split 1, properly listed."""
    from safetensors.numpy import save

    data = save({name: np.ascontiguousarray(value) for name, value in codec.to_tensors().items()})
    (folder / "codec-1.safetensors").write_bytes(data)
    raw = json.loads((folder / "bundle.json").read_bytes())
    raw["files"]["codec-1.safetensors"] = hashlib.sha256(data).hexdigest()
    (folder / "bundle.json").write_text(json.dumps(raw))
    return Bundle.open(folder)


def ceilings(codec: SplitCodec, *limits: int) -> SplitCodec:
    from dataclasses import replace

    levels = tuple(replace(table, max_bytes=most) for table, most in zip(codec.tables.levels, limits, strict=True))
    return replace(codec, tables=replace(codec.tables, levels=levels))


@pytest.mark.parametrize(("limits", "taken"), [((4000, 4000, 4000), 2), ((4000, 4000, 20), 1), ((4000, 20, 20), 0)])
def test_a_refused_level_gives_way_to_the_next_coarser(
    bundle: Bundle, tmp_path: Path, limits: tuple[int, ...], taken: int
) -> None:
    folder = Path(shutil.copytree(bundle.path, tmp_path / "b"))
    encoder = SplitEncoder(with_codec(folder, ceilings(SplitCodec.open(bundle, 1), *limits)), 1)
    value = input_of(bundle, encoder)
    assert read_header(encoder.encode(value, 2)).level == taken


def test_a_frame_over_all_ceilings_has_no_payload(bundle: Bundle, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundle.path, tmp_path / "b"))
    encoder = SplitEncoder(with_codec(folder, ceilings(SplitCodec.open(bundle, 1), 20, 20, 20)), 1)
    value = input_of(bundle, encoder)
    with pytest.raises(PayloadError, match="let the device answer"):
        encoder.encode(value, 2)


def test_what_the_encoder_does_not_take_is_refused_in_words(bundle: Bundle) -> None:
    of_frames, of_features = SplitEncoder(bundle, 0), SplitEncoder(bundle, 1)
    frame = bundle.probe[0][0]
    with pytest.raises(ValueError, match=r"uint8 \(16, 16, 1\) came, this encoder takes uint8 \(1, 16, 16, 1\)"):
        of_frames.encode(frame, 0)
    with pytest.raises(ValueError, match="what segment 0 gives for one frame"):
        of_features.encode(frame[None], 0)
    with pytest.raises(ValueError, match="level 3 was asked for"):
        of_frames.encode(frame[None], 3)


def test_an_encoder_and_tables_that_do_not_belong_together_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundle.path, tmp_path / "b"))
    other = with_codec(folder, SplitCodec.open(bundle, 0))
    with pytest.raises(BundleError, match=r"expected \['features'\] and one of \(1, 16, 16\)"):
        SplitEncoder(other, 1)
    SplitEncoder(other, 0)


def test_a_fresh_interpreter_encodes_without_torch(bundle: Bundle) -> None:
    code = (
        "import sys, json, numpy as np\n"
        "from littoral.bundle import Bundle\n"
        "from littoral.edge.encoder import SplitEncoder\n"
        "bundle = Bundle.open(sys.argv[1])\n"
        "payload = SplitEncoder(bundle).encode(bundle.probe[0][:1], 2)\n"
        "print(json.dumps([payload.hex(), sorted({name.partition('.')[0] for name in sys.modules})]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(bundle.path)], capture_output=True, text=True, timeout=100, check=True
    )
    payload, loaded = json.loads(done.stdout)
    assert bytes.fromhex(payload) == SplitEncoder(bundle).encode(bundle.probe[0][:1], 2)
    assert {"torch", "onnx", "scipy"} & set(loaded) == set()
    assert "onnxruntime" in loaded


def test_a_picture_over_the_ceiling_is_refused_and_one_below_it_is_the_frame() -> None:
    rng = np.random.default_rng(0)
    small, large = (rng.integers(0, 256, size=(1, side, side, 3), dtype=np.uint8) for side in (16, 300))
    picture = PictureEncoder("raw").encode(small, 0)
    assert (picture.coding, picture.image) == ("raw", small.tobytes())
    with pytest.raises(PayloadError, match="take one that loses more") as refused:
        PictureEncoder("lossless").encode(large, 0)
    assert refused.value.code == "too-large"
    assert len(PictureEncoder("jpeg-10").encode(large, 0).image) < 262_144
