"""The record's tables. Change them only together with `SCHEMA` and a migration."""

from __future__ import annotations

SCHEMA = 1
"""Written to ``meta`` when the record is made; a record of another number is refused."""

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
    sample_bytes INTEGER NOT NULL DEFAULT 0
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

CREATE TABLE samples (
    id INTEGER PRIMARY KEY AUTOINCREMENT,  -- the order of commit
    device_id TEXT NOT NULL REFERENCES devices (id),
    stream INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    cohort TEXT NOT NULL,
    frame_id INTEGER NOT NULL,
    version INTEGER NOT NULL,
    predicted INTEGER NOT NULL,
    entropy_nats REAL NOT NULL,
    coding TEXT NOT NULL,
    sha256 BLOB NOT NULL REFERENCES blobs (sha256),
    received_at REAL NOT NULL,
    withdrawn INTEGER NOT NULL DEFAULT 0,  -- 1: its device was revoked before it was used
    UNIQUE (device_id, stream, sequence)
) STRICT;
CREATE INDEX samples_by_cohort ON samples (cohort, withdrawn, id);

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
    head_version INTEGER NOT NULL,    -- the newest version, shipped or held, when the job was made
    base_version INTEGER NOT NULL,    -- the newest shipped one: what the job starts from
    first_sample INTEGER NOT NULL,
    last_sample INTEGER NOT NULL,
    num_samples INTEGER NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('open', 'done')),
    lease_until REAL NOT NULL,
    fencing_token INTEGER NOT NULL,
    UNIQUE (cohort, head_version)
) STRICT;

CREATE TABLE versions (
    cohort TEXT NOT NULL,
    version INTEGER NOT NULL,
    base_version INTEGER NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('shipped', 'held')),
    payload BLOB NOT NULL,
    payload_sha256 BLOB NOT NULL,
    manifest BLOB NOT NULL,           -- empty when held: what is not shipped is not signed
    signature BLOB NOT NULL,
    state BLOB NOT NULL,
    report TEXT NOT NULL,
    verdict TEXT NOT NULL,
    reason TEXT NOT NULL,
    first_sample INTEGER NOT NULL,
    last_sample INTEGER NOT NULL,
    created_at REAL NOT NULL,
    PRIMARY KEY (cohort, version)
) STRICT;
CREATE INDEX versions_by_payload ON versions (payload_sha256);

CREATE TABLE audit (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at REAL NOT NULL,
    kind TEXT NOT NULL,
    subject TEXT NOT NULL,
    detail TEXT NOT NULL
) STRICT;
"""
