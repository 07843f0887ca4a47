"""What a bundle says of its splits: read as it was written, refused where it is damaged or contradicts itself."""

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
from safetensors.numpy import load, save

from littoral.bundle import Bundle, Manifest, SplitCodec
from littoral.core.codec import decode, encode, read_header
from littoral.core.codec_tables import ChannelPrior, CodecTables, FrequencyTable
from littoral.errors import BundleError, ModelOutputError, PayloadError


def table(channels: int, *, max_bytes: int = 1000, values: int = 9) -> FrequencyTable:
    prior = ChannelPrior(pmf=np.ones(values), first_value=-(values // 2))
    return FrequencyTable.from_priors([prior] * channels, max_bytes=max_bytes)


def codec(*levels: FrequencyTable, gains: Any = ((1, 1, 1), (4, 4, 4))) -> SplitCodec:
    """Of a latent 3 x 2 x 2."""
    tables = CodecTables(height=2, width=2, levels=levels or (table(2), table(3)))
    return SplitCodec(tables=tables, gains=np.array(gains, np.float32))


LATENT = np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 0.9, -0.9, 0.13, 1.12, 1.13, 0], np.float32).reshape(3, 2, 2)


def test_symbols_are_the_scaled_latent_rounded_halves_to_even() -> None:
    coarse, fine = codec().symbols(LATENT, 0), codec().symbols(LATENT, 1)
    assert (coarse.dtype, fine.dtype) == (np.int32, np.int32)
    assert coarse.ravel().tolist() == [-2, -2, 0, 0, 2, 2, 1, -1]
    assert fine.ravel().tolist() == [-10, -6, -2, 2, 6, 10, 4, -4, 1, 4, 5, 0]
    np.testing.assert_array_equal(codec().padded(coarse)[2], np.zeros((2, 2), np.float32))


def test_a_deadzone_rounds_towards_0_what_is_little_more_than_a_half_beyond() -> None:
    wider = dataclasses.replace(codec(), deadzones=(0.1, 0.0))
    latent = np.array([-2.55, -1.7, -0.59, 0.59, 0.61, 1.59, 0.9, -0.9, 0, 0, 0, 0], np.float32).reshape(3, 2, 2)
    assert wider.symbols(latent, 0).ravel().tolist() == [-2, -2, 0, 0, 1, 1, 1, -1]
    assert codec().symbols(latent, 0).ravel().tolist() == [-3, -2, -1, 1, 1, 2, 1, -1]
    np.testing.assert_array_equal(wider.symbols(latent, 1), codec().symbols(latent, 1))
    huge = np.full((3, 2, 2), -3e38, np.float32)
    assert wider.symbols(huge, 0)[0, 0, 0] == 128 - 2**31


def test_a_codec_file_gives_the_deadzones_back_and_none_is_written_where_there_is_none() -> None:
    wider = dataclasses.replace(codec(), deadzones=(0.1, 0.0))
    again = SplitCodec.from_tensors(wider.to_tensors())
    assert again.deadzones == wider.deadzones == (float(np.float32(0.1)), 0.0)
    assert set(wider.to_tensors()) - set(codec().to_tensors()) == {"deadzones"}
    assert again.tables.digest == codec().tables.digest, "the decoder does not mind"


