"""Digits: a bundle with exits, a split and a router is built, opened, and routes frames that it has not seen."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_once import keep_the_exporters_operators, one_at_a_time, run_folder

from littoral.bundle import Bundle, InputSpec, RouteTables
from littoral.bundle.exits import ExitHeads
from littoral.bundle.route_tables import early_exits, point_temperatures
from littoral.core.heads import softmax64
from littoral.core.route_plan import Prices
from littoral.core.route_words import Decision, Moment, RouteConfig
from littoral.core.routing import Router
from littoral.core.switcher import switch_features
from littoral.edge.encoder import SplitEncoder
from littoral.edge.exit_parts import ExitParts
from littoral.edge.session import Model, SessionConfig

torch = pytest.importorskip("torch", reason="building a bundle needs the cloud extra")
pytest.importorskip("sklearn", reason="the digits are scikit-learn's")
pytestmark = pytest.mark.slow

FACTORY = "littoral.models.zoo:small_cnn"
NUM_HELD = 500


def held_out() -> tuple[np.ndarray, np.ndarray]:
    from littoral.bench.streams.digits import split_digits, to_frames

    images, labels = split_digits(0)[1]
    return to_frames(images), labels


def build(out: Path) -> None:
    from littoral.bench.streams.digits import source_frames
    from littoral.models.architectures import product
    from littoral.models.bottleneck import split_tail_kwargs, to_split_tail
    from littoral.models.parts import tail_of
    from littoral.models.zoo import small_cnn
    from littoral.train import (
        BuildOptions,
        ExitRecipe,
        ExitSource,
        RouterSource,
        SplitSource,
        TorchSource,
        build_bundle,
        fit_classifier,
        train_exits,
    )
    from littoral.train.bottleneck import train_split
    from littoral.train.exit_places import place_exits
    from littoral.train.split_data import SplitData, SplitNetworks
    from littoral.train.split_recipe import product_recipe

    torch.set_num_threads(1)
    keep_the_exporters_operators()
    spec = InputSpec(height=16, width=16, channels=1, mean=(0.3,), std=(1.0,))
    frames, labels = source_frames(0, copies=1)
    sources = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for width, depth in ((4, 1), (8, 2)):
            kwargs: dict[str, Any] = {"width": width, "depth": depth}
            network = small_cnn(**kwargs)
            fit_classifier(network, frames, labels, input=spec, epochs=4, lr=2e-2, batch_size=32)
            sources.append(TorchSource(network, FACTORY, kwargs))
        student, teacher = sources
        places = place_exits(student.module, spec, 1)
        exits = train_exits(
            student.module, spec, frames, None, ExitRecipe(stem="pooled", num_features=16), places=places
        )
        widths = {"in_channels": 1, "width": 16, "num_channels": 6, "decoder_width": 16, "out_channels": 16}
        bottleneck = product(**widths, starting_gains=(1.0, 4.0))
        parts = SplitNetworks(bottleneck=bottleneck, tail=tail_of(teacher.module, "blocks.1"), teacher=teacher.module)
        recipe = product_recipe(epochs=4, rate_weights=(1e-2, 5e-4), lr=1e-2, batch_size=32)
        train_split(recipe, parts, SplitData(frames=frames, input=spec, targets=labels, augment=None))
    kwargs = split_tail_kwargs(bottleneck, {"factory": FACTORY, "kwargs": teacher.kwargs, "cut": "blocks.1"})
    tail = TorchSource(to_split_tail(bottleneck, parts.tail), "littoral.models.bottleneck:make_split_tail", kwargs)
    held, truths = held_out()
    build_bundle(
        student=student,
        teacher=teacher,
        out=out,
        name="digits",
        class_names=[str(digit) for digit in range(10)],
        input=spec,
        source_frames=frames[:256],
        source_labels=labels[:256],
        splits=[SplitSource(bottleneck, tail)],
        exits=ExitSource(trained=exits, calibration=held[NUM_HELD : NUM_HELD + 100], level=0.2),
        router=RouterSource(frames=held[:NUM_HELD], labels=truths[:NUM_HELD], pictures=()),
        options=BuildOptions(probe_frames=16, replay_frames=16, drift_batches=2),
    )


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    whole = run_folder(tmp_path_factory) / "routed-digits"
    with one_at_a_time(whole):
        if not whole.exists():
            folder = tmp_path_factory.mktemp("routed")
            build(folder / "b")
            folder.rename(whole)
    return Bundle.open(whole / "b", require_cloud=True)


@dataclass
class Frame:
    """What a device makes of a frame, all of it, and what the cloud says to each way's payload."""

    probabilities: list[np.ndarray]
    payloads: list[bytes]
    cloud_labels: list[int]


