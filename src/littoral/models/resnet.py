"""Residual networks: the CIFAR family (names as in the common checkpoints) and ResNet-18/50 (torchvision's names).

Source: He et al., CVPR 2016. The CIFAR family uses option A, a shortcut without parameters; ResNet-50 strides in the
3x3 convolution, as torchvision does.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from littoral.models.layers import conv1x1, conv3x3, global_average


class CifarBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut that drops every second pixel and pads channels with zeros."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, out_channels, stride)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = conv3x3(out_channels, out_channels)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.stride = stride
        self.pad = (out_channels - in_channels) // 2

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x_BCHW)))
        y = self.bn2(self.conv2(y))
        if self.stride != 1 or self.pad:
            x_BCHW = F.pad(x_BCHW[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad))
        return F.relu(y + x_BCHW)


class CifarResNet(nn.Module):
    """Three stages of 16, 32 and 64 channels for frames of about 32x32; 6n + 2 layers for n blocks a stage."""

    def __init__(self, *, blocks_per_stage: int, num_classes: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(3, 16)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _cifar_stage(16, 16, 1, blocks_per_stage)
        self.layer2 = _cifar_stage(16, 32, 2, blocks_per_stage)
        self.layer3 = _cifar_stage(32, 64, 2, blocks_per_stage)
        self.linear = nn.Linear(64, num_classes)
        _init_convolutions(self)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits ``(B, num_classes)`` of normalised frames ``(B, 3, H, W)``."""
        x = F.relu(self.bn1(self.conv1(x_BCHW)))
        logits: Tensor = self.linear(global_average(self.layer3(self.layer2(self.layer1(x)))))
        return logits


def _cifar_stage(in_channels: int, out_channels: int, stride: int, num_blocks: int) -> nn.Sequential:
    first = CifarBlock(in_channels, out_channels, stride)
    return nn.Sequential(first, *(CifarBlock(out_channels, out_channels, 1) for _ in range(num_blocks - 1)))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; the shortcut is a 1x1 convolution where the shape changes."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, channels, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.conv2 = conv3x3(channels, channels)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = _shortcut(in_channels, channels, stride)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x_BCHW)))
        y = self.bn2(self.conv2(y))
        shortcut = x_BCHW if self.downsample is None else self.downsample(x_BCHW)
        out: Tensor = self.relu(y + shortcut)
        return out


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride), 1x1; four times as many channels come out."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv1x1(in_channels, channels)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = conv3x3(channels, channels, stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = conv1x1(channels, channels * self.expansion)
        self.bn3 = nn.BatchNorm2d(channels * self.expansion)
        self.relu = nn.ReLU()
        self.downsample = _shortcut(in_channels, channels * self.expansion, stride)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x_BCHW)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        shortcut = x_BCHW if self.downsample is None else self.downsample(x_BCHW)
        out: Tensor = self.relu(y + shortcut)
        return out


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(conv1x1(in_channels, out_channels, stride), nn.BatchNorm2d(out_channels))


class ResNet(nn.Module):
    """The ImageNet family: a 7x7 stem that halves twice, four stages, global average, one linear layer."""

    def __init__(
        self, block: type[BasicBlock] | type[Bottleneck], *, blocks: tuple[int, int, int, int], num_classes: int
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        in_channels = 64
        for index, num_blocks in enumerate(blocks):
            channels = 64 * 2**index
            stage = [block(in_channels, channels, 1 if index == 0 else 2)]
            in_channels = channels * block.expansion
            stage += [block(in_channels, channels, 1) for _ in range(num_blocks - 1)]
            self.add_module(f"layer{index + 1}", nn.Sequential(*stage))
        self.fc = nn.Linear(in_channels, num_classes)
        _init_convolutions(self)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits ``(B, num_classes)`` of normalised frames ``(B, 3, H, W)``."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x_BCHW))))
        for index in range(1, 5):
            x = self.get_submodule(f"layer{index}")(x)
        logits: Tensor = self.fc(global_average(x))
        return logits


def _init_convolutions(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def resnet20(*, num_classes: int = 10) -> CifarResNet:
    """CIFAR ResNet-20: 0.27 million parameters."""
    return CifarResNet(blocks_per_stage=3, num_classes=num_classes)


def resnet56(*, num_classes: int = 10) -> CifarResNet:
    """CIFAR ResNet-56: 0.85 million parameters."""
    return CifarResNet(blocks_per_stage=9, num_classes=num_classes)


def resnet18(*, num_classes: int = 1000) -> ResNet:
    """ResNet-18: 11.7 million parameters at 1,000 classes."""
    return ResNet(BasicBlock, blocks=(2, 2, 2, 2), num_classes=num_classes)


def resnet50(*, num_classes: int = 1000) -> ResNet:
    """ResNet-50: 25.6 million parameters at 1,000 classes."""
    return ResNet(Bottleneck, blocks=(3, 4, 6, 3), num_classes=num_classes)
