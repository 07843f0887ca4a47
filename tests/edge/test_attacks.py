"""Every attack of ``attacks/`` is refused, and what served before goes on serving."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from attacks import hostile_answers, hostile_frames, hostile_labels, hostile_tables, hostile_updates
from attacks.target import BOUND, Target, make_version
from littoral.core.answers import encode_answer
from littoral.core.tasks import Classification

VERSIONS = {**hostile_updates.WITHOUT_A_KEY, **hostile_updates.WITH_THE_COHORT_KEY}


@pytest.fixture
def target(tmp_path: Path) -> Target:
    return hostile_updates.make_target(tmp_path)


@pytest.mark.parametrize("name", VERSIONS)
def test_a_hostile_version_is_refused(target: Target, name: str) -> None:
    attack, expected = VERSIONS[name]
    assert hostile_updates.attack_with_version(target, attack) == expected
    assert (target.version, target.change) == (5, 0.2)
    target.start()
    assert (target.version, target.change) == (5, 0.2)


@pytest.mark.parametrize("name", hostile_updates.WITHOUT_A_KEY)
def test_an_attacker_without_a_key_cannot_use_up_version_numbers(target: Target, name: str) -> None:
    hostile_updates.attack_with_version(target, hostile_updates.WITHOUT_A_KEY[name][0])
    assert target.updater.highest_version == 5


@pytest.mark.parametrize("name", hostile_updates.ENVELOPES)
def test_a_hostile_envelope_is_refused(target: Target, name: str) -> None:
    attack, expected = hostile_updates.ENVELOPES[name]
    assert hostile_updates.attack_with_envelope(target.bundle, attack) == expected


def test_an_honest_version_is_taken_after_all_attacks(target: Target) -> None:
    """Negative control: the refusals are not because nothing is taken."""
    for attack, _ in hostile_updates.WITHOUT_A_KEY.values():
        hostile_updates.attack_with_version(target, attack)
    honest = hostile_updates.attack_with_version(target, lambda b: make_version(b, 9, change=BOUND * 0.99))
    assert (honest, target.version) == ("installed", 9)


@pytest.mark.parametrize("name", hostile_frames.FRAMES)
def test_a_hostile_frame_is_refused_in_little_memory(name: str) -> None:
    data = hostile_frames.FRAMES[name]
    assert hostile_frames.read(data) == "refused"
    assert hostile_frames.memory_to_read(data) < hostile_frames.MAX_MEMORY_BYTES


def test_an_honest_frame_is_read() -> None:
    assert hostile_frames.read(hostile_frames.encode_frame(hostile_frames.SAMPLE)) == "Sample"


@pytest.mark.parametrize("name", hostile_frames.LIES)
def test_a_cloud_that_lies_is_hung_up_on(name: str) -> None:
    assert hostile_frames.lie(hostile_frames.LIES[name]()) == "closed"


@pytest.mark.parametrize("name", hostile_answers.all_answers())
def test_a_hostile_answer_is_refused_in_little_memory(name: str) -> None:
    task, data = hostile_answers.all_answers()[name]
    assert hostile_answers.read(task, data) == "refused"
    assert hostile_answers.memory_to_read(task, data) < hostile_answers.MAX_MEMORY_BYTES


def test_an_honest_answer_is_taken() -> None:
    task = Classification(num_classes=hostile_answers.CLASSES)
    assert hostile_answers.read(task, encode_answer(task, np.zeros(task.output_shape, np.float32))) == "taken"


@pytest.mark.parametrize("name", hostile_labels.LABELS)
def test_hostile_labels_are_refused_in_little_memory_and_so_is_an_honest_one_that_comes_with_them(name: str) -> None:
    data = hostile_labels.LABELS[name]
    assert hostile_labels.read(data) == "refused"
    assert hostile_labels.memory_to_read(data) < hostile_labels.MAX_MEMORY_BYTES
    if data.startswith(b"T\x01"):
        assert hostile_labels.read(hostile_labels.message(hostile_labels.GOOD, data[2:])) == "refused"


def test_honest_labels_are_taken() -> None:
    assert hostile_labels.read(hostile_labels.message(hostile_labels.GOOD, hostile_labels.GOOD)) == "taken"


@pytest.mark.parametrize("name", hostile_tables.WITHOUT_A_KEY)
def test_hostile_tables_are_refused(tmp_path: Path, name: str) -> None:
    assert hostile_tables.attack(tmp_path / "b", hostile_tables.WITHOUT_A_KEY[name], signed=False) == "refused"


@pytest.mark.parametrize("name", hostile_tables.SIGNED)
def test_tables_that_cannot_be_are_refused_whoever_signed_them(tmp_path: Path, name: str) -> None:
    assert hostile_tables.attack(tmp_path / "b", hostile_tables.SIGNED[name], signed=True) == "refused"


@pytest.mark.parametrize("signed", [False, True])
def test_honest_tables_are_opened(tmp_path: Path, signed: bool) -> None:
    assert hostile_tables.attack(tmp_path / "b", lambda _folder: None, signed=signed) == "opened"


def test_the_scripts_show_what_became_of_each(capsys: pytest.CaptureFixture[str]) -> None:
    hostile_updates.main()
    hostile_frames.main()
    hostile_answers.main()
    hostile_tables.main()
    hostile_labels.main()
    out = capsys.readouterr().out
    assert "the device serves version 5" in out
    shown = (VERSIONS, hostile_updates.ENVELOPES, hostile_frames.FRAMES, hostile_frames.LIES)
    tables = (hostile_tables.WITHOUT_A_KEY, hostile_tables.SIGNED, hostile_labels.LABELS)
    assert out.count("\n") == 1 + sum(map(len, (*shown, *tables))) + len(hostile_answers.all_answers())
