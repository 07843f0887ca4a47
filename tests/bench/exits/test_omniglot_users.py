"""Users of Omniglot: who wrote what, and that no drawing is on two sides."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from littoral.bench.exits.omniglot import (
    FILES,
    Drawings,
    OmniglotNetwork,
    OmniglotTask,
    add_exits,
    load_omniglot,
    source_of,
    users_of,
)
from littoral.bench.exits.omniglot_unit import (
    most_alike,
    omniglot_points,
    personal_heads,
    share_of_groups,
    user_row,
)
from littoral.models.small_cnn import small_cnn

NAMES = ("Ahom", "Bengali")
NUM_CHARACTERS = 6


def drawings_of_all() -> Drawings:
    """Two alphabets of six characters by twenty writers: bars whose place is the character's, with noise."""
    rng = np.random.default_rng(0)
    frames, characters, alphabets, writers = [], [], [], []
    for alphabet in range(len(NAMES)):
        for character in range(NUM_CHARACTERS):
            for writer in range(1, 21):
                frame = rng.integers(0, 60, size=(32, 32, 1), dtype=np.uint8)
                place = slice(5 * character, 5 * character + 3)
                frame[(place, slice(None)) if alphabet else (slice(None), place)] = 200
                frames.append(frame)
                characters.append(alphabet * NUM_CHARACTERS + character)
                alphabets.append(alphabet)
                writers.append(writer)
    return Drawings(
        frames=np.stack(frames),
        characters_N=np.array(characters),
        alphabets_N=np.array(alphabets),
        writers_N=np.array(writers),
        alphabet_names=NAMES,
    )


def network_of(task: OmniglotTask) -> tuple[OmniglotNetwork, Drawings]:
    drawings = drawings_of_all()
    source, settling = source_of(drawings)
    model = small_cnn(width=2, num_classes=12, channels=1, depth=3).eval()
    return add_exits(model, source, settling, task), drawings


def png(value: int) -> bytes:
    out = io.BytesIO()
    Image.new("1", (105, 105), value).save(out, "png")
    return out.getvalue()


def test_a_drawing_that_is_in_both_files_is_read_once_and_ink_is_bright(tmp_path: Path) -> None:
    (tmp_path / "omniglot").mkdir()
    members = (("Greek", 1, 1), ("Greek", 2, 1)), (("Greek", 1, 1), ("Tagalog", 1, 20))
    for name, held in zip(FILES, members, strict=True):
        with zipfile.ZipFile(tmp_path / "omniglot" / name, "w") as archive:
            for alphabet, character, writer in held:
                path = f"images/{alphabet}/character{character:02d}/0001_{writer:02d}.png"
                archive.writestr(path, png(0 if alphabet == "Tagalog" else 1))
    found = load_omniglot(tmp_path)
    assert found.alphabet_names == ("Greek", "Tagalog")
    assert found.characters_N.tolist() == [0, 1, 2]
    assert found.writers_N.tolist() == [1, 1, 20]
    assert found.frames.shape == (3, 32, 32, 1)
    assert found.frames[0].max() == 0
    assert found.frames[2].min() == 255
    (tmp_path / "omniglot" / FILES[1]).write_bytes(b"no archive")
    with pytest.raises(ValueError, match="small2"):
        load_omniglot(tmp_path)


def test_no_user_is_among_the_source_writers() -> None:
    network, drawings = network_of("characters")
    source, settling = source_of(drawings)
    users = {writer for user in users_of(network, drawings) for writer in user.writers.values()}
    assert users == set(range(15, 21))
    assert not users & ({*source.writers_N.tolist()} | {*settling.writers_N.tolist()})
    assert len(source) + len(settling) + 6 * 12 == len(drawings)


def test_in_characters_a_user_is_tested_on_classes_that_it_never_showed() -> None:
    network, drawings = network_of("characters")
    for user in users_of(network, drawings):
        assert len(user.writers) == 1
        labels = [set(part.labels_N.tolist()) for part in user.parts.values()]
        assert sum(map(len, labels)) == len(set.union(*labels)) == NUM_CHARACTERS
    assert most_alike(drawings) == 1
    twice = drawings.take(np.array([0, 0, 1]))
    assert most_alike(twice) == 2


def test_in_alphabets_every_user_has_another_writer_of_each_and_shows_the_classes_it_is_tested_on() -> None:
    network, drawings = network_of("alphabets")
    users = users_of(network, drawings, seed=3)
    for name in NAMES:
        assert sorted(user.writers[name] for user in users) == list(range(15, 21))
    for user in users:
        assert sum(map(len, user.parts.values())) == 2 * NUM_CHARACTERS
        drawn = np.concatenate([part.features[0] for part in user.parts.values()])
        assert len(np.unique(drawn, axis=0)) == len(drawn)
    assert any(a.writers != b.writers for a, b in zip(users, users_of(network, drawings, seed=4), strict=True))


def test_without_a_label_heads_see_none_and_a_row_says_what_each_kind_of_head_got_right() -> None:
    network, drawings = network_of("alphabets")
    user = users_of(network, drawings)[0]
    blind = personal_heads(network, user.parts["personal"], labels=0.0, fit="lda", seed=0)
    told = personal_heads(network, user.parts["personal"], labels=1.0, fit="lda", seed=0)
    assert sum(day.num_labelled for day in blind[0].evidence.days) == 0
    assert sum(day.num_labelled for day in told[0].evidence.days) == len(user.parts["personal"])
    row = user_row(network, user, fit="lda", seed=0)
    assert row["test_classes_shown"] == 1.0
    assert len(row["shipped"]["exits"]) == 3
    served = row["labels 1"]["served"]["exits"]
    assert served == row["shipped"]["exits"]  # with fewer held-back drawings than the least, the shipped heads serve


def test_a_hand_that_is_there_is_found_and_one_that_is_not_is_not() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(20), 15)
    noise = rng.normal(size=(300, 4)).astype(np.float32)
    offsets = rng.normal(size=(20, 4)).astype(np.float32)
    assert share_of_groups(noise + offsets[groups], groups) == pytest.approx(0.5, abs=0.12)
    assert share_of_groups(noise, groups) == pytest.approx(0.0, abs=0.03)


def test_archives_without_a_drawing_are_told_of(tmp_path: Path) -> None:
    folder = tmp_path / "omniglot"
    folder.mkdir()
    for name in FILES:
        with zipfile.ZipFile(folder / name, "w") as archive:
            archive.writestr("readme.txt", "nothing here")
    with pytest.raises(ValueError, match="hold no drawing"):
        load_omniglot(tmp_path)


def test_a_units_flat_rows_are_one_for_each_task_and_method() -> None:
    found = {"points": [1.0, 2.0], "worst_user": [-3.0, 0.0]}
    made = {"users": 7, "summary": {"shipped": [70.0, 80.0], "served": found, "test_classes_shown": 0.0}}
    assert omniglot_points({"tasks": {"characters": made}}) == [
        {
            "task": "characters",
            "method": "served",
            "num_users": 7,
            "points_exit_0": 1.0,
            "points_exit_1": 2.0,
            "worst_user_points": -3.0,
        }
    ]
