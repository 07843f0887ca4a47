"""A row hangs on the files behind its numbers, and on no others."""

from __future__ import annotations

from pathlib import Path

import pytest

from littoral.bench.adapt.methods import modules_of, modules_without
from littoral.bench.adapt.plan import full_plan
from littoral.bench.fingerprint import files_of, fingerprint

FILES = {
    "__init__.py": "",
    "a/__init__.py": "from littoral.a.one import x\nfrom littoral.a.two import y\n",
    "a/one.py": "def f():\n    from littoral.base import z\n",
    "a/two.py": "import littoral.other\n",
    "base.py": "z = 1\n",
    "other.py": "",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / "littoral" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "littoral"


def test_imports_are_followed_also_inside_functions(root: Path) -> None:
    assert files_of(["littoral.a.one"], root=root) == ["a/one.py", "base.py"]
    assert files_of(["littoral.a.two"], root=root) == ["a/two.py", "other.py"]


def test_a_change_elsewhere_leaves_a_fingerprint_alone(root: Path) -> None:
    before = fingerprint(["littoral.a.one"], root=root)
    (root / "a/two.py").write_text("changed = True\n")
    assert fingerprint(["littoral.a.one"], root=root) == before
    (root / "base.py").write_text("z = 2\n")
    assert fingerprint(["littoral.a.one"], root=root) != before


def test_words_and_layout_leave_a_fingerprint_alone_and_a_string_that_is_used_does_not(root: Path) -> None:
    before = fingerprint(["littoral.a.one"], root=root)
    (root / "base.py").write_text('"""What it is."""\n\nz = 1  # one\n"""The value."""\n')
    assert fingerprint(["littoral.a.one"], root=root) == before
    (root / "base.py").write_text('z = 1\nprint("""What it is.""")\n')
    assert fingerprint(["littoral.a.one"], root=root) != before


def test_a_module_that_there_is_not_is_named(root: Path) -> None:
    with pytest.raises(ValueError, match=r"littoral\.nowhere"):
        fingerprint(["littoral.nowhere"], root=root)


def test_one_baseline_does_not_hang_on_another_nor_on_the_product() -> None:
    rows = {row.method: row for row in full_plan()}
    roid, product = files_of(modules_of(rows["roid"])), files_of(modules_of(rows["product"]))
    assert "bench/baselines/roid.py" in roid
    assert not {"bench/baselines/cotta.py", "edge/device.py", "cloud/cohort.py", "bench/adapt/plan.py"} & set(roid)
    assert {"edge/device.py", "cloud/session.py", "cloud/cohort.py", "wire/link.py", "core/drift.py"} <= set(product)
    assert not [name for name in product if name.startswith("bench/baselines/")]
    assert not {"cloud/dashboard.py", "bench/adapt/summary.py", "bench/adapt/plan.py"} & set(product)


def test_what_is_left_out_counts_no_more_nor_what_only_it_imports(root: Path) -> None:
    assert files_of(["littoral.a.one", "littoral.a.two"], without=["littoral.other"], root=root) == [
        *("a/one.py", "a/two.py", "base.py")
    ]
    assert files_of(["littoral.a.one"], without=["littoral.a.one"], root=root) == []
    with pytest.raises(ValueError, match=r"no source file for the module 'littoral\.gone'"):
        files_of(["littoral.a.one"], without=["littoral.gone"], root=root)


def test_how_a_bundle_is_built_is_of_our_own_rows_only() -> None:
    rows = {row.method: row for row in full_plan()}
    built = {
        name: "train/build.py" in files_of(modules_of(rows[name]), without=modules_without(rows[name])) for name in rows
    }
    assert {name for name, hangs_on_it in built.items() if hangs_on_it} == {
        *("product", "product_unguarded", "device_statistics", "push_loss", "push_size")
    }
