"""The record's tables. Change them only together with `SCHEMA` and a migration."""

from __future__ import annotations

import sqlite3

SCHEMA = 4  # 2 held deltas of a byte a value, 3 knew no quarantine
"""Written to ``meta`` when the record is made; a record of another number is refused."""

LATER = (
    "CREATE INDEX IF NOT EXISTS jobs_by_domain ON jobs (cohort, domain, id)",
    "CREATE INDEX IF NOT EXISTS samples_by_image ON samples (sha256)",
    "CREATE INDEX IF NOT EXISTS receipts_reverted ON receipts (device_id, id) WHERE outcome = 'reverted'",
    "CREATE TABLE IF NOT EXISTS seen (device_id TEXT PRIMARY KEY REFERENCES devices (id), at REAL NOT NULL)"
    " STRICT, WITHOUT ROWID",
)
"""Added to records of this schema that are older than they; neither changes anything for whoever does not know it."""

TABLES = """
CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE devices (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    public_key BLOB NOT NULL UNIQUE,
    cohort TEXT NOT NULL,
    enrolled_at REAL NOT NULL,
    revoked_at REAL,
    num_samples INTEGER NOT NULL DEFAULT 0,
    sample_bytes INTEGER NOT NULL DEFAULT 0,
    num_malformed INTEGER NOT NULL DEFAULT 0,  -- durable messages that were acknowledged and dropped
    domain INTEGER NOT NULL DEFAULT 0,         -- that of its newest scene: whose versions it gets
    last_scene INTEGER,                        -- that scene's id
    quarantined_at REAL                        -- it learns alone since then
) STRICT, WITHOUT ROWID;

CREATE TABLE tokens (
    sha256 BLOB PRIMARY KEY,          -- of the secret; the secret itself is never stored
    created_at REAL NOT NULL,
    redeemed_at REAL,
    device_id TEXT
) STRICT, WITHOUT ROWID;

CREATE TABLE streams (                -- how far each outbox is committed
    device_id TEXT NOT NULL REFERENCES devices (id),
    stream INTEGER NOT NULL,          -- unsigned 64 bit, kept as signed
    acked_sequence INTEGER NOT NULL,
    PRIMARY KEY (device_id, stream)
) STRICT, WITHOUT ROWID;

CREATE TABLE blobs (
    sha256 BLOB PRIMARY KEY,
    data BLOB NOT NULL
) STRICT;

CREATE TABLE domains (
    cohort TEXT NOT NULL,
    number INTEGER NOT NULL,          -- from 1, never used twice
    centre BLOB NOT NULL,             -- float32, little-endian
    num_scenes INTEGER NOT NULL,
    known INTEGER NOT NULL DEFAULT 1, -- 0: no new scene is held against it any more
    founder TEXT NOT NULL,            -- the device whose scene was its first
    own_of INTEGER,                   -- the domain beside which a quarantined founder has this for itself
    afresh_after INTEGER NOT NULL DEFAULT 0,  -- versions up to this one were taught by a device quarantined since
    PRIMARY KEY (cohort, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE scenes (
    id INTEGER PRIMARY KEY AUTOINCREMENT,  -- the order of commit
    device_id TEXT NOT NULL REFERENCES devices (id),
    stream INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    cohort TEXT NOT NULL,
    scene INTEGER NOT NULL,           -- the device's own count
    domain INTEGER NOT NULL,          -- fixed when it is committed
    version INTEGER NOT NULL,         -- in service when it began
    fingerprint BLOB NOT NULL,
    highest_version INTEGER NOT NULL, -- that the device had seen of those that existed when it was committed
    received_at REAL NOT NULL,
    UNIQUE (device_id, stream, sequence)
) STRICT;
CREATE INDEX scenes_by_number ON scenes (device_id, scene, id);

CREATE TABLE samples (
    id INTEGER PRIMARY KEY AUTOINCREMENT,  -- the order of commit
    device_id TEXT NOT NULL REFERENCES devices (id),
    stream INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    cohort TEXT NOT NULL,
    scene INTEGER NOT NULL,
    domain INTEGER NOT NULL,          -- that of its scene, fixed when it is committed
    frame_id INTEGER NOT NULL,
    version INTEGER NOT NULL,
    predicted INTEGER NOT NULL,
    entropy_nats REAL NOT NULL,
    coding TEXT NOT NULL,
    sha256 BLOB NOT NULL REFERENCES blobs (sha256),
    received_at REAL NOT NULL,
    job INTEGER REFERENCES jobs (id), -- that took it; NULL while it waits
    withdrawn INTEGER NOT NULL DEFAULT 0,  -- 1: its device was revoked or quarantined before, or it is damaged
    UNIQUE (device_id, stream, sequence)
) STRICT;
CREATE INDEX samples_waiting ON samples (cohort, domain, device_id, id) WHERE job IS NULL AND withdrawn = 0;
CREATE INDEX samples_by_job ON samples (job, id);

CREATE TABLE receipts (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    device_id TEXT NOT NULL REFERENCES devices (id),
    stream INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    version INTEGER NOT NULL,
    outcome TEXT NOT NULL,
    code TEXT NOT NULL,
    reason TEXT NOT NULL,
    received_at REAL NOT NULL,
    UNIQUE (device_id, stream, sequence)
) STRICT;
CREATE INDEX receipts_by_device ON receipts (device_id, id);

CREATE TABLE jobs (                   -- one per head version: what is made of it
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    cohort TEXT NOT NULL,
    head_version INTEGER NOT NULL,    -- the newest version of the cohort, shipped or held, when the job was made
    domain INTEGER NOT NULL,
    base_version INTEGER NOT NULL,    -- what the job starts from: the domain's newest shipped one, if it has any
    num_samples INTEGER NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('open', 'done')),
    lease_until REAL NOT NULL,
    fencing_token INTEGER NOT NULL,
    UNIQUE (cohort, head_version)
) STRICT;

CREATE TABLE versions (
    cohort TEXT NOT NULL,
    version INTEGER NOT NULL,
    domain INTEGER NOT NULL,          -- whose chain it is in
    base_version INTEGER NOT NULL,    -- what it was made from; of a re-issued one, the version that it repeats
    job INTEGER REFERENCES jobs (id), -- that made it; NULL for a re-issued one
    status TEXT NOT NULL CHECK (status IN ('shipped', 'held')),
    payload BLOB NOT NULL,
    payload_sha256 BLOB NOT NULL,
    manifest BLOB NOT NULL,           -- empty when held: what is not shipped is not signed
    signature BLOB NOT NULL,
    state BLOB NOT NULL,
    report TEXT NOT NULL,
    verdict TEXT NOT NULL,
    reason TEXT NOT NULL,
    created_at REAL NOT NULL,
    PRIMARY KEY (cohort, version)
) STRICT;
CREATE INDEX versions_by_payload ON versions (payload_sha256);
CREATE INDEX versions_by_domain ON versions (cohort, domain, status, version);

CREATE TABLE audit (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at REAL NOT NULL,
    kind TEXT NOT NULL,
    subject TEXT NOT NULL,
    detail TEXT NOT NULL
) STRICT;
"""


def note(db: sqlite3.Connection, at: float, kind: str, subject: str, detail: str) -> None:
    """Write a line of the audit, in the writer's transaction."""
    db.execute("INSERT INTO audit (at, kind, subject, detail) VALUES (?, ?, ?, ?)", (at, kind, subject, detail))
