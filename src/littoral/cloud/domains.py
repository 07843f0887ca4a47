"""Domains of a cohort: which one a scene is of, and which version a new one starts from.

The record holds the domains; `littoral.core.recall.DomainIndex` decides. A scene gets its domain in the transaction
that commits it, and the domain is never changed afterwards. A domain that the index gives up keeps its number, its
samples and its versions; no new scene will be of it.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from littoral.bundle import Manifest
from littoral.core.affine import NormLayer
from littoral.core.arrays import FloatArray
from littoral.core.recall import (
    NO_DOMAIN,
    Domain,
    DomainIndex,
    decode_fingerprint,
    fingerprint_distance,
    fingerprint_layer,
)

_CENTRE_DTYPE = np.dtype("<f4")


@dataclass(frozen=True, kw_only=True)
class DomainConfig:
    """How scenes become domains, and where a domain's versions begin."""

    domain_factor: float = 2.5
    """Two scenes closer than so many ``drift_threshold`` of the bundle are of one domain; infinite: one for all."""
    start: Literal["source", "nearest"] = "nearest"
    """What a domain's first job starts from: the source, or the newest version of the nearest domain that has one."""
    replay: Literal["all", "own"] = "own"
    """Whether replayed frames are drawn from all domains or from the job's own."""
    max_domains: int = 64
    """That new scenes are held against; beyond it the least visited gives way."""
    max_founded: int = 16
    """Of those, founded by one device; beyond it that device's own least visited gives way."""
    reissue_interval_s: float = 60.0
    """How long after a version was issued again it may be issued once more; see `littoral.cloud.reissue`."""

    def __post_init__(self) -> None:
        if math.isnan(self.domain_factor) or self.domain_factor < 0:
            raise ValueError(f"domain_factor is not negative, got {self.domain_factor}")
        if self.start not in ("source", "nearest"):
            raise ValueError(f"start is 'source' or 'nearest', got {self.start!r}")
        if self.replay not in ("all", "own"):
            raise ValueError(f"replay is 'all' or 'own', got {self.replay!r}")
        if not self.reissue_interval_s >= 0:
            raise ValueError(f"reissue_interval_s is not negative, got {self.reissue_interval_s}")
        if not 1 <= self.max_founded <= self.max_domains:
            raise ValueError(
                f"1 <= max_founded <= max_domains must hold, got {self.max_founded} and {self.max_domains}"
            )


@dataclass(frozen=True, kw_only=True)
class DomainRule:
    """What assigning needs: the layer that fingerprints are of, the radius of a domain, the bounds."""

    layer: NormLayer
    radius: float
    config: DomainConfig

    @classmethod
    def of(cls, manifest: Manifest, config: DomainConfig | None = None) -> DomainRule | None:
        """The rule of a bundle; None where there are no fingerprints, so that everything is of domain 0."""
        config = config or DomainConfig()
        layer = fingerprint_layer(manifest.norm_layers)
        if layer is None or manifest.statistics is None:
            return None
        return cls(layer=layer, radius=config.domain_factor * manifest.statistics.drift_threshold, config=config)


@dataclass(frozen=True, kw_only=True)
class DomainEntry:
    """A domain as the record has it. ``known`` is False once the index gave it up."""

    number: int
    centre: FloatArray
    num_scenes: int
    known: bool
    founder: str
    own_of: int | None = None
    """Of a quarantined device alone: the domain beside which it is."""
    afresh_after: int = 0
    """No version is made from one up to this: a device that was quarantined since had taught them."""


def read_domains(rows: Iterable[sqlite3.Row]) -> list[DomainEntry]:
    """The domains of rows of the table."""
    return [
        DomainEntry(
            number=row["number"],
            centre=np.frombuffer(row["centre"], dtype=_CENTRE_DTYPE).astype(np.float32),
            num_scenes=row["num_scenes"],
            known=bool(row["known"]),
            founder=row["founder"],
            own_of=row["own_of"],
            afresh_after=row["afresh_after"],
        )
        for row in rows
    ]


