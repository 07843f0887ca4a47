"""What a clone carries: no host of a registry, no path of one machine, nothing large, and a map of its folders."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAX_FILE_BYTES = 400_000
MAX_MODULE_LINES = 400

# Written so that this file does not hold what it looks for.
REGISTRY = re.compile(
    r"p[y]pi\.(?:org|python)|python[h]osted\.|download\.[p]ytorch\.|npm[j]s\.(?:org|com)|conda\.[a]naconda\.|"
    r"--(?:extra-)?index-url[=\s]\s*\S*//|index-url\s*="
)
MACHINE = re.compile(r"(?<![\w.}])/(?:work|root)/|/opt/(?:wheels|pypi)|/tmp/(?:bash_jobs)")


def tracked() -> list[Path]:
    """The files of the working tree that git knows."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def texts() -> list[tuple[str, str]]:
    """Path and text of every tracked file that is text."""
    found = []
    for path in tracked():
        data = path.read_bytes()
        if b"\0" not in data[:8192]:
            found.append((str(path.relative_to(ROOT)), data.decode("utf-8", errors="replace")))
    return found


def hits(pattern: re.Pattern[str], files: list[tuple[str, str]]) -> list[str]:
    return [
        f"{name}:{text.count(chr(10), 0, match.start()) + 1}: {match.group()}"
        for name, text in files
        for match in pattern.finditer(text)
    ]


def folders_not_on_the_map(readme: str) -> list[str]:
    """Folders of the package that the README does not name as ``folder/``."""
    folders = [path.name for path in (ROOT / "src" / "littoral").iterdir() if (path / "__init__.py").exists()]
    return sorted(name for name in folders if not re.search(rf"(?<!\w){name}/", readme))


def test_no_file_names_a_package_registry() -> None:
    assert hits(REGISTRY, texts()) == []


def test_no_file_names_a_path_of_one_machine() -> None:
    assert hits(MACHINE, texts()) == []


@pytest.mark.parametrize(
    ("pattern", "line"),
    [
        (REGISTRY, "https://files.python" + "hosted.org/x"),
        (REGISTRY, "see py" + "pi.org/project/x"),
        (REGISTRY, "pip install --index" + "-url https://mirror/simple"),
        (REGISTRY, "https://download.py" + "torch.org/whl/cpu"),
        (MACHINE, "cd /" + "work/main"),
        (MACHINE, "'/" + "root/x'"),
        (MACHINE, "PIP_FIND_LINKS=/" + "opt/wheels"),
    ],
)
def test_the_search_finds_what_it_looks_for(pattern: re.Pattern[str], line: str) -> None:
    assert hits(pattern, [("x", f"first\n{line}\n")])[0].startswith("x:2: ")


def test_no_lock_file_is_tracked() -> None:
    locks = {"uv.lock", "poetry.lock", "Pipfile.lock", "pdm.lock", "pylock.toml"}
    assert sorted(path.name for path in tracked() if path.name in locks) == []


def test_constraints_are_names_and_versions_alone() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert [line for line in lines if not re.fullmatch(r"#.*|[A-Za-z0-9._-]+==[0-9][0-9A-Za-z.]*", line)] == []


def test_no_tracked_file_is_large() -> None:
    sizes = {str(path.relative_to(ROOT)): path.stat().st_size for path in tracked()}
    assert {name: size for name, size in sizes.items() if size > MAX_FILE_BYTES} == {}


def test_no_two_test_files_have_one_name() -> None:
    names = [path.name for path in tracked() if path.name.startswith("test_") and path.suffix == ".py"]
    assert sorted(name for name in set(names) if names.count(name) > 1) == [], "pytest imports them by it"


def test_no_module_is_long() -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in (ROOT / "src").rglob("*.py")
    }
    assert lengths
    assert {name: length for name, length in lengths.items() if length > MAX_MODULE_LINES} == {}


def test_the_readme_maps_every_folder_of_the_package() -> None:
    assert folders_not_on_the_map((ROOT / "README.md").read_text(encoding="utf-8")) == []


def test_a_folder_that_is_not_on_the_map_is_seen() -> None:
    assert "core" in folders_not_on_the_map("bundle/ wire/ encore/")
    assert "core" not in folders_not_on_the_map("core/  arrays")


def decisions_not_listed(index: str) -> list[str]:
    """Decisions that the index of decisions does not link to."""
    names = sorted(path.name for path in (ROOT / "docs" / "adr").glob("[0-9]*.md"))
    return [name for name in names if f"]({name})" not in index]


def test_the_index_of_decisions_has_every_decision() -> None:
    assert decisions_not_listed((ROOT / "docs" / "adr" / "README.md").read_text(encoding="utf-8")) == []


def test_a_decision_that_is_not_in_the_index_is_seen() -> None:
    assert decisions_not_listed("[0000](0000-template.md)")[0].startswith("0001-")
