"""What ``littoral edge`` says of answers and counters."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from littoral.edge.answer import Answer
    from littoral.edge.counters import DeviceStatus
    from littoral.edge.dense import DenseAnswer

_MOST_TOLD = 5
"""Boxes or classes of a frame that are told people; JSON has all."""


def by_whom(answer: Answer | DenseAnswer, args: argparse.Namespace) -> str:
    """Who answered, where that may differ from frame to frame, and why."""
    from littoral.edge.answer import Answer

    asks = args.offload is not None or args.picture is not None or args.route
    who = f", by the {answer.source}" if asks else ""
    if answer.way == "picture":
        who += " from a picture"
    if isinstance(answer, Answer) and args.exits and answer.source == "device":
        who += f", at exit {answer.exit_index}"
    why = answer.reason if args.route or answer.degraded else ""
    if args.route and answer.degraded:
        why += ", degraded"
    return f"{who} ({why})" if why else who


def in_words(answer: Answer | DenseAnswer, names: Sequence[str]) -> str:
    """What is on a frame: its class, its surest boxes, or the classes of most of its pixels."""
    from littoral.core.detections import Detections
    from littoral.edge.answer import Answer
    from littoral.edge.http import pixels_by_class

    if isinstance(answer, Answer):
        return f"{answer.name} ({answer.confidence:.0%})"
    found = answer.answer
    if isinstance(found, Detections):
        told = [
            f"{names[label]} ({score:.0%}) at {' '.join(f'{corner:.0f}' for corner in box)}"
            for box, score, label in zip(found.boxes_N4, found.scores_N, found.labels_N, strict=True)
        ]
        count = f"{len(told)} box{'' if len(told) == 1 else 'es'}"
    else:
        told = [f"{name} {pixels / found.size:.0%}" for name, pixels in pixels_by_class(found, names).items()]
        count = f"{len(told)} class{'' if len(told) == 1 else 'es'}"
    return ": ".join(filter(None, (count, ", ".join(told[:_MOST_TOLD]) + (", …" if len(told) > _MOST_TOLD else ""))))


def status_in_words(status: DeviceStatus, args: argparse.Namespace) -> str:
    """The counters on one line; of the options those that say what there is to count."""
    link = {"none": "no cloud"}.get(status.cloud, f"cloud {status.cloud}")
    near = " near the source" if status.near_source else ""
    text = (
        f"{status.frames} frames, version {status.version}{near}, {link}, "
        f"{status.acked} of {status.accepted} messages acked, {status.queued} queued, {status.dropped} dropped, "
        f"{status.bytes_up} bytes up, {status.bytes_down} down"
    )
    if args.offload is not None or args.picture is not None or args.route:
        text += f", {status.offloaded} answered by the cloud, {status.pictures} of them from pictures"
        text += f", {status.degraded} degraded"
    if args.route:
        mean_bytes = status.payload_bytes / max(status.frames, 1)
        text += f", {status.finished} finished here, {status.hedged} hedged, {status.labels} labels"
        text += f", {status.audits} audits, {status.pings} pings, {mean_bytes:.0f} bytes of payloads a frame"
    if args.exits:
        text += f", by exit {' '.join(map(str, status.frames_by_exit))}, {status.exit_state}"
        text += f", {status.personal_heads} personal heads, {status.exit_audits} exit audits"
    for number, what in ((status.versions_reverted, "reverted"), (status.versions_rejected, "rejected")):
        if number:
            text += f", {number} version{'' if number == 1 else 's'} {what}"
    if status.last_refusal:
        text += f"; {status.last_refusal}"
    if status.link_error and status.cloud == "away":
        text += f"; {status.link_error}"
    if status.storage_error and status.storage_error not in text:  # the link may have met the same disk
        text += f"; {status.storage_error}"
    return text
