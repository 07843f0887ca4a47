"""A network cut in two is the same network, under the same names."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="the networks need the cloud extra")

from torch import nn  # noqa: E402

from littoral.models import zoo  # noqa: E402
from littoral.models.parts import head_of, tail_of  # noqa: E402


class Skipping(nn.Module):
    """The input goes around the first convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 3, 1)
        self.second = nn.Conv2d(3, 3, 1)
        self.unused = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return self.second(self.first(x) + x)


class Twice(nn.Module):
    """One layer that is run two times."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return self.layer(self.layer(x))


class Branching(nn.Module):
    """What is run depends on values."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return self.layer(x) if x.sum() > 0 else x


@pytest.mark.parametrize(
    ("make", "cut"),
    [
        (zoo.resnet20, "layer1"),
        (zoo.resnet20, "layer2.1"),
        (lambda: zoo.small_cnn(width=4, depth=3, channels=3), None),
    ],
    ids=["stage", "block", "small"],
)
def test_the_tail_of_the_head_is_the_network(make, cut):
    torch.manual_seed(0)
    model = make().eval()
    cut = cut or next(name for name, _ in model.named_children())
    frames = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(tail_of(model, cut)(head_of(model, cut)(frames)), model(frames))


def test_names_are_the_networks_and_each_is_in_one_part():
    model = zoo.resnet20()
    head, tail = set(head_of(model, "layer2").state_dict()), set(tail_of(model, "layer2").state_dict())
    assert head | tail == set(model.state_dict())
    assert not head & tail
    assert "layer3.2.bn2.running_mean" in tail


def test_parts_are_copies_in_the_mode_of_the_network():
    model = zoo.resnet20().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    tail = tail_of(model, "layer2")
    assert not any(module.training for module in tail.modules())
    tail.train()(torch.randn(2, 32, 8, 8)).sum()
    with torch.no_grad():
        for value in tail.parameters():
            value.zero_()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("make", "cut", "words"),
    [
        (zoo.resnet20, "layer9", "'layer9' is not a module of the network; its own are conv1, bn1"),
        (Skipping, "first", "does not carry all"),
        (Skipping, "unused", "run 0 times"),
        (Twice, "layer", "run 2 times"),
        (Branching, "layer", "must not branch on values"),
    ],
    ids=["unknown", "around", "never", "twice", "branch"],
)
def test_a_cut_that_is_none_is_refused(make, cut, words):
    with pytest.raises(ValueError, match=words):
        tail_of(make(), cut)


class Statement(nn.Module):
    """Works in place on a line of its own, whose result nobody takes."""

    def __init__(self, how, before):
        super().__init__()
        self.how, self.before = how, before
        self.first, self.second, self.act = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.ReLU(inplace=True)

    def change(self, z):
        if self.how == "method":
            z.relu_()
        elif self.how == "module":
            self.act(z)
        elif self.how == "function":
            nn.functional.relu(z, inplace=True)
        else:
            z.add_(1.0)

    def forward(self, x):
        z = self.first(x)
        if self.before:
            self.change(z)
        z = self.second(z)
        if not self.before:
            self.change(z)
        return z * 2


@pytest.mark.parametrize("before", [True, False], ids=["in-the-head", "in-the-tail"])
@pytest.mark.parametrize("how", ["method", "module", "function", "add"])
def test_what_works_in_place_on_a_line_of_its_own_is_in_its_part(how, before):
    torch.manual_seed(0)
    model = Statement(how, before).eval()
    frames = torch.randn(2, 3, 4, 4)
    with torch.no_grad():
        assert torch.equal(tail_of(model, "second")(head_of(model, "second")(frames)), model(frames))
        assert not torch.equal(model.second(model.first(frames)) * 2, model(frames)), "the control: it does something"


def test_a_network_that_asks_for_a_length_is_refused_in_words():
    class Asks(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(3, 3, 1)

        def forward(self, x):
            return self.layer(x) / len(x)

    with pytest.raises(ValueError, match=r"cannot be cut at 'layer', since torch.fx cannot trace it"):
        head_of(Asks(), "layer")
