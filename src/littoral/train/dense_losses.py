"""What a split costs the two dense tasks, per frame: distance from the teacher and, where there are any, from labels.

Each is a function of outputs, the teacher's outputs and targets that gives float32 ``(B,)``, so that a rate per frame
can be added. Axes: B batch, K classes, C channels, H height, W width, A cells of a detector.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F  # noqa: N812, RUF100

_LEAST_ENERGY = 1e-12
_LEAST_SHARE = 0.01
_LEAST_CHANCE = 1e-6


def relative_errors(features: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> Tensor:
    """Squared errors of features, each channel's divided by the teacher's own variance, summed over layers.

    With the mean, an offset that all frames share would count as energy. A channel with less than a hundredth of the
    mean energy counts as if it had that, so that noise in a dead one is not the loss.

    Args:
        features: By layer, ``(B, C, H, W)``.
        teacher: Of at least the same layers; no gradient goes into it.
    Returns:
        ``(B,)``; 1 per layer where a frame's features say no more than the channel's means.
    Raises:
        ValueError: the teacher lacks a layer, or its shape differs.
    """
    total: Tensor | None = None
    for name, ours in features.items():
        theirs = teacher.get(name)
        if theirs is None or theirs.shape != ours.shape:
            came = "nothing" if theirs is None else tuple(theirs.shape)
            raise ValueError(f"the teacher has {came} for the layer {name!r} with {tuple(ours.shape)}")
        theirs = theirs.detach()
        energy_C = theirs.var(dim=(0, 2, 3), unbiased=False)
        energy_C = energy_C.maximum(_LEAST_SHARE * energy_C.mean()).clamp(min=_LEAST_ENERGY)
        error_B = ((ours - theirs).square().mean(dim=(2, 3)) / energy_C).mean(1)
        total = error_B if total is None else total + error_B
    if total is None:
        raise ValueError("no layer is compared; name one, or leave the features out of the loss")
    return total


@dataclass(frozen=True, kw_only=True)
class SegmentationDistortion:
    """`segmentation_distortion` with its weights, as the trainer takes it."""

    teacher_weight: float = 1.0
    label_weight: float = 0.5
    ignored_label: int = 255

    def __call__(self, outputs: Tensor, teacher_outputs: Tensor, targets: Tensor | None) -> Tensor:
        return segmentation_distortion(
            outputs,
            teacher_outputs,
            targets,
            teacher_weight=self.teacher_weight,
            label_weight=self.label_weight,
            ignored_label=self.ignored_label,
        )


def segmentation_distortion(
    scores_BKHW: Tensor,
    teacher_BKHW: Tensor,
    labels_BHW: Tensor | None,
    *,
    teacher_weight: float = 1.0,
    label_weight: float = 0.5,
    ignored_label: int = 255,
) -> Tensor:
    """Mean over the pixels of the divergence from the teacher, and of the cross entropy where there are labels.

    Args:
        scores_BKHW: Before softmax.
        teacher_BKHW: Likewise; no gradient goes into it.
        labels_BHW: Of the same size, or None; pixels of ``ignored_label`` count in the divergence alone.
    Returns:
        float32 ``(B,)`` in nats per pixel. A frame without a labelled pixel has no cross entropy.
    Raises:
        ValueError: the shapes do not go together.
    """
    if scores_BKHW.shape != teacher_BKHW.shape or (
        labels_BHW is not None and labels_BHW.shape != scores_BKHW.shape[:1] + scores_BKHW.shape[2:]
    ):
        given = None if labels_BHW is None else tuple(labels_BHW.shape)
        raise ValueError(
            f"scores {tuple(scores_BKHW.shape)}, the teacher's {tuple(teacher_BKHW.shape)} and labels {given} do not "
            "go together; bring them to one size"
        )
    logp = F.log_softmax(scores_BKHW, dim=1)
    teacher_logp = F.log_softmax(teacher_BKHW.detach(), dim=1)
    loss_B = teacher_weight * (teacher_logp.exp() * (teacher_logp - logp)).sum(1).mean(dim=(1, 2))
    if labels_BHW is not None and label_weight:
        labels = labels_BHW.long()
        entropy = F.nll_loss(logp, labels, ignore_index=ignored_label, reduction="none")
        known = (labels != ignored_label).sum(dim=(1, 2)).clamp(min=1)
        loss_B = loss_B + label_weight * entropy.sum(dim=(1, 2)) / known
    return loss_B


@dataclass(frozen=True, kw_only=True)
class DetectionDistortion:
    """`detection_distortion` with its weights, as the trainer takes it; targets are not looked at."""

    box_weight: float = 1.0
    class_weight: float = 1.0

    def __call__(self, outputs: Tensor, teacher_outputs: Tensor, targets: Tensor | None) -> Tensor:
        return detection_distortion(
            outputs, teacher_outputs, box_weight=self.box_weight, class_weight=self.class_weight
        )


def detection_distortion(
    outputs_BAC: Tensor, teacher_BAC: Tensor, *, box_weight: float = 1.0, class_weight: float = 1.0
) -> Tensor:
    """Distance of a YOLOX-style head ``(dx, dy, log w, log h, objectness, classes)`` from the teacher's, no labels.

    Objectness and classes are probabilities, compared by the divergence of two coins each. Boxes and classes count
    where the teacher sees an object: weighted by its objectness, and divided by the sum of these weights.

    Args:
        outputs_BAC: ``(B, A, 5 + K)``, the last 1 + K after the sigmoid.
        teacher_BAC: Likewise; no gradient goes into it.
    Returns:
        float32 ``(B,)``: objectness in nats per expected object (or per frame, where the teacher expects less than
        one), classes in nats, boxes as smooth absolute errors in cells and log cells.
    Raises:
        ValueError: the shapes differ or are no head's.
    """
    if outputs_BAC.shape != teacher_BAC.shape or outputs_BAC.ndim != 3 or outputs_BAC.shape[2] < 6:
        raise ValueError(
            f"a head gives (batch, cells, 5 + classes), got {tuple(outputs_BAC.shape)} and the teacher's "
            f"{tuple(teacher_BAC.shape)}"
        )
    teacher = teacher_BAC.detach()
    weight_BA = teacher[..., 4]
    expected_B = weight_BA.sum(1).clamp(min=1.0)
    objects_B = _coins(outputs_BAC[..., 4], teacher[..., 4]).sum(1) / expected_B
    classes_BA = _coins(outputs_BAC[..., 5:], teacher[..., 5:]).sum(2)
    boxes_BA = F.smooth_l1_loss(outputs_BAC[..., :4], teacher[..., :4], reduction="none", beta=0.1).sum(2)
    weighted_B = ((class_weight * classes_BA + box_weight * boxes_BA) * weight_BA).sum(1) / expected_B
    return objects_B + weighted_B


def _coins(ours: Tensor, teacher: Tensor) -> Tensor:
    """KL divergence in nats of the coin ``ours`` from the coin ``teacher``, each at least 1e-6 from certain."""
    p, q = (chance.clamp(_LEAST_CHANCE, 1 - _LEAST_CHANCE) for chance in (teacher, ours))
    divergence: Tensor = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    return divergence.clamp(min=0)
