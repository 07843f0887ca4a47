"""A small convolutional classifier for frames of 16x16 to 32x32: the demo's student (narrow) and teacher (wide)."""

from __future__ import annotations

from torch import Tensor, nn

from littoral.models.layers import conv3x3, global_average, norm2d


class ConvNormReLU(nn.Module):
    """3x3 convolution, normalisation, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, norm: str) -> None:
        super().__init__()
        self.conv = conv3x3(in_channels, out_channels, stride)
        self.norm = norm2d(norm, out_channels)
        self.relu = nn.ReLU()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y: Tensor = self.relu(self.norm(self.conv(x_BCHW)))
        return y


class SmallCNN(nn.Module):
    """A stem, then ``depth`` stages of two convolutions; each stage halves the size and doubles the width."""

    def __init__(self, *, width: int, num_classes: int, channels: int, depth: int, norm: str) -> None:
        super().__init__()
        if min(width, num_classes, channels, depth) < 1:
            raise ValueError(
                f"width, num_classes, channels and depth must be at least 1, got {width}, {num_classes}, {channels}, "
                f"{depth}"
            )
        self.stem = ConvNormReLU(channels, width, stride=1, norm=norm)
        stages: list[nn.Module] = []
        for _ in range(depth):
            stages.append(ConvNormReLU(width, 2 * width, stride=2, norm=norm))
            stages.append(ConvNormReLU(2 * width, 2 * width, stride=1, norm=norm))
            width *= 2
        self.blocks = nn.Sequential(*stages)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits ``(B, num_classes)`` of normalised frames ``(B, channels, H, W)``."""
        logits: Tensor = self.head(global_average(self.blocks(self.stem(x_BCHW))))
        return logits


def small_cnn(
    *, width: int = 16, num_classes: int = 10, channels: int = 1, depth: int = 2, norm: str = "batch"
) -> SmallCNN:
    """A small CNN; ``norm`` is ``batch`` or ``group``. Width 16, depth 2: 70 thousand parameters."""
    return SmallCNN(width=width, num_classes=num_classes, channels=channels, depth=depth, norm=norm)
