"""What each corruption is: known values, and our short forms against the definitions that they stand for."""

from __future__ import annotations

import colorsys
import io
import zlib

import numpy as np
import pytest
from pictures import pictures
from PIL import Image
from scipy import ndimage

from littoral.bench.streams import pixels
from littoral.bench.streams.blur import disk
from littoral.bench.streams.constants import CIFAR
from littoral.bench.streams.corruptions import corrupt
from littoral.bench.streams.digital import _affine
from littoral.bench.streams.frost import PLATES, plate
from littoral.bench.streams.spatter import edges, equalise
from littoral.bench.streams.weather import plasma
from littoral.core.arrays import Frame


def flat(value: int, count: int = 40) -> Frame:
    return np.full((count, 32, 32, 3), value, np.uint8)


def generators(count: int) -> list[np.random.Generator]:
    return [np.random.default_rng(i) for i in range(count)]


@pytest.mark.parametrize(
    ("constants", "severity", "sigma"), [("cifar", 1, 0.04), ("cifar", 5, 0.1), ("imagenet", 1, 0.08)]
)
def test_gaussian_noise_has_the_published_deviation(constants: str, severity: int, sigma: float) -> None:
    noise = corrupt(flat(128), "gaussian_noise", severity=severity, seed=0, constants=constants) / 255 - 128 / 255  # type: ignore[arg-type]
    assert noise.std() == pytest.approx(sigma, rel=0.01)
    assert noise.mean() == pytest.approx(-0.5 / 255, abs=0.001)  # values are cut off, not rounded


@pytest.mark.parametrize("value", [60, 128])
def test_shot_noise_grows_with_the_root_of_the_value(value: int) -> None:
    noise = corrupt(flat(value), "shot_noise", severity=5, seed=0) / 255
    assert noise.std() == pytest.approx(np.sqrt(value / 255 / 50), rel=0.02)


def test_speckle_noise_grows_with_the_value() -> None:
    for value in (60, 128):
        noise = corrupt(flat(value), "speckle_noise", severity=3, seed=0) / 255
        assert noise.std() == pytest.approx(0.12 * value / 255, rel=0.02)


def test_impulse_noise_is_a_share_of_black_and_of_white() -> None:
    frames = corrupt(flat(128), "impulse_noise", severity=5, seed=0)
    assert (frames == 255).mean() == pytest.approx(0.035, abs=0.003)
    assert (frames == 0).mean() == pytest.approx(0.035, abs=0.003)
    assert set(np.unique(frames)) == {0, 128, 255}
    assert (frames != 128).any(axis=3).mean() > 0.15  # each channel by itself


def hsv(frames: Frame, change_s: tuple[float, float], change_v: float) -> np.ndarray:
    """Through the standard library's HSV, pixel by pixel."""
    out = []
    for red, green, blue in frames.reshape(-1, 3) / 255:
        h, s, v = colorsys.rgb_to_hsv(red, green, blue)
        out.append(colorsys.hsv_to_rgb(h, min(1, s * change_s[0] + change_s[1]), min(1, v + change_v)))
    return np.array(out).reshape(frames.shape) * 255


def test_brightness_raises_the_value_of_hsv() -> None:
    frames = pictures(2)
    frames[0, 0, :2] = [[0, 0, 0], [255, 255, 255]]
    expected = hsv(frames, (1, 0), 0.3)
    np.testing.assert_allclose(corrupt(frames, "brightness", severity=5, seed=0), expected - 0.5, atol=0.51)
    colour = np.tile(np.array([128, 64, 0], np.uint8), (1, 32, 32, 1))
    assert corrupt(colour, "brightness", severity=5, seed=0)[0, 0, 0].tolist() == [204, 102, 0]


@pytest.mark.parametrize(("severity", "change"), [(1, (0.3, 0)), (3, (1.5, 0)), (5, (2.5, 0.2))])
def test_saturate_changes_the_saturation_of_hsv(severity: int, change: tuple[float, float]) -> None:
    frames = pictures(2)
    frames[0, 0, :3] = [[0, 0, 0], [255, 255, 255], [9, 9, 9]]  # grey has no hue, and becomes red
    frames_out = corrupt(frames, "saturate", severity=severity, seed=0)
    np.testing.assert_allclose(frames_out, hsv(frames, change, 0) - 0.5, atol=0.51)


