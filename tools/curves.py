"""A picture of accuracy against bytes, for the pages that have one. Pure: numbers in, SVG out."""

import html
import math
from collections.abc import Iterable, Mapping

import svg

Curve = list[tuple[float, float]]
"""Points ``(bytes, right)`` in the order of their bytes."""
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 820, 460, 56, 210, 16, 46
_COLOURS = ("#0b6e6e", "#c1440e", "#d98e04", "#5b5ea6", "#3a7d44", "#8d6a9f", "#777777", "#a23b72", "#2e86ab",
            "#6b4226", "#b8860b", "#444444")  # fmt: skip


def draw(found: Mapping[str, Curve], level: Mapping[str, float], *, ours: str, upright: str = "%") -> str | None:
    """Accuracy against the logarithm of bytes, the same picture for the same numbers; None without a curve.

    Args:
        found: Curves by name.
        level: By name the accuracy of what has no bytes to speak of: dashed.
        ours: How the names of curves begin that are drawn bold.
        upright: What accuracy is in.
    """
    if not found:
        return None
    sizes = [size for points in found.values() for size, _ in points]
    rights = [right for points in found.values() for _, right in points] + list(level.values())
    first, last = 10 ** math.floor(math.log10(min(sizes))), 10 ** math.ceil(math.log10(max(sizes)))
    last *= 10 if last == first else 1
    low, high = 10 * math.floor(min(rights) / 10), 10 * math.ceil(max(rights) / 10)
    high += 10 * (high == low)

    def x(size: float) -> float:
        return _LEFT + math.log(size / first) / math.log(last / first) * (_WIDTH - _LEFT - _RIGHT)

    def y(right: float) -> float:
        return _TOP + (high - right) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    out = svg.begin(_WIDTH, _HEIGHT)
    for right in range(low, high + 1, 10):
        out.append(svg.line(_LEFT, y(right), _WIDTH - _RIGHT, y(right)))
        out.append(svg.text(_LEFT - 8, y(right) + 4, f"{right} {upright}", "end"))
    size = first
    while size <= last:
        out.append(svg.line(x(size), _TOP, x(size), _HEIGHT - _BOTTOM))
        out.append(svg.text(x(size), _HEIGHT - _BOTTOM + 16, f"{size:,g}", "middle"))
        size *= 10
    out.append(svg.text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 8, "bytes of a frame", "middle"))
    names = []
    for index, (name, where) in enumerate(found.items()):
        colour = _COLOURS[index % len(_COLOURS)]
        drawn = " ".join(f"{x(size):.1f},{y(right):.1f}" for size, right in where)
        wide = 2.5 if name.startswith(ours) else 1.2
        out.append(f'<polyline points="{drawn}" fill="none" stroke="{colour}" stroke-width="{wide}"/>')
        out += [f'<circle cx="{x(size):.1f}" cy="{y(right):.1f}" r="3" fill="{colour}"/>' for size, right in where]
        names.append((y(where[-1][1]), name, colour))
    for name, right in level.items():
        edge = _WIDTH - _RIGHT
        out.append(
            f'<line x1="{_LEFT}" y1="{y(right):.1f}" x2="{edge}" y2="{y(right):.1f}" stroke="#888888" '
            'stroke-dasharray="4 4"/>'
        )
        names.append((y(right), f"{name} {right:.1f}", "#888888"))
    return svg.end([*out, *_names(names, ours)])


def _names(names: Iterable[tuple[float, str, str]], ours: str) -> list[str]:
    """In a column at the right, in the order of their height, with room between them."""
    out, last = [], -math.inf
    for height, name, colour in sorted(names):
        at = max(height, last + 15, _TOP + 6)
        last = at
        weight = ' font-weight="bold"' if name.startswith(ours) else ""
        out.append(
            f'<text x="{_WIDTH - _RIGHT + 12}" y="{at + 4:.1f}" fill="{colour}"{weight}>{html.escape(name)}</text>'
        )
    return out
