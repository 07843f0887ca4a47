"""The dashboard: one page, rendered here, its sections sent again each second. All that a device said is escaped."""

from __future__ import annotations

import html
import importlib.resources
import string
from collections.abc import Mapping, Sequence
from typing import Any

MAX_DEVICES = 200
MAX_VERSIONS = 12
_DEVICE_COLUMNS = 15
_CHART_WIDTH, _CHART_HEIGHT, _MARKS_HEIGHT = 720, 120, 20

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
        "domains": _domains(document),
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
    totals, link, now = document["totals"], document["link_bytes"], document["now"]
    serving = _serving(document)
    tiles = [
        (
            "newest version",
            document["shipped_version"] or "source",
            f"of domain {serving['domain']}, made {_ago(serving['created_at'], now)}{_what_runs(document)}"
            if serving
            else "nothing shipped yet: the devices run the bundle as it was built",
        ),
        (
            "devices online",
            f"{totals['online']} / {totals['devices']}",
            f"bundle {document['bundle']['name']} {document['bundle']['digest'][:12]}"
            + (f"; {totals['quarantined']} quarantined" if totals["quarantined"] else ""),
        ),
        (
            "samples recorded",
            f"{totals['samples']:,}",
            (f"the newest {_ago(newest, now)}; " if (newest := document["last_sample_at"]) else "")
            + f"{_bytes(totals['sample_bytes'])} of images; {totals['labels_sent']:,} labels sent back",
        ),
        ("came up", _bytes(sum(link["up"].values())), _purposes(link["up"])),
        ("went down", _bytes(sum(link["down"].values())), _purposes(link["down"])),
    ]
    cards = "".join(
        f'<div class="tile"><span class="label">{_text(label)}</span><span class="value">{_text(value)}</span>'
        f'<span class="note">{_text(note)}</span></div>'
        for label, value, note in tiles
    )
    return f'<div class="tiles">{cards}</div>{_last_held(document)}'


def _what_runs(document: Document) -> str:
    """Whether the online devices run their domain's newest, as they last said; a device says so every few seconds."""
    newest = {domain["domain"]: domain["shipped_version"] for domain in document["domains"]}
    said = [d for d in document["devices"] if d["online"] and d["status"]]
    if not said:
        return ""
    near = sum(d["status"]["near_source"] for d in said)
    away = [d["status"]["version"] >= newest.get(d["domain"], 0) for d in said if not d["status"]["near_source"]]
    at_home = f"; {near} of {len(said)} online devices are near the source and need none" if near else ""
    if not away:
        return at_home
    if all(away):
        return f"; every {'other ' if near else ''}online device runs its domain's newest{at_home}"
    return f"; {sum(away)} of {len(away)} {'other ' if near else ''}online devices run their domain's newest{at_home}"


def _serving(document: Document) -> Mapping[str, Any] | None:
    return next((v for v in document["versions"] if v["version"] == document["shipped_version"]), None)


def _last_held(document: Document) -> str:
    """A sentence on the newest version that was held back, loud if nothing has been shipped since."""
    held = [version for version in document["versions"] if version["status"] == "held"]
    if not held:
        return ""
    last = held[-1]
    loud = " loud" if last["version"] == document["head_version"] else ""
    made = _ago(last["created_at"], document["now"])
    return (
        f'<p class="alert{loud}"><b>Version {last["version"]} was held back</b> {made}, no device got it: '
        f"{_text(last['reason'])}. Held back: {len(held)} of the last {len(document['versions'])}.</p>"
    )


def _purposes(totals: Mapping[str, int]) -> str:
    parts = sorted(totals.items(), key=lambda item: -item[1])
    return ", ".join(f"{purpose} {_bytes(count)}" for purpose, count in parts) or "nothing since the cloud started"


def _chart(document: Document) -> str:
    """Samples per second as bars; above them a mark for each version, taller and red if it was held."""
    rates: Sequence[int] = document["samples_per_second"]
    top, step = max(1, *rates), _CHART_WIDTH / len(rates)
    parts = [
        f'<rect class="bar" x="{i * step:.1f}" y="{_CHART_HEIGHT - height:.1f}" width="{step * 0.8:.1f}" '
        f'height="{height:.1f}"/>'
        for i, rate in enumerate(rates)
        if (height := rate / top * (_CHART_HEIGHT - _MARKS_HEIGHT)) > 0
    ]
    begin = int(document["now"]) - len(rates) + 1
    for version in document["versions"]:
        x = (version["created_at"] - begin) * step
        if 0 <= x <= _CHART_WIDTH:
            foot = _CHART_HEIGHT if version["status"] == "held" else _MARKS_HEIGHT - 8
            parts.append(
                f'<line class="{_text(version["status"])}" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{foot}">'
                f"<title>version {version['version']} {_text(version['status'])}</title></line>"
            )
    label = f"samples per second over the last {len(rates)} s, at most {top}"
    started = _ago(document["started_at"], document["now"])
    return (
        f'<svg viewBox="0 0 {_CHART_WIDTH} {_CHART_HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="{label}">{"".join(parts)}</svg>'
        f'<p class="note ends"><span>{len(rates)} s ago</span><span>now</span></p>'
        f'<p class="note">Bars: samples a second, at most {top}. '
        'Marks above: versions, <span class="shipped">shipped</span> or <span class="held">held back</span>. '
        f"The cloud started {started}.</p>"
    )


