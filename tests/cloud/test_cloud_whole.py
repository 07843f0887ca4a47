"""The whole cloud with a real bundle and the real worker: samples in, a version out that a device may install."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from cloud_peer import Line, Peer, fetch, until

from littoral.bundle import Bundle, Envelope
from littoral.cloud.cloud import Cloud, CloudConfig
from littoral.cloud.jobs import AdaptConfig
from littoral.core.arrays import Frame
from littoral.core.recall import encode_fingerprint, fingerprint_layer
from littoral.wire.messages import Ack, Sample, Scene, Welcome


@pytest.fixture
def cloud(tiny_bundle: Path, tmp_path: Path) -> Iterator[Cloud]:
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, folder)
    adapt = AdaptConfig(batch_size=8, max_batches_per_job=1, inner_steps=2, replay_after=8)
    with Cloud(folder, tmp_path / "state", CloudConfig(port=0, device="cpu", adapt=adapt)) as cloud:
        yield cloud


def send(line: Line, frames: Frame, *, first: int, scene: int) -> None:
    for number, frame in enumerate(frames, first):
        fields = {"frame_id": number, "version": 0, "predicted": 0, "entropy_nats": 1.0, "coding": "raw"}
        line.send(Sample(image=frame.tobytes(), scene=scene, **fields), sequence=number)  # type: ignore[arg-type]


def envelope_of(peer: Peer, welcome: Welcome | None) -> Envelope:
    assert welcome is not None
    return Envelope.verify(
        welcome.envelope,
        welcome.envelope_signature,
        trust=peer.cloud._keys.release.public,
        bundle_digest=peer.digest,
    )


def dark(bundle: Bundle, count: int) -> Frame:
    return (bundle.probe[0][:count].astype(np.float32) * 0.6).astype(np.uint8)


def test_samples_of_a_real_bundle_become_a_version_or_a_reasoned_no(cloud: Cloud) -> None:
    peer = Peer(cloud).enrol()
    with peer.session() as line:
        send(line, dark(cloud.bundle, 16), first=1, scene=0)
        line.wait(Ack, lambda ack: ack.sequence == 16)
        until(lambda: len(cloud._ledger.history()) == 2, "two versions")
        envelope = envelope_of(peer, line.welcome)
    for entry in cloud._ledger.history():
        assert entry.status == "shipped" or entry.reason
        assert "probe_agreement" in entry.verdict
    shipped = cloud._ledger.newest_shipped()
    assert shipped, [entry.reason for entry in cloud._ledger.history()]
    assert shipped[0].signed.verify(envelope).version == shipped[0].version
    shipped[0].signed.affine(envelope, cloud.bundle.source_affine, cloud.bundle.manifest.norm_layers)
    assert fetch(f"{cloud.url}/")[0] == 200


def test_two_worlds_of_a_real_bundle_are_two_domains_with_a_version_each(cloud: Cloud) -> None:
    bundle = cloud.bundle
    layer = fingerprint_layer(bundle.manifest.norm_layers)
    assert layer is not None
    mean, var = (bundle.load_tensors("weights.safetensors")[name] for name in (layer.mean, layer.var))
    worlds = [np.concatenate([mean, var]), np.concatenate([mean * 0.5 - 0.5, var * 0.3])]
    frames = [bundle.probe[0][:8], dark(bundle, 8)]
    peer = Peer(cloud).enrol()
    with peer.session() as line:
        sequence = 1
        for number, (world, batch) in enumerate(zip(worlds, frames, strict=True), 1):
            coded = encode_fingerprint(world)
            line.send(Scene(scene=number, version=0, fingerprint=coded), sequence=sequence)
            send(line, batch, first=sequence + 1, scene=number)
            sequence += 9
        until(lambda: len(cloud._ledger.history()) == 2, "two versions")
        envelope = envelope_of(peer, line.welcome)
    assert [(entry.domain, entry.base_version) for entry in cloud._ledger.history()] == [(1, 0), (2, 1)]
    shipped = cloud._ledger.newest_shipped()
    assert shipped, [entry.reason for entry in cloud._ledger.history()]
    for domain, version in shipped.items():
        claim = version.signed.verify(envelope)
        assert (claim.domain, claim.fingerprint) == (
            domain,
            encode_fingerprint(worlds[domain - 1]).hex(),
        )
