"""Offline: a torch model and data become a bundle."""

from littoral.train.build import build_bundle
from littoral.train.export import ExportedModel, export_model
from littoral.train.fit import fit_classifier
from littoral.train.options import BuildOptions, TorchSource
from littoral.train.split import SplitSource
from littoral.train.tables import TableOptions

__all__ = [
    "BuildOptions",
    "ExportedModel",
    "SplitSource",
    "TableOptions",
    "TorchSource",
    "build_bundle",
    "export_model",
    "fit_classifier",
]
