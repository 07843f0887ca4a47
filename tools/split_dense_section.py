"""The dense tasks on the page of the split table: what a point costs and gives, and a picture for each network."""

from collections.abc import Callable
from typing import Any

import svg
from curves import Curve, draw

Rows = list[dict[str, Any]]
_ROWS = {
    "cgnet": "CGNet on CamVid's 233 test frames, mIoU",
    "yolox_nano": "YOLOX-nano on 128 images of COCO, AP50",
}
_METHODS = {
    "dense": "product, trained",
    "dense_fitted": "product, fitted alone",
    "webp": "WebP",
    "device_only": "device only",
    "cloud_lossless": "all to the cloud, lossless",
}
_WORDS = (
    "A picture is brought to the network's input on the device, and the unmodified network answers it. A split's "
    "device runs the network up to the cut (*segment*) and the encoder; *from pixels* it runs the encoder alone. "
    "*Fitted alone*: before any training. The test sets are small: differences of two points say nothing "
    "([what so little data can show](../methods/split-dense.md#what-so-little-data-can-and-cannot-show)). And they are "
    "not untouched: while choices were made, 40 of the 233 frames and 64 of the 128 images were looked at."
)


def section(rows: Rows, table: Callable[..., str]) -> list[str]:
    """A table and a picture for each network."""
    out: list[str] = []
    for network, title in _ROWS.items():
        if chosen := _of(rows, network):
            lines = [
                [_name(row), row.get("quality") if row.get("level") is None else f"level {row['level']}",
                 f"{row['accuracy']:.2f}", f"{row['bytes']:,.0f}",
                 *(row.get(key) for key in ("bytes_p95", "bytes_without_header")),
                 *(_millions(row.get(key)) for key in ("encoder_macs", "segment_macs"))]
                for row in chosen
            ]  # fmt: skip
            head = ["method", "at", "right, %", "bytes", "p95", "no header", "encoder MMAC", "segment MMAC"]
            picture = [] if _plot(rows, network) is None else [f"![accuracy against bytes](split-{network}.svg)"]
            out += [f"### {title}", *picture, *_nothing_sent(chosen), table(head, lines)]
    return ["## Segmentation and detection", _WORDS, *out] if out else []


def _nothing_sent(chosen: Rows) -> list[str]:
    """A sentence where the device alone is better than every split."""
    alone = max((row["accuracy"] for row in chosen if row["method"] == "device_only"), default=None)
    best = max((row["accuracy"] for row in chosen if row["kind"] == "dense_split"), default=None)
    if alone is None or best is None or alone <= best:
        return []
    return [
        f"A device that runs the whole network and sends nothing is right on {alone:.1f}: more than every split here, "
        f"which reach {best:.1f} at most. So a split is for a device that cannot, or should not, run all of it."
    ]


def plots(document: dict[str, Any]) -> dict[str, str]:
    """By name of file, a picture for each network."""
    out: dict[str, str] = {}
    for network in _ROWS:
        out |= svg.named(f"split-{network}.svg", _plot(document["rows"], network))
    return out


def _plot(rows: Rows, network: str) -> str | None:
    found: dict[str, Curve] = {}
    level: dict[str, float] = {}
    for row in _of(rows, network):
        if row["kind"] == "dense_fixed":
            level[_name(row)] = row["accuracy"]
        else:
            found.setdefault(_name(row), []).append((row["bytes"], row["accuracy"]))
    return draw({name: sorted(points) for name, points in found.items()}, level, ours="product")


def _of(rows: Rows, network: str) -> Rows:
    return [row for row in rows if row["kind"].startswith("dense_") and row["variant"].split("-")[0] == network]


def _name(row: dict[str, Any]) -> str:
    given = ", from pixels" if row["variant"].endswith("-pixels") else ""
    return _METHODS.get(row["method"], row["method"]) + given


def _millions(count: int | None) -> str:
    return "" if count is None else f"{count / 1e6:,.0f}"
