"""A network is made again from a manifest's words, or it is said what does not fit."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the zoo needs the cloud extra")

from littoral.bundle import TorchModel  # noqa: E402
from littoral.errors import BundleError  # noqa: E402
from littoral.models import load_model, make_model  # noqa: E402
from littoral.models.zoo import small_cnn  # noqa: E402

SPEC = TorchModel(factory="littoral.models.zoo:small_cnn", kwargs={"width": 4}, file="cloud/student.safetensors")


def state(**kwargs):
    return {name: value.numpy() for name, value in small_cnn(**kwargs).state_dict().items()}


def test_a_network_is_made_again_with_the_given_values():
    torch.manual_seed(0)
    tensors = state(width=4)
    model = load_model(SPEC, tensors)
    assert not model.training
    assert all(np.array_equal(value.numpy(), tensors[name]) for name, value in model.state_dict().items())


def test_counters_of_batches_may_be_left_out_and_the_arrays_are_copied():
    tensors = {name: value for name, value in state(width=4).items() if not name.endswith("num_batches_tracked")}
    model = load_model(SPEC, tensors)
    before = tensors["head.bias"].copy()
    with torch.no_grad():
        model.head.bias += 1
    assert np.array_equal(tensors["head.bias"], before)


def without(name):
    tensors = state(width=4)
    del tensors[name]
    return tensors


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (without("head.bias"), "it lacks head.bias"),
        ({**state(width=4), "extra": np.zeros(1)}, "it also has extra"),
        (state(width=5), r"has '.*' of shape .*; give the keyword arguments that the weights were trained with"),
        (
            {f"module.{name}": value for name, value in state(width=4).items()},
            r"as DataParallel has them; .* model\.module",
        ),
    ],
    ids=["missing", "unknown", "shape", "parallel"],
)
def test_a_state_that_does_not_fit_is_refused(tensors, words):
    with pytest.raises(BundleError, match=words):
        load_model(SPEC, tensors)


@pytest.mark.parametrize(
    ("factory", "kwargs", "words"),
    [
        ("littoral.models.zoo", {}, "expected 'package.module:function'"),
        ("no_such_package_here:net", {}, "cannot be imported .*; install the package"),
        ("littoral.models.zoo:alexnet", {}, "has no 'alexnet'; is another version of it installed here"),
        ("littoral.models.zoo:smal_cnn", {}, "has no 'smal_cnn'; is it small_cnn"),
        ("littoral.models.zoo:small_cnn", {"wide": 3}, "does not take {'wide': 3}"),
        ("littoral.models.zoo:small_cnn", {"norm": "none"}, "norm is 'none'"),
        ("builtins:dict", {}, "returned dict, expected a torch.nn.Module"),
    ],
    ids=["no-colon", "no-package", "no-function", "near-function", "unknown-argument", "bad-argument", "no-module"],
)
def test_a_factory_that_fails_is_named(factory, kwargs, words):
    with pytest.raises(BundleError, match=words):
        make_model(factory, kwargs)


def test_the_factory_itself_in_place_of_its_name_is_refused() -> None:
    with pytest.raises(BundleError, match="the factory is function, expected a name"):
        make_model(make_model, {})  # type: ignore[arg-type]
