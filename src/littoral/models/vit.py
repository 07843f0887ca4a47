"""Vision transformers (Dosovitskiy et al., ICLR 2021), with timm's state-dict names.

Shapes: B batch, N tokens, D embedding, C channels, H height, W width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_EPS = 1e-6


class PatchEmbed(nn.Module):
    """One convolution that turns each patch into a token."""

    def __init__(self, *, patch_size: int, channels: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BDN: Tensor = self.proj(x_BCHW).flatten(2)
        return x_BDN.transpose(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x_BND: Tensor) -> Tensor:
        num_tokens, dim = x_BND.shape[1:]
        heads = (-1, num_tokens, 3, self.num_heads, dim // self.num_heads)
        query, key, value = self.qkv(x_BND).reshape(heads).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.proj(y.transpose(1, 2).reshape(-1, num_tokens, dim))
        return out


class Mlp(nn.Module):
    """Two linear layers with GELU between them."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x_BND: Tensor) -> Tensor:
        out: Tensor = self.fc2(self.act(self.fc1(x_BND)))
        return out


class Block(nn.Module):
    """Attention and MLP, each after a LayerNorm and beside a shortcut."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=_EPS)
        self.attn = Attention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=_EPS)
        self.mlp = Mlp(dim, 4 * dim)

    def forward(self, x_BND: Tensor) -> Tensor:
        x = x_BND + self.attn(self.norm1(x_BND))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class VisionTransformer(nn.Module):
    """Patches, a class token, ``depth`` blocks, a last LayerNorm, one linear layer on the class token.

    Raises:
        ValueError: the image size is not a multiple of the patch size.
    """

    def __init__(
        self, *, dim: int, num_heads: int, depth: int, image_size: int, patch_size: int, channels: int, num_classes: int
    ) -> None:
        super().__init__()
        if image_size % patch_size:
            raise ValueError(f"image_size {image_size} is not a multiple of patch_size {patch_size}")
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.randn(1, (image_size // patch_size) ** 2 + 1, dim) * 0.02)
        self.patch_embed = PatchEmbed(patch_size=patch_size, channels=channels, dim=dim)
        self.blocks = nn.Sequential(*(Block(dim, num_heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim, eps=_EPS)
        self.head = nn.Linear(dim, num_classes)
        nn.init.normal_(self.cls_token, std=1e-6)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits ``(B, num_classes)`` of normalised frames ``(B, channels, image_size, image_size)``."""
        patches = self.patch_embed(x_BCHW)
        tokens = torch.cat([self.cls_token.expand(patches.shape[0], -1, -1), patches], dim=1) + self.pos_embed
        logits: Tensor = self.head(self.norm(self.blocks(tokens))[:, 0])
        return logits


def vit_tiny(
    *, num_classes: int = 1000, image_size: int = 224, patch_size: int = 16, channels: int = 3, depth: int = 12
) -> VisionTransformer:
    """ViT-tiny: 192 dimensions, 3 heads; 5.7 million parameters at 1,000 classes and 224x224."""
    return VisionTransformer(
        dim=192,
        num_heads=3,
        depth=depth,
        image_size=image_size,
        patch_size=patch_size,
        channels=channels,
        num_classes=num_classes,
    )


def vit_small(
    *, num_classes: int = 1000, image_size: int = 224, patch_size: int = 16, channels: int = 3, depth: int = 12
) -> VisionTransformer:
    """ViT-small: 384 dimensions, 6 heads; 22.1 million parameters at 1,000 classes and 224x224."""
    return VisionTransformer(
        dim=384,
        num_heads=6,
        depth=depth,
        image_size=image_size,
        patch_size=patch_size,
        channels=channels,
        num_classes=num_classes,
    )
