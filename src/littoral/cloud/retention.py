"""What a record gives up, so that it stays as large as what is still needed: images, and states to go on from.

An image is needed while its sample waits for a job, while that job runs, and while the replay memory keeps it. A row
stays whatever becomes of its image: what was acknowledged is in the record, and replay is found again from the rows.
The space is used again; the file does not shrink. Old states are given up where versions are written (`Ledger.commit`).
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Sequence
from concurrent.futures import Future

from littoral.cloud.ledger import Ledger

_AT_ONCE = 500
"""Samples of one write, so that what devices send need not wait long behind it."""


def done_with(ledger: Ledger, *, kept: Collection[int]) -> list[int]:
    """The samples of a cohort that have an image and need none.

    Args:
        kept: Those in the replay memory.
    """
    rows = ledger.store.read(
        "SELECT s.id FROM samples s JOIN blobs b USING (sha256) LEFT JOIN jobs j ON j.id = s.job"
        " WHERE s.cohort = ? AND length(b.data) > 0 AND iif(s.job IS NULL, s.withdrawn, j.status = 'done')",
        ledger.cohort,
    )
    return [row["id"] for row in rows if row["id"] not in kept]


def drop_images(ledger: Ledger, samples: Sequence[int], *, kept: Collection[int]) -> None:
    """Give up the images of these samples, but for one that another sample needs as well.

    Raises:
        StorageError: the record cannot be written; some of them are given up.
    """
    for start in range(0, len(samples), _AT_ONCE):
        _drop(ledger, samples[start : start + _AT_ONCE], kept).result()


def drop_idle_states(ledger: Ledger) -> Future[None]:
    """Give up the states of versions that no job will go on from, as records of earlier releases have them."""

    def work(db: sqlite3.Connection) -> None:
        db.execute(
            "UPDATE versions SET state = x'' WHERE cohort = ?1 AND length(state) > 0 AND (status = 'held' OR version <"
            " (SELECT max(n.version) FROM versions n WHERE n.cohort = ?1 AND n.domain = versions.domain"
            " AND n.status = 'shipped' AND n.job IS NOT NULL))",
            (ledger.cohort,),
        )

    return ledger.store.write(work)


def _drop(ledger: Ledger, samples: Sequence[int], kept: Collection[int]) -> Future[None]:
    def work(db: sqlite3.Connection) -> None:
        rows = db.execute(
            "SELECT o.id, o.sha256, o.cohort != ?2 OR iif(o.job IS NULL, NOT o.withdrawn, j.status = 'open') AS needed"
            " FROM samples o LEFT JOIN jobs j ON j.id = o.job WHERE o.sha256 IN"
            " (SELECT sha256 FROM samples WHERE id IN (SELECT value FROM json_each(?1)))",
            (json.dumps(list(samples)), ledger.cohort),
        ).fetchall()
        needed = {row["sha256"] for row in rows if row["needed"] or row["id"] in kept}
        idle = {row["sha256"] for row in rows} - needed
        db.executemany("UPDATE blobs SET data = x'' WHERE sha256 = ?", [(digest,) for digest in idle])

    return ledger.store.write(work)
