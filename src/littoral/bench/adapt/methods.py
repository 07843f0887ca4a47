"""Methods by the name that the table uses, and the source files that each depends on."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from littoral.bench.adapt.plan import DEVICE, PRODUCT, UNGUARDED
from littoral.bench.adapt.row import Row
from littoral.bench.fingerprint import fingerprint
from littoral.bench.method import Method, MethodFactory, Setup

_OURS = "littoral.bench.adapt.product"
_BASELINES = "littoral.bench.baselines"
_SPECIAL = {"push_loss": "littoral.bench.adapt.special", "push_size": "littoral.bench.adapt.special"}
_OPTIONS: Mapping[str, Mapping[str, Any]] = {PRODUCT: {}, UNGUARDED: {"guarded": False}, DEVICE: {"cloud": "none"}}
_OF_STREAMS = {"hostile"}
"""Which device sends nonsense: nothing to a method whose devices send nothing."""
PLAYER = (
    "littoral.bench.adapt.play",
    "littoral.bench.adapt.material",
    "littoral.bench.adapt.orders",
    "littoral.models.zoo",  # reached by the factory's name
)


class UnknownMethod(ValueError):
    """There is no method of this name here."""


def factory_of(row: Row) -> MethodFactory:
    """What makes the row's method.

    Raises:
        UnknownMethod: nobody wrote it.
        ValueError: an option that it does not have.
    """
    if row.method in _OPTIONS:
        from littoral.bench.adapt.product import Product, ProductOptions

        options = ProductOptions.of({**_OPTIONS[row.method], **row.options})

        def make(setup: Setup) -> Method:
            return Product(setup, options)

        return make
    factory = _baselines().get(row.method)
    if factory is None:
        raise UnknownMethod(f"no method is called {row.method!r}; there are {sorted([*_OPTIONS, *_baselines()])}")
    if own := sorted(row.options.keys() - _OF_STREAMS):
        raise ValueError(f"{row.method} takes no options, got {own}")
    return factory


def fingerprint_of(row: Row) -> str:
    """Of the source files that the row's numbers come from."""
    return fingerprint(modules_of(row), without=modules_without(row))


def modules_of(row: Row) -> list[str]:
    """The modules that a row's numbers come from."""
    if row.method in _SPECIAL:
        return [_SPECIAL[row.method], *PLAYER]
    if row.method in _OPTIONS:
        return [_OURS, *PLAYER]
    return [_baselines()[row.method].__module__, *PLAYER]


def modules_without(row: Row) -> list[str]:
    """Modules that `modules_of` reach and that the numbers do not come from.

    How errors are named, or rows stamped, changes no number. How a bundle is built changes what our own devices do; a
    baseline takes the shape of a frame and the names of layers from it.
    """
    ours = row.method in _SPECIAL or row.method in _OPTIONS
    neither = ["littoral.errors", "littoral.bench.fingerprint"]
    return neither if ours else [*neither, "littoral.train.build"]


def _baselines() -> Mapping[str, MethodFactory]:
    found: Mapping[str, MethodFactory] = importlib.import_module(_BASELINES).BASELINES
    return found