def _was_in(db: sqlite3.Connection, cohort: str, device_id: str, domain: int) -> bool:
    found = db.execute(
        "SELECT 1 FROM scenes WHERE cohort = ?1 AND device_id = ?2 AND (domain = ?3 OR domain IN"
        " (SELECT number FROM domains WHERE cohort = ?1 AND founder = ?2 AND own_of = ?3)) LIMIT 1",
        (cohort, device_id, domain),
    )
    return found.fetchone() is not None


def assign_domain(db: sqlite3.Connection, rule: DomainRule, *, cohort: str, device_id: str, fingerprint: bytes) -> int:
    """The domain of a new scene, inside the writer's transaction.

    Raises:
        ValueError: the fingerprint is not one of this bundle's.
    """
    values = decode_fingerprint(fingerprint, rule.layer)
    rows = db.execute("SELECT * FROM domains WHERE cohort = ? AND known = 1 ORDER BY number", (cohort,)).fetchall()
    known = {entry.number: entry for entry in read_domains(rows)}
    index = DomainIndex(
        eps=rule.layer.eps,
        radius=rule.radius,
        capacity=rule.config.max_domains,
        domains=[Domain(number=e.number, centre=e.centre, num_scenes=e.num_scenes) for e in known.values()],
    )
    found = index.find(values)
    new = found is None
    if found is not None and _was_in(db, cohort, device_id, found.number):
        # The centre is of devices, not of visits: whoever comes often must not draw it away from the others.
        values = found.centre
    if new:
        own = [domain for domain in index.domains if known[domain.number].founder == device_id]
        if len(own) >= rule.config.max_founded:
            index.domains.remove(min(own, key=lambda domain: (domain.num_scenes, domain.number)))
    domain = index.assign(values)
    if new:  # a number is never used twice, whatever the index gave up
        last = db.execute(
            "SELECT coalesce(max(number), ?) FROM domains WHERE cohort = ?", (NO_DOMAIN, cohort)
        ).fetchone()
        domain.number = int(last[0]) + 1
    db.execute(
        "INSERT INTO domains (cohort, number, centre, num_scenes, founder) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (cohort, number) DO UPDATE SET centre = excluded.centre, num_scenes = excluded.num_scenes",
        (cohort, domain.number, domain.centre.astype(_CENTRE_DTYPE).tobytes(), domain.num_scenes, device_id),
    )
    kept = {domain.number for domain in index.domains}
    db.executemany(
        "UPDATE domains SET known = 0 WHERE cohort = ? AND number = ?",
        [(cohort, number) for number in known if number not in kept],
    )
    return domain.number


def domain_of_scene(db: sqlite3.Connection, *, cohort: str, device_id: str, stream: int, scene: int) -> int:
    """The domain of a device's scene; 0 for scene 0 and for one that is not in the record.

    A device whose outbox began a new stream may still be in a scene that it told of in the one before.
    """
    row = db.execute(
        "SELECT domain FROM scenes WHERE device_id = ? AND scene = ? AND cohort = ?"
        " ORDER BY stream = ? DESC, id DESC LIMIT 1",
        (device_id, scene, cohort, stream),
    ).fetchone()
    return int(row["domain"]) if row else NO_DOMAIN


def start_version(
    domain: int, domains: Iterable[DomainEntry], shipped: dict[int, int], *, config: DomainConfig, eps: float
) -> int:
    """The version that the next job of a domain starts from: the domain's newest, or what the policy says; 0 is the
    source.

    Args:
        domains: All of the cohort's.
        shipped: Per domain its newest shipped version.
        eps: Of the fingerprint's layer.
    """
    domains = list(domains)
    spoiled = {entry.number for entry in domains if shipped.get(entry.number, 0) <= entry.afresh_after}
    if domain in shipped and domain not in spoiled:
        return shipped[domain]
    if config.start == "source":
        return 0
    by_number = {entry.number: entry for entry in domains}
    own = by_number.get(domain)
    if own is None:
        return 0
    others = [
        by_number[number]
        for number in shipped.keys() & by_number.keys() - spoiled - {domain}
        if by_number[number].own_of is None  # what a device learned alone is for it alone,
        or (own.own_of is not None and by_number[number].founder == own.founder)  # wherever it is alone
    ]
    if not others:
        return 0
    nearest = min(others, key=lambda other: (fingerprint_distance(own.centre, other.centre, eps=eps), other.number))
    return shipped[nearest.number]
