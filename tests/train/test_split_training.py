"""Training a split: it learns, repeats itself however often it is stopped, and leaves frozen networks as they are."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from traced import square

from littoral.models.architectures import entropic_student, product
from littoral.models.bottleneck import Bottleneck
from littoral.models.entropy import FactorisedPrior
from littoral.models.parts import head_of, tail_of
from littoral.models.precision import as_float32, autocast
from littoral.train.bottleneck import train_split
from littoral.train.split_answers import answer_split
from littoral.train.split_data import ShiftAndFlip, SplitData, SplitNetworks, TeacherBank, fill_bank
from littoral.train.split_losses import ClassifierDistortion
from littoral.train.split_recipe import (
    Phase,
    SplitLoss,
    SplitRecipe,
    channel_reduction_recipe,
    end_to_end_recipe,
    parity_recipe,
    product_recipe,
)

SPEC = square(16, 3)
PARTS_OF_RATE = ("encoder", "gains", "prior")


class Net(nn.Module):
    """Two stages for frames of 16x16, each with a normalisation layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.layer2 = nn.Sequential(nn.Conv2d(4, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU())
        self.linear = nn.Linear(12, 4)

    def forward(self, x):
        return self.linear(self.layer2(self.layer1(x)).mean((2, 3)))


def frames_and_labels(count: int = 48):
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 4
    patterns = 255 * np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]])[:, None, None]
    noise = rng.integers(0, 256, size=(count, 16, 16, 3))
    return (0.7 * patterns[labels] + 0.3 * noise).astype(np.uint8), labels


FRAMES, LABELS = frames_and_labels()
DATA = SplitData(frames=FRAMES, targets=LABELS, input=SPEC)


def networks(*, from_head: bool = False, make=None) -> SplitNetworks:
    torch.manual_seed(0)
    teacher = Net().eval()
    sizes = {"num_channels": 3, "out_channels": 4, "width": 8, "decoder_width": 8, "decoder_blocks": 0}
    stem = {"in_channels": 4, "patch": 0, "strides": (2,)} if from_head else {"patch": 4}
    bottleneck = make() if make else product(**sizes, **stem, blocks=1, starting_gains=(2.0, 2.0))
    return SplitNetworks(
        bottleneck=bottleneck,
        tail=tail_of(teacher, "layer1"),
        head=head_of(Net().eval(), "layer1") if from_head else None,
        teacher=teacher,
        cut="layer1",
    )


def recipe(**kwargs) -> SplitRecipe:
    settings = {"epochs": 3, "hard_epochs": 1, "rate_weights": (1e-3, 1e-4), "batch_size": 16, "lr": 1e-2}
    features = {"features": {"layer1": 0.1}, "pooled": {"layer2": 0.1}}
    return product_recipe(**{**settings, **features, **kwargs})


