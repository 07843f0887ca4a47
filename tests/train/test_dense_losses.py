"""What the dense tasks lose: nothing where the student says what the teacher says, and each frame its own."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="training needs the cloud extra")

from littoral.train.dense_losses import (  # noqa: E402
    DetectionDistortion,
    SegmentationDistortion,
    detection_distortion,
    relative_errors,
    segmentation_distortion,
)


def head(batch: int = 2, cells: int = 3, classes: int = 2) -> torch.Tensor:
    torch.manual_seed(0)
    raw = torch.randn(batch, cells, 5 + classes)
    return torch.cat([raw[..., :4], torch.sigmoid(raw[..., 4:])], dim=2)


def test_segmentation_loses_nothing_against_itself_and_the_entropy_against_labels() -> None:
    scores = torch.randn(2, 3, 4, 5)
    labels = scores.argmax(1)
    assert segmentation_distortion(scores, scores, None).tolist() == pytest.approx([0, 0], abs=1e-6)
    wanted = torch.nn.functional.cross_entropy(scores, labels, reduction="none").mean((1, 2))
    found = segmentation_distortion(scores, scores, labels, label_weight=2.0)
    torch.testing.assert_close(found, 2 * wanted)


def test_segmentation_is_the_divergence_of_the_definition() -> None:
    ours, teacher = torch.tensor([0.25, 0.75]), torch.tensor([0.5, 0.5])
    wanted = float((teacher * (teacher / ours).log()).sum())
    shaped = [each.log().view(1, 2, 1, 1) for each in (ours, teacher)]
    assert segmentation_distortion(*shaped, None).item() == pytest.approx(wanted, rel=1e-5)


def test_void_pixels_count_against_the_teacher_alone() -> None:
    scores, teacher = torch.randn(1, 3, 2, 2), torch.randn(1, 3, 2, 2)
    labels = torch.tensor([[[0, 9], [9, 9]]])
    part = segmentation_distortion(scores, teacher, labels, ignored_label=9, teacher_weight=0, label_weight=1)
    assert part.item() == pytest.approx(-scores.log_softmax(1)[0, 0, 0, 0].item(), rel=1e-5)
    nothing = segmentation_distortion(scores, teacher, torch.full_like(labels, 9), ignored_label=9)
    torch.testing.assert_close(nothing, segmentation_distortion(scores, teacher, None))


def test_every_frame_has_its_own_value_and_the_teacher_gets_no_gradient() -> None:
    frame, other = head()[:1], head()[1:] * 0.9
    teacher = head().requires_grad_()
    together = detection_distortion(torch.cat([frame, other]), teacher)
    assert together.shape == (2,)
    torch.testing.assert_close(together[:1], detection_distortion(frame, teacher[:1]))
    assert together[0] < 1e-5 < together[1]
    scores, target = torch.randn(2, 3, 2, 2, requires_grad=True), torch.randn(2, 3, 2, 2, requires_grad=True)
    segmentation_distortion(scores, target, None).sum().backward()
    relative_errors({"a": scores}, {"a": target}).sum().backward()
    ours = head().requires_grad_()
    detection_distortion(0.9 * ours, teacher).sum().backward()
    assert ours.grad is not None
    assert target.grad is None
    assert teacher.grad is None
    assert scores.grad is not None


def test_a_box_counts_by_how_sure_the_teacher_is_of_an_object() -> None:
    teacher = head(1)
    teacher[0, :, 4] = torch.tensor([0.9, 0.1, 0.0])
    lost = []
    for cell in range(3):
        ours = teacher.clone()
        ours[0, cell, 0] += 2.0
        lost.append(detection_distortion(ours, teacher).item())
    assert lost[0] == pytest.approx(9 * lost[1], rel=1e-4)
    assert lost[2] == pytest.approx(0, abs=1e-6)


def test_missed_objects_and_invented_ones_cost_and_certainty_is_finite() -> None:
    teacher = head(1)
    teacher[0, :, 4] = torch.tensor([1.0, 0.0, 0.0])
    missed, invented = teacher.clone(), teacher.clone()
    missed[0, 0, 4], invented[0, 1, 4] = 0.0, 1.0
    for ours in (missed, invented):
        value = detection_distortion(ours, teacher).item()
        assert 10 < value < 20
    assert detection_distortion(teacher, teacher).item() == pytest.approx(0, abs=1e-5)


def test_relative_errors_are_one_for_the_mean_and_blind_to_scale() -> None:
    teacher = torch.randn(4, 3, 8, 8) * torch.tensor([1.0, 10.0, 0.1]).view(1, 3, 1, 1) + 5
    mean = teacher.mean((0, 2, 3), keepdim=True).expand_as(teacher)
    assert relative_errors({"a": mean}, {"a": teacher}).mean().item() == pytest.approx(1, abs=0.35)
    noisy = teacher + 0.01 * torch.randn_like(teacher)
    small = relative_errors({"a": noisy}, {"a": teacher})
    torch.testing.assert_close(relative_errors({"a": 100 * noisy}, {"a": 100 * teacher}), small, rtol=1e-3, atol=0)
    # A channel that hardly moves does not drown the others.
    dead = teacher.clone()
    dead[:, 2] = 5.0
    assert relative_errors({"a": dead + 0.001}, {"a": dead}).max() < 1e-3


def test_what_does_not_go_together_is_refused() -> None:
    scores = torch.zeros(1, 3, 2, 2)
    with pytest.raises(ValueError, match="bring them to one size"):
        segmentation_distortion(scores, torch.zeros(1, 3, 4, 4), None)
    with pytest.raises(ValueError, match="bring them to one size"):
        segmentation_distortion(scores, scores, torch.zeros(1, 4, 4, dtype=torch.long))
    with pytest.raises(ValueError, match="a head gives"):
        detection_distortion(torch.zeros(1, 3, 7), torch.zeros(1, 4, 7))
    with pytest.raises(ValueError, match="has nothing for the layer 'a'"):
        relative_errors({"a": scores}, {})
    with pytest.raises(ValueError, match="no layer is compared"):
        relative_errors({}, {})


def test_the_trainers_form_is_the_function_with_its_weights() -> None:
    ours, teacher = torch.randn(2, 3, 2, 2), torch.randn(2, 3, 2, 2)
    labels = torch.zeros(2, 2, 2, dtype=torch.long)
    found = SegmentationDistortion(teacher_weight=2.0, label_weight=0.0)(ours, teacher, labels)
    torch.testing.assert_close(found, 2 * segmentation_distortion(ours, teacher, None))
    boxes = DetectionDistortion(box_weight=0.0, class_weight=0.0)
    moved = head()
    moved[..., :4] += 1
    assert boxes(moved, head(), None).tolist() == pytest.approx([0, 0], abs=1e-5)
