"""CGNet and ESPNet as layer graphs for `littoral.models.graph`, with the tensor names of their authors' checkpoints.

Both take an RGB batch whose sides are multiples of 8 and give scores for every pixel of it.
Source: Wu et al., 2018 (CGNet, arXiv:1811.08201) and Mehta et al., ECCV 2018 (ESPNet, arXiv:1803.06815).
"""

from __future__ import annotations

from typing import Any

_EPS = 1e-3


class _Layers:
    """Collects the nodes of a graph; every method gives the name of what it adds."""

    def __init__(self, *, input: str = "image") -> None:
        self.nodes: list[dict[str, Any]] = []
        self.input = input

    def graph(self, output: str) -> dict[str, Any]:
        return {"input": self.input, "output": output, "nodes": self.nodes}

    def add(self, op: str, inputs: list[str], output: str, **more: Any) -> str:
        self.nodes.append({"op": op, "inputs": inputs, "output": output, **more})
        return output

    def conv(self, source: str, output: str, weight: str, **more: Any) -> str:
        return self.add("conv2d", [source], output, weight=f"{weight}.conv.weight", **more)

    def conv_bn_prelu(self, source: str, output: str, weight: str, **more: Any) -> str:
        return self.conv(source, output, weight, **_normalised(f"{weight}.bn", f"{weight}.act"), **more)

    def bn_prelu(self, source: str, output: str, norm: str, slope: str) -> str:
        return self.add("batch_norm", [source], output, **_normalised(norm, slope))

    def half(self, source: str, output: str) -> str:
        return self.add("avg_pool2d", [source], output, kernel=[3, 3], stride=[2, 2], padding=1)


def _normalised(norm: str, slope: str) -> dict[str, Any]:
    return {"batch_norm": norm, "eps": _EPS, "activation": "prelu", "slope": f"{slope}.weight"}


def cgnet_graph(*, blocks_2: int = 3, blocks_3: int = 21) -> dict[str, Any]:
    """CGNet with M = ``blocks_2`` and N = ``blocks_3``.

    The output of ``level3_0``, at an eighth of the frame's size, carries everything; so does that of ``level1_2``
    together with the frames. Widths and classes are those of the weights.
    """
    net = _Layers()
    for name, stride, source in (("level1_0", 2, net.input), ("level1_1", 1, "level1_0"), ("level1_2", 1, "level1_1")):
        net.conv_bn_prelu(source, name, name, stride=[stride, stride], padding=1)
    half = net.half(net.input, "half")
    quarter = net.half(half, "quarter")
    net.add("concat", ["level1_2", half], "joined_1")
    source = net.bn_prelu("joined_1", "b1", "b1.bn", "b1.act")
    first = _context_down(net, source, "level2_0", dilation=2)
    last = first
    for block in range(blocks_2 - 1):
        last = _context(net, last, f"level2_{block + 1}", f"level2.{block}", dilation=2)
    net.add("concat", [last, first, quarter], "joined_2")
    source = net.bn_prelu("joined_2", "bn_prelu_2", "bn_prelu_2.bn", "bn_prelu_2.act")
    first = _context_down(net, source, "level3_0", dilation=4)
    last = first
    for block in range(blocks_3 - 1):
        last = _context(net, last, f"level3_{block + 1}", f"level3.{block}", dilation=4)
    net.add("concat", [first, last], "joined_3")
    net.bn_prelu("joined_3", "bn_prelu_3", "bn_prelu_3.bn", "bn_prelu_3.act")
    net.conv("bn_prelu_3", "classifier", "classifier.0")
    return net.graph(net.add("upsample_bilinear", ["classifier"], "scores", factor=8))


def _context_down(net: _Layers, source: str, name: str, *, dilation: int) -> str:
    net.conv_bn_prelu(source, f"{name}.in", f"{name}.conv1x1", stride=[2, 2], padding=1)
    _local_and_surrounding(net, name, name, dilation)
    net.bn_prelu(f"{name}.both", f"{name}.norm", f"{name}.bn", f"{name}.act")
    net.conv(f"{name}.norm", f"{name}.reduce", f"{name}.reduce")
    return _gate(net, f"{name}.reduce", name, name)


def _context(net: _Layers, source: str, name: str, weights: str, *, dilation: int) -> str:
    net.conv_bn_prelu(source, f"{name}.in", f"{weights}.conv1x1")
    _local_and_surrounding(net, name, weights, dilation)
    net.bn_prelu(f"{name}.both", f"{name}.norm", f"{weights}.bn_prelu.bn", f"{weights}.bn_prelu.act")
    _gate(net, f"{name}.norm", f"{name}.gate", weights)
    return net.add("add", [source, f"{name}.gate"], name)