def state(nets: SplitNetworks) -> dict[str, torch.Tensor]:
    parts = {"bottleneck": nets.bottleneck, "tail": nets.tail}
    return {f"{part}.{name}": value.clone() for part, net in parts.items() for name, value in net.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


def trained(the_recipe: SplitRecipe, nets: SplitNetworks | None = None, **kwargs) -> SplitNetworks:
    nets = nets or networks()
    train_split(the_recipe, nets, kwargs.pop("data", DATA), **kwargs)
    return nets


@functools.cache
def never_stopped() -> dict[str, torch.Tensor]:
    return state(trained(recipe()))


class Stopped(Exception):
    pass


def stop_after(epochs: int):
    def after_epoch(done, _bottleneck, _tail):
        if done == epochs:
            raise Stopped

    return after_epoch


def test_it_learns_and_the_dearer_level_sends_less():
    one = recipe(epochs=12, hard_epochs=2, rate_weights=(1e-2, 1e-5), lr=3e-2, features=None, pooled=None)
    one = dataclasses.replace(
        one, phases=tuple(dataclasses.replace(p, lr_scales={"prior": 5.0, "gains": 5.0}) for p in one.phases)
    )
    nets, correct, bits = networks(), [], []
    labels_alone = ClassifierDistortion(label_weight=1, teacher_weight=0)
    for _ in range(2):
        for level in (0, 1):
            outputs, bits_N = answer_split(nets, DATA, level=level)
            bits.append(bits_N.mean().item())
            correct.append((outputs.argmax(1).numpy() == LABELS).mean())
        if len(bits) == 2:
            trained(one, nets, distortion=labels_alone)
    assert max(correct[:2]) < 0.5
    assert min(correct[2:]) > 0.7
    assert bits[0] == pytest.approx(bits[1], rel=0.1)
    assert bits[2] < 0.9 * bits[3]


@pytest.mark.parametrize("epochs", [1, 2], ids=["within the phase", "between phases"])
def test_stopped_and_started_again_it_is_the_same(tmp_path, epochs):
    file = tmp_path / "split.pt"
    with pytest.raises(Stopped):
        trained(recipe(), checkpoint=file, after_epoch=stop_after(epochs))
    said: list[str] = []
    assert same(state(trained(recipe(), checkpoint=file, progress=said.append)), never_stopped())
    assert said[0].startswith(f"epoch {epochs + 1}/3: ")


def test_a_finished_training_is_read_and_not_run(tmp_path):
    file = tmp_path / "split.pt"
    assert same(state(trained(recipe(), checkpoint=file)), never_stopped())
    said: list[str] = []
    assert same(state(trained(recipe(), checkpoint=file, progress=said.append)), never_stopped())
    assert not said


def test_another_seed_gives_another_split_and_torchs_generator_stays():
    torch.manual_seed(7)
    expected = torch.rand(1)
    nets = [networks(), networks()]
    torch.manual_seed(7)
    states = [state(trained(recipe(epochs=1, hard_epochs=0, seed=seed), nets[seed])) for seed in (0, 1)]
    assert torch.equal(torch.rand(1), expected)
    assert not same(*states)


SMALL = recipe(epochs=1, hard_epochs=0, features=None)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished training's checkpoint."""
    file = tmp_path_factory.mktemp("finished") / "split.pt"
    trained(SMALL, networks(from_head=True), checkpoint=file)
    return file


def changed(how):
    """The arguments of a training that differs in one thing."""
    one, nets, data, more = SMALL, networks(from_head=True), DATA, {}
    if how == "recipe":
        one = dataclasses.replace(one, rate_weights=(1e-3, 2e-4))
    elif how == "frames":
        data = dataclasses.replace(DATA, frames=FRAMES[::-1].copy())
    elif how == "targets":
        data = dataclasses.replace(DATA, targets=LABELS[::-1].copy())
    elif how == "augment":
        data = dataclasses.replace(DATA, augment=ShiftAndFlip(2))
    elif how == "input":
        data = dataclasses.replace(DATA, input=dataclasses.replace(SPEC, mean=(0.1, 0.4, 0.4)))
    elif how == "bank":
        outputs = np.zeros((1, len(FRAMES), 4), np.float16)
        pooled = {"layer2": np.zeros((1, len(FRAMES), 12), np.float16)}
        moves = np.full((1, len(FRAMES), 3), 4, np.int8)
        data = dataclasses.replace(
            DATA, bank=TeacherBank(pad=4, moves_VN3=moves, outputs_VNK=outputs, pooled_VNC=pooled)
        )
    elif how == "distortion":
        more["distortion"] = ClassifierDistortion(label_weight=1.0)
    elif how == "teacher":
        torch.nn.init.zeros_(nets.teacher.linear.bias)
    elif how == "head":
        torch.nn.init.zeros_(nets.head.layer1.get_submodule("0").bias)
    elif how == "cut":
        nets = dataclasses.replace(nets, cut=None)
    elif how == "kept channels":
        nets.bottleneck.kept = (1, 3)
    elif how == "flags of the bottleneck":
        nets.bottleneck.mixed = True
    elif how == "frozen parameters":
        nets.tail.requires_grad_(False)
    elif how == "first weights":
        torch.manual_seed(7)
        nets.bottleneck.encoder.apply(lambda m: m.reset_parameters() if isinstance(m, nn.Conv2d) else None)
    elif how == "first weights of the tail":
        nets.tail.linear.weight.data[:] += 1
    return one, nets, data, more


PARTS = [
    "recipe", "frames", "targets", "augment", "input", "bank", "distortion", "teacher", "head", "cut", "kept channels",
    "flags of the bottleneck", "frozen parameters", "first weights",
]  # fmt: skip


@pytest.mark.parametrize("how", [*PARTS, "first weights of the tail"])
def test_the_checkpoint_of_another_training_is_refused_and_the_part_named(finished, how):
    one, nets, data, more = changed(how)
    before = state(nets)
    part = how.removesuffix(" of the tail")
    with pytest.raises(ValueError, match=rf"is of another training; what differs: (.*, )?{part}(, .*)?\. Remove it"):
        trained(one, nets, checkpoint=finished, data=data, **more)
    assert same(state(nets), before)


def older(file, **changes):
    """A checkpoint in the words of before: less was said, in two places."""
    held = torch.load(file, weights_only=True)
    said = json.loads(held.pop("of")) | changes
    of = {name: said[name] for name in ("recipe", "bottleneck", "tail", "frames", "bank")}
    taught = {name: said[name] for name in ("targets", "head", "teacher", "distortion", "augment")}
    taught["bank"] = said["bank's outputs"]
    torch.save({**held, "of": json.dumps(of, sort_keys=True), "taught": json.dumps(taught, sort_keys=True)}, file)


def test_an_older_checkpoint_is_taken_if_what_it_says_agrees(tmp_path):
    file = tmp_path / "split.pt"
    with pytest.raises(Stopped):
        trained(recipe(), checkpoint=file, after_epoch=stop_after(1))
    newer = file.read_bytes()
    for part in ("frames", "targets", "bank's outputs"):
        older(file, **{part: 0})
        with pytest.raises(ValueError, match=f"what differs: {part}"):
            trained(recipe(), checkpoint=file)
        file.write_bytes(newer)
    older(file)
    whole = file.read_bytes()
    said: list[str] = []
    assert same(state(trained(recipe(), checkpoint=file, progress=said.append)), never_stopped())
    assert said[0].startswith("epoch 2/3: ")
    file.write_bytes(whole)
    frozen = networks()
    frozen.tail.requires_grad_(False)
    with pytest.raises(ValueError, match="does not fit this training"):
        trained(recipe(), frozen, checkpoint=file)


def test_a_banks_views_are_part_of_a_training(tmp_path):
    file = tmp_path / "split.pt"
    one, nets, data, _ = changed("bank")
    trained(one, nets, checkpoint=file, data=data)
    for field in ("moves_VN3", "outputs_VNK"):
        other = getattr(data.bank, field).copy()
        other[0, 0] += 1
        bank = dataclasses.replace(data.bank, **{field: other})
        with pytest.raises(ValueError, match="bank"):
            trained(one, networks(from_head=True), checkpoint=file, data=dataclasses.replace(data, bank=bank))


def test_the_stopped_networks_themselves_may_go_on(tmp_path):
    file, nets = tmp_path / "split.pt", networks()
    with pytest.raises(Stopped):
        trained(recipe(), nets, checkpoint=file, after_epoch=stop_after(1))
    assert same(state(trained(recipe(), nets, checkpoint=file)), never_stopped())
    assert same(state(trained(recipe(), checkpoint=file)), never_stopped()), "and fresh ones after them"


def test_a_checkpoints_folder_is_made_before_the_training(tmp_path):
    file = tmp_path / "new" / "folder" / "split.pt"
    trained(SMALL, networks(), checkpoint=file)
    assert file.exists()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ValueError, match="cannot be written"):
        trained(SMALL, networks(), checkpoint=tmp_path / "file" / "split.pt", after_epoch=stop_after(1))


