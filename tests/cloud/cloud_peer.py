"""A hand-written bundle, a worker without torch, and a device that speaks the protocol: what the cloud's tests need."""

from __future__ import annotations

import hashlib
import io
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image
from safetensors.numpy import save
from websockets.sync.client import ClientConnection, connect

from littoral.bundle import (
    Bundle,
    Envelope,
    InputSpec,
    Manifest,
    ProbeSpec,
    PublicKey,
    SignedVersion,
    SigningKey,
    StatisticsSpec,
    TorchModel,
)
from littoral.bundle.update import VersionManifest
from littoral.cloud.cloud import Cloud, CloudConfig
from littoral.cloud.cohort import Check
from littoral.cloud.gate import Verdict
from littoral.cloud.jobs import AdaptConfig, AdaptJob, AdaptResult
from littoral.cloud.store import EnrolledDevice, Store
from littoral.cloud.tails import RunsTail
from littoral.core.affine import NormLayer, encode_delta
from littoral.core.arrays import Frame
from littoral.core.recall import encode_fingerprint
from littoral.errors import ModelOutputError
from littoral.wire.envelope import MAX_FRAME_BYTES, decode_frame, encode_frame
from littoral.wire.messages import (
    HELLO_PURPOSE,
    Ack,
    Challenge,
    Hello,
    M,
    Message,
    Sample,
    Scene,
    Version,
    Welcome,
    expect,
    from_frame,
    hello_message,
    to_frame,
)

T = TypeVar("T")
DEADLINE_S = 20.0
SHAPE = (4, 5, 1)
LAYER = NormLayer(name="bn", kind="batch", num_channels=2, eps=1e-5)


def write_bundle(folder: Path, *, name: str = "hand-written") -> Path:
    """A bundle of 4x5x1 frames and 10 classes with right hashes; its networks are never loaded."""
    weights = {key: np.ones(2, dtype=np.float32) for key in (LAYER.gamma, LAYER.beta, LAYER.mean, LAYER.var)}
    files = {"weights.safetensors": save(weights), "cloud/model.safetensors": save(weights)}
    model = TorchModel(factory="nowhere:nothing", kwargs={}, file="cloud/model.safetensors")
    manifest = Manifest(
        name=name,
        task="classification",
        class_names=tuple("0123456789"),
        input=InputSpec(height=SHAPE[0], width=SHAPE[1], channels=SHAPE[2], mean=(0.5,), std=(0.5,)),
        segments=(),
        weights_file="weights.safetensors",
        norm_layers=(LAYER,),
        statistics=StatisticsSpec(
            file="weights.safetensors",
            tensors=(),
            fingerprint_file="weights.safetensors",
            fingerprint_tensors=(),
            drift_threshold=0.05,
            drift_batch=32,
        ),
        probe=ProbeSpec(file="weights.safetensors", num_frames=1, min_agreement=0.5),
        envelope_max_delta={LAYER.gamma: 0.5, LAYER.beta: 0.5},
        source_metrics={},
        student=model,
        teacher=model,
        replay_file="weights.safetensors",
        rehearsed_file=None,
        files={path: hashlib.sha256(data).hexdigest() for path, data in files.items()},
    )
    (folder / "cloud").mkdir(parents=True)
    for path, data in files.items():
        (folder / path).write_bytes(data)
    (folder / "bundle.json").write_bytes(manifest.to_json())
    return folder


def image(number: int) -> Frame:
    """A frame that differs from every other number's."""
    return np.random.default_rng(number).integers(0, 256, size=SHAPE, dtype=np.uint8)


def sample(number: int, **changes: object) -> Sample:
    fields = {
        "frame_id": number,
        "version": 0,
        "predicted": number % 10,
        "entropy_nats": 1.0,
        "coding": "raw",
        "scene": 0,
        "image": image(number).tobytes(),
    }
    return Sample(**{**fields, **changes})  # type: ignore[arg-type]


def fingerprint(world: int, jitter: float = 0.0) -> bytes:
    """What the one BatchNorm sees of a world; worlds of other numbers are far apart, a jitter below 0.5 is not."""
    return encode_fingerprint(np.array([5.0 * world + jitter, 0.0, 1.0, 1.0], dtype=np.float32))


