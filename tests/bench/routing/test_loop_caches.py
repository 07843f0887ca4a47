"""What the loop bench keeps is found again only where nothing that its numbers hang on has changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from torch import nn

from littoral.bench.routing import measured, timed
from littoral.bench.routing.measured import LoopMaterial, MeasuredConfig
from littoral.bench.routing.timed import Timed
from littoral.bundle import SplitCodec
from littoral.core.arrays import Frame
from littoral.core.codec_tables import ChannelPrior, CodecTables, FrequencyTable

FRAMES = 4
HEAD = SimpleNamespace(digest=lambda: b"head")


def codec_of(rare: float, *, deadzones: tuple[float, ...] = ()) -> SplitCodec:
    """Two values, of which the frames have the one that is so rare: the rarer, the more bytes."""
    prior = ChannelPrior(pmf=np.array([1.0, rare]), first_value=0)
    tables = CodecTables(height=8, width=8, levels=(FrequencyTable.from_priors([prior], max_bytes=1000),))
    return SplitCodec(tables=tables, gains=np.ones((1, 1), np.float32), deadzones=deadzones)


def network(weight: float, bias: float = 0.0) -> nn.Module:
    made = nn.Linear(1, 1).requires_grad_(False)
    made.weight.fill_(weight)
    made.bias.fill_(bias)
    return made


class Drawn(LoopMaterial):
    """Frames of nothing, a split that sends ones, networks of one weight; `made` counts what was made anew."""

    def __init__(self, work: Path, **config: Any) -> None:
        super().__init__(Path("nowhere"), work, MeasuredConfig(frames=FRAMES, pictures=(("png", 0),), **config))
        self.made = 0
        self.codec, self.weight, self.stem = codec_of(0.5), 1.0, 1.0
        self.split.network = lambda name: network(self.weight)  # type: ignore[method-assign]
        exits = [SimpleNamespace(place="x", stem=network(self.stem), head=HEAD, temperature=1.0)]
        self.__dict__["exits"] = SimpleNamespace(exits=exits)
        self.frames_digest = 1

    def frames(self, world: Any) -> Frame:
        self.made += 1
        return np.zeros((FRAMES, 32, 32, 3), np.uint8)

    def trained(self, given: str) -> Any:
        return SimpleNamespace(
            head=network(self.weight), bottleneck=network(self.weight), tail=network(self.weight), codec=self.codec,
            latents=lambda frames: np.ones((len(frames), 1, 8, 8), np.float32),
            logits=lambda symbols, level: np.zeros((len(symbols), 10), np.float32),
        )  # fmt: skip

    def split_bytes(self) -> int:
        return int(self.split_way("clean", "layer2.1")[0].bytes_N[0])


def again(work: Path, **changed: Any) -> Drawn:
    """Another process's material with something changed."""
    made = Drawn(work)
    for name, value in changed.items():
        setattr(made, name, value)
    return made


@pytest.fixture(autouse=True)
def code_that_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading all sources takes a second."""
    for module in (measured, timed):
        monkeypatch.setattr(module, "fingerprint", lambda modules, without: f"the code of {modules}")


@pytest.fixture
def answers_of_zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured, "outputs_of", lambda network, frames: np.zeros((len(frames), 10), np.float32))


def test_a_split_of_the_same_weights_with_other_tables_is_measured_anew(tmp_path: Path) -> None:
    cheap = again(tmp_path).split_bytes()
    dear = again(tmp_path, codec=codec_of(1e-4)).split_bytes()
    assert dear > 4 * cheap
    assert again(tmp_path).split_bytes() == cheap, "the first one's are still there"


@pytest.mark.parametrize(
    "changed",
    [{"codec": codec_of(0.5, deadzones=(0.25,))}, {"weight": 2.0}],
    ids=["deadzones", "weights"],
)
def test_a_split_is_read_while_it_is_the_same_and_made_anew_when_it_is_not(
    tmp_path: Path, changed: dict[str, Any]
) -> None:
    first, same, other = again(tmp_path), again(tmp_path), again(tmp_path, **changed)
    for material in (first, same, other):
        material.split_bytes()
    assert (first.made, same.made, other.made) == (1, 0, 1)


def test_pictures_hang_on_the_teacher_s_weights_and_on_pillow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers_of_zeros: None
) -> None:
    def made(**changed: Any) -> int:
        material = again(tmp_path, **changed)
        material.picture_way("clean", "png", 0)
        return material.made

    assert [made(), made(), made(weight=2.0)] == [1, 0, 1]
    monkeypatch.setattr(measured.PIL, "__version__", "0.1")
    assert made() == 1


def test_the_device_s_name_changes_with_its_trunk_its_stems_and_its_temperatures(tmp_path: Path) -> None:
    first = Drawn(tmp_path)
    assert first.device_digest == Drawn(tmp_path).device_digest
    assert first.device_digest != again(tmp_path, weight=2.0).device_digest
    for name, value in (("stem", network(2.0)), ("temperature", 1.5)):
        other = Drawn(tmp_path)
        setattr(other.exits.exits[0], name, value)
        assert other.device_digest != first.device_digest, name


def test_what_other_code_made_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    again(tmp_path).split_bytes()
    monkeypatch.setattr(measured, "fingerprint", lambda modules, without: "other")
    material = again(tmp_path)
    material.split_bytes()
    assert material.made == 1


def test_times_of_another_machine_another_training_or_other_code_are_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured_so_far: list[int] = []

    def measure(material: Drawn) -> Timed:
        measured_so_far.append(1)
        return Timed(whole_ms=1.0, segment_ms=(1.0,), exit_ms=(), encode_ms={}, cloud_ms={}, machine={})

    monkeypatch.setattr(timed, "_measure", measure)

    def measures(material: LoopMaterial) -> bool:
        before = len(measured_so_far)
        assert timed.timed(material, tmp_path).segment_ms == (1.0,)
        return len(measured_so_far) > before

    assert measures(Drawn(tmp_path))
    assert not measures(Drawn(tmp_path))
    longer = Drawn(tmp_path)
    longer.config = replace(longer.config, epochs=3)
    assert measures(longer)
    assert measures(again(tmp_path, weight=2.0))
    assert measures(again(tmp_path, codec=codec_of(1e-4)))
    monkeypatch.setattr(timed, "machine", lambda: {"processor": "another"})
    assert measures(Drawn(tmp_path))
    monkeypatch.setattr(timed, "fingerprint", lambda modules, without: "other")
    assert measures(Drawn(tmp_path))


def test_weights_are_named_with_their_values_and_places() -> None:
    one, other = network(1.0), network(1.0, bias=0.5)
    names = [measured.weights_digest(*networks) for networks in ((one,), (other,), (one, other), (other, one))]
    assert len(set(names)) == 4
    assert names[0] == measured.weights_digest(network(1.0))


def test_what_was_made_of_other_frames_is_made_anew(tmp_path: Path) -> None:
    first, same, other = again(tmp_path), again(tmp_path), again(tmp_path, frames_digest=2)
    for each in (first, same, other):
        each.split_bytes()
    assert (first.made, same.made, other.made) == (1, 0, 1)
