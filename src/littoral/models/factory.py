"""Rebuild a torch network from what a bundle says about it: a factory, its arguments and named tensors."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from littoral.bundle.manifest import TorchModel
from littoral.errors import BundleError

_SHOWN = 4
_PARALLEL = "module."


def make_model(factory: str, kwargs: Mapping[str, Any]) -> nn.Module:
    """Import ``package.module:factory`` and call it.

    Raises:
        BundleError: the name is malformed, cannot be imported, is not there, or the call fails or gives no module.
    """
    if not isinstance(factory, str):
        raise BundleError(
            f"the factory is {type(factory).__name__}, expected a name to be imported, 'package.module:function'"
        )
    module_name, _, attribute = factory.partition(":")
    if not module_name or not attribute:
        raise BundleError(f"the factory is {factory!r}, expected 'package.module:function'")
    try:
        function = getattr(importlib.import_module(module_name), attribute)
    except ImportError as error:
        raise BundleError(
            f"the factory {factory!r} cannot be imported ({error}); install the package that has it on this machine, "
            "or run 'littoral' in the folder of the module"
        ) from error
    except AttributeError as error:
        near = difflib.get_close_matches(attribute, dir(sys.modules.get(module_name)))
        hint = f"is it {' or '.join(near)}" if near else "is another version of it installed here"
        raise BundleError(f"{module_name!r} has no {attribute!r}; {hint}?") from error
    try:
        model = function(**kwargs)
    except (TypeError, ValueError) as error:
        raise BundleError(f"the factory {factory!r} does not take {dict(kwargs)}: {error}") from error
    if not isinstance(model, nn.Module):
        raise BundleError(f"the factory {factory!r} returned {type(model).__name__}, expected a torch.nn.Module")
    return model


def load_model(spec: TorchModel, tensors: Mapping[str, np.ndarray]) -> nn.Module:
    """The network of ``spec`` with the given state, in eval mode.

    Args:
        tensors: The whole state dict by name. ``num_batches_tracked`` may be left out.
    Raises:
        BundleError: the factory fails, or names or shapes differ from what it made.
    """
    model = make_model(spec.factory, spec.kwargs)
    expected = model.state_dict()
    if tensors and all(name.startswith(_PARALLEL) for name in tensors) and not set(tensors) & set(expected):
        raise BundleError(
            f"the state in {spec.file!r} does not fit the network of {spec.factory!r}: all its names begin with "
            f"{_PARALLEL!r}, as DataParallel has them; save the state dict of the network within, model.module"
        )
    needed = {name for name in expected if not name.endswith("num_batches_tracked")}
    if missing := sorted(needed - set(tensors)):
        raise BundleError(_mismatch(spec, f"lacks {_some(missing)}"))
    if unknown := sorted(set(tensors) - set(expected)):
        raise BundleError(_mismatch(spec, f"also has {_some(unknown)}"))
    for name, value in tensors.items():
        if tuple(value.shape) != tuple(expected[name].shape):
            raise BundleError(
                _mismatch(spec, f"has {name!r} of shape {tuple(value.shape)}, not {tuple(expected[name].shape)}")
            )
    state = {name: torch.from_numpy(np.array(value)) for name, value in tensors.items()}
    model.load_state_dict({**expected, **state}, strict=True)
    return model.eval()


def state_arrays(model: nn.Module) -> dict[str, np.ndarray]:
    """The state dict as arrays, for `load_model`; floating point as float32."""
    state = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    return {name: (v.float() if v.is_floating_point() else v).numpy() for name, v in state.items()}


def _mismatch(spec: TorchModel, how: str) -> str:
    return (
        f"the state in {spec.file!r} does not fit the network of {spec.factory!r} with {spec.kwargs}: it {how}; "
        "give the keyword arguments that the weights were trained with"
    )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
