"""The published system around its steps: bytes, roads, several devices, memory; and the two yardsticks beside it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from baseline_world import CLASSES, SPEC, World
from torch import nn

from littoral.bench.baselines.cema import PAPER, Cema
from littoral.bench.baselines.cema_cloud import CemaSettings, Replay
from littoral.bench.baselines.cema_select import PublishedSelector, SelectionSettings
from littoral.bench.baselines.source import source
from littoral.bench.baselines.teacher_answers import teacher_answers
from littoral.bench.baselines.teacher_everything import TeacherLearner, TeacherSettings, teacher_everything
from littoral.bench.baselines.wire_costs import UploadCounter, push_bytes
from littoral.bench.method import Road
from littoral.bundle.images import decode_image
from littoral.cloud.teacher import teacher_loss
from littoral.models.frames import normalise
from littoral.wire.envelope import decode_frame
from littoral.wire.messages import Sample, from_frame

Batches = Callable[[int], list[np.ndarray]]
SMALL: dict[str, Any] = dict(batch_size=8, replay_after=32, student_lr=0.01)


def system(world: World, settings: CemaSettings | None = None, **changes: Any) -> Cema:
    return Cema(world.setup(**changes), settings or CemaSettings(**SMALL))


def num_values(model: nn.Module) -> int:
    """Gamma, beta, mean and variance of every BatchNorm."""
    return sum(4 * m.num_features for m in model.modules() if isinstance(m, nn.BatchNorm2d))


# -- bytes -------------------------------------------------------------------------------------------------------------


def test_every_push_is_gamma_beta_mean_and_variance_as_float32_in_a_real_frame(world: World, batches: Batches) -> None:
    method = system(world)
    for batch in batches(32)[:5]:
        method.answer(batch)
    payload = 4 * num_values(world.student)
    assert method.costs.pushes == 4  # before each batch but the first, K = 1
    assert payload < method.costs.downlink_bytes / 4 < payload + 64
    assert 0 < method.costs.notes["pushes_after_step"] <= 4


def test_an_upload_weighs_what_its_frame_weighs_on_the_wire(monkeypatch: pytest.MonkeyPatch) -> None:
    from littoral.bench.baselines import wire_costs

    sent: list[bytes] = []
    encode = wire_costs.encode_frame
    monkeypatch.setattr(wire_costs, "encode_frame", lambda frame: sent.append(encode(frame)) or sent[-1])
    frame = np.arange(192, dtype=np.uint8).reshape(SPEC.shape)
    size = UploadCounter(seed=1).weigh(frame, frame_id=7, version=3, predicted=2, entropy_nats=0.5)
    assert size == len(sent[0])
    message = from_frame(decode_frame(sent[0]))
    assert isinstance(message, Sample)
    assert np.array_equal(decode_image(message.coding, message.image, SPEC), frame)
    assert push_bytes(np.zeros(100, np.float32)) == pytest.approx(400, abs=60)


def test_nothing_is_sent_where_nothing_is_selected(world: World, batches: Batches) -> None:
    nothing = CemaSettings(selection=SelectionSettings(entropy_max_fraction=1e-6), **SMALL)
    method = system(world, nothing)
    for batch in batches(32)[:4]:
        method.answer(batch)
    assert method.costs.uploads == method.costs.uplink_bytes == method.cloud.student_steps == 0
    assert method.costs.notes["pushes_after_step"] == 0
    assert method.costs.pushes == 0 or method.costs.downlink_bytes > 0


# -- the road ----------------------------------------------------------------------------------------------------------


def installed_versions(method: Cema, frames: list[np.ndarray]) -> list[int]:
    versions = []
    for batch in frames:
        method.answer(batch)
        versions.append(method.devices[0].installed.version)
    return versions


def test_what_the_cloud_made_is_used_one_batch_later_plus_the_delay(world: World, batches: Batches) -> None:
    at_once = installed_versions(system(world), batches(32))
    late = installed_versions(system(world, road=Road(delay_batches=3)), batches(32))
    assert at_once[0] == 0
    assert at_once[1] > 0
    assert late[:4] == [0, 0, 0, 0]
    assert late[4] > 0
    assert late[4] == at_once[1]  # the first uploads are the same, and so is what is made of them


def test_lost_samples_and_pushes_are_paid_for_and_not_sent_again(world: World, batches: Batches) -> None:
    lossy = system(world, road=Road(loss=0.5))
    for batch in batches(32):
        lossy.answer(batch)
    arrived = len(lossy.cloud.replay)
    assert 0.3 * lossy.costs.uploads < arrived < 0.7 * lossy.costs.uploads
    sent = len(batches(32)) - 1
    assert lossy.costs.pushes < sent
    assert lossy.costs.downlink_bytes > sent * 4 * num_values(world.student)
    deaf = system(world, road=Road(loss=1.0))
    answers = [deaf.answer(batch) for batch in batches(32)]
    assert deaf.cloud.student_steps == deaf.costs.pushes == 0
    assert len(answers) == len(batches(32))


# -- devices -----------------------------------------------------------------------------------------------------------


def test_all_devices_share_one_student_and_each_keeps_its_own_filters(world: World, batches: Batches) -> None:
    method = system(world, num_devices=2)
    for batch in batches(32)[:4]:
        method.answer(batch, device=0)
    steps = method.cloud.student_steps
    assert steps > 0
    method.answer(batches(32)[4], device=1)
    assert method.devices[1].installed.version == steps  # taught by the other's samples
    assert method.devices[1].selector is not method.devices[0].selector


def test_a_push_period_of_four_keeps_the_device_on_the_same_state_for_four_batches(
    world: World, batches: Batches
) -> None:
    settings = CemaSettings(push_every=4, live_batches=0, **SMALL)
    frames = [*batches(16), *batches(16)][:13]
    versions = installed_versions(system(world, settings), frames)
    assert versions[0] == versions[1] == versions[2]
    assert versions[3] == versions[4] == versions[5] == versions[6]
    assert versions[3] > versions[2]
    assert installed_versions(system(world), frames)[2] > versions[2]


# -- filters and memory ------------------------------------------------------------------------------------------------


def answers(entropies: int, sure: float) -> np.ndarray:
    rest = (1 - sure) / (CLASSES - 1)
    return np.log(np.tile([sure, rest, rest, rest], (entropies, 1))).astype(np.float32)


def test_the_paper_s_upper_threshold_follows_the_mean_entropy_after_the_batch_is_filtered() -> None:
    selector = PublishedSelector(CLASSES, PAPER.selection)
    start = 0.4 * math.log(CLASSES)
    selector.select(answers(32, 0.9))
    assert selector.entropy_max == start  # 32 frames: not warm yet
    selector.select(answers(32, 0.9))
    assert selector.entropy_max == pytest.approx(start)  # warm: this mean is the one that later ones are held against
    reference = float(-(np.exp(answers(1, 0.9)) * answers(1, 0.9)).sum())
    assert not selector.select(answers(64, 0.6)).mask.any()
    mean = (64 * reference + 64 * float(-(np.exp(answers(1, 0.6)) * answers(1, 0.6)).sum())) / 128
    assert selector.entropy_max == pytest.approx(start * mean / reference, rel=1e-5)
    still = PublishedSelector(CLASSES, SelectionSettings())
    still.select(answers(64, 0.9))
    still.select(answers(64, 0.6))
    assert still.entropy_max == start


def test_the_paper_s_lower_threshold_leaves_out_what_is_settled_and_the_shipped_form_sends_it() -> None:
    settled = answers(8, 0.9999)
    assert not PublishedSelector(CLASSES, PAPER.selection).select(settled).mask.any()
    assert PublishedSelector(CLASSES, SelectionSettings()).select(settled).mask.all()


def test_the_diversity_margin_grows_for_few_classes_and_the_published_one_keeps_nothing_there() -> None:
    rng = np.random.default_rng(0)
    sure = rng.normal(0, 0.1, (2, 200, 10)).astype(np.float32)
    sure[..., :][np.arange(2)[:, None], np.arange(200), rng.integers(0, 10, (2, 200))] += 8
    for margin, kept in ((None, True), (0.05, False)):
        selector = PublishedSelector(10, SelectionSettings(diversity_margin=margin))
        selector.select(sure[0])
        assert selector.select(sure[1]).mask.any() == kept


def test_replay_forgets_the_oldest_first_and_draws_none_twice() -> None:
    replay = Replay(4, (1, 1, 1))
    for value in range(6):
        replay.add(np.full((1, 1, 1), value, np.uint8))
    assert len(replay) == 4
    drawn = replay.sample(4, np.random.default_rng(0)).reshape(-1)
    assert sorted(drawn) == [2, 3, 4, 5]


# -- the yardsticks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("road", [Road(), Road(loss=0.3, delay_batches=2)])
def test_the_teacher_s_answers_cost_the_bytes_of_the_paper_form(world: World, batches: Batches, road: Road) -> None:
    settings = dataclasses.replace(PAPER, **SMALL)
    parity, asked = Cema(world.setup(road=road), settings), teacher_answers(world.setup(road=road), settings)
    frozen = source(world.setup())
    for batch in batches(32):
        parity.answer(batch)
        labels, alone = asked.answer(batch), frozen.answer(batch)
        assert np.array_equal(parity.last_arrived, asked.chooser.last_arrived)
        assert np.array_equal(labels[~parity.last_arrived], alone[~parity.last_arrived])
        with torch.no_grad():
            by_teacher = world.teacher(normalise(torch.from_numpy(batch), SPEC)).argmax(1).numpy()
        assert np.array_equal(labels[parity.last_arrived], by_teacher[parity.last_arrived])
    assert asked.costs.uplink_bytes == parity.costs.uplink_bytes > 0
    assert asked.costs.uploads == parity.costs.uploads
    assert asked.costs.downlink_bytes == 0


@pytest.mark.parametrize("mean_one", [True, False])
def test_the_teacher_on_everything_is_the_demo_s_yardstick(world: World, batches: Batches, mean_one: bool) -> None:
    settings = TeacherSettings(mean_one_weights=mean_one, lr=0.01)
    method = teacher_everything(world.setup(), settings)
    model = world.setup().teacher().requires_grad_(False)
    learning = []
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train()
            learning += [module.weight.requires_grad_(True), module.bias.requires_grad_(True)]
    optimiser = torch.optim.SGD(learning, lr=0.01, momentum=0.9)
    for batch in batches(32):
        logits = model(normalise(torch.from_numpy(batch), SPEC))
        assert np.array_equal(method.answer(batch), logits.argmax(1).numpy())
        optimiser.zero_grad()
        teacher_loss(logits, mean_one=mean_one).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    learned = method._teachers[0].learner
    assert isinstance(learned, TeacherLearner)
    for ours, theirs, before in zip(learned.parameters, learning, TeacherLearner(world.setup(), settings).parameters,
                                    strict=True):  # fmt: skip
        torch.testing.assert_close(ours, theirs)
        assert not torch.allclose(ours, before, atol=1e-4), "it learned"
    assert (TeacherSettings().lr, TeacherSettings().momentum) == (0.00025, 0.9), "as the table runs it"
    assert method.costs.uploads == len(world.frames)
    assert method.costs.forward_frames == 0
