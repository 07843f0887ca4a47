"""Offline: a torch model and data become a bundle."""

from littoral.train.build import build_bundle
from littoral.train.exit_heads import TrainedExits
from littoral.train.exits import ExitRecipe, train_exits
from littoral.train.export import ExportedModel, export_model
from littoral.train.fit import fit_classifier
from littoral.train.options import BuildOptions, ExitSource, RouterSource, SplitSource, TorchSource
from littoral.train.tables import TableOptions

__all__ = [
    "BuildOptions",
    "ExitRecipe",
    "ExitSource",
    "ExportedModel",
    "RouterSource",
    "SplitSource",
    "TableOptions",
    "TorchSource",
    "TrainedExits",
    "build_bundle",
    "export_model",
    "fit_classifier",
    "train_exits",
]