def test_power_lost_while_a_checkpoint_is_written_leaves_the_one_before(tmp_path, monkeypatch):
    file = tmp_path / "split.pt"
    with pytest.raises(Stopped):
        trained(recipe(), checkpoint=file, after_epoch=stop_after(1))
    before = file.read_bytes()

    def lost(_descriptor):
        raise OSError("power")

    monkeypatch.setattr("littoral.train.split_data.os.fsync", lost)
    with pytest.raises(OSError, match="power"):
        trained(recipe(), checkpoint=file)
    monkeypatch.undo()
    assert file.read_bytes() == before
    assert same(state(trained(recipe(), checkpoint=file)), never_stopped())


def test_teacher_and_head_do_not_move_and_the_tail_does():
    nets = networks(from_head=True)
    assert nets.head is not None
    assert nets.teacher is not None
    nets.teacher.train()  # what a caller forgets
    frozen = [copy.deepcopy(net.state_dict()) for net in (nets.teacher, nets.head)]
    before = state(nets)
    trained(recipe(), nets)
    assert all(same(net.state_dict(), was) for net, was in zip((nets.teacher, nets.head), frozen, strict=True))
    after = state(nets)
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    assert {"tail.layer2.1.running_mean", "tail.linear.weight", "bottleneck.log_gains"} <= moved
    assert any(name.startswith("bottleneck.encoder") for name in moved)