class Machines:
    """A device's own exits and encoder, and a cloud's tail."""

    def __init__(self, bundle: Bundle) -> None:
        from littoral.cloud.tail import Tail

        self.heads = ExitHeads.open(bundle).heads
        self.model, self.encoder, self.tail = Model(bundle), SplitEncoder(bundle), Tail(bundle, device="cpu")
        self.exits = ExitParts(bundle, ExitHeads.open(bundle), SessionConfig()).all[: len(early_exits(bundle.manifest))]
        self.num_segments = len(bundle.manifest.segments)
        self.temperatures = point_temperatures(bundle.manifest)

    def look(self, frame: np.ndarray) -> Frame:
        value: Any = frame[None]
        position, logits = 0, []
        for placed, head in zip(self.exits, self.heads, strict=False):
            value, position = self.model.through(position, placed.after, value), placed.after
            logits.append(head.logits(placed.pooled(value)))
        logits.append(self.model.through(position, self.num_segments, value)[0])
        payloads = [self.encoder.encode(frame[None], level) for level in range(self.encoder.num_levels)]
        said: list[Any] = self.tail.answer(payloads)
        return Frame(
            probabilities=[softmax64(z.astype(np.float64) / t) for z, t in zip(logits, self.temperatures, strict=True)],
            payloads=payloads,
            cloud_labels=[int(output.argmax()) for output in said],
        )


@pytest.fixture(scope="module")
def machines(bundle: Bundle) -> Machines:
    return Machines(bundle)


def test_what_the_build_measures_is_what_a_device_and_its_cloud_do(bundle: Bundle, machines: Machines) -> None:
    from littoral.train.route_build import measure_answers

    frames = held_out()[0][:70]
    measured = measure_answers(bundle, frames)
    for index, frame in enumerate(frames):
        came = machines.look(frame)
        np.testing.assert_allclose(came.probabilities, measured.probabilities_NPK[index], atol=1e-5)
        assert [len(payload) for payload in came.payloads] == measured.payload_bytes_NW[index].tolist()
        assert came.cloud_labels == measured.cloud_answers_NW[index].tolist()


def heard(tables: RouteTables, *, ms_price: float, rtt_ms: float = 10) -> Router:
    """A router whose link has answered a few times."""
    router = tables.router(RouteConfig(deadline_ms=200, prices=Prices(ms=ms_price), audit_share=0.0))
    for number in range(6):
        router.new_frame()
        size, now = int(tables.ways[number % 2].num_bytes), 10.0 * number
        ticket = router.sent(number % 2, size, encode_ms=0.5, now_ms=now)
        router.answered(ticket, rtt_ms + size / 1000, queue_ms=0, compute_ms=1, now_ms=now)
    return router


def follow(router: Router, frame: Frame, thresholds: tuple[float, ...], *, connected: bool) -> tuple[Decision, int]:
    """The last decision on a frame, and the label that comes of it."""
    router.new_frame()
    answers: list[int] = []
    for point in range(len(frame.probabilities) + 1):
        moment = Moment(point=point, elapsed_ms=float(point), now_ms=60.0, thresholds=thresholds, connected=connected)
        if point:
            p = frame.probabilities[point - 1]
            moment = replace(moment, confidence=float(p.max()), features=switch_features(p, answers))
            answers.append(int(p.argmax()))
        decision = router.route(moment)
        if decision.action == "offload":
            assert decision.way is not None
            return decision, frame.cloud_labels[decision.way]
        if decision.action != "go-on":
            return decision, answers[-1]
    raise AssertionError("the whole network has run, and there is no answer")


def test_frames_that_nothing_has_seen_are_routed_by_the_bundles_tables(bundle: Bundle, machines: Machines) -> None:
    tables = RouteTables.open(bundle)
    assert (tables.curves.num_points, len(tables.ways), tables.wrong_by) == (2, 2, "labels")
    frames, truths = (part[NUM_HELD + 100 :] for part in held_out())
    seen = [machines.look(frame) for frame in frames]
    thresholds = tuple(0.0 for _ in early_exits(bundle.manifest))  # no promise in the way of the prices
    own = np.array([frame.probabilities[-1].argmax() for frame in seen]) == truths
    cloud = np.array([frame.cloud_labels[-1] for frame in seen]) == truths
    assert cloud.mean() > own.mean() + 0.1, "these networks are chosen so that there is something to route"
    cheap, dear, cut_off = (heard(tables, ms_price=price) for price in (0.005, 0.03, 0.005))
    routed = [follow(cheap, frame, thresholds, connected=True) for frame in seen]
    hasty = [follow(dear, frame, thresholds, connected=True) for frame in seen]
    alone = [follow(cut_off, frame, thresholds, connected=False) for frame in seen]
    offloaded = np.array([decision.action == "offload" for decision, _ in routed])
    right = np.array([label for _, label in routed]) == truths
    assert 0.1 < offloaded.mean() < 1
    assert own[offloaded].mean() < own[~offloaded].mean() - 0.1, "what is sent is what the device gets wrong"
    assert right.mean() > own.mean() + 0.5 * (cloud.mean() - own.mean())
    assert {decision.action for decision, _ in hasty} >= {"exit", "offload"}
    assert sum(decision.action == "offload" for decision, _ in hasty) < offloaded.sum(), "time is dearer"
    assert {decision.action for decision, _ in alone} <= {"exit", "finish"}
    assert {decision.reason for decision, _ in alone if decision.degraded} == {"link-down"}
