"""The operations of a layer graph, each a module that is made from one node. Shapes: B batch, C channels, H, W.

A node is a mapping: ``op``, ``inputs``, ``output`` and what the operation asks for. `littoral.models.graph` runs them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812, RUF100

Node = Mapping[str, Any]

_LEAKY = "leaky_relu_"


def activation(name: str | None, num_channels: int) -> nn.Module | None:
    """The activation of a node: None, ``relu``, ``relu6``, ``silu``, ``sigmoid``, ``prelu`` or ``leaky_relu_<slope>``.

    Raises:
        ValueError: another one.
    """
    plain: dict[str, Callable[[], nn.Module]] = {
        "relu": nn.ReLU,
        "relu6": nn.ReLU6,
        "silu": nn.SiLU,
        "sigmoid": nn.Sigmoid,
    }
    if name is None:
        return None
    if name in plain:
        return plain[name]()
    if name == "prelu":
        return nn.PReLU(num_channels)
    if name.startswith(_LEAKY):
        return nn.LeakyReLU(float(name.removeprefix(_LEAKY)))
    raise ValueError(f"the activation {name!r} is not known; there are {', '.join(plain)}, prelu and {_LEAKY}<slope>")


class Convolution(nn.Module):
    """A convolution, then normalisation and activation where the node has them.

    ``padding`` "same" is TensorFlow's rule for inputs that the stride divides: ``kernel - stride`` in all, the smaller
    half before.
    """

    def __init__(self, node: Node) -> None:
        super().__init__()
        out_channels, per_group, *kernel = node["shape"]
        groups = int(out_channels if node.get("depthwise") else node.get("groups", 1))
        stride = _pair(node.get("stride", 1))
        dilation, padding = _pair(node.get("dilation", 1)), node.get("padding", 0)
        has_bias = node.get("bias") is not None
        self.pad: nn.Module | None = None
        around = (0, 0)
        if padding == "same":
            spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
            totals = [max(span - s, 0) for span, s in zip(spans, stride, strict=True)]
            if all(total % 2 == 0 for total in totals):
                around = (totals[0] // 2, totals[1] // 2)
            else:
                (top, left) = (total // 2 for total in totals)
                self.pad = nn.ZeroPad2d((left, totals[1] - left, top, totals[0] - top))
        elif padding != "valid":
            around = _pair(padding)
        self.conv = nn.Conv2d(
            *(per_group * groups, out_channels, tuple(kernel), stride, around, dilation, groups), bias=has_bias
        )
        self.bn = nn.BatchNorm2d(out_channels, eps=node.get("eps", 1e-5)) if node.get("batch_norm") else None
        self.act = activation(node.get("activation"), out_channels)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        if self.pad is not None:
            x_BCHW = self.pad(x_BCHW)
        y: Tensor = self.conv(x_BCHW)
        if self.bn is not None:
            y = self.bn(y)
        return y if self.act is None else self.act(y)


class Transposed(nn.Module):
    """A transposed convolution without padding, then normalisation and activation where the node has them."""

    def __init__(self, node: Node) -> None:
        super().__init__()
        in_channels, out_channels, *kernel = node["shape"]
        self.conv = nn.ConvTranspose2d(
            in_channels, out_channels, tuple(kernel), _pair(node["stride"]), bias=node.get("bias") is not None
        )
        self.bn = nn.BatchNorm2d(out_channels, eps=node.get("eps", 1e-5)) if node.get("batch_norm") else None
        self.act = activation(node.get("activation"), out_channels)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y: Tensor = self.conv(x_BCHW)
        if self.bn is not None:
            y = self.bn(y)
        return y if self.act is None else self.act(y)


class Normalised(nn.Module):
    """A BatchNorm layer, with an activation where the node has one."""

    def __init__(self, node: Node) -> None:
        super().__init__()
        (channels,) = node["shape"]
        self.bn = nn.BatchNorm2d(channels, eps=node.get("eps", 1e-5))
        self.act = activation(node.get("activation"), channels)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y: Tensor = self.bn(x_BCHW)
        return y if self.act is None else self.act(y)


class ChannelGate(nn.Module):
    """Each channel times a factor in (0, 1) that two linear layers make of all channels' means (CGNet's F_glo)."""

    def __init__(self, node: Node) -> None:
        super().__init__()
        hidden, channels = node["shape"]
        self.down = nn.Linear(channels, hidden)
        self.up = nn.Linear(hidden, channels)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        gate_BC = torch.sigmoid(self.up(torch.relu(self.down(x_BCHW.mean(dim=(2, 3))))))
        return x_BCHW * gate_BC[:, :, None, None]


class Dense(nn.Module):
    """A linear layer, with an activation where the node has one."""

    def __init__(self, node: Node) -> None:
        super().__init__()
        out_features, in_features = node["shape"]
        self.linear = nn.Linear(in_features, out_features, bias=node.get("bias") is not None)
        self.act = activation(node.get("activation"), out_features)

    def forward(self, x_BC: Tensor) -> Tensor:
        y: Tensor = self.linear(x_BC)
        return y if self.act is None else self.act(y)


class AnchorHead(nn.Module):
    """A Darknet head with anchors, brought to the form that `littoral.core.detections.decode_grid` reads.

    ``(B, N * (5 + K), H, W)`` of N anchors becomes ``(B, N * H * W, 5 + K)``, one grid after another, so that for
    ``decode_grid`` each anchor is a grid of its own with the same stride. A cell says ``(dx, dy, log w, log h,
    objectness, classes)`` in cells, the last 1 + K after the sigmoid.
    """

    log_anchors: Tensor

    def __init__(self, node: Node) -> None:
        super().__init__()
        cells = [[math.log(side / node["stride"]) for side in anchor] for anchor in node["anchors"]]
        self.register_buffer("log_anchors", torch.tensor(cells).view(1, -1, 2, 1, 1), persistent=False)
        self.num_anchors, self.scale = len(cells), float(node.get("scale_x_y", 1.0))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        batch, channels, height, width = x_BCHW.shape
        raw = x_BCHW.view(batch, self.num_anchors, channels // self.num_anchors, height, width)
        centre = torch.sigmoid(raw[:, :, :2]) * self.scale - (self.scale - 1) / 2
        size = raw[:, :, 2:4] + self.log_anchors
        cells = torch.cat([centre, size, torch.sigmoid(raw[:, :, 4:])], dim=2)
        return cells.flatten(3).transpose(2, 3).flatten(1, 2)


class Plain(nn.Module):
    """An operation without tensors of its own."""

    def __init__(self, node: Node) -> None:
        super().__init__()
        if node["op"] not in _PLAIN:
            raise ValueError(f"the operation {node['op']!r} is not known; there are {', '.join(sorted(known_ops()))}")
        self.run = _PLAIN[node["op"]](node)
        self.act = activation(node.get("activation"), 0)

    def forward(self, *inputs: Tensor) -> Tensor:
        y = self.run(*inputs)
        return y if self.act is None else self.act(y)


def _pool(node: Node) -> dict[str, Any]:
    kernel, stride, padding = _pair(node["kernel"]), _pair(node["stride"]), node.get("padding", 0)
    if padding == "same":
        if _pair(stride) != (1, 1) or any(side % 2 == 0 for side in kernel):
            raise ValueError("pooling with 'same' is known for odd kernels of stride 1 alone")
        padding = (kernel[0] // 2, kernel[1] // 2)
    return {"kernel_size": kernel, "stride": stride, "padding": 0 if padding == "valid" else padding}


def _max_pool(node: Node) -> Callable[[Tensor], Tensor]:
    settings = _pool(node)
    return lambda x: F.max_pool2d(x, **settings)


def _avg_pool(node: Node) -> Callable[[Tensor], Tensor]:
    settings = _pool(node)
    same = node.get("padding") == "same"
    return lambda x: F.avg_pool2d(x, **settings, count_include_pad=not same)


def _nearest(node: Node) -> Callable[[Tensor], Tensor]:
    factor = float(node["factor"])
    return lambda x: F.interpolate(x, scale_factor=factor, mode="nearest")


def _bilinear(node: Node) -> Callable[[Tensor], Tensor]:
    factor = float(node["factor"])
    return lambda x: F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)


def _focus(x: Tensor) -> Tensor:
    """Each 2 x 2 square to channels, as YOLOX's stem does: left column first."""
    top, bottom = x[:, :, 0::2], x[:, :, 1::2]
    return torch.cat([top[..., 0::2], bottom[..., 0::2], top[..., 1::2], bottom[..., 1::2]], dim=1)


