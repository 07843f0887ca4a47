"""Littoral: vision models that keep right where they run.

The names below are the public face. Each is loaded when it is first used, so that `import littoral` costs nothing and a
device never loads what only the cloud needs.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from littoral.bundle import Bundle as Bundle
    from littoral.bundle import InputSpec as InputSpec
    from littoral.cloud.cloud import Cloud as Cloud
    from littoral.cloud.cloud import CloudConfig as CloudConfig
    from littoral.cloud.jobs import AdaptConfig as AdaptConfig
    from littoral.core.budget import BudgetConfig as BudgetConfig
    from littoral.core.drift import StatisticsConfig as StatisticsConfig
    from littoral.core.product import ProductConfig as ProductConfig
    from littoral.core.route_words import RouteConfig as RouteConfig
    from littoral.core.scenes import RecallConfig as RecallConfig
    from littoral.core.selection import SelectionConfig as SelectionConfig
    from littoral.edge.answer import Answer as Answer
    from littoral.edge.counters import DeviceStatus as DeviceStatus
    from littoral.edge.dense import DenseAnswer as DenseAnswer
    from littoral.edge.device import Device as Device
    from littoral.edge.device_config import DeviceConfig as DeviceConfig
    from littoral.edge.exit_config import ExitConfig as ExitConfig
    from littoral.edge.link import CloudLink as CloudLink
    from littoral.edge.link import LinkConfig as LinkConfig
    from littoral.edge.offload_config import OffloadConfig as OffloadConfig
    from littoral.errors import BundleError as BundleError
    from littoral.errors import FrameError as FrameError
    from littoral.errors import LinkError as LinkError
    from littoral.errors import LittoralError as LittoralError
    from littoral.errors import ModelOutputError as ModelOutputError
    from littoral.errors import PayloadError as PayloadError
    from littoral.errors import UpdateRejected as UpdateRejected
    from littoral.train.build import build_bundle as build_bundle
    from littoral.train.options import BuildOptions as BuildOptions
    from littoral.train.options import ExitSource as ExitSource
    from littoral.train.options import RouterSource as RouterSource
    from littoral.train.options import SplitSource as SplitSource
    from littoral.train.options import TorchSource as TorchSource

__version__ = "0.1.0"

_HOME = {
    "AdaptConfig": "littoral.cloud.jobs",
    "Answer": "littoral.edge.answer",
    "BudgetConfig": "littoral.core.budget",
    "BuildOptions": "littoral.train.options",
    "Bundle": "littoral.bundle",
    "BundleError": "littoral.errors",
    "Cloud": "littoral.cloud.cloud",
    "CloudConfig": "littoral.cloud.cloud",
    "CloudLink": "littoral.edge.link",
    "DenseAnswer": "littoral.edge.dense",
    "Device": "littoral.edge.device",
    "DeviceConfig": "littoral.edge.device_config",
    "DeviceStatus": "littoral.edge.counters",
    "ExitConfig": "littoral.edge.exit_config",
    "ExitSource": "littoral.train.options",
    "FrameError": "littoral.errors",
    "InputSpec": "littoral.bundle",
    "LinkConfig": "littoral.edge.link",
    "LinkError": "littoral.errors",
    "LittoralError": "littoral.errors",
    "ModelOutputError": "littoral.errors",
    "OffloadConfig": "littoral.edge.offload_config",
    "PayloadError": "littoral.errors",
    "ProductConfig": "littoral.core.product",
    "RecallConfig": "littoral.core.scenes",
    "RouteConfig": "littoral.core.route_words",
    "RouterSource": "littoral.train.options",
    "SelectionConfig": "littoral.core.selection",
    "SplitSource": "littoral.train.options",
    "StatisticsConfig": "littoral.core.drift",
    "TorchSource": "littoral.train.options",
    "UpdateRejected": "littoral.errors",
    "build_bundle": "littoral.train.build",
}
_EXTRA_OF = {"edge": "edge", "cloud": "cloud", "train": "cloud", "bundle": "edge"}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'littoral' has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(home), name)
    except ModuleNotFoundError as error:
        from littoral.errors import MissingExtra

        extra = _EXTRA_OF.get(home.split(".")[1])
        if extra is None or (error.name or "").startswith("littoral"):
            raise
        raise MissingExtra(
            f"'littoral.{name}' needs the package {error.name!r}; run: pip install 'littoral[{extra}]'"
        ) from error


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
