"""A checkpoint is read only by the training that wrote it, and what is no checkpoint is said to be none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from littoral.train.checkpoints import Checkpoint


def epochs(state: dict[str, int]) -> int:
    return state["epochs"]


def test_what_was_saved_is_read_and_nothing_is_there_at_first(tmp_path: Path) -> None:
    made = Checkpoint(tmp_path / "a" / "b.pt", {"recipe": [1, (2.5, None)]})
    assert made.resume(epochs) == 0
    made.save({"epochs": 3})
    assert Checkpoint(tmp_path / "a" / "b.pt", {"recipe": [1, [2.5, None]]}).resume(epochs) == 3


@pytest.mark.parametrize(
    "junk",
    [
        b"",
        b"junk",
        b"junkjunkjunkjunkjunkjunkjunk",
        b"PK\x03\x04" + b"0" * 40,
        b"\x80\x02}q\x00.",
        b"\x80\x02h\x05.",
        b"\x80\x02]q\x00.",
        b"I1\n.",
    ],
    ids=["empty", "short", "text", "archive", "dictionary", "reference", "list", "number"],
)
def test_a_file_that_is_no_checkpoint_is_said_to_be_none(tmp_path: Path, junk: bytes) -> None:
    (tmp_path / "junk.pt").write_bytes(junk)
    with pytest.raises(ValueError, match=r"junk\.pt cannot be read: .*; remove it to begin anew"):
        Checkpoint(tmp_path / "junk.pt", {}).resume(epochs)


def test_a_damaged_checkpoint_is_said_to_be_none(tmp_path: Path) -> None:
    file = tmp_path / "a.pt"
    made = Checkpoint(file, {})
    made.save({"epochs": 3, "weights": torch.zeros(100)})
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(ValueError, match="cannot be read"):
        made.resume(epochs)


def test_each_part_that_differs_is_named(tmp_path: Path) -> None:
    Checkpoint(tmp_path / "a.pt", {"recipe": 1, "frames": 2, "labels": 3}).save({"epochs": 3})
    with pytest.raises(ValueError, match="what differs: frames, labels"):
        Checkpoint(tmp_path / "a.pt", {"recipe": 1, "frames": 3}).resume(epochs)


def layer(seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(3, 2)


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_first_weights_may_differ_by_rounding_alone(tmp_path: Path, name: str) -> None:
    begun = layer()
    made = Checkpoint(tmp_path / "a.pt", {}, {"layer": begun})
    with torch.no_grad():
        begun.weight += 5  # it learns
    made.save({"epochs": 3, "layer": begun.state_dict()})

    def again(network: nn.Linear) -> int:
        return Checkpoint(tmp_path / "a.pt", {}, {"layer": network}).resume(epochs)

    rounded, other = layer(), layer()
    with torch.no_grad():
        getattr(rounded, name).mul_(1 + 1e-5)
        getattr(other, name)[-1] += 0.1
    assert again(rounded) == 3
    for network in (other, layer(seed=1), nn.Linear(3, 2, bias=False)):
        with pytest.raises(ValueError, match="what differs: first weights"):
            again(network)
    assert again(begun) == 3, "the very network that was stopped"


def test_what_is_computed_may_differ_by_rounding_alone(tmp_path: Path) -> None:
    seen = torch.randn(50, 60, generator=torch.Generator().manual_seed(0)).half()
    Checkpoint(tmp_path / "a.pt", {}, computed={"features": seen}).save({"epochs": 3})

    def again(computed: dict[str, torch.Tensor]) -> int:
        return Checkpoint(tmp_path / "a.pt", {}, computed=computed).resume(epochs)

    assert again({"features": (seen.float() * 1.001).half()}) == 3
    for other in ({}, {"features": seen + 0.1}, {"features": seen[:0]}):
        with pytest.raises(ValueError, match="what differs: features"):
            again(other)


def test_a_state_that_does_not_fit_says_what_to_do(tmp_path: Path) -> None:
    made = Checkpoint(tmp_path / "a.pt", {})
    made.save({"other": 3})
    with pytest.raises(ValueError, match="does not fit this training: 'epochs'; remove it to begin anew"):
        made.resume(epochs)