def test_on_rounded_latents_what_the_device_has_stays():
    nets = networks()
    before = state(nets)
    one = recipe()
    trained(dataclasses.replace(one, phases=one.phases[1:]), nets)
    moved = {name for name, value in state(nets).items() if not torch.equal(value, before[name])}
    assert all(name.startswith(("bottleneck.decoder", "bottleneck.log_scales", "tail.")) for name in moved)
    assert moved
    assert all(value.requires_grad for value in nets.bottleneck.encoder.parameters())


def test_a_training_that_breaks_off_leaves_nothing_frozen():
    class Broken(ClassifierDistortion):
        def __call__(self, outputs, teacher_outputs, targets):
            raise Stopped

    nets, one = networks(), recipe()
    hard_first = dataclasses.replace(one, phases=one.phases[::-1])
    with pytest.raises(Stopped):
        trained(hard_first, nets, distortion=Broken())
    assert all(value.requires_grad for value in nets.bottleneck.encoder.parameters())
    assert not nets.bottleneck.training


def test_what_the_caller_froze_stays_frozen():
    nets = networks()
    nets.tail.requires_grad_(False)
    weight = nets.tail.linear.weight.clone()
    trained(recipe(epochs=1, hard_epochs=0), nets)
    assert torch.equal(nets.tail.linear.weight, weight)
    assert not nets.tail.linear.weight.requires_grad


def test_a_tasks_own_distortion_gets_outputs_teacher_and_targets():
    seen = []

    def distortion(outputs, teacher_outputs, targets):
        seen.append((outputs.shape, teacher_outputs.requires_grad, targets.tolist()))
        return (outputs - teacher_outputs).square().mean(1)

    trained(recipe(epochs=1, hard_epochs=0), distortion=distortion)
    assert [(shape, grad) for shape, grad, _ in seen] == [((16, 4), False)] * 3
    assert sorted(label for _, _, labels in seen for label in labels) == sorted(LABELS.tolist())


def test_every_batch_has_every_level_equally_often():
    nets, seen = networks(), []
    nets.bottleneck.register_forward_pre_hook(lambda _m, args: seen.append(args[1].bincount().tolist()))
    trained(recipe(epochs=1, hard_epochs=0), nets)
    assert seen == [[8, 8]] * 3


