"""What a device's router starts from: error curves, ways and switcher of a bundle, and a first guess at its times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from littoral.bundle.bundle import Bundle
from littoral.bundle.images import check_coding
from littoral.bundle.manifest import ExitSpec, Manifest
from littoral.bundle.split import SplitCodec
from littoral.core.arrays import Float64s
from littoral.core.route_plan import ErrorCurves
from littoral.core.route_words import RouteConfig, Way
from littoral.core.routing import Router
from littoral.core.switcher import ShippedSwitcher, Switcher
from littoral.errors import BundleError

WrongBy = Literal["labels", "teacher"]
_FORMAT = 1
_WRONG_BY: tuple[WrongBy, ...] = ("labels", "teacher")
_CURVES = ("edges", "sure", "local", "cloud", "cloud_mean", "first", "onward")
_KINDS: Mapping[str, tuple[type[np.generic], int]] = {
    "format": (np.uint16, 1),
    "wrong_by": (np.uint8, 1),
    "step_ms": (np.float64, 1),
    "ways": (np.uint16, 2),
    "ways.num_bytes": (np.float64, 1),
    "ways.encode_ms": (np.float64, 1),
    "curves.edges": (np.float64, 2),
    "curves.sure": (np.float64, 2),
    "curves.local": (np.float64, 2),
    "curves.cloud": (np.float64, 3),
    "curves.cloud_mean": (np.float64, 1),
    "curves.first": (np.float64, 1),
    "curves.onward": (np.float64, 3),
    "switcher.coefficients": (np.float64, 3),
    "switcher.precision": (np.float64, 4),
}
"""Every tensor of the file: its type and the number of its axes."""
_CODINGS, _CODING_CHARS = "ways.coding", 16
"""One more, where there are pictures: of each way its coding in ASCII, zeros behind it, and only these for a split's
payload; uint8 ``(W, 16)``. Left out where there are none, so that an older littoral reads such tables too."""
_SUM_ERROR = 1e-6


@dataclass(frozen=True, kw_only=True, eq=False)
class RouteTables:
    """What `littoral.core.routing.Router` is made of, for one bundle.

    Points are those of `littoral.core.routing`: one for each early exit, then the whole network. The deep exit is a
    part of the end and none of them.

    Attributes:
        curves: Counted on held-out frames, by the score of a switcher that was not fitted on the frame.
        ways: Every split point of the bundle at every level, splits in their order, the coarsest level first; then
            pictures of the frame, each with another coding, the one of fewest bytes first.
        step_ms: From each point to the next, at first; what is measured moves it.
        switcher: As shipped.
        wrong_by: What answers were held against: the truth, or the bundle's teacher where there were no labels.
    Raises:
        ValueError: counts that do not fit each other, or a value that cannot be.
    """

    curves: ErrorCurves
    ways: tuple[Way, ...]
    step_ms: tuple[float, ...]
    switcher: Switcher
    wrong_by: WrongBy

    def __post_init__(self) -> None:
        points, ways = self.curves.num_points, len(self.curves.cloud_mean)
        if (len(self.step_ms), self.switcher.num_points) != (points, points) or len(self.ways) != ways:
            raise ValueError(
                f"the curves are of {points} points and {ways} ways, but {len(self.step_ms)} steps, a switcher of "
                f"{self.switcher.num_points} points and {len(self.ways)} ways came"
            )
        if self.wrong_by not in _WRONG_BY:
            raise ValueError(f"wrong_by is {self.wrong_by!r}, expected one of {_WRONG_BY}")
        if late := [way for way in self.ways if way.point > points]:
            raise ValueError(f"a way starts at point {late[0].point}, the last is {points}")
        codings = [way.coding for way in self.ways if way.is_picture]
        for coding in codings:
            check_coding(coding)
        if len(set(codings)) < len(codings) or any(
            way.is_picture for way in self.ways[: len(self.ways) - len(codings)]
        ):
            raise ValueError(f"pictures come last, each with another coding; the ways are coded {codings}")
        times = [*self.step_ms, *(way.encode_ms for way in self.ways), *(way.num_bytes for way in self.ways)]
        if not np.isfinite(times).all() or min(self.step_ms) < 0:
            raise ValueError("times and sizes must be finite, and times not below 0")
        _check_curves(self.curves)
        precision = self.switcher.shipped.precision
        if not np.allclose(precision, precision.swapaxes(-1, -2)) or np.linalg.eigvalsh(precision).min() <= 0:
            raise ValueError("the switcher's precision is not symmetric and positive definite")

    @classmethod
    def open(cls, bundle: Bundle) -> RouteTables:
        """The tables of a bundle.

        Raises:
            BundleError: the bundle has none, or they are not for its exits and splits.
        """
        name = bundle.manifest.route_file
        if name is None:
            raise BundleError(f"bundle {bundle.path} has no router; build one with exits and a router")
        try:
            tables = cls.from_bytes(bundle.read(name))
        except ValueError as error:
            raise BundleError(f"{name} of bundle {bundle.path}: {error}; build it again") from error
        points = len(early_exits(bundle.manifest)) + 1
        if tables.curves.num_points != points:
            raise BundleError(
                f"{name} of bundle {bundle.path} is for {tables.curves.num_points} points, but its "
                f"{points - 1} early exits and the whole network are {points}; build it again"
            )
        levels = [SplitCodec.open(bundle, split).num_levels for split in range(len(bundle.manifest.splits))]
        pictures = sum(way.is_picture for way in tables.ways)
        if pictures and bundle.manifest.teacher is None:
            raise BundleError(f"{name} of bundle {bundle.path} has ways for a teacher that it has not; build it again")
        expected = (*way_places(bundle.manifest, levels), *((0, level, 0) for level in range(pictures)))
        came = tuple((way.split, way.level, way.point) for way in tables.ways)
        if came != expected:
            raise BundleError(
                f"{name} of bundle {bundle.path} has ways (split, level, point) {came}, expected {expected}; "
                "build it again"
            )
        return tables

    def router(self, config: RouteConfig | None = None) -> Router:
        """A router that has measured nothing yet, with a switcher of its own, as shipped."""
        fresh = Switcher(self.switcher.shipped, self.switcher.config)
        return Router(self.curves, self.ways, self.step_ms, config, switcher=fresh)

    def to_bytes(self) -> bytes:
        """A safetensors file; the same bytes for the same tables. What the switcher learned is not in it."""
        shipped = self.switcher.shipped
        tensors: dict[str, NDArray[Any]] = {
            "format": np.array([_FORMAT], np.uint16),
            "wrong_by": np.array([_WRONG_BY.index(self.wrong_by)], np.uint8),
            "step_ms": np.array(self.step_ms, np.float64),
            "ways": np.array([(w.split, w.level, w.point) for w in self.ways], np.uint16).reshape(-1, 3),
            "ways.num_bytes": np.array([way.num_bytes for way in self.ways], np.float64),
            "ways.encode_ms": np.array([way.encode_ms for way in self.ways], np.float64),
            "switcher.coefficients": shipped.coefficients,
            "switcher.precision": shipped.precision,
        }
        if any(way.is_picture for way in self.ways):
            padded = b"".join(way.coding.encode("ascii").ljust(_CODING_CHARS, b"\0") for way in self.ways)
            tensors[_CODINGS] = np.frombuffer(padded, np.uint8).reshape(-1, _CODING_CHARS)
        tensors |= {f"curves.{name}": getattr(self.curves, name) for name in _CURVES}
        return bytes(save_safetensors({name: np.asarray(tensors[name], order="C") for name in sorted(tensors)}))

    @classmethod
    def from_bytes(cls, data: bytes) -> RouteTables:
        """The inverse of `to_bytes`.

        Raises:
            ValueError: not such a file, a tensor is missing, unknown or of another type, or what it says cannot be.
        """
        try:
            tensors = load_safetensors(data)
        except SafetensorError as error:
            raise ValueError(f"the router's tables are not a safetensors file ({error})") from error
        codings = tensors.pop(_CODINGS, None)
        if set(tensors) != set(_KINDS):
            odd = sorted(set(tensors) ^ set(_KINDS))
            raise ValueError(f"the router's tables lack the tensor {odd[0]!r}, or should not have it")
        for name, (kind, axes) in _KINDS.items():
            if tensors[name].dtype != kind or tensors[name].ndim != axes:
                raise ValueError(
                    f"{name} is {tensors[name].dtype} of {tensors[name].ndim} axes, expected {np.dtype(kind)} of {axes}"
                )
        number, wrong_by, places = tensors["format"], tensors["wrong_by"], tensors["ways"]
        if number.tolist() != [_FORMAT]:
            raise ValueError(f"the router's tables have format {number.tolist()}, this littoral reads {_FORMAT}")
        if len(wrong_by) != 1 or wrong_by[0] >= len(_WRONG_BY):
            raise ValueError(f"wrong_by is {wrong_by.tolist()}, expected one number below {len(_WRONG_BY)}")
        sizes, encode_ms = tensors["ways.num_bytes"].tolist(), tensors["ways.encode_ms"].tolist()
        if places.shape != (len(sizes), 3) or len(encode_ms) != len(sizes):
            raise ValueError(f"{len(sizes)} sizes and {len(encode_ms)} times are for ways of shape {places.shape}")
        coded = [""] * len(sizes) if codings is None else _codings(codings, len(sizes))
        shipped = ShippedSwitcher(
            coefficients=tensors["switcher.coefficients"], precision=tensors["switcher.precision"]
        )
        return cls(
            curves=ErrorCurves(**{name: tensors[f"curves.{name}"] for name in _CURVES}),
            ways=tuple(
                Way(split=split, level=level, point=point, num_bytes=size, encode_ms=took, coding=coding)
                for (split, level, point), size, took, coding in zip(
                    places.tolist(), sizes, encode_ms, coded, strict=True
                )
            ),
            step_ms=tuple(tensors["step_ms"].tolist()),
            switcher=Switcher(shipped),
            wrong_by=_WRONG_BY[int(wrong_by[0])],
        )


def early_exits(manifest: Manifest) -> tuple[ExitSpec, ...]:
    """The exits before the end: exit p - 1 is the router's point p."""
    return tuple(each for each in manifest.exits if not each.is_deep)


