"""What the plots of the generated pages are drawn with, so that the same numbers give the same bytes."""

import html


def begin(width: int, height: int) -> list[str]:
    """The first lines of a white picture; ``end`` closes it."""
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]


def line(x1: float, y1: float, x2: float, y2: float) -> str:
    """A line of the grid."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#e3e3e3"/>'


def text(x: float, y: float, words: str, anchor: str) -> str:
    """Words at a place; ``anchor`` is ``start``, ``middle`` or ``end``."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="#444444">{html.escape(words)}</text>'


def end(parts: list[str]) -> str:
    """The whole picture."""
    return "\n".join([*parts, "</svg>"]) + "\n"


def named(name: str, drawn: str | None) -> dict[str, str]:
    """The picture under its name; nothing where there is none."""
    return {} if drawn is None else {name: drawn}