def moved_in_one_step(**settings):
    """By how much a step of plain descent moves each parameter of the bottleneck and the tail."""
    told = {"optimizer": "sgd", "momentum": 0.0, "schedule": "constant", "lr": 1e-2, **settings}
    nets = networks()
    before = state(nets)
    trained(SplitRecipe(phases=(Phase(epochs=1, **told),), rate_weights=(1e-3, 1e-4), batch_size=48), nets)
    return {
        name: value - before[name]
        for name, value in state(nets).items()
        if before[name].is_floating_point() and "running" not in name
    }


def length(moved):
    return torch.cat([value.flatten() for value in moved.values()]).norm().item()


def test_gradients_are_clipped_to_the_norm_of_the_phase():
    assert length(moved_in_one_step()) > 1e-4
    assert length(moved_in_one_step(clip_norm=1e-2)) == pytest.approx(1e-4, rel=1e-2)


def test_each_part_learns_at_its_own_rate():
    plain, scaled = moved_in_one_step(), moved_in_one_step(lr_scales={"encoder": 0.25, "tail": 2.0})
    for part, scale in {"bottleneck.encoder": 0.25, "bottleneck.decoder": 1.0, "tail": 2.0}.items():
        ours, theirs = (length({k: v for k, v in m.items() if k.startswith(part)}) for m in (scaled, plain))
        assert theirs > 0
        assert ours == pytest.approx(scale * theirs, rel=1e-2)


def test_weights_decay_and_gains_and_prior_do_not():
    # No gradient but zeros: what moves has decayed.
    nothing = moved_in_one_step(loss=SplitLoss(distortion=0.0, rate=0.0), weight_decay=1.0, trained=PARTS_OF_RATE)
    still = {name for name, value in nothing.items() if not value.any()}
    assert {"bottleneck.log_gains"} | {name for name in nothing if "prior" in name} <= still
    assert {name for name in nothing if name.startswith("bottleneck.encoder") and name.endswith("weight")} - still


def test_bits_cost_nothing_at_first_and_more_with_each_step_of_the_ramp():
    bits = {"loss": SplitLoss(distortion=0.0), "lr": 1.0}
    assert length(moved_in_one_step(**bits)) > 0
    assert length(moved_in_one_step(**bits, rate_ramp_epochs=2.0)) == 0
    assert length(moved_in_one_step(**bits, rate_ramp_epochs=2.0, batch_size=24)) > 0


def test_progress_tells_the_time_left():
    ticks = iter(range(0, 100_000, 60))
    said: list[str] = []
    trained(recipe(epochs=2, hard_epochs=0), progress=said.append, clock=lambda: float(next(ticks)))
    assert len(said) == 6
    assert said[0].startswith("epoch 1/2, step 1/3: loss ")
    assert said[0].endswith("; 5.0 min left")
    assert said[-1].startswith("epoch 2/2: loss ")
    assert said[-1].endswith("; 0.0 min left")


def student(**kwargs):
    return entropic_student(
        widths=(6, 6), decoder_widths=(6, 6), num_channels=2, out_channels=4, upsamplings=1, **kwargs
    )


@pytest.mark.parametrize("quantile_loss", [False, True], ids=["bisection", "published"])
def test_parity_freezes_the_device_after_stage_1_and_rounds_about_its_medians(quantile_loss, tmp_path):
    nets = networks(make=lambda: student(learns_quantiles=quantile_loss))
    one = parity_recipe(
        beta=0.1, features=("layer1", "layer2"), stage1_epochs=2, stage2_epochs=1, quantile_loss=quantile_loss,
        batch_sizes=(16, 24),
    )  # fmt: skip
    file = tmp_path / "parity.pt"
    with pytest.raises(Stopped):
        trained(one, nets, checkpoint=file, after_epoch=stop_after(2))
    stage1 = state(nets)
    assert not stage1["bottleneck.shift"].any()
    quantiles = stage1["bottleneck.prior.quantiles"]
    assert (quantiles[0, 0].tolist() == [-10.0, 0.0, 10.0]) is not quantile_loss
    trained(one, nets, checkpoint=file)
    stage2 = state(nets)
    assert torch.allclose(stage2["bottleneck.shift"], nets.bottleneck.prior.medians(0).float())
    assert stage2["bottleneck.shift"].any()
    for name, value in stage1.items():
        if name.startswith(("bottleneck.encoder", "bottleneck.prior.matrices")):
            assert torch.equal(stage2[name], value)
    assert not torch.equal(stage2["tail.linear.weight"], stage1["tail.linear.weight"])
    teacher = networks().teacher
    assert teacher is not None
    assert torch.equal(stage1["tail.linear.weight"], teacher.linear.weight)


