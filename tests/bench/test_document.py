"""What a document says of the code that made it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from littoral.bench.document import commit

FILES = (
    "src/code.py",
    "benchmarks/rows/a.json",
    "docs/results/plot.svg",
    "README.md",
    "src/deep/note.md",
    ".gitignore",
)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A repository with a commit of all these files."""

    def git(*words: str) -> None:
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], cwd=tmp_path, check=True)

    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("build/\n")
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    return tmp_path


@pytest.mark.parametrize("change", ["nothing", *FILES[1:5], "benchmarks/rows/new.json", "docs/new.md", "build/x.py"])
def test_a_tree_is_clean_where_nothing_differs_that_could_change_a_number(tree: Path, change: str) -> None:
    if change != "nothing":
        (tree / change).parent.mkdir(exist_ok=True)
        (tree / change).write_text("other")
    found = commit(tree / "src")
    assert len(found) == 40, found


@pytest.mark.parametrize("change", ["src/code.py", "src/new.py", "new/deep/new.json", "data.json"])
def test_a_tree_is_dirty_where_code_differs_or_came_new(tree: Path, change: str) -> None:
    (tree / change).parent.mkdir(parents=True, exist_ok=True)
    (tree / change).write_text("other")
    assert commit(tree / "src").endswith("-dirty")


def test_a_folder_without_a_commit_has_none(tmp_path: Path) -> None:
    assert commit(tmp_path) == "unknown"
