"""The sizes that our payloads are held against are those of files that can be read again."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

pytest.importorskip("scipy", reason="the bench needs its extra")

from littoral.bench.split.codecs import (
    CODECS,
    PACKERS,
    RANGE_BYTES,
    PictureCodec,
    Sizes,
    blank_bytes,
    codec_of,
    packed_bytes,
    quantise,
    recode,
    why_not,
)

HERE = [codec for codec in CODECS if why_not(codec) is None]


def pictures() -> np.ndarray:
    """Two smooth frames, so that a codec has something to leave out."""
    x, y = np.meshgrid(np.linspace(0, 3, 32), np.linspace(0, 2, 32))
    waves = [np.stack([np.sin(x + i), np.cos(y * 2), np.sin(x * y + i)], axis=-1) for i in range(2)]
    return (127 + 120 * np.stack(waves)).astype(np.uint8)


@pytest.mark.parametrize("codec", HERE, ids=lambda codec: codec.name)
def test_what_comes_back_is_like_what_was_sent(codec: PictureCodec) -> None:
    frames = pictures()
    seen, sizes = recode(codec, frames, 95)
    assert seen.shape == frames.shape
    assert len(sizes) == 2
    error = np.abs(seen.astype(int) - frames).mean()
    assert error == 0 if not codec.lossy else 0 < error < 6


@pytest.mark.parametrize("codec", [codec for codec in HERE if codec.lossy], ids=lambda codec: codec.name)
def test_quality_costs_bytes_and_a_blank_frame_is_nearly_all_header(codec: PictureCodec) -> None:
    frames = pictures()
    coarse, fine = (sum(recode(codec, frames, quality)[1]) for quality in (5, 95))
    assert coarse < fine
    assert 20 < blank_bytes(codec, 5, frames[0]) <= coarse / 2


def test_a_codec_that_pillow_lacks_is_named_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("littoral.bench.split.codecs.features.check", lambda name: name != "avif")
    assert why_not(codec_of("avif")) == "this Pillow was built without avif"
    assert why_not(codec_of("png")) is None
    with pytest.raises(ValueError, match="no codec is called 'bpg'"):
        codec_of("bpg")


def test_features_of_eight_bits_are_within_half_a_step() -> None:
    features = np.random.default_rng(0).normal(size=(3, 4, 5, 5)).astype(np.float32)
    features[2] = 1.5  # a frame without a range
    levels, back = quantise(features)
    spans = np.ptp(features.reshape(3, -1), axis=1)
    for frame, seen, span in zip(features, back, spans, strict=True):
        assert np.abs(frame - seen).max() <= span / 255 / 2 + 1e-5
    assert levels[0].min() == 0
    assert levels[0].max() == 255


def test_packed_features_count_all_that_is_needed_to_read_them() -> None:
    levels = np.zeros((1, 4, 8, 8), np.uint8)
    packed = PACKERS["zlib"](levels[0].tobytes())
    assert zlib.decompress(packed, wbits=-15) == levels.tobytes()
    assert packed_bytes(levels, "zlib") == [len(packed) + RANGE_BYTES]
    assert packed_bytes(levels, "lzma")[0] < 64


def test_sizes_are_told_by_mean_median_and_tail() -> None:
    columns = Sizes.of([10] * 90 + [110] * 10).columns()
    assert columns == {"bytes": 20.0, "bytes_p50": 10.0, "bytes_p95": 110.0}
