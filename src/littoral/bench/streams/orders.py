"""The orders in which shifts are played. Seeded: the same pool, arguments and seed give the same stream.

Labels are used here to order frames (`correlated`) and to score; what a method gets is frames and the device's number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from littoral.bench.streams.pools import Labels, Pool, check_names
from littoral.bench.streams.stream import Indices, Stream

GRADUAL = (1, 2, 3, 4, 5, 4, 3, 2, 1)
"""The severities of a shift that comes and goes."""
_MIXED, _CORRELATED, _DRAWN = 1, 2, 3


def continual(pool: Pool, corruptions: Sequence[str], *, frames_per_shift: int, seed: int, severity: int = 5) -> Stream:
    """Shift after shift, each with frames drawn at random, none twice within a shift.

    Args:
        pool: Where the frames come from.
        corruptions: Names in the order in which they are played; a name may come again.
        frames_per_shift: At most as many as the pool has.
        seed: Of the draws; the corruptions have a seed of their own in the pool.
        severity: 1..5, of all.
    Raises:
        ValueError: an argument is not so.
    """
    _check(pool, corruptions, frames_per_shift, severity)
    places = [_draw(pool, frames_per_shift, seed, turn) for turn in range(len(corruptions))]
    return _stream(pool, corruptions, places, severity)


def per_shift(pool: Pool, corruptions: Sequence[str], *, frames_per_shift: int, seed: int, severity: int = 5) -> Stream:
    """The very frames of `continual`; a method starts anew at each shift."""
    made = continual(pool, corruptions, frames_per_shift=frames_per_shift, seed=seed, severity=severity)
    return replace(made, resets=True)


def mixed(pool: Pool, corruptions: Sequence[str], *, frames_per_shift: int, seed: int, severity: int = 5) -> Stream:
    """The very frames of `continual`, all shuffled: every batch has frames of many shifts."""
    made = continual(pool, corruptions, frames_per_shift=frames_per_shift, seed=seed, severity=severity)
    order = np.random.default_rng((seed, _MIXED)).permutation(len(made))
    return replace(made, place=made.place[order], shift=made.shift[order])


def correlated(
    pool: Pool,
    corruptions: Sequence[str],
    *,
    frames_per_shift: int,
    seed: int,
    severity: int = 5,
    concentration: float = 0.1,
) -> Stream:
    """The very frames of `continual`, each shift ordered so that frames of one label come together.

    Args:
        concentration: Of the Dirichlet distribution; small values put most frames of a label into one run.
    Source: Gong et al., NeurIPS 2022 (NOTE), whose code LAME's setting agrees with: each label's frames are dealt to as
    many slots as there are labels by shares from Dirichlet(concentration), slots that have their share get no more, and
    a slot plays its labels one after another in random order. Departs from it: no draw is repeated for slots that came
    out small.
    """
    if not concentration > 0:
        raise ValueError(f"the concentration is {concentration}; it must be more than 0")
    made = continual(pool, corruptions, frames_per_shift=frames_per_shift, seed=seed, severity=severity)
    labels, place = made.labels, made.place.copy()
    for shift in range(len(made.names)):
        part = slice(shift * frames_per_shift, (shift + 1) * frames_per_shift)
        rng = np.random.default_rng((seed, _CORRELATED, shift))
        place[part] = place[part][label_runs(labels[part], concentration=concentration, rng=rng)]
    return replace(made, place=place)


def label_runs(labels: Labels, *, concentration: float, rng: np.random.Generator) -> Indices:
    """An order of ``(N,)`` labels in which equal ones come in runs; see `correlated`."""
    kinds = np.unique(labels)
    slots: list[list[Indices]] = [[] for _ in kinds]
    for kind in kinds:
        chosen = rng.permutation(np.flatnonzero(labels == kind))
        filled = np.array([sum(map(len, slot)) for slot in slots])
        shares = rng.dirichlet(np.full(len(kinds), concentration)) * (filled < len(labels) / len(kinds))
        if shares.sum() <= 0:  # all of the draw fell to full slots
            shares = (filled == filled.min()).astype(np.float64)
        cuts = (np.cumsum(shares / shares.sum()) * len(chosen)).astype(np.int64)[:-1]
        for slot, run in zip(slots, np.split(chosen, cuts), strict=True):
            slot.append(run)
    runs = [slot[kind] for slot in slots for kind in rng.permutation(len(kinds))]
    return np.concatenate(runs).astype(np.int64)


def gradual(pool: Pool, corruptions: Sequence[str], *, frames_per_shift: int, seed: int) -> Stream:
    """The very frames of `continual`; within each shift the severity goes 1, 2, 3, 4, 5, 4, 3, 2, 1 in equal parts.

    Source: Wang et al., CVPR 2022 (CoTTA), who play as many frames at every step as others play in a whole shift.
    """
    made = continual(pool, corruptions, frames_per_shift=frames_per_shift, seed=seed)
    steps = np.arange(frames_per_shift) * len(GRADUAL) // frames_per_shift
    severity = np.tile(np.array(GRADUAL, np.int64)[steps], len(corruptions))
    return replace(made, severity=severity)


def recurring(
    pool: Pool,
    corruptions: Sequence[str],
    *,
    frames_per_visit: int,
    visits: int,
    seed: int,
    severity: int = 5,
) -> Stream:
    """A few domains visited again and again, A B C A B C: ``visits`` times through, on other frames each time.

    Visit ``v`` of domain ``d`` is shift ``v * len(corruptions) + d``, and has the domain's name.

    Raises:
        ValueError: the pool has too few frames for all visits of a domain to differ.
    """
    if visits < 1:
        raise ValueError(f"visits are {visits}; a domain is visited once or more")
    _check(pool, corruptions, frames_per_visit, severity, times=visits)
    drawn = [_draw(pool, frames_per_visit * visits, seed, domain) for domain in range(len(corruptions))]
    places = [np.split(drawn[domain], visits)[visit] for visit in range(visits) for domain in range(len(corruptions))]
    return _stream(pool, list(corruptions) * visits, places, severity)


def fleet(
    pool: Pool,
    corruptions: Sequence[str],
    *,
    frames_per_visit: int,
    seed: int,
    severity: int = 5,
    periods: int = 4,
    num_domains: int = 4,
    devices_per_domain: int = 2,
) -> Stream:
    """Devices in domains that change over time, played frame by frame in turns.

    In period ``p`` domain ``d`` plays ``corruptions[(d + p) % len(corruptions)]`` to its devices, so that what one
    device lives through now another meets later. Devices ``d * devices_per_domain ...`` belong to domain ``d``
    throughout. No frame comes twice under one corruption as long as the pool has enough of them.

    Args:
        frames_per_visit: Of each device in each period.
    Raises:
        ValueError: there are fewer corruptions than domains, or other arguments are not so.
    """
    if min(periods, num_domains, devices_per_domain) < 1 or len(corruptions) < num_domains:
        came = (
            f"{len(corruptions)} corruptions, {num_domains} domains of {devices_per_domain} devices, {periods} periods"
        )
        raise ValueError(f"{came}; expected at least one of each, and as many corruptions as domains")
    _check(pool, corruptions, frames_per_visit, severity, times=devices_per_domain)
    num_devices = num_domains * devices_per_domain
    visits = {name: 0 for name in range(len(corruptions))}
    place, shift = [], []
    for period in range(periods):
        taken = np.empty((frames_per_visit, num_devices), np.int64)
        worn = np.empty((frames_per_visit, num_devices), np.int64)
        for domain in range(num_domains):
            index = (domain + period) % len(corruptions)
            order = _draw(pool, len(pool.labels), seed, index)
            for device in range(domain * devices_per_domain, (domain + 1) * devices_per_domain):
                start = visits[index] * frames_per_visit
                taken[:, device] = order[np.arange(start, start + frames_per_visit) % len(order)]
                worn[:, device] = index
                visits[index] += 1
        place.append(taken.reshape(-1))
        shift.append(worn.reshape(-1))
    total = periods * frames_per_visit
    return Stream(
        pool=pool,
        place=np.concatenate(place),
        shift=np.concatenate(shift),
        severity=np.full(total * num_devices, severity, np.int64),
        device=np.tile(np.arange(num_devices), total),
        names=tuple(corruptions),
    )


def _draw(pool: Pool, count: int, seed: int, turn: int) -> Indices:
    rng = np.random.default_rng((seed, _DRAWN, turn))
    return rng.permutation(len(pool.labels))[:count].astype(np.int64)


def _stream(pool: Pool, names: Sequence[str], places: list[Indices], severity: int) -> Stream:
    counts = [len(part) for part in places]
    total = sum(counts)
    return Stream(
        pool=pool,
        place=np.concatenate(places),
        shift=np.repeat(np.arange(len(places)), counts),
        severity=np.full(total, severity, np.int64),
        device=np.zeros(total, np.int64),
        names=tuple(names),
    )


def _check(pool: Pool, corruptions: Sequence[str], frames: int, severity: int, times: int = 1) -> None:
    if isinstance(corruptions, str):
        raise ValueError(f"corruptions are {corruptions!r}; give a list of names, [{corruptions!r}]")
    check_names(tuple(corruptions))
    if severity not in (1, 2, 3, 4, 5):
        raise ValueError(f"severity is {severity!r}; it goes from 1 to 5")
    if not 1 <= frames * times <= len(pool.labels):
        asked = f"{frames} frames" + (f", {times} times," if times > 1 else "")
        raise ValueError(f"{asked} are asked of a pool that has {len(pool.labels)}; ask for 1 or more, and no more")
