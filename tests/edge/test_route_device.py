"""A device that routes with a real bundle: what it needs, what it counts, and a link that is cut in mid-stream."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the bundle is built here")

from exit_bundles import source_like
from PIL import Image
from test_link import FAST, TinyCloud, enrolled, send, serving
from test_offload import GOOD, CloudInMyHead, reply
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection

from attacks import hostile_answers
from littoral.bundle import Bundle
from littoral.cli.main import main
from littoral.core.exit_control import ControlConfig
from littoral.core.exits import OFF
from littoral.core.route_plan import Prices
from littoral.core.route_words import REASONS, RouteConfig
from littoral.core.selection import SelectionConfig
from littoral.edge import exit_calibration as calibration_module
from littoral.edge.answer import Answer
from littoral.edge.device import Device
from littoral.edge.device_config import DeviceConfig
from littoral.edge.exit_config import ExitConfig
from littoral.edge.link import CloudLink
from littoral.edge.offload_config import OffloadConfig
from littoral.edge.session import Model
from littoral.errors import BundleError
from littoral.wire.envelope import Frame as WireFrame
from littoral.wire.messages import Offload, OffloadAnswer, from_frame

FRAMES, _ = source_like(120, seed=1)
EAGER = RouteConfig(deadline_ms=2000.0, prices=Prices(ms=0.0, byte=0.0), audit_share=0.0)
ALONE = replace(EAGER, prices=Prices(ms=1.0, byte=1.0))
"""No byte is worth it."""
NEVER = ControlConfig(ring_frames=4096, min_calibration=4096)


@pytest.fixture(scope="module")
def bundle(routed_bundle: Path) -> Bundle:
    return Bundle.open(routed_bundle / "b")


@contextmanager
def routing(
    bundle: Bundle, state: Path, link: Any, route: RouteConfig = EAGER, *, control: ControlConfig = NEVER
) -> Iterator[Device]:
    config = DeviceConfig(adapt_statistics=False, exits=ExitConfig(control=control), route=route)
    with Device(bundle, state_dir=state, link=link, config=config) as device:
        yield device


def settled(device: Device) -> Device:
    """What came behind the answers is taken up; it belongs to the thread that answers."""
    assert device.settle()
    assert device._routing is not None
    device._routing.requests.listen()
    assert device.settle()
    return device


def infer(device: Device, frame: np.ndarray) -> Answer:
    answer = device.infer(frame)
    assert isinstance(answer, Answer)
    assert answer.reason in REASONS
    return answer


def test_a_routed_device_without_a_session_answers_as_the_whole_network_does(bundle: Bundle, tmp_path: Path) -> None:
    plain = Model(bundle)
    with routing(bundle, tmp_path, CloudInMyHead(connected=False)) as device:
        answers = [infer(device, frame) for frame in FRAMES[:10]]
        status = device.status()
    for answer, frame in zip(answers, FRAMES, strict=False):
        np.testing.assert_allclose(answer.logits, plain.run(frame[None])[0], atol=1e-5)
        assert (answer.source, answer.exit_index, answer.reason) == ("device", 3, "link-down")
    assert (status.finished, status.offloaded, status.payload_bytes) == (10, 0, 0)
    assert sum(answer.degraded for answer in answers) == status.degraded > 0


def test_the_cloud_is_pinged_and_then_asked_and_all_of_it_is_counted(bundle: Bundle, tmp_path: Path) -> None:
    cloud = CloudInMyHead(reply(GOOD))
    with routing(bundle, tmp_path, cloud) as device:
        answers = []
        for frame in FRAMES[:40]:
            answers.append(infer(device, frame))
            settled(device)
        status, told = device.status(), cloud.ports["status"]()
    by_cloud = [answer for answer in answers if answer.source == "cloud"]
    assert len(by_cloud) > 20
    assert all((answer.label, answer.degraded, answer.exit_index) == (7, False, 3) for answer in by_cloud)
    assert status.offloaded == len(by_cloud)
    assert status.pings >= 2
    assert status.labels == status.pings + status.audits
    assert status.finished + sum(status.frames_by_exit[:2]) + status.offloaded == status.frames == 40
    assert len(cloud.asked) == status.offloaded + status.pings
    assert status.payload_bytes == sum(len(asked["payload"]) for asked in cloud.asked)
    assert (told.finished, told.offloaded, told.labels, told.asked, told.payload_bytes) == (
        status.finished, status.offloaded, status.labels, status.pings, status.payload_bytes,
    )  # fmt: skip


def test_a_frame_that_the_cloud_answered_is_chosen_for_adaptation_by_what_the_device_made_of_it(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = SelectionConfig(entropy_min_fraction=0.0, entropy_max_fraction=1.0, diversity_margin=2.0)
    exits, predicted = ExitConfig(control=NEVER, ring_pixels_bytes=0), dict[int, int]()
    config = DeviceConfig(adapt_statistics=False, exits=exits, route=EAGER, selection=everything)

    def offer(frame: np.ndarray, frame_id: int, label: int, *rest: object) -> bool:
        predicted[frame_id] = label
        return True

    with Device(bundle, state_dir=tmp_path, link=CloudInMyHead(reply(GOOD)), config=config) as device:
        monkeypatch.setattr(device._maintenance, "offer", offer)
        answers = []
        for frame in FRAMES[:40]:
            answers.append(infer(device, frame))
            settled(device)
        assert device.status().selected == 40
    by_cloud = [answer.frame_id for answer in answers if answer.source == "cloud"]
    assert len(by_cloud) > 20
    assert sorted(predicted) == list(range(1, 41))
    own = Model(bundle).run(FRAMES[:40]).argmax(axis=1)
    assert np.mean([predicted[number] == own[number - 1] for number in by_cloud]) > 0.5, "not the cloud's 7"


def test_frames_leave_early_with_certified_thresholds_as_without_a_router(bundle: Bundle, tmp_path: Path) -> None:
    quick = ControlConfig(risk=0.2, ring_frames=80, min_calibration=40, audit_share=0.2)
    with routing(bundle, tmp_path, CloudInMyHead(connected=False), ALONE, control=quick) as device:
        for _ in range(3):
            for frame in FRAMES:
                infer(device, frame)
                settled(device)
        status = device.status()
        assert status.exit_state == "serving"
        assert sum(status.frames_by_exit[:2]) > 30
        assert status.exit_audits > 5
        assert device._exits is not None
        assert len(device._exits.ring) >= 40


def test_the_users_label_reaches_heads_and_switcher(bundle: Bundle, tmp_path: Path) -> None:
    cloud = CloudInMyHead(reply(GOOD))
    with routing(bundle, tmp_path, cloud) as device:
        for frame in FRAMES[:40]:
            answer = infer(device, frame)
            assert device.feedback(answer.frame_id, 2)
            settled(device)
        assert device._routing is not None
        assert device._exits is not None
        learner = device._routing.learning._learner
        assert learner is not None
        assert learner.size > 0
        assert not device._routing.learning._waiting, "with a label nothing waits"
        assert all(frame.label == 2 for frame in device._exits._pending or ())
        assert device.feedback(999, 2) is False
    assert (tmp_path / "route" / "switcher.state").exists()
    with routing(bundle, tmp_path, cloud) as device:
        assert device.status().refits == 1, "kept at the end of the run before"


def test_a_version_that_comes_between_two_frames_is_checked_anew_and_costs_no_answer(
    bundle: Bundle, tmp_path: Path
) -> None:
    with routing(bundle, tmp_path, CloudInMyHead(connected=False), ALONE) as device:
        device._exits.policy = device._exits.policy.serving((0.0, 0.0))  # type: ignore[union-attr]
        assert infer(device, FRAMES[0]).exit_index == 0
        device._maintenance.call(lambda: device._maintenance._serve(dict(bundle.source_affine), 7), 5.0)
        answer = infer(device, FRAMES[0])
        assert (answer.version, answer.exit_index, device.status().rechecks) == (7, 3, 1)


def test_its_steps_and_encoders_are_measured_before_the_first_frame(bundle: Bundle, tmp_path: Path) -> None:
    with routing(bundle, tmp_path, CloudInMyHead(connected=False)) as device:
        assert device._routing is not None
        known, ways = device._routing.router.known, device._routing.router.ways
        assert known.step_ms != [1.0, 1.5, 2.0], "as the tables have them"
        assert all(0 < step < 200 for step in known.step_ms)
        assert {way.encode_ms for way in ways} != {0.5}


def test_drift_that_the_statistics_find_makes_the_router_careful(bundle: Bundle, tmp_path: Path) -> None:
    config = DeviceConfig(statistics_stride_frames=1, exits=ExitConfig(control=NEVER), route=ALONE)
    link: Any = CloudInMyHead(connected=False)
    with Device(bundle, state_dir=tmp_path, link=link, config=config) as device:
        for frame in (*FRAMES[:96], *(FRAMES[:120] // 4)):
            infer(device, frame)
            settled(device)
        resets = device.status().statistics_resets
        assert device._routing is not None
        assert resets >= 1
        assert device._routing.caution.num_signals == resets
        assert device._routing.caution.frame().level > 0


@pytest.mark.parametrize("routed", [True, False])
def test_with_a_router_certificates_are_for_whichever_exit_it_takes(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, routed: bool
) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(calibration_module, "certify", lambda *args, any_sure, **more: asked.append(any_sure))
    quick = ExitConfig(control=ControlConfig(ring_frames=4, min_calibration=2))
    config = DeviceConfig(adapt_statistics=False, exits=quick, route=ALONE if routed else None)
    link: Any = CloudInMyHead(connected=False)
    with Device(bundle, state_dir=tmp_path, link=link, config=config) as device:
        for frame in FRAMES[:8]:
            device.infer(frame)
            settled(device) if routed else device.settle()
            if asked:
                break
    assert asked == [routed]


@pytest.mark.parametrize(
    ("config", "link", "message"),
    [
        ({"route": EAGER, "exits": ExitConfig()}, None, "needs a link to a cloud"),
        ({"route": EAGER}, CloudInMyHead(), r"give DeviceConfig\(route=..., exits=ExitConfig\(\)\)"),
        (
            {"route": RouteConfig(deadline_ms=1e9), "exits": ExitConfig()},
            CloudInMyHead(),
            "deadline_ms is 1000000000.0, expected at most 3600000",
        ),
    ],
    ids=["no-link", "no-exits", "no-such-deadline"],
)
def test_what_a_router_needs_is_said(
    bundle: Bundle, tmp_path: Path, config: dict[str, Any], link: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Device(bundle, state_dir=tmp_path, link=link, config=DeviceConfig(**config))


def test_a_bundle_without_tables_and_offload_beside_a_router_are_refused(routed_bundle: Path, tmp_path: Path) -> None:
    plain = Bundle.open(routed_bundle / "plain")
    config = DeviceConfig(route=EAGER, exits=ExitConfig())
    with pytest.raises(BundleError, match="has no router; build one with"):
        Device(plain, state_dir=tmp_path, link=CloudInMyHead(), config=config)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="leave out one of route and offload"):
        DeviceConfig(route=EAGER, offload=OffloadConfig(mode="always"))


@pytest.mark.parametrize("name", hostile_answers.ANSWERS)
def test_a_cloud_that_lies_is_not_believed_and_soon_not_asked(bundle: Bundle, tmp_path: Path, name: str) -> None:
    cloud = CloudInMyHead(reply(hostile_answers.ANSWERS[name]))
    with routing(bundle, tmp_path, cloud) as device:
        for _ in range(3):
            for frame in FRAMES[:20]:
                assert infer(device, frame).source == "device"
                settled(device)
        status = device.status()
    assert (status.offloaded, status.labels) == (0, 0), "it teaches nothing either"
    assert 0 < len(cloud.asked) < 15


def test_the_command_routes_without_a_cloud_in_reach_and_says_why_of_each_answer(
    routed_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = tmp_path / "frames"
    frames.mkdir()
    for number in range(5):
        Image.fromarray(FRAMES[number][..., 0]).save(frames / f"{number}.png")
    words = ["edge", str(routed_bundle / "b"), str(frames), "--state", str(tmp_path / "s"), "--flush", "0"]
    words += ["--cloud", "http://127.0.0.1:9", "--route", "--deadline", "500", "--price-ms", "0", "--price-byte", "0"]
    assert main(words) == 0
    *answers, status = capsys.readouterr().out.splitlines()
    assert len(answers) == 5
    assert all(", by the device, at exit 3 (link-down" in line for line in answers)
    assert answers[0].endswith("(link-down, degraded)")
    assert "0 answered by the cloud" in status
    assert "5 finished here, 0 hedged, 0 labels, 0 audits, 0 pings, 0 bytes of payloads a frame" in status
    assert "by exit 0 0 0 5, checking" in status


# A link that is cut in mid-stream.


@dataclass
class Cutting(TinyCloud):
    """Answers requests; while ``cut`` it drops the connection with the next request, and every new one."""

    cut: bool = False
    asked: int = 0
    requests: list[Offload] = field(default_factory=list)

    def handle(self, socket: ServerConnection) -> None:
        if self.cut:
            socket.socket.close()
            return
        super().handle(socket)

    def _take(self, socket: ServerConnection, frame: WireFrame) -> None:
        if frame.type != Offload.TYPE:
            return super()._take(socket, frame)
        message = from_frame(frame)
        assert isinstance(message, Offload)
        self.asked += 1
        if self.cut:
            socket.socket.close()
            raise ConnectionClosed(None, None)
        send(socket, OffloadAnswer(
            request=message.request, code="ok", message="", answer=GOOD, queue_ms=0.1, compute_ms=0.1
        ))  # fmt: skip


def test_a_link_that_is_cut_in_mid_stream_costs_no_frame_its_answer_and_the_answers_say_so(
    bundle: Bundle, tmp_path: Path
) -> None:
    """Over a socket, by the wall clock: at least 99 of 100 within the deadline."""
    cloud, deadline_ms = Cutting(bundle), 400.0
    replace(enrolled(tmp_path), bundle_digests=(bundle.digest.hex(),)).save(tmp_path)
    parts: list[list[Answer]] = []
    with serving(cloud) as url:
        link = CloudLink(url, config=FAST)
        with routing(bundle, tmp_path, link, replace(EAGER, deadline_ms=deadline_ms)) as device:
            cloud.wait(lambda: cloud.hellos)
            for cut in (False, True, False):
                cloud.cut = cut
                part: list[Answer] = []
                while len(part) < 100 or (not cut and part[-1].source != "cloud" and len(part) < 1500):
                    part.append(infer(device, FRAMES[len(part) % len(FRAMES)]))
                    settled(device)
                parts.append(part)
            status = device.status()
    answers = [answer for part in parts for answer in part]
    assert status.frames == len(answers)
    assert np.mean([answer.latency_ms <= deadline_ms for answer in answers]) >= 0.99
    first, away, back = parts
    assert any(answer.source == "cloud" for answer in first)
    assert any(answer.source == "cloud" for answer in back), "it is used again when it is there again"
    assert not any(answer.source == "cloud" for answer in away)
    assert sum(answer.degraded for answer in away) > 50
    assert {answer.reason for answer in away} >= {"link-down"}
    assert status.degraded == sum(answer.degraded for answer in answers)


def test_an_exit_that_is_off_costs_a_routed_frame_nothing(bundle: Bundle, tmp_path: Path) -> None:
    with routing(bundle, tmp_path, CloudInMyHead(connected=False)) as device:
        assert device._exits is not None
        assert device._exits.policy.thresholds == (OFF, OFF)
        answer = infer(device, FRAMES[0])
        recent = device._exits.recent.get(1)
    assert recent is not None
    assert recent.num_seen == 0
    assert answer.compute_share == pytest.approx(1.0)