def test_contrast_shrinks_to_the_mean_of_each_channel() -> None:
    frames = np.zeros((1, 32, 32, 3), np.uint8)
    frames[0, :16] = [200, 100, 0]
    out = corrupt(frames, "contrast", severity=5, seed=0)
    np.testing.assert_array_equal(out[0, 0, 0], [115, 57, 0])  # 0.15 * 100 + 100, 0.15 * 50 + 50
    np.testing.assert_array_equal(out[0, 31, 0], [85, 42, 0])


def test_gaussian_blur_is_that_of_each_channel_by_itself() -> None:
    frames = pictures(1)
    expected = [ndimage.gaussian_filter(frames[0, ..., c] / 255, 1, mode="nearest") * 255 for c in range(3)]
    out = corrupt(frames, "gaussian_blur", severity=5, seed=0)[0]
    np.testing.assert_allclose(out, np.stack(expected, axis=-1) - 0.5, atol=0.51)


@pytest.mark.parametrize(("radius", "alias", "reach"), [(0.3, 0.4, 1), (1.5, 0.1, 1), (3, 0.1, 3), (10, 0.5, 10)])
def test_the_disk_out_of_focus_is_round_and_of_sum_one(radius: float, alias: float, reach: int) -> None:
    kernel = disk(radius, alias)
    assert kernel.sum() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(kernel, kernel.T)
    np.testing.assert_allclose(kernel, kernel[::-1])
    assert reach <= kernel.shape[0] // 2 <= reach + 2
    assert kernel[kernel.shape[0] // 2, kernel.shape[0] // 2] == kernel.max()


def test_glass_takes_pixels_from_above_and_left() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    out = corrupt(frames, "glass_blur", severity=1, seed=0)  # its blur, 0.05 pixels, is none
    np.testing.assert_array_equal(out[:, :2], frames[:, :2])
    np.testing.assert_array_equal(out[:, :, :2], frames[:, :, :2])
    inner, near = out[:, 2:, 2:], [frames[:, 2 - i : 32 - i, 2 - j : 32 - j] for i in (0, 1) for j in (0, 1)]
    from_where = np.stack([(inner == there).all(axis=3) for there in near])
    assert from_where.any(axis=0).all()
    assert from_where.mean(axis=(1, 2, 3)) == pytest.approx([0.25] * 4, abs=0.03)


def test_glass_is_blurred_again_after_its_pixels_were_moved() -> None:
    frames = pictures(2)
    moved_alone = frames_moved(frames)
    out = corrupt(frames, "glass_blur", severity=5, seed=0)
    sigma = CIFAR["glass_blur"][4][0]
    again = pixels.to_bytes(pixels.gaussian(pixels.to_unit(moved_alone), sigma))
    np.testing.assert_array_equal(out, again)
    assert (out != moved_alone).any(axis=3).mean() > 0.5, "the second blur is to be seen"


def frames_moved(frames: Frame) -> Frame:
    """What glass makes of frames before it blurs them again, with the draws of seed 0 at severity 5."""
    sigma, reach, rounds = (CIFAR["glass_blur"][4][0], *map(int, CIFAR["glass_blur"][4][1:]))
    moved = pixels.to_bytes(pixels.gaussian(pixels.to_unit(frames), sigma))
    rows = columns = range(32 - reach, reach, -1)
    for place, frame in enumerate(moved):
        rng = np.random.default_rng((0, zlib.crc32(b"glass_blur"), 5, place))
        steps = rng.integers(-reach, reach, (rounds, len(rows), len(columns), 2), dtype=np.int8)
        for turn in range(rounds):
            for i, row in enumerate(rows):
                for j, column in enumerate(columns):
                    across, down = steps[turn, i, j]
                    frame[row, column] = frame[row + down, column + across]
    return moved


def test_a_dot_in_motion_is_a_line_to_one_side() -> None:
    dot = np.zeros((2, 32, 32, 1), np.float32)
    dot[:, 16, 16] = 100
    lines = pixels.motion_blur(dot, radius=6, sigma=2.5, angles=np.array([0, 90], np.float32))
    assert lines.sum(axis=(1, 2, 3)) == pytest.approx([100, 100], rel=1e-4)
    for line in (lines[0, :, :, 0], lines[1, :, :, 0].T):
        assert np.flatnonzero(line.sum(axis=1)).tolist() == [16]
        lit = np.flatnonzero(line[16])
        assert lit.max() == 16
        assert lit.min() < 12
        assert (np.diff(line[16, 8:17]) >= 0).all()


@pytest.mark.parametrize("factor", [1.0, 1.06, 1.25, 2.25])
def test_zoom_is_that_of_the_middle_by_spline_of_order_one(factor: float) -> None:
    x = pixels.to_unit(pictures(2))
    kept = int(np.ceil(32 / factor))
    first = (32 - kept) // 2
    part = x[:, first : first + kept, first : first + kept]
    large = ndimage.zoom(part, (1, factor, factor, 1), order=1)
    cut = (large.shape[1] - 32) // 2
    np.testing.assert_allclose(pixels.zoom(x, factor), large[:, cut : cut + 32, cut : cut + 32], atol=1e-5)


@pytest.mark.parametrize(("edge_twice", "mode"), [(True, "reflect"), (False, "mirror")])
def test_bilinear_samples_are_those_of_scipy(edge_twice: bool, mode: str) -> None:
    x = pixels.to_unit(pictures(1))
    rows, columns = np.random.default_rng(0).uniform(-40, 80, (2, 1, 32, 32))
    expected = [ndimage.map_coordinates(x[0, ..., c], [rows[0], columns[0]], order=1, mode=mode) for c in range(3)]
    sampled = pixels.sample(x, rows, columns, edge_twice=edge_twice)[0]
    np.testing.assert_allclose(sampled, np.stack(expected, axis=-1), atol=1e-5)


def test_the_affine_map_of_unmoved_points_is_none() -> None:
    rows, columns = _affine(generators(2), 32, 32, 0.0)
    y, x = np.mgrid[:32, :32]
    np.testing.assert_allclose(rows, np.stack([y, y]), atol=1e-4)
    np.testing.assert_allclose(columns, np.stack([x, x]), atol=1e-4)


def test_the_affine_map_takes_moved_points_back() -> None:
    rows, columns = _affine(generators(1), 32, 32, 3.0)
    moved = np.array([[26, 26], [26, 6], [6, 6]]) + np.random.default_rng(0).uniform(-3, 3, (3, 2))
    for (x, y), (was_x, was_y) in zip(moved, [(26, 26), (26, 6), (6, 6)], strict=True):
        at = [[y], [x]]
        assert ndimage.map_coordinates(columns[0], at, order=1)[0] == pytest.approx(was_x, abs=1e-3)
        assert ndimage.map_coordinates(rows[0], at, order=1)[0] == pytest.approx(was_y, abs=1e-3)


def test_what_is_all_one_colour_can_be_stretched_without_a_trace() -> None:
    np.testing.assert_array_equal(corrupt(flat(77, 3), "elastic_transform", severity=5, seed=0), flat(77, 3))


def test_pixels_become_blocks() -> None:
    out = corrupt(pictures(2), "pixelate", severity=5, seed=0, constants="imagenet")
    blocks = out.reshape(2, 8, 4, 8, 4, 3)
    assert (blocks == blocks[:, :, :1, :, :1]).all()


def test_jpeg_is_that_of_pillow() -> None:
    frame, held = pictures(1)[0], io.BytesIO()
    Image.fromarray(frame).save(held, "JPEG", quality=40)
    np.testing.assert_array_equal(
        corrupt(frame[None], "jpeg_compression", severity=5, seed=0)[0], np.asarray(Image.open(held))
    )


def test_height_maps_go_from_zero_to_one_and_decay_makes_them_smooth() -> None:
    rough, smooth = plasma(generators(8), 32, 1.2), plasma(generators(8), 32, 3.0)
    for heights in (rough, smooth):
        assert heights.min(axis=(1, 2)).tolist() == [0] * 8
        assert heights.max(axis=(1, 2)).tolist() == [1] * 8
    assert np.abs(np.diff(smooth, axis=2)).mean() < 0.5 * np.abs(np.diff(rough, axis=2)).mean()


def test_fog_keeps_the_brightest_value_and_lifts_the_rest() -> None:
    out = corrupt(flat(255, 4), "fog", severity=5, seed=0)
    assert out.max() == 255
    assert out.min() == int(255 / 2.5)
    np.testing.assert_array_equal(corrupt(flat(0, 2), "fog", severity=5, seed=0), flat(0, 2))


def test_snow_never_darkens() -> None:
    frames = pictures(8)
    assert (corrupt(frames, "snow", severity=5, seed=0) >= frames.astype(int) - 1).all()


def test_snow_on_black_is_its_layer_and_the_same_layer_turned_by_half() -> None:
    out = corrupt(flat(0, 4), "snow", severity=5, seed=0).astype(int)
    assert out.std() > 1, "there is snow"
    assert np.abs(out - out[:, ::-1, ::-1]).max() <= 1
    assert np.abs(out - out[:, ::-1]).max() > 5, "neither flip alone leaves it as it is"
    assert np.abs(out - out[:, :, ::-1]).max() > 5


def test_frost_on_black_is_a_piece_of_a_plate() -> None:
    out = corrupt(flat(0, 1), "frost", severity=5, seed=0)[0]
    pieces = [(plate(i, coarse=False) * np.float32(0.45)).astype(np.uint8) for i in range(PLATES)]
    wrapped = [np.pad(piece, ((0, 31), (0, 31), (0, 0)), mode="wrap") for piece in pieces]
    assert any(
        (piece[row : row + 32, column : column + 32] == out).all()
        for piece in wrapped
        for row, column in zip(*np.nonzero((piece[:256, :256] == out[0, 0]).all(axis=2)), strict=True)
    )


@pytest.mark.parametrize("coarse", [False, True])
def test_plates_differ_and_have_light_and_dark(coarse: bool) -> None:
    first, second = plate(0, coarse=coarse), plate(1, coarse=coarse)
    assert (first != second).mean() > 0.5
    assert 60 < first.mean() < 190
    assert first.std() > 40


def test_mud_is_brown_and_water_is_light() -> None:
    mud = corrupt(flat(200, 20), "spatter", severity=5, seed=0)
    assert (mud == [63, 42, 20]).all(axis=3).any()
    assert (mud <= 200).all()
    water = corrupt(flat(50, 20), "spatter", severity=3, seed=0).astype(int)
    assert (water >= 50).all()
    lit = water[(water > 60).any(axis=3)]
    assert len(lit)
    assert (lit[:, 0] < lit[:, 1]).all()


def test_the_edges_of_a_bright_half_are_one_line() -> None:
    frames = np.zeros((2, 16, 16), np.uint8)
    frames[0, :, 8:] = 200
    frames[1, 8:, :] = 10  # too faint
    found = edges(frames, 50, 150)
    assert np.flatnonzero(found[0].all(axis=0)).tolist() == [7]
    assert found[0].sum() == 16
    assert not found[1].any()


def test_a_faint_edge_is_kept_where_it_leads_to_a_strong_one() -> None:
    frames = np.zeros((2, 16, 16), np.uint8)
    frames[:, :, 8:] = 20  # a strength of 80, between the thresholds
    frames[0, :4, 8:] = 200
    found = edges(frames, 50, 150)
    assert found[0, 10:, 7].all()
    assert not found[1].any()


def test_equalising_spreads_values_over_the_scale() -> None:
    frames = np.full((2, 4, 4), 9, np.uint8)
    frames[0, 2:] = 10
    frames[0, 3] = 11
    out = equalise(frames)
    assert out[0, :, 0].tolist() == [0, 0, 128, 255]
    np.testing.assert_array_equal(out[1], frames[1])