@pytest.mark.parametrize("deadzones", [(0.1,), (0.1, 0.5), (0.1, -0.1), (0.1, float("nan"))], ids=str)
def test_deadzones_that_are_none_are_refused(deadzones: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected 2 of at least 0 and below 0\.5"):
        dataclasses.replace(codec(), deadzones=deadzones)
    with pytest.raises(ValueError, match="'deadzones' of the codec must be float32"):
        SplitCodec.from_tensors({**codec().to_tensors(), "deadzones": np.zeros(2)})


def test_what_int32_does_not_hold_is_its_end_and_still_a_payload() -> None:
    latent = np.full((3, 2, 2), 3e38, np.float32)
    latent[1] = -1e12
    symbols = codec().symbols(latent, 1)
    assert symbols[:, 0, 0].tolist() == [2**31 - 128, 128 - 2**31, 2**31 - 128]
    payload = encode(symbols, codec().tables, level=1)
    np.testing.assert_array_equal(decode(payload, codec().tables).symbols, symbols)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_latent_that_is_not_finite_becomes_no_payload(bad: float) -> None:
    latent = LATENT.copy()
    latent[2, 1, 1] = bad  # in a channel that level 0 would not even send
    with pytest.raises(ModelOutputError, match="not finite"):
        codec().encode(latent, 0)


@pytest.mark.parametrize(
    "latent", [LATENT[:2], LATENT.astype(np.float64), LATENT[None]], ids=["channels", "dtype", "batch"]
)
def test_a_latent_of_another_shape_or_type_is_refused(latent: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected float32 \(3, 2, 2\)"):
        codec().symbols(latent, 0)


@pytest.mark.parametrize("level", [-1, 2, 99])
def test_a_level_that_there_is_not_is_refused(level: int) -> None:
    with pytest.raises(ValueError, match="these tables have 0 to 1"):
        codec().symbols(LATENT, level)


def test_a_level_over_its_ceiling_gives_way_to_the_next_coarser() -> None:
    free, strict = codec(table(2), table(3)), codec(table(2), table(3, max_bytes=14))
    assert read_header(free.encode(LATENT, 1)).level == 1
    payload = strict.encode(LATENT, 1)
    assert read_header(payload).level == 0
    np.testing.assert_array_equal(decode(payload, strict.tables).symbols, strict.symbols(LATENT, 0))


def test_a_latent_over_the_coarsest_ceiling_is_refused() -> None:
    strict = codec(table(2, max_bytes=13), table(3, max_bytes=14))
    with pytest.raises(PayloadError, match="let the device answer") as refused:
        strict.encode(np.full((3, 2, 2), 1e6, np.float32), 1)
    assert refused.value.code == "too-large"


def test_a_codec_file_gives_the_codec_back() -> None:
    written = codec()
    read = SplitCodec.from_tensors(load(save({k: np.ascontiguousarray(v) for k, v in written.to_tensors().items()})))
    assert read.tables.digest == written.tables.digest
    np.testing.assert_array_equal(read.gains, written.gains)
    assert (read.num_levels, read.num_channels, read.kept(0), read.latent_shape) == (2, 3, 2, (3, 2, 2))


@pytest.mark.parametrize(
    ("gains", "words"),
    [
        ([[1, 1, 1]], r"float32 \(1, 3\), these tables need"),
        ([[1, 1], [1, 1]], r"float32 \(2, 2\), these tables need"),
        ([[1, 1, 0], [1, 1, 1]], "above 0"),
        ([[1, 1, np.nan], [1, 1, 1]], "finite"),
    ],
    ids=["levels", "channels", "zero", "nan"],
)
def test_gains_that_do_not_fit_are_refused(gains: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        codec(gains=gains)


# In a bundle.


@pytest.fixture
def copy(split_bundle: Path, tmp_path: Path) -> Path:
    """One that a test may damage."""
    return Path(shutil.copytree(split_bundle, tmp_path / "b"))


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest as someone would who can write to the disk."""
    raw = json.loads((folder / "bundle.json").read_bytes())
    change(raw)
    (folder / "bundle.json").write_text(json.dumps(raw))


def test_a_split_is_read_as_it_was_written(split_bundle: Path) -> None:
    bundle = Bundle.open(split_bundle, require_cloud=True)
    assert Manifest.from_json(bundle.manifest.to_json()) == bundle.manifest
    assert [split.segment for split in bundle.manifest.splits] == [None, 0]
    assert SplitCodec.open(bundle, 1).latent_shape == (4, 16, 16)
    with pytest.raises(BundleError, match=r"split point 2 was asked for, .* has 2"):
        SplitCodec.open(bundle, 2)


def test_a_bundle_without_splits_is_written_as_before_there_were_any(tiny_bundle: Path) -> None:
    raw = (tiny_bundle / "bundle.json").read_bytes()
    assert b'"splits"' not in raw
    manifest = Bundle.open(tiny_bundle).manifest
    assert manifest.splits == ()
    assert manifest.to_json() == raw


@pytest.mark.parametrize("name", ["codec-1.safetensors", "encoder-0.onnx", "cloud/split-1.safetensors"])
def test_a_changed_byte_in_a_splits_file_is_refused(copy: Path, name: str) -> None:
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(BundleError, match=f"{name} has changed"):
        Bundle.open(copy, require_cloud=True)
    if name.startswith("cloud/"):
        Bundle.open(copy)


@pytest.mark.parametrize(
    ("tensor", "value"),
    [("level0.counts", None), ("gains", None), ("gains", np.zeros((3, 4), np.float32)), ("surprise", np.zeros(1))],
    ids=["no-counts", "no-gains", "zero-gains", "unknown"],
)
def test_a_codec_file_that_is_listed_but_wrong_is_a_bundle_error(copy: Path, tensor: str, value: Any) -> None:
    path = copy / "codec-1.safetensors"
    tensors = {**load(path.read_bytes()), tensor: value}
    data = save({name: kept for name, kept in tensors.items() if kept is not None})
    path.write_bytes(data)
    rewrite(copy, lambda raw: raw["files"].update({path.name: hashlib.sha256(data).hexdigest()}))
    with pytest.raises(BundleError, match=r"codec-1\.safetensors of bundle"):
        SplitCodec.open(Bundle.open(copy), 1)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("segment", 1, "segment is 1, expected null or one of 0 to 0"),
        ("segment", -1, "segment is -1"),
        ("segment", "0", "splits.0..segment is str"),
        ("encoder_file", "none.onnx", "names 'none.onnx', expected a listed file outside cloud/"),
        ("codec_file", "cloud/split-0.safetensors", "outside cloud/"),
        ("model", {"factory": "a:b", "kwargs": {}, "file": "codec-0.safetensors"}, "below cloud/"),
    ],
    ids=["last-segment", "negative", "text", "unlisted", "cloud-on-device", "tail-on-device"],
)
def test_a_manifest_whose_split_contradicts_the_bundle_is_refused(
    copy: Path, field: str, value: Any, words: str
) -> None:
    rewrite(copy, lambda raw: raw["splits"][0].update({field: value}))
    with pytest.raises(BundleError, match=words):
        Bundle.open(copy)


def test_the_tar_for_devices_has_the_encoder_and_not_the_tail(copy: Path, tmp_path: Path) -> None:
    import tarfile

    bundle = Bundle.open(copy)
    bundle.pack()
    with tarfile.open(bundle.device_tar) as tar:
        names = tar.getnames()
    assert {"encoder-0.onnx", "codec-0.safetensors"} < set(names)
    assert not any("split" in name for name in names)


def test_payloads_of_other_tables_are_refused(split_bundle: Path) -> None:
    ours = SplitCodec.open(Bundle.open(split_bundle), 0)
    levels = tuple(dataclasses.replace(level, max_bytes=level.max_bytes - 1) for level in ours.tables.levels)
    theirs = dataclasses.replace(ours, tables=dataclasses.replace(ours.tables, levels=levels))
    payload = theirs.encode(np.ones(ours.latent_shape, np.float32), 0)
    with pytest.raises(PayloadError) as refused:
        decode(payload, ours.tables)
    assert refused.value.code == "other-tables"
