"""How commands show people what was measured."""

from __future__ import annotations

from collections.abc import Mapping


def plain(value: float, digits: int = 4) -> str:
    """A number of so many digits; a larger one as a whole number, never with an exponent."""
    return f"{value:.0f}" if abs(value) >= 10 ** (digits - 1) else f"{value:.{digits}g}"


def all_plain(metrics: Mapping[str, float], digits: int = 4) -> str:
    """Names and their numbers, by commas."""
    return ", ".join(f"{name} {plain(value, digits)}" for name, value in metrics.items())
