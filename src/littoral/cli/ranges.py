"""Numbers of options, held against what they may be while the command line is read."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable


def whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """An argparse type: a whole number, ``least`` or more, and no more than ``most``."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least or (most is not None and value > most):
            until = "on" if most is None else f"to {most}"
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {least} {until}")
        return value

    return read


def wholes(least: int) -> Callable[[str], list[int]]:
    """An argparse type: different whole numbers by commas, at least one, each ``least`` or more."""

    def read(text: str) -> list[int]:
        try:
            values = [int(part) for part in text.split(",")]
        except ValueError:
            values = []
        if not values or min(values) < least or len(set(values)) < len(values):
            raise argparse.ArgumentTypeError(
                f"{text!r} is no list of different whole numbers from {least} on, such as 1,2,3"
            )
        return values

    return read


def number(least: float = 0.0, *, above: bool = False) -> Callable[[str], float]:
    """An argparse type: a finite number, ``least`` or more, or only ``above`` it."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or value < least or (above and value == least):
            raise argparse.ArgumentTypeError(
                f"{text!r} is no number {'above' if above else 'from'} {least:g}{'' if above else ' on'}"
            )
        return value

    return read
