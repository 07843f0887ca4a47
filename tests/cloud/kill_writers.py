"""Fork writers of one record, kill -9 each at a random moment, and count acknowledged messages that are not there.

    python kill_writers.py FOLDER ROUNDS SEED honest|hasty

``honest`` acknowledges when the record's future resolves; ``hasty`` as soon as it was submitted, which must lose some.
This process has no threads, so that it may fork; each writer opens the record anew, as after a crash.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import struct
import sys
from pathlib import Path

from littoral.bundle.signing import SigningKey
from littoral.cloud.store import Store
from littoral.wire.messages import Sample

KEY = SigningKey(b"k" * 32).public
DEVICE = KEY.fingerprint
BATCH = 3


def write(folder: Path, acks: int, *, hasty: bool) -> None:
    """Record samples for ever; put each acknowledged sequence on the pipe ``acks``."""
    store = Store(folder, bundle_digest=b"d" * 32)
    if store.device(DEVICE) is None:
        store.add_token(b"t" * 32, now=0.0).result()
        store.redeem(b"t" * 32, public_key=KEY, name="writer", cohort="default", now=0.0).result()
    sequence = store.acked_sequence(DEVICE, 1)
    while True:
        batch = []
        for _ in range(BATCH):
            sequence += 1
            image = sequence.to_bytes(8, "big") * 64
            fields = {
                "frame_id": sequence,
                "version": 0,
                "predicted": 0,
                "entropy_nats": 1.0,
                "coding": "raw",
                "scene": 0,
            }
            batch.append((sequence, Sample(image=image, **fields)))
        future = store.record(DEVICE, 1, batch, now=0.0)
        os.write(acks, struct.pack("<Q", sequence if hasty else future.result()))


def one_round(folder: Path, rng: random.Random, *, hasty: bool) -> int:
    """Let a writer run until it acknowledged a few batches, kill it somewhere in the next; the last acknowledged."""
    read, acks = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(read)
            write(folder, acks, hasty=hasty)
        finally:
            os._exit(1)
    os.close(acks)
    told = b""
    for _ in range(rng.randrange(1, 12)):
        told += os.read(read, 8)
    for _ in range(rng.randrange(40_000)):  # somewhere between two acknowledgements
        pass
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    while more := os.read(read, 65_536):
        told += more
    os.close(read)
    return max((n for (n,) in struct.iter_unpack("<Q", told[: len(told) // 8 * 8])), default=0)


def stored(folder: Path) -> tuple[int, int, int]:
    """How many samples are stored, the highest sequence, and how many are damaged."""
    db = sqlite3.connect(folder / "record.sqlite3")
    try:
        rows = db.execute("SELECT s.sequence, b.data FROM samples s LEFT JOIN blobs b USING (sha256)").fetchall()
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    finally:
        db.close()
    damaged = sum(data != sequence.to_bytes(8, "big") * 64 for sequence, data in rows)
    return len(rows), max((sequence for sequence, _ in rows), default=0), damaged


def main() -> None:
    folder, rounds, seed, mode = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    rng, lost, total = random.Random(seed), 0, 0
    for _ in range(rounds):
        acked = one_round(folder, rng, hasty=mode == "hasty")
        num_rows, highest, damaged = stored(folder)
        assert num_rows == highest, "a hole in the stream"
        assert damaged == 0, "a sample without its image"
        lost += max(0, acked - highest)
        total = acked
    print(json.dumps({"rounds": rounds, "lost": lost, "acked": total}))


if __name__ == "__main__":
    main()
