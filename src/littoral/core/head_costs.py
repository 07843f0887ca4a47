"""What personalising costs, counted and not measured: multiply-accumulates (MACs). A FLOP count is twice that.

The usual convention: a backward pass costs twice the forward one, so training through a network costs three times it.
"""

from __future__ import annotations

FLOPS_PER_MAC = 2


def head_macs(num_features: int, num_classes: int) -> int:
    """One answer of a linear head."""
    return num_features * num_classes


def observe_macs(num_features: int, num_classes: int) -> int:
    """Taking one frame into the sums: the triangle of ``x x^T``, ``x t^T``, and the shipped head's answer."""
    size = num_features + 1
    return size * (size + 1) // 2 + size * num_classes + head_macs(num_features, num_classes)


def solve_macs(num_features: int, num_classes: int) -> int:
    """One fit in closed form: Cholesky, two triangular solves, and a product with the sums; before that two products of
    the size of the sums for what is imagined of classes that never came."""
    size = num_features + 1
    return size**3 // 6 + 2 * size**2 * num_classes + 2 * num_features**2 * num_classes


def closed_form_macs(num_features: int, num_classes: int, *, num_frames: int, num_fits: int = 1) -> int:
    """Personalising a head in closed form; the features are there already, from answering."""
    return num_frames * observe_macs(num_features, num_classes) + num_fits * solve_macs(num_features, num_classes)


def recursive_macs(num_features: int, num_classes: int, *, num_frames: int) -> int:
    """The same by recursive least squares."""
    size = num_features + 1
    return num_frames * (3 * size**2 + 2 * size * num_classes)


def sgd_head_macs(num_features: int, num_classes: int, *, num_frames: int, num_epochs: int) -> int:
    """A linear head by SGD on features that are kept: answer, gradient, step."""
    return 3 * head_macs(num_features + 1, num_classes) * num_frames * num_epochs


def published_exits_macs(forward_macs: int, exit_macs: int, *, num_frames: int, num_epochs: int) -> int:
    """Exits on a frozen network as published: forward again in each epoch, and all exits trained through.

    Args:
        forward_macs: Of the network for one frame.
        exit_macs: Of all exits together for one frame, forward.
    """
    return (forward_macs + 3 * exit_macs) * num_frames * num_epochs


def full_fine_tuning_macs(forward_macs: int, *, num_frames: int, num_epochs: int) -> int:
    """The whole network trained: three times forward for each frame and epoch."""
    return 3 * forward_macs * num_frames * num_epochs