def _versions(document: Document) -> str:
    versions = list(document["versions"])
    rows = [_version_row(version, document) for version in versions[: -MAX_VERSIONS - 1 : -1]]
    head = (
        *("version", "domain", "gate", "probe kept", "agrees with teacher", "spread / teacher's"),
        *("from", "payload", "made"),
    )
    more = document["head_version"] - len(rows)
    tail = f'<p class="note">and {more} before these: /v1/fleet has the newest</p>' if rows and more > 0 else ""
    return _table(head, rows, "No version yet: the first is made when enough samples have come.") + tail


def _version_row(version: Mapping[str, Any], document: Document) -> str:
    measured = dict(version["verdict"])
    share = "".join(
        f'<td class="number">{f"{measured[key]:.0%}" if key in measured else "–"}</td>'
        for key in ("probe_agreement", "teacher_agreement")
    )
    spread = " / ".join(
        f"{measured[key]:.2f}" for key in ("spread_nats", "teacher_spread_nats") if measured.get(key) is not None
    )
    serving = version["version"] in {domain["shipped_version"] for domain in document["domains"]}
    badge = f'<span class="badge {_text(version["status"])}">{_text(version["status"])}</span>'
    if serving:
        badge += ' <span class="note">serving</span>'
    row = (
        f'<tr class="{"serving" if serving else "version"}"><td class="number">{version["version"]}</td>'
        f'<td class="number">{version["domain"]}</td>'
        f"<td>{badge}</td>{share}"
        f'<td class="number">{f"{spread} nats" if spread else "–"}</td>'
        f'<td class="number">{_made_of(version)}</td>'
        f'<td class="number">{_bytes(version["payload_bytes"])}</td>'
        f'<td class="note number">{_ago(version["created_at"], document["now"])}</td></tr>'
    )
    if version["reason"]:
        held = " held" if version["status"] == "held" else ""
        row += f'<tr class="why{held}"><td></td><td colspan="8"><span>why: {_text(version["reason"])}</span></td></tr>'
    return row


def _made_of(version: Mapping[str, Any]) -> str:
    return f"{version['samples']} samples" if version["samples"] else f"version {version['base_version']}"


def _domains(document: Document) -> str:
    rows = [
        f'<tr><td class="number">{domain["domain"] or "0, before a first scene"}{_beside(domain)}</td>'
        + "".join(f'<td class="number">{domain[key]:,}</td>' for key in ("scenes", "devices", "waiting"))
        + f'<td class="number">{domain["shipped_version"] or "source"}</td></tr>'
        for domain in document["domains"]
    ]
    return _table(("domain", "scenes", "devices in it now", "samples waiting", "newest version"), rows, "")


def _beside(domain: Mapping[str, Any]) -> str:
    return "" if domain["own_of"] is None else f' <span class="note">of one device, beside {domain["own_of"]}</span>'


def _devices(document: Document) -> str:
    devices = sorted(document["devices"], key=_by_need)
    rows = [_device_row(device, document) for device in devices[:MAX_DEVICES]]
    head = (
        "device",
        "state",
        "domain",
        "runs version",
        "last said",
        "frames",
        "selected",
        "queued",
        "dropped",
        "resets",
        "offloaded",
        "degraded",
        "early",
        "exits",
        "samples",
    )
    more = len(devices) - MAX_DEVICES
    tail = f'<p class="note">and {more} more: /v1/fleet has them all</p>' if more > 0 else ""
    return _table(head, rows, "No device yet: make a token with 'littoral enrol make'.") + tail


def _by_need(device: Mapping[str, Any]) -> tuple[object, ...]:
    """What may need somebody first: devices that are away, then those that are here, then those that were shut out."""
    return device["revoked_at"] is not None, device["online"], device["name"], device["id"]


