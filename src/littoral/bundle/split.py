"""What both sides of a split must have alike: how a latent becomes symbols, and the tables that code these."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from littoral.bundle.bundle import Bundle
from littoral.core.arrays import FloatArray
from littoral.core.codec import Symbols, encode
from littoral.core.codec_tables import CodecTables
from littoral.errors import BundleError, ModelOutputError, PayloadError

GAINS = "gains"
DEADZONES = "deadzones"
_LARGEST = float(np.float32(2**31 - 128))
"""The largest float32 that is an int32; the lowest is its negative, for symmetry."""


def to_symbols(latent: FloatArray, gains_C: FloatArray, deadzone: float = 0.0) -> Symbols:
    """Scale and round: the one way in which a latent becomes symbols, on devices and where tables are built.

    Args:
        latent: float32 ``(..., C, H, W)``.
        gains_C: float32 ``(C,)``.
        deadzone: By so much more than a half a value must be beyond a whole number to count as the next one from 0.
            Symbols are nearer to 0 then, and cost less.
    Returns:
        int32 of the latent's shape, rounded to the nearest, halves to the even one. What int32 does not hold becomes
        its largest or smallest.
    Raises:
        ModelOutputError: a value is not finite.
    """
    if not np.isfinite(latent).all():
        raise ModelOutputError("the encoder gave a latent that is not finite; let the device answer")
    with np.errstate(over="ignore"):  # what float32 does not hold, int32 does not either
        scaled = latent * gains_C[:, None, None]
    if deadzone:
        rounded = np.copysign(np.floor(np.abs(scaled) + np.float32(0.5 - deadzone)), scaled)
    else:
        rounded = np.rint(scaled)
    symbols: Symbols = rounded.clip(-_LARGEST, _LARGEST).astype(np.int32)
    return symbols


@dataclass(frozen=True, kw_only=True, eq=False)
class SplitCodec:
    """Gains and tables of one split point.

    Args:
        tables: A frequency table per level. Level 0 is the coarsest; a level may have a prefix of the channels only.
        gains: float32 ``(L, C)``: what each channel of the latent is multiplied with before it is rounded.
        deadzones: Per level that of `to_symbols`; none where it is empty.
    Raises:
        ValueError: the gains are not finite and positive, or a deadzone is not within [0, 0.5), or they do not fit the
            tables.
    """

    tables: CodecTables
    gains: FloatArray
    deadzones: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        gains, num_levels = self.gains, len(self.tables.levels)
        most = max(level.num_channels for level in self.tables.levels)
        if gains.dtype != np.float32 or gains.ndim != 2 or len(gains) != num_levels or gains.shape[1] < most:
            raise ValueError(
                f"gains are {gains.dtype} {gains.shape}, these tables need float32 ({num_levels}, {most} or more); "
                "build the bundle again"
            )
        if not (np.isfinite(gains).all() and (gains > 0).all()):
            raise ValueError("gains must be finite and above 0; build the bundle again")
        if len(self.deadzones) not in (0, num_levels) or not all(0 <= each < 0.5 for each in self.deadzones):
            raise ValueError(
                f"deadzones are {self.deadzones}, expected {num_levels} of at least 0 and below 0.5; build the bundle "
                "again"
            )
        exact = tuple(float(np.float32(each)) for each in self.deadzones)  # as a file has them
        object.__setattr__(self, "deadzones", exact)

    @classmethod
    def open(cls, bundle: Bundle, index: int) -> SplitCodec:
        """The codec of a bundle's split point.

        Raises:
            BundleError: the bundle has no such split point, or its file is not what it should be.
        """
        splits = bundle.manifest.splits
        if not 0 <= index < len(splits):
            raise BundleError(
                f"split point {index} was asked for, bundle {bundle.path} has {len(splits)}; build one with splits"
            )
        name = splits[index].codec_file
        try:
            return cls.from_tensors(bundle.load_tensors(name))
        except ValueError as error:
            raise BundleError(f"{name} of bundle {bundle.path}: {error}") from error

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[Any]]) -> SplitCodec:
        """The inverse of `to_tensors`, for tensors from a file.

        Raises:
            ValueError: a tensor is missing, unknown, of another type or size, or what they say is not allowed.
        """
        if GAINS not in tensors:
            raise ValueError(f"the codec lacks the tensor {GAINS!r}; build the bundle again")
        tables = CodecTables.from_tensors(
            {name: value for name, value in tensors.items() if name not in (GAINS, DEADZONES)}
        )
        deadzones = tensors.get(DEADZONES, np.zeros(0, np.float32))
        if deadzones.dtype.newbyteorder("=") != np.float32 or deadzones.ndim != 1:
            raise ValueError(f"{DEADZONES!r} of the codec must be float32 (L,); build the bundle again")
        return cls(tables=tables, gains=tensors[GAINS], deadzones=tuple(deadzones.tolist()))

    def to_tensors(self) -> dict[str, NDArray[Any]]:
        """Named tensors for a safetensors file."""
        more = {DEADZONES: np.array(self.deadzones, np.float32)} if self.deadzones else {}
        return {**self.tables.to_tensors(), GAINS: self.gains, **more}

    @property
    def num_levels(self) -> int:
        return len(self.tables.levels)

    @property
    def num_channels(self) -> int:
        """Of the latent; a level's symbols may have fewer."""
        return int(self.gains.shape[1])

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """``(C, H, W)``."""
        return self.num_channels, self.tables.height, self.tables.width

    def kept(self, level: int) -> int:
        """How many channels, counted from the first, a level sends."""
        return self.tables.level(level).num_channels

    def symbols(self, latent_CHW: FloatArray, level: int) -> Symbols:
        """A latent as a level's symbols, by `to_symbols`.

        Args:
            latent_CHW: float32.
        Returns:
            int32 ``(kept, H, W)``.
        Raises:
            ValueError: another shape or type, or no such level.
            ModelOutputError: a value is not finite.
        """
        if latent_CHW.shape != self.latent_shape or latent_CHW.dtype != np.float32:
            raise ValueError(
                f"a latent is {latent_CHW.dtype} {latent_CHW.shape}, expected float32 {self.latent_shape}; give one "
                "frame's, as the encoder makes it"
            )
        kept = self.kept(level)
        return self.quantised(latent_CHW, level)[:kept]

    def quantised(self, latents: FloatArray, level: int) -> Symbols:
        """Latents ``(..., C, H, W)`` as symbols of a level, those of channels that it does not send among them."""
        return to_symbols(latents, self.gains[level], self.deadzones[level] if self.deadzones else 0.0)

    def encode(self, latent_CHW: FloatArray, level: int) -> bytes:
        """The payload of a latent at a level or, where that level's ceiling refuses, the next coarser that does not.

        Args:
            latent_CHW: float32.
            level: 0 is the coarsest. Which one was taken is in the payload's header (`core.codec.read_header`).
        Raises:
            PayloadError: ``too-large``: also the coarsest level refuses. Let the device answer.
            ModelOutputError: a value is not finite.
            ValueError: another shape or type, or no such level.
        """
        while True:
            try:
                return encode(self.symbols(latent_CHW, level), self.tables, level=level)
            except PayloadError:  # the only code that encoding has is too-large
                if level == 0:
                    raise
                level -= 1

    def padded(self, symbols: Symbols) -> FloatArray:
        """A level's symbols as the tail takes them: float32 ``(C, H, W)``, zero in the channels that were not sent."""
        out = np.zeros(self.latent_shape, np.float32)
        out[: len(symbols)] = symbols
        return out