def _local_and_surrounding(net: _Layers, name: str, weights: str, dilation: int) -> None:
    wide = {"padding": dilation, "dilation": dilation}
    for part, how in (("F_loc", {"padding": 1}), ("F_sur", wide)):
        net.conv(f"{name}.in", f"{name}.{part}", f"{weights}.{part}", depthwise=True, **how)
    net.add("concat", [f"{name}.F_loc", f"{name}.F_sur"], f"{name}.both")


def _gate(net: _Layers, source: str, output: str, name: str) -> str:
    tensors = {
        "down": f"{name}.F_glo.fc.0.weight",
        "down_bias": f"{name}.F_glo.fc.0.bias",
        "up": f"{name}.F_glo.fc.2.weight",
        "up_bias": f"{name}.F_glo.fc.2.bias",
    }
    return net.add("channel_gate", [source], output, **tensors)


def espnet_graph(*, blocks_2: int = 2, blocks_3: int = 8) -> dict[str, Any]:
    """ESPNet with p = ``blocks_2`` and q = ``blocks_3``, with its decoder."""
    net = _Layers()
    image = net.add("reverse_channels", [net.input], "bgr")  # its weights were trained on BGR
    net.conv_bn_prelu(image, "level1", "encoder.level1", stride=[2, 2], padding=1)
    half = net.half(image, "half")
    quarter = net.half(half, "quarter")
    net.add("concat", ["level1", half], "joined_1")
    net.bn_prelu("joined_1", "b1", "encoder.b1.bn", "encoder.b1.act")
    first = _pyramid_down(net, "b1", "level2_0", "encoder.level2_0")
    last = first
    for block in range(blocks_2):
        last = _pyramid(net, last, f"level2_{block + 1}", f"encoder.level2.{block}", adds=True)
    net.add("concat", [last, first, quarter], "joined_2")
    net.bn_prelu("joined_2", "b2", "encoder.b2.bn", "encoder.b2.act")
    first = _pyramid_down(net, "b2", "level3_0", "encoder.level3_0")
    last = first
    for block in range(blocks_3):
        last = _pyramid(net, last, f"level3_{block + 1}", f"encoder.level3.{block}", adds=True)
    net.add("concat", [first, last], "joined_3")
    net.bn_prelu("joined_3", "b3", "encoder.b3.bn", "encoder.b3.act")
    net.conv("b3", "deep", "encoder.classifier")
    net.add("batch_norm", ["deep"], "deep_norm", batch_norm="br", eps=_EPS)
    net.add("conv_transpose2d", ["deep_norm"], "deep_up", weight="up_l3.0.weight", stride=[2, 2])
    net.conv("b2", "middle", "level3_C")
    net.add("concat", ["middle", "deep_up"], "joined_4")
    net.bn_prelu("joined_4", "combined_norm", "combine_l2_l3.0.bn", "combine_l2_l3.0.act")
    _pyramid(net, "combined_norm", "combined", "combine_l2_l3.1", adds=False)
    up = {"weight": "up_l2.0.weight", "stride": [2, 2], **_normalised("up_l2.1.bn", "up_l2.1.act")}
    net.add("conv_transpose2d", ["combined"], "combined_up", **up)
    net.add("concat", ["combined_up", "b1"], "joined_5")
    net.conv_bn_prelu("joined_5", "conv", "conv", padding=1)
    return net.graph(net.add("conv_transpose2d", ["conv"], "scores", weight="classifier.weight", stride=[2, 2]))


def _pyramid_down(net: _Layers, source: str, name: str, weights: str) -> str:
    net.conv(source, f"{name}.c1", f"{weights}.c1", stride=[2, 2], padding=1)
    both = _fused(net, name, weights)
    return net.bn_prelu(both, name, f"{weights}.bn", f"{weights}.act")


def _pyramid(net: _Layers, source: str, name: str, weights: str, *, adds: bool) -> str:
    net.conv(source, f"{name}.c1", f"{weights}.c1")
    both = _fused(net, name, weights)
    if adds:
        both = net.add("add", [source, both], f"{name}.sum")
    return net.bn_prelu(both, name, f"{weights}.bn.bn", f"{weights}.bn.act")


def _fused(net: _Layers, name: str, weights: str) -> str:
    """Five dilations of one source; each of the wider ones is added to the sum of those before it."""
    parts: list[str] = []
    for dilation in (1, 2, 4, 8, 16):
        how = {"padding": dilation, "dilation": dilation}
        part = net.conv(f"{name}.c1", f"{name}.d{dilation}", f"{weights}.d{dilation}", **how)
        if dilation > 2:
            part = net.add("add", [parts[-1], part], f"{name}.to{dilation}")
        parts.append(part)
    return net.add("concat", parts, f"{name}.both")