def _device_row(device: Mapping[str, Any], document: Document) -> str:
    state = "revoked" if device["revoked_at"] is not None else "online" if device["online"] else "offline"
    apart = "".join(
        f' <span class="badge held">{word}</span>'
        for word, is_so in (
            ("refused", state == "offline" and device["refused"] is not None),
            ("quarantined", device["quarantined_at"] is not None),
        )
        if is_so
    )
    status, now = device["status"], document["now"]
    last = "not seen yet" if device["last_seen"] is None else f"seen {_ago(device['last_seen'], now)}"
    seen = "" if state == "online" else f' <span class="note">{last}</span>'
    if status:
        share = f' <span class="note">{status["selected"] / max(status["frames"], 1):.0%}</span>'
        counters = [
            f"{status['version'] or 'source'}" + (' <span class="note">near</span>' if status["near_source"] else ""),
            f"{status['frames']:,}",
            f"{status['selected']:,}{share}",
            *(f"{status[key]:,}" for key in ("queued", "dropped", "statistics_resets")),
            _offloaded(status),
            f"{status['degraded']:,}",
            _early(status),
            _text(status["exit_state"] or "–"),
        ]
    else:
        counters = ["–"] * 10
    receipt = f'<td class="number">{_receipt(device["last_receipt"])}</td>'
    return (
        f'<tr><td>{_text(device["name"])} <span class="note">{_text(device["id"])}</span></td>'
        f'<td><span class="badge {state}">{state}</span>{apart}{seen}</td><td class="number">{device["domain"]}</td>'
        + f'<td class="number">{counters[0]}</td>{receipt}'
        + "".join(f'<td class="number">{counter}</td>' for counter in (*counters[1:], _samples(device)))
        + "</tr>"
        + (_refused(device, now) if state == "offline" else "")
        + _why(device["last_receipt"], now)
        + _reverted(device, now)
        + _quarantined(device, now)
        + _routed(status)
    )


def _below(text: str, *, is_bad: bool = True) -> str:
    """A row below a device's, as wide as the table."""
    held = " held" if is_bad else ""
    return f'<tr class="why{held}"><td></td><td colspan="{_DEVICE_COLUMNS - 1}"><span>{text}</span></td></tr>'


def _refused(device: Mapping[str, Any], now: float) -> str:
    told = device["refused"]
    if told is None:
        return ""
    return _below(f"refused {_ago(told['at'], now)} ({_text(told['code'])}): {_text(told['message'])}")


def _quarantined(device: Mapping[str, Any], now: float) -> str:
    """A row below the device's: since when it learns alone, why, and how that ends."""
    if device["quarantined_at"] is None:
        return ""
    return _below(
        f"quarantined {_ago(device['quarantined_at'], now)}: it learns alone, and nobody from it. "
        f"{_text(device['quarantined_for'])}. 'littoral enrol release' ends it, 'littoral enrol revoke' shuts it out."
    )


def _routed(status: Mapping[str, Any] | None) -> str:
    """A row below the device's: how a router had its frames answered. Empty for a device without one."""
    if not status or not (status["finished"] or status["payload_bytes"]):
        return ""
    frames = max(status["frames"], 1)
    told = {"early": "left early", "finished": "finished on the device", "offloaded": "by the cloud"}
    shares = ", ".join(f"{status[key] / frames:.0%} {text}" for key, text in told.items())
    if status["pictures"]:
        shares += f" ({status['pictures'] / frames:.0%} from pictures)"
    return _below(
        f"routed: {shares}; {status['hedged']:,} hedged, {status['labels']:,} labels, {status['asked']:,} asked for "
        f"behind an answer, {_bytes(round(status['payload_bytes'] / frames))} of payloads a frame",
        is_bad=False,
    )


def _offloaded(status: Mapping[str, Any]) -> str:
    """Frames that the cloud answered, and how many of them from pictures."""
    pictures = f' <span class="note">{status["pictures"]:,} by pictures</span>' if status["pictures"] else ""
    return f"{status['offloaded']:,}{pictures}"


def _early(status: Mapping[str, Any]) -> str:
    """The share of frames that left early; of a device with exits."""
    return f"{status['early'] / max(status['frames'], 1):.0%}" if status["exit_state"] else "–"


def _samples(device: Mapping[str, Any]) -> str:
    dropped = f' <span class="held">{device["malformed"]} malformed</span>' if device["malformed"] else ""
    return f"{device['samples']:,}{dropped}"


def _receipt(receipt: Mapping[str, Any] | None) -> str:
    """What the device last said of a version: ``31 installed``, or what went wrong."""
    if receipt is None:
        return "–"
    said = f"{_text(receipt['version'])} {_text(receipt['outcome'])}"
    return said if receipt["outcome"] == "installed" else f'<span class="held">{said}</span>'


def _why(receipt: Mapping[str, Any] | None, now: float) -> str:
    """A row below the device's with what it said of a version that is not installed."""
    if receipt is None or receipt["outcome"] == "installed":
        return ""
    why = ": ".join(_text(receipt[key]) for key in ("code", "reason") if receipt[key])
    said = f"version {_text(receipt['version'])} {_text(receipt['outcome'])}"
    return _below(f"{said} {_ago(receipt['received_at'], now)}" + (f": {why}" if why else ""))


def _reverted(device: Mapping[str, Any], now: float) -> str:
    """That a device took a version back, where it has said something else since."""
    said = device["last_revert"]
    if said is None or said == device["last_receipt"]:
        return ""
    when = _ago(said["received_at"], now)
    return _below(f"version {_text(said['version'])} reverted {when}: {_text(said['reason'])}", is_bad=False)


def _table(head: Sequence[str], rows: Sequence[str], when_empty: str) -> str:
    if not rows:
        return f'<p class="note">{_text(when_empty)}</p>'
    cells = "".join(f"<th>{_text(cell)}</th>" for cell in head)
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
