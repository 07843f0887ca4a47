"""MobileNetV2 (Sandler et al., CVPR 2018), with torchvision's state-dict names."""

from __future__ import annotations

from torch import Tensor, nn

from littoral.models.layers import global_average

# expansion, channels, blocks, stride of the first block
_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def _conv_bn_relu(in_channels: int, out_channels: int, *, kernel: int, stride: int = 1, groups: int = 1) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU6(),
    )


class InvertedResidual(nn.Module):
    """Expand by 1x1, filter each channel by 3x3, project by 1x1; a shortcut where the shape stays."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        layers = [] if expansion == 1 else [_conv_bn_relu(in_channels, hidden, kernel=1)]
        layers += [
            _conv_bn_relu(hidden, hidden, kernel=3, stride=stride, groups=hidden),
            nn.Conv2d(hidden, out_channels, kernel_size=1, bias=False),
            nn.BatchNorm2d(out_channels),
        ]
        self.conv = nn.Sequential(*layers)
        self.shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y: Tensor = self.conv(x_BCHW)
        return x_BCHW + y if self.shortcut else y


class MobileNetV2(nn.Module):
    """A stem, 17 inverted residuals, a 1x1 convolution to 1,280 channels, dropout and one linear layer."""

    def __init__(self, *, num_classes: int, dropout: float) -> None:
        super().__init__()
        layers = [_conv_bn_relu(3, 32, kernel=3, stride=2)]
        in_channels = 32
        for expansion, channels, num_blocks, first_stride in _STAGES:
            for index in range(num_blocks):
                stride = first_stride if index == 0 else 1
                layers.append(InvertedResidual(in_channels, channels, stride=stride, expansion=expansion))
                in_channels = channels
        layers.append(_conv_bn_relu(in_channels, 1280, kernel=1))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(1280, num_classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits ``(B, num_classes)`` of normalised frames ``(B, 3, H, W)``; H and W at least 32."""
        logits: Tensor = self.classifier(global_average(self.features(x_BCHW)))
        return logits


def mobilenet_v2(*, num_classes: int = 1000, dropout: float = 0.2) -> MobileNetV2:
    """MobileNetV2 at width 1: 3.5 million parameters at 1,000 classes."""
    return MobileNetV2(num_classes=num_classes, dropout=dropout)