def test_end_to_end_needs_no_teacher():
    nets = dataclasses.replace(networks(make=student), teacher=None)
    trained(
        end_to_end_recipe(beta=1e-4, epochs=1, batch_size=16), nets, distortion=ClassifierDistortion(label_weight=1)
    )


def test_channel_reduction_trains_without_a_rate():
    nets = networks()
    one = dataclasses.replace(
        channel_reduction_recipe(features=("layer1",), epochs=2, batch_size=16), rate_weights=(0, 0)
    )
    before = state(nets)
    after = state(trained(one, nets))
    assert torch.equal(before["bottleneck.log_gains"], after["bottleneck.log_gains"])


class Untouchable(Net):
    """A teacher that must not be run."""

    def forward(self, x):
        raise AssertionError


def test_a_bank_says_what_the_teacher_says_and_is_made_once(tmp_path):
    nets = networks()
    assert nets.teacher is not None
    bank = fill_bank(tmp_path, nets.teacher, FRAMES, SPEC, num_views=2, pooled=("layer2",), batch_size=20)
    plain = SplitData(frames=FRAMES, input=SPEC, augment=None)
    moved = np.zeros((2, len(FRAMES), 3), np.int8) + np.array([4, 4, 0], np.int8)
    assert bank.moves_VN3.shape == moved.shape
    assert bank.pooled_VNC["layer2"].shape == (2, 48, 12)
    # Views drawn as no shift and no mirror image are the frames themselves.
    same_VN = (bank.moves_VN3 == moved).all(2)
    with torch.no_grad():
        whole = SplitNetworks(bottleneck=nets.bottleneck, tail=nets.tail, teacher=nets.teacher)
        assert whole.teacher is not None
        x = torch.from_numpy(plain.frames).permute(0, 3, 1, 2).float() / 255
        mean, std = (torch.tensor(v)[:, None, None] for v in (SPEC.mean, SPEC.std))
        logits = whole.teacher((x - mean) / std).numpy()
    for view, frame in zip(*np.nonzero(same_VN), strict=True):
        assert np.allclose(bank.outputs_VNK[view, frame], logits[frame], atol=1e-2)
    broken = Untouchable()
    broken.load_state_dict(nets.teacher.state_dict())
    again = fill_bank(tmp_path, broken.eval(), FRAMES, SPEC, num_views=2, pooled=("layer2",))
    assert np.array_equal(again.outputs_VNK, bank.outputs_VNK)
    with pytest.raises(ValueError, match="another teacher"):
        fill_bank(tmp_path, nets.teacher, FRAMES[:40], SPEC, num_views=2, pooled=("layer2",))
    data = dataclasses.replace(DATA, bank=bank)
    trained(recipe(features=None), dataclasses.replace(networks(), teacher=broken), data=data)
    with pytest.raises(AssertionError):
        trained(recipe(), dataclasses.replace(networks(), teacher=broken), data=data)