def scene(number: int, world: int, *, version: int = 0, jitter: float = 0.0) -> Scene:
    return Scene(scene=number, version=version, fingerprint=fingerprint(world, jitter))


def png(frame: Frame, mode: str = "L", **options: object) -> bytes:
    out = io.BytesIO()
    Image.fromarray(frame.squeeze(), mode="L").convert(mode).save(out, format="PNG", **options)
    return out.getvalue()


def enrolled(store: Store, number: int = 1, *, cohort: str = "default") -> EnrolledDevice:
    """A device in the record, its key and token made of a number."""
    secret = number.to_bytes(32, "big")
    key: PublicKey = SigningKey(secret).public
    store.add_token(secret, now=0.0).result()
    device = store.redeem(secret, public_key=key, name=f"device {number}", cohort=cohort, now=1.0).result()
    assert isinstance(device, EnrolledDevice)
    return device


class FakeWorker:
    """A pure function of the job, as the real worker: its state is a digest of all that it was ever given."""

    def __init__(self) -> None:
        self.jobs: list[AdaptJob] = []
        self.states: list[bytes] = []
        """What each job that did not fail left behind."""
        self.fail_on: set[int] = set()

    def adapt(self, job: AdaptJob) -> AdaptResult:
        self.jobs.append(job)
        if len(self.jobs) in self.fail_on:
            raise ModelOutputError("the loss is not finite")
        digest = hashlib.sha256(
            job.state + job.new_frames.tobytes() + job.replay_frames.tobytes() + str(job.seed).encode()
        ).digest()
        self.states.append(digest)
        step = digest[0] / 1000
        delta = {LAYER.gamma: np.full(2, step, dtype=np.float32), LAYER.beta: np.full(2, -step, dtype=np.float32)}
        report: dict[str, float | str] = {"loss": float("nan"), "frames": np.float32(len(job.new_frames))}
        return AdaptResult(state=digest, payload=encode_delta(delta, [LAYER]), report=report)


class FakeGate:
    """Passes all but the calls named in ``hold`` or ``verdicts`` (the first call is 1); keeps what it was given."""

    def __init__(self) -> None:
        self.calls = 0
        self.hold: set[int] = set()
        self.verdicts: dict[int, Verdict] = {}
        self.witnesses: list[dict[str, Frame]] = []
        self.bases: list[bytes] = []

    def check(
        self, payload: bytes, *, recent_frames: Frame, witnesses: Mapping[str, Frame], base_payload: bytes
    ) -> Verdict:
        self.calls += 1
        self.witnesses.append(dict(witnesses))
        self.bases.append(base_payload)
        if self.calls in self.verdicts:
            return self.verdicts[self.calls]
        if self.calls in self.hold:
            return Verdict(passed=False, reason="<b>collapse</b>", report={"probe_agreement": 0.1})
        return Verdict(passed=True, reason="", report={"probe_agreement": 1.0})


SMALL = AdaptConfig(batch_size=4, max_batches_per_job=1, replay_ratio=2, replay_after=4, replay_capacity=16, seed=3)


@contextmanager
def running(
    bundle: Path,
    state_dir: Path,
    *,
    worker: FakeWorker | None = None,
    gate: FakeGate | None = None,
    tail: RunsTail | None = None,
    **config: object,
) -> Iterator[Cloud]:
    """A cloud on a free port with a worker that needs no torch model; ``tail`` is that of split point 0."""
    adapter, check = worker or FakeWorker(), (gate or FakeGate()).check

    def factory(_bundle: Bundle, _config: CloudConfig) -> tuple[FakeWorker, Check]:
        return adapter, check

    def tails(_bundle: Bundle, _config: CloudConfig) -> dict[int, RunsTail]:
        return {} if tail is None else {0: tail}

    settings = CloudConfig(**{"port": 0, "adapt": SMALL, **config})  # type: ignore[arg-type]
    with Cloud(bundle, state_dir, settings, worker_factory=factory, tail_factory=tails) as cloud:
        yield cloud


def fetch(url: str, body: object = None, *, raw: bytes | None = None) -> tuple[int, bytes, dict[str, str]]:
    """Status, body and headers of a GET, or of a POST when there is a body."""
    data = raw if raw is not None else json.dumps(body).encode() if body is not None else None
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data=data), timeout=DEADLINE_S) as answer:
            return answer.status, answer.read(), dict(answer.headers)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(), dict(error.headers)


