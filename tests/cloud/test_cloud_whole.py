"""The whole cloud with a real bundle and the real worker: samples in, a version out that a device may install."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from cloud_peer import Peer, fetch, until

from littoral.bundle import Bundle, Envelope, SignedVersion
from littoral.cloud.adapt import AdaptConfig
from littoral.cloud.cloud import Cloud, CloudConfig
from littoral.wire.messages import Ack, Sample


def test_samples_of_a_real_bundle_become_a_version_or_a_reasoned_no(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, folder)
    frames = Bundle.open(folder).probe[0][:16]
    config = CloudConfig(
        port=0, device="cpu", adapt=AdaptConfig(batch_size=8, max_batches_per_job=1, inner_steps=2, replay_after=8)
    )
    with Cloud(folder, tmp_path / "state", config) as cloud:
        peer = Peer(cloud).enrol()
        with peer.session() as line:
            for number, frame in enumerate(frames, 1):
                dark = (frame.astype(np.float32) * 0.6).astype(np.uint8)
                fields = {
                    "frame_id": number,
                    "version": 0,
                    "predicted": 0,
                    "entropy_nats": 1.0,
                    "coding": "raw",
                    "scene": 0,
                }
                line.send(Sample(image=dark.tobytes(), **fields), sequence=number)
            line.wait(Ack, lambda ack: ack.sequence == 16)
            until(lambda: len(cloud._ledger.history()) == 2, "two versions")
            assert line.welcome is not None
            envelope = Envelope.verify(
                line.welcome.envelope,
                line.welcome.envelope_signature,
                trust=cloud._keys.release.public,
                bundle_digest=peer.digest,
            )
        for entry in cloud._ledger.history():
            assert entry.status == "shipped" or entry.reason
            assert "probe_agreement" in entry.verdict
        newest = cloud._ledger.newest_shipped()
        assert newest is not None, [entry.reason for entry in cloud._ledger.history()]
        signed: SignedVersion = newest.signed
        assert signed.verify(envelope).version == newest.version
        signed.affine(envelope, cloud.bundle.source_affine, cloud.bundle.manifest.norm_layers)
        assert fetch(f"{cloud.url}/")[0] == 200
