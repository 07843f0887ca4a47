"""What a record gives up, so that it stays as large as what is still needed: images, and states to go on from.

An image is needed while its sample waits for a job, while that job runs, and while the replay memory keeps it. A row
stays whatever becomes of its image: what was acknowledged is in the record, and replay is found again from the rows.
The space is used again; the file does not shrink. Old states are given up where versions are written (`Ledger.commit`).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from concurrent.futures import Future

from littoral.cloud.ledger import Ledger

_NEEDED = (
    "EXISTS (SELECT 1 FROM samples s LEFT JOIN jobs j ON j.id = s.job WHERE s.sha256 = {}"
    " AND (s.cohort != ?1 OR iif(s.job IS NULL, NOT s.withdrawn, j.status = 'open')))"
)
"""A sample with this image waits, is in an open job, or is of another cohort, whose replay is not known here."""
_AT_ONCE = 500
"""Images of one write, so that what devices send need not wait long behind it."""


def idle_images(ledger: Ledger, *, kept: Collection[bytes]) -> list[bytes]:
    """The SHA-256 of each image that no sample needs.

    Args:
        kept: Of the images in the replay memory.
    """
    rows = ledger.store.read(
        f"SELECT b.sha256 FROM blobs b WHERE length(b.data) > 0 AND NOT {_NEEDED.format('b.sha256')}", ledger.cohort
    )
    return [row["sha256"] for row in rows if row["sha256"] not in kept]


def drop_images(ledger: Ledger, digests: Collection[bytes], *, kept: Collection[bytes]) -> None:
    """Give up these images, but for those that a sample needs.

    Raises:
        StorageError: the record cannot be written; some of them are given up.
    """
    given_up = [digest for digest in dict.fromkeys(digests) if digest not in kept]
    for start in range(0, len(given_up), _AT_ONCE):
        _drop(ledger, given_up[start : start + _AT_ONCE]).result()


def begin_replay(ledger: Ledger, *, capacity: int, seed: int) -> Future[None]:
    """Before a replay memory is found again from the rows: which samples can be in it.

    Images were given up by what a memory of this size and seed kept. Where it was another one, the samples whose image
    is gone are out of replay for good, so that the new memory is made of those that are left.
    """
    key, value = f"replay/{ledger.cohort}", f"{capacity} {seed}"

    def work(db: sqlite3.Connection) -> None:
        found = db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        if found is not None and found["value"] != value:
            db.execute(
                "UPDATE samples SET withdrawn = 1"
                " WHERE cohort = ? AND job IN (SELECT id FROM jobs WHERE status = 'done')"
                " AND sha256 IN (SELECT sha256 FROM blobs WHERE length(data) = 0)",
                (ledger.cohort,),
            )
        db.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (key, value))

    return ledger.store.write(work)


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


def _drop(ledger: Ledger, digests: Sequence[bytes]) -> Future[None]:
    statement = f"UPDATE blobs SET data = x'' WHERE sha256 = ?2 AND length(data) > 0 AND NOT {_NEEDED.format('?2')}"

    def work(db: sqlite3.Connection) -> None:
        db.executemany(statement, [(ledger.cohort, digest) for digest in digests])

    return ledger.store.write(work)