def enlarged(side: int) -> Bottleneck:
    """Whose latent is of that size, whatever comes in."""
    encoder = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Upsample((side, side)))
    return Bottleneck(encoder, nn.Identity(), FactorisedPrior(2, 2), num_channels=2, num_levels=2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda: trained(recipe(rate_weights=(1e-3,))), "1 rate weights, the bottleneck 2 levels"),
        (lambda: trained(recipe(), dataclasses.replace(networks(), teacher=None)), "a teacher is needed"),
        (lambda: trained(recipe(features={"layer9": 1.0})), "'layer9' is not a module"),
        (
            lambda: trained(recipe(features={"layer1": 1.0}), dataclasses.replace(networks(), cut=None)),
            "'layer1' is not a module of",
        ),
        (
            lambda: trained(
                recipe(features=None),
                dataclasses.replace(
                    networks(make=lambda: product(out_channels=12, width=4, starting_gains=(1.0, 1.0))),
                    tail=tail_of(networks().teacher, "layer2.0"),
                ),
            ),
            "does not run 'layer2' as a whole",
        ),
        (
            lambda: trained(SplitRecipe(phases=(Phase(epochs=1, quantile_loss=True),), rate_weights=(0, 0))),
            "learns_quantiles=True",
        ),
        (
            lambda: trained(recipe(), networks(make=lambda: enlarged(900))),
            "the latent of the encoder has 2 x 900 x 900 symbols, 1620000 in all; a payload holds at most 1048576",
        ),
        (lambda: SplitData(frames=FRAMES, targets=LABELS[1:], input=SPEC), "48 frames and 47 targets"),
        (lambda: SplitData(frames=FRAMES[:, :8], input=SPEC), "frames are uint8"),
    ],
    ids=["weights", "teacher", "module", "cut", "within", "quantiles", "latent", "targets", "frames"],
)
def test_what_does_not_fit_together_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        change()


def test_the_classifiers_distortion_is_its_formula():
    rng = torch.Generator().manual_seed(0)
    ours, teachers = torch.randn(3, 5, generator=rng), torch.randn(3, 5, generator=rng)
    labels = torch.tensor([0, 4, 2])
    soft = F.softmax(teachers / 2, 1)
    divergence = (soft * (soft.log() - F.log_softmax(ours / 2, 1))).sum(1)
    expected = 0.25 * F.cross_entropy(ours, labels, reduction="none") + 0.5 * 4 * divergence
    loss = ClassifierDistortion(label_weight=0.25, teacher_weight=0.5, temperature=2.0)
    assert torch.allclose(loss(ours, teachers, labels), expected, atol=1e-6)
    assert torch.equal(loss(ours, teachers, labels.int()), loss(ours, teachers, labels))
    assert loss(ours, None, None).tolist() == [0, 0, 0]


def test_relative_errors_are_shares_of_the_teachers_energy():
    from littoral.train.split_losses import feature_errors

    ours = {"a": torch.tensor([[[[1.0]]], [[[2.0]]]])}
    teachers = {"a": torch.tensor([[[[3.0]]], [[[1.0]]]])}
    shares = feature_errors(ours, teachers, {"a": 2.0}, relative=True)
    assert shares.tolist() == pytest.approx([2 * 4 / 5, 2 * 1 / 5])
    assert feature_errors(ours, teachers, {"a": 1.0}, relative=False).tolist() == [4, 1]
    with pytest.raises(ValueError, match="take the loss where they are alike"):
        feature_errors(ours, {"a": torch.zeros(2, 3)}, {"a": 1.0}, relative=True)