def until(probe: Callable[[], T | bool | None], what: str) -> T:
    """Poll until the probe gives something true."""
    deadline, pause = time.monotonic() + DEADLINE_S, threading.Event()
    while time.monotonic() < deadline:
        if found := probe():
            return found  # type: ignore[return-value]
        pause.wait(0.01)
    raise AssertionError(f"{what} did not happen within {DEADLINE_S:g} s")


class Peer:
    """A device by hand: a key, an outbox stream, and the frames it sends and gets."""

    def __init__(self, cloud: Cloud, *, name: str = "porch", key: SigningKey | None = None) -> None:
        self.cloud, self.name, self.key = cloud, name, key or SigningKey.generate()
        self.stream = 7
        self.device_id = self.key.public.fingerprint
        self.digest = cloud.bundle.digest
        self.release: PublicKey | None = None

    def enrol(self, token: str | None = None) -> Peer:
        body = {"token": token or self.cloud.new_token(), "name": self.name, "public_key": self.key.public.hex}
        status, answer, _ = fetch(f"{self.cloud.url}/v1/enrol", body)
        assert status == 200, answer
        self.device_id = json.loads(answer)["device_id"]
        self.release = PublicKey.from_hex(json.loads(answer)["release_key"])
        return self

    @contextmanager
    def dial(self) -> Iterator[Line]:
        url = self.cloud.url.replace("http", "ws", 1) + "/v1/session"
        with connect(url, compression=None, max_size=MAX_FRAME_BYTES, proxy=None, close_timeout=1) as socket:
            yield Line(socket)

    def hello(self, nonce: bytes, **changes: object) -> Hello:
        message = hello_message(nonce, self.device_id, self.digest, self.stream)
        fields = {
            "device_id": self.device_id,
            "bundle_digest": self.digest,
            "highest_version": 0,
            "outbox_stream": self.stream,
            "signature": self.key.sign(HELLO_PURPOSE, message),
        }
        return Hello(**{**fields, **changes})  # type: ignore[arg-type]

    @contextmanager
    def session(self, **changes: object) -> Iterator[Line]:
        """An open session; ``line.welcome`` is what the cloud answered."""
        with self.dial() as line:
            line.send(self.hello(line.get(Challenge).nonce, **changes))
            line.welcome = line.get(Welcome)
            line.stream = self.stream
            yield line

    def verified(self, version: Version, welcome: Welcome) -> VersionManifest:
        """What a device does with a version before it looks inside."""
        assert self.release is not None
        envelope = Envelope.verify(
            welcome.envelope, welcome.envelope_signature, trust=self.release, bundle_digest=self.digest
        )
        signed = SignedVersion(manifest=version.manifest, signature=version.signature, payload=version.payload)
        return signed.verify(envelope)


class Line:
    """Messages over a WebSocket."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.stream = 0
        self.welcome: Welcome | None = None

    def send(self, message: Message, *, sequence: int = 0) -> None:
        self.socket.send(encode_frame(to_frame(message, stream=self.stream if sequence else 0, sequence=sequence)))

    def get(self, kind: type[M]) -> M:
        """The next message, which must be of this kind."""
        data = self.socket.recv(timeout=DEADLINE_S)
        assert isinstance(data, bytes)
        return expect(from_frame(decode_frame(data)), kind)

    def wait(
        self,
        kind: type[M] | tuple[type[M], ...],
        accept: Callable[[M], bool] = lambda message: True,
        between: Callable[[Message], object] = lambda message: None,
    ) -> M:
        """The next message of a kind that is accepted; what comes before it is given to ``between``."""
        while True:
            data = self.socket.recv(timeout=DEADLINE_S)
            assert isinstance(data, bytes)
            message = from_frame(decode_frame(data))
            if isinstance(message, kind) and accept(message):
                return message
            between(message)

    def upload(self, first: int, count: int) -> None:
        """Send samples ``first`` on, each numbered as its sequence, and wait until the last is acknowledged."""
        for number in range(first, first + count):
            self.send(sample(number), sequence=number)
        self.wait(Ack, lambda ack: ack.sequence >= first + count - 1)
