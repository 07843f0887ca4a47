"""Which files of the data folder a unit of each table is made of."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="the bench needs its extra")

from pathlib import Path
from typing import Any

from littoral.bench.adapt.table import AdaptTable
from littoral.bench.exits.table import ExitTable
from littoral.bench.routing.table import LoopTable
from littoral.bench.rows import TableRequest, chosen_by_name
from littoral.bench.split.table import SplitTable
from littoral.bench.table import UnitTable

CIFAR = {"cifar10/train.npz", "cifar10/test.npz", "weights/cifar10_resnet20.safetensors"}
LARGE = {*CIFAR, "weights/cifar10_resnet56.safetensors"}
CGNET = {"weights/camvid_cgnet_m3n21.json", "weights/camvid_cgnet_m3n21.safetensors", "camvid/camvid.tar"}
YOLOX = {"weights/coco_yolox_nano.json", "weights/coco_yolox_nano.safetensors", "coco/coco_val128.tar"}


@pytest.mark.parametrize(
    ("table", "only", "files"),
    [
        (AdaptTable(), "wide/roid/continual", CIFAR),
        (AdaptTable(), "fleet/product/fleet_cohort", {*CIFAR, "weights/cifar10_resnet56_augmix.safetensors"}),
        (SplitTable(), "split/product/pixels", LARGE),
        (SplitTable(), "codec_speed", set()),
        (SplitTable(), "dense_split/dense/cgnet-features", CGNET),
        (SplitTable(), "dense_split/dense/yolox_nano-features", {*YOLOX, "imagenet/imagenet1k_sample.tar"}),
        (ExitTable(), "resnet20/users", LARGE),
        (ExitTable(), "resnet20/drift", {*LARGE, "weights/cifar10_resnet56_augmix.safetensors"}),
        (ExitTable(), "cgnet/segmentation", CGNET),
        (ExitTable(), "small_cnn/omniglot", {f"omniglot/images_background_small{part}.zip" for part in (1, 2)}),
        (LoopTable(), "policies/*", LARGE),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_unit_names_its_files(table: UnitTable[Any], only: str, files: set[str]) -> None:
    units = chosen_by_name(table.plan(TableRequest(data=None, work=Path())), [only])
    assert {frozenset(table.inputs_of(unit)) for unit in units} == {frozenset(files)}


def test_every_unit_of_every_table_has_an_answer_and_a_quick_run_on_digits_needs_no_file() -> None:
    for table in (AdaptTable(), SplitTable(), ExitTable(), LoopTable()):
        asked = TableRequest(data=None, work=Path())
        assert all(isinstance(name, str) for unit in table.plan(asked) for name in table.inputs_of(unit))
    quick = ExitTable().plan(TableRequest(data=None, work=Path(), quick=True))
    assert [unit.name for unit in quick if ExitTable().inputs_of(unit)] == []