def point_temperatures(manifest: Manifest) -> tuple[float, ...]:
    """What the logits at each point are divided by: the early exits' shipped, then the deep exit's, 1 without one."""
    deep = [each.temperature for each in manifest.exits if each.is_deep]
    return (*(each.temperature for each in early_exits(manifest)), *(deep or [1.0]))


def way_places(manifest: Manifest, levels: list[int]) -> tuple[tuple[int, int, int], ...]:
    """Split, level and point of each way of offloading, in the order of the tables.

    Args:
        levels: How many each of the bundle's split points has.
    """
    stands = [each.segment for each in early_exits(manifest)]
    places = []
    for index, (split, count) in enumerate(zip(manifest.splits, levels, strict=True)):
        point = 0
        if split.segment is not None:  # the first point by which that segment has run
            point = 1 + sum(stand < split.segment for stand in stands)
        places += [(index, level, point) for level in range(count)]
    return tuple(places)


def _codings(values: NDArray[Any], ways: int) -> list[str]:
    """The codings of the ways; `ValueError` says what is wrong with the tensor."""
    if values.dtype != np.uint8 or values.shape != (ways, _CODING_CHARS) or values.max(initial=0) > 127:
        raise ValueError(
            f"{_CODINGS} is {values.dtype} {values.shape}, expected ASCII as uint8 {(ways, _CODING_CHARS)}"
        )
    return [row.tobytes().rstrip(b"\0").decode("ascii") for row in values]


def _check_curves(curves: ErrorCurves) -> None:
    points, bins = curves.local.shape
    if points < 1 or bins < 2 or len(curves.cloud_mean) < 1:
        raise ValueError(f"curves of {points} points, {bins} bins and {len(curves.cloud_mean)} ways came, need 1, 2, 1")
    if not np.isfinite(curves.edges).all() or (np.diff(curves.edges, axis=1) < 0).any():
        raise ValueError("the edges of a curve's bins are not finite and rising")
    if not ((curves.sure >= 0) & (curves.sure <= 1)).all():
        raise ValueError("a mean confidence leaves [0, 1]")
    for name, shares in (("first", curves.first), ("onward", curves.onward)):
        if not _are_shares(shares):
            raise ValueError(f"curves.{name} are not shares that sum to 1")


def _are_shares(values: Float64s) -> bool:
    return bool((values >= 0).all() and (abs(values.sum(axis=-1) - 1) <= _SUM_ERROR).all())