def test_schedules():
    cosine = Phase(epochs=1, warmup=0.2)
    assert [cosine.lr_factor(p) for p in (0.1, 0.2, 0.6, 1.0)] == pytest.approx([0.5, 1.0, 0.5, 0.0])
    steps = Phase(epochs=1, schedule="steps", drops=(0.5, 0.8))
    assert [steps.lr_factor(p) for p in (0.0, 0.49, 0.5, 0.8)] == pytest.approx([1, 1, 0.1, 0.01])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Phase(epochs=0), "at least 1 epoch"),
        (lambda: Phase(epochs=1, warmup=1.0), "a share of itself"),
        (lambda: Phase(epochs=1, trained=("head",)), "head"),
        (lambda: Phase(epochs=1, hard=True), "no gradient there"),
        (lambda: Phase(epochs=1, lr_scales={"tial": 0.5}), r"lr_scales are for \['tial'\]"),
        (lambda: Phase(epochs=1, lr_scales={"tail": -0.5}), "none of them negative"),
        (lambda: Phase(epochs=1, batch_size=-4), "batch_size is -4"),
        (lambda: Phase(epochs=1, batch_size=0), "batch_size is 0"),
        (lambda: Phase(epochs=1, batch_size=1), "batch_size is 1"),
        (lambda: Phase(epochs=1, clip_norm=0.0), "clip_norm is 0.0"),
        (lambda: ShiftAndFlip(64), r"pad is 64, it must lie in 0\.\.63"),
        (lambda: SplitRecipe(phases=(), rate_weights=(0.1,)), "needs a phase"),
        (lambda: SplitRecipe(phases=(Phase(epochs=1),), rate_weights=(-0.1,)), "none of them negative"),
        (lambda: SplitRecipe(phases=(Phase(epochs=1),), rate_weights=(0.1,)).phase_of(1), "has 1 epochs"),
    ],
    ids=[
        "epochs", "warmup", "part", "hard", "scaled-part", "scale", "batch-4", "batch-0", "batch-1", "clip", "pad",
        "phases", "weights", "epoch",
    ],
)  # fmt: skip
def test_a_recipe_that_makes_no_sense_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_losses_are_weighted_as_they_say():
    assert SplitLoss().rate == 1.0
    one = recipe()
    assert one.epochs == 3
    assert [one.phase_of(epoch) for epoch in range(3)] == [(0, 0), (0, 1), (1, 0)]


@pytest.mark.parametrize(("epochs", "hard_epochs"), [(1, 1), (3, 3), (2, -1)])
def test_a_recipe_without_an_epoch_for_the_encoder_is_refused(epochs: int, hard_epochs: int) -> None:
    with pytest.raises(ValueError, match="at least one must train the encoder"):
        product_recipe(epochs=epochs, hard_epochs=hard_epochs)


def test_what_starts_fitted_prices_bits_at_once_and_keeps_the_tails_statistics() -> None:
    joint, hard = product_recipe(epochs=4, fitted=True).phases
    assert (joint.rate_ramp_epochs, joint.tail_statistics, hard.tail_statistics) == (0.0, False, False)
    joint, hard = product_recipe(epochs=4).phases
    assert (joint.rate_ramp_epochs, joint.tail_statistics, hard.tail_statistics) == (0.75, True, True)


@pytest.mark.parametrize("from_head", [False, True])
def test_bfloat16_moves_the_weights_nearly_as_float32_does(from_head) -> None:
    start = state(networks(from_head=from_head))
    full, half = (
        state(trained(recipe(), networks(from_head=from_head), precision=precision))
        for precision in ("float32", "bfloat16")
    )
    learned = [name for name in start if "num_batches" not in name and not torch.equal(start[name], full[name])]
    moved = torch.cat([(full[name] - start[name]).flatten() for name in learned])
    apart = torch.cat([(half[name] - full[name]).flatten() for name in learned])
    assert all(half[name].dtype == full[name].dtype for name in full)
    assert 0 < apart.norm() < 0.3 * moved.norm()


def test_a_precision_that_there_is_not() -> None:
    with pytest.raises(ValueError, match="'auto', 'float32' or 'bfloat16', got 'float16'"):
        trained(recipe(), precision="float16")


def test_likelihoods_and_losses_are_counted_in_float32() -> None:
    nets = networks()
    x, level = torch.randn(4, 3, 16, 16), torch.tensor([0, 1, 0, 1])
    nets.bottleneck.train()
    with autocast(torch.device("cpu"), bfloat16=True):
        out = nets.bottleneck(x, level)
        assert out.features.dtype == torch.bfloat16
    assert out.rate_bits.dtype == torch.float32
    outputs = as_float32({"a": out.features, "b": (out.features, [level])})
    assert outputs["a"].dtype == outputs["b"][0].dtype == torch.float32
    assert outputs["b"][1][0].dtype == torch.int64