def _sum(*inputs: Tensor) -> Tensor:
    total = inputs[0]
    for other in inputs[1:]:
        total = total + other
    return total


_PLAIN: dict[str, Callable[[Node], Callable[..., Tensor]]] = {
    "add": lambda _: _sum,
    "concat": lambda _: lambda *inputs: torch.cat(inputs, dim=1),
    "concat_last": lambda _: lambda *inputs: torch.cat(inputs, dim=-1),
    "silu": lambda _: F.silu,
    "relu": lambda _: F.relu,
    "sigmoid": lambda _: torch.sigmoid,
    "max_pool2d": _max_pool,
    "avg_pool2d": _avg_pool,
    "upsample_nearest": _nearest,
    "upsample_bilinear": _bilinear,
    "focus": lambda _: _focus,
    "first_channels": lambda node: lambda x: x[:, : int(node["count"])],
    "reverse_channels": lambda _: lambda x: x.flip(1),
    "flatten": lambda _: lambda x: x.flatten(1),
    "flatten_hw": lambda _: lambda x: x.flatten(2),
    "transpose_12": lambda _: lambda x: x.transpose(1, 2),
}

_WITH_TENSORS: dict[str, type[nn.Module]] = {
    "conv2d": Convolution,
    "conv_transpose2d": Transposed,
    "batch_norm": Normalised,
    "channel_gate": ChannelGate,
    "linear": Dense,
    "anchor_head": AnchorHead,
}


def known_ops() -> set[str]:
    """The operations that a node may name; ``identity`` gives another name to its input."""
    return {*_PLAIN, *_WITH_TENSORS, "identity"}


def make_op(node: Node) -> nn.Module:
    """The module of one node.

    Raises:
        ValueError: the operation or its activation is not known.
        KeyError: the node lacks what its operation asks for.
    """
    return _WITH_TENSORS.get(node["op"], Plain)(node)


def _pair(value: Any) -> tuple[int, int]:
    first, second = (value, value) if isinstance(value, int) else value
    return int(first), int(second)
