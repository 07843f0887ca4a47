"""The dashboard: one page, rendered here, its sections sent again each second. All that a device said is escaped."""

from __future__ import annotations

import html
import importlib.resources
import string
from collections.abc import Mapping, Sequence
from typing import Any

MAX_DEVICES = 200
MAX_VERSIONS = 40
_CHART_WIDTH, _CHART_HEIGHT = 720, 120

Document = Mapping[str, Any]


def render_page(document: Document, nonce: str) -> str:
    """The whole page for a fleet document (`littoral.cloud.fleet`); ``nonce`` is that of the page's security policy."""
    template = importlib.resources.files("littoral.cloud").joinpath("dashboard.html").read_text(encoding="utf-8")
    return string.Template(template).substitute(
        render_sections(document), nonce=nonce, cohort=_text(document["cohort"])
    )


def render_sections(document: Document) -> dict[str, str]:
    """The HTML of each section by the id of the element that it fills."""
    return {
        "summary": _summary(document),
        "chart": _chart(document),
        "versions": _versions(document),
        "devices": _devices(document),
    }


def _text(value: object) -> str:
    return html.escape(str(value), quote=True)


def _bytes(count: int) -> str:
    size, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"


def _ago(then: float | None, now: float) -> str:
    if then is None:
        return "never"
    seconds = max(0, int(now - then))
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"


def _summary(document: Document) -> str:
    totals, link = document["totals"], document["link_bytes"]
    held = sum(version["status"] == "held" for version in document["versions"])
    tiles = [
        ("cohort", document["cohort"], f"bundle {document['bundle']['name']} {document['bundle']['digest'][:12]}"),
        ("version", document["shipped_version"], f"{held} held back, head {document['head_version']}"),
        (
            "devices online",
            f"{totals['online']} / {totals['devices']}",
            f"cloud started {_ago(document['started_at'], document['now'])}",
        ),
        ("samples", totals["samples"], _bytes(totals["sample_bytes"])),
        ("uplink", _bytes(sum(link["up"].values())), _purposes(link["up"])),
        ("downlink", _bytes(sum(link["down"].values())), _purposes(link["down"])),
    ]
    return "".join(
        f'<div class="tile"><span class="label">{_text(label)}</span><span class="value">{_text(value)}</span>'
        f'<span class="note">{_text(note)}</span></div>'
        for label, value, note in tiles
    )


def _purposes(totals: Mapping[str, int]) -> str:
    return ", ".join(f"{purpose} {_bytes(count)}" for purpose, count in sorted(totals.items())) or "nothing yet"


def _chart(document: Document) -> str:
    """Samples per second as bars, versions as marks: green shipped, red held."""
    rates: Sequence[int] = document["samples_per_second"]
    top, step = max(1, *rates), _CHART_WIDTH / len(rates)
    parts = [
        f'<rect class="bar" x="{i * step:.1f}" y="{_CHART_HEIGHT - height:.1f}" width="{step * 0.8:.1f}" '
        f'height="{height:.1f}"/>'
        for i, rate in enumerate(rates)
        if (height := rate / top * (_CHART_HEIGHT - 20)) > 0
    ]
    begin = int(document["now"]) - len(rates) + 1
    for version in document["versions"]:
        x = (version["created_at"] - begin) * step
        if 0 <= x <= _CHART_WIDTH:
            parts.append(
                f'<line class="{_text(version["status"])}" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{_CHART_HEIGHT}">'
                f"<title>version {version['version']} {_text(version['status'])}</title></line>"
            )
    label = f"samples per second over the last {len(rates)} s, at most {top}"
    return (
        f'<svg viewBox="0 0 {_CHART_WIDTH} {_CHART_HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="{label}">{"".join(parts)}</svg><p class="note">{label}; lines are versions</p>'
    )


def _versions(document: Document) -> str:
    rows = [
        f'<tr><td class="number">{version["version"]}</td>'
        f'<td><span class="badge {_text(version["status"])}">{_text(version["status"])}</span></td>'
        f"<td>{_text(version['reason'])}</td><td class='note'>{_numbers(version['verdict'])}</td>"
        f'<td class="number">{version["samples"]}</td><td class="number">{_bytes(version["payload_bytes"])}</td>'
        f'<td class="note">{_ago(version["created_at"], document["now"])}</td></tr>'
        for version in list(document["versions"])[: -MAX_VERSIONS - 1 : -1]
    ]
    head = ("version", "gate", "reason", "measured", "samples", "payload", "made")
    return _table(head, rows, "No version yet: the first is made when enough samples have come.")


def _numbers(report: Mapping[str, float | str]) -> str:
    return ", ".join(
        f"{_text(key)} {value:.4g}" if isinstance(value, (int, float)) else f"{_text(key)} {_text(value)}"
        for key, value in sorted(report.items())
    )


def _devices(document: Document) -> str:
    devices = sorted(document["devices"], key=lambda d: (not d["online"], d["name"], d["id"]))
    rows = [_device_row(device, document["now"]) for device in devices[:MAX_DEVICES]]
    head = (
        "device",
        "state",
        "version",
        "frames",
        "selected",
        "queued",
        "dropped",
        "resets",
        "samples",
        "last receipt",
    )
    more = len(devices) - MAX_DEVICES
    tail = f'<p class="note">and {more} more: /v1/fleet has them all</p>' if more > 0 else ""
    return _table(head, rows, "No device yet: make a token with 'littoral enrol'.") + tail


def _device_row(device: Mapping[str, Any], now: float) -> str:
    state = "revoked" if device["revoked_at"] is not None else "online" if device["online"] else "offline"
    status, receipt = device["status"], device["last_receipt"]
    counters = [
        status[key] if status else "–"
        for key in ("version", "frames", "selected", "queued", "dropped", "statistics_resets")
    ]
    said = " ".join(filter(None, (f"{receipt['version']}", receipt["outcome"], receipt["code"]))) if receipt else "–"
    seen = _ago(device["last_seen"], now)
    return (
        f'<tr><td>{_text(device["name"])} <span class="note">{_text(device["id"])}</span></td>'
        f'<td><span class="badge {state}">{state}</span> <span class="note">{seen}</span></td>'
        + "".join(f'<td class="number">{_text(counter)}</td>' for counter in (*counters, device["samples"]))
        + f'<td title="{_text(receipt["reason"]) if receipt else ""}">{_text(said)}</td></tr>'
    )


def _table(head: Sequence[str], rows: Sequence[str], when_empty: str) -> str:
    if not rows:
        return f'<p class="note">{_text(when_empty)}</p>'
    cells = "".join(f"<th>{_text(cell)}</th>" for cell in head)
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
