"""The losses against numbers worked by hand with NumPy in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from littoral.cloud.teacher import certainty_weights, entropy, student_loss, teacher_loss

STUDENT = [[2.0, 0.0, -1.0], [0.1, 0.2, 0.3], [5.0, 5.0, -9.0], [0.0, 0.0, 0.0]]
TEACHER = [[1.0, 1.5, -2.0], [0.0, 0.0, 4.0], [-1.0, 3.0, 0.0], [30.0, 0.0, -30.0]]


def by_hand(student: list[list[float]], teacher: list[list[float]], mean_one: bool) -> dict[str, float]:
    def log_softmax(rows: np.ndarray) -> np.ndarray:
        return np.asarray(rows - np.log(np.exp(rows).sum(1, keepdims=True)))

    z, t = log_softmax(np.array(student)), log_softmax(np.array(teacher))
    h_z, h_t = -(np.exp(z) * z).sum(1), -(np.exp(t) * t).sum(1)
    w_z, w_t = (np.exp(0.4 * np.log(z.shape[1]) - h) for h in (h_z, h_t))
    if mean_one:
        w_z, w_t = w_z / w_z.mean(), w_t / w_t.mean()
    labels = np.array(teacher).argmax(1)
    return {
        "teacher": float((w_t * h_t).mean()),
        "entropy": float((w_z * h_z).mean()),
        "distillation": float((w_t * (np.exp(t) * (t - z)).sum(1)).mean()),
        "label": float((w_t * -z[np.arange(len(z)), labels]).mean()),
    }


@pytest.mark.parametrize("mean_one", [True, False], ids=["mean-one", "as-published"])
@pytest.mark.parametrize("part", ["entropy", "distillation", "label"])
def test_each_part_of_the_students_loss_is_the_one_by_hand(part: str, mean_one: bool) -> None:
    weights = {f"{name}_weight": float(name == part) for name in ("entropy", "distillation", "label")}
    loss = student_loss(torch.tensor(STUDENT), torch.tensor(TEACHER), mean_one=mean_one, **weights)
    assert float(loss) == pytest.approx(by_hand(STUDENT, TEACHER, mean_one)[part], rel=1e-5)


def test_the_students_loss_is_the_weighted_sum_of_its_parts() -> None:
    parts = by_hand(STUDENT, TEACHER, False)
    loss = student_loss(
        torch.tensor(STUDENT),
        torch.tensor(TEACHER),
        entropy_weight=3.0,
        distillation_weight=2.0,
        label_weight=0.5,
        mean_one=False,
    )
    assert float(loss) == pytest.approx(3 * parts["entropy"] + 2 * parts["distillation"] + parts["label"] / 2, rel=1e-5)


@pytest.mark.parametrize("mean_one", [True, False], ids=["mean-one", "as-published"])
def test_the_teachers_loss_is_the_one_by_hand(mean_one: bool) -> None:
    came = float(teacher_loss(torch.tensor(TEACHER), mean_one=mean_one))
    assert came == pytest.approx(by_hand(STUDENT, TEACHER, mean_one)["teacher"], rel=1e-5)


@pytest.mark.parametrize(("num_classes", "weight"), [(10, 2.512), (200, 8.326), (1000, 15.849)])
def test_a_sure_answer_weighs_more_the_more_classes_unless_weights_have_mean_one(
    num_classes: int, weight: float
) -> None:
    sure = torch.zeros(4)
    assert certainty_weights(sure, num_classes, mean_one=False).tolist() == pytest.approx([weight] * 4, rel=1e-3)
    assert certainty_weights(sure, num_classes, mean_one=True).tolist() == pytest.approx([1.0] * 4)


def test_a_student_that_answers_as_the_teacher_has_nothing_to_learn_from_it() -> None:
    same = torch.tensor(TEACHER, requires_grad=True)
    loss = student_loss(
        same, torch.tensor(TEACHER), entropy_weight=0.0, distillation_weight=1.0, label_weight=0.0, mean_one=True
    )
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0, abs=1e-6)
    assert same.grad is not None
    torch.testing.assert_close(same.grad, torch.zeros_like(same), rtol=0, atol=1e-6)


def test_the_weights_carry_no_gradient() -> None:
    nats = torch.tensor([0.1, 1.0], requires_grad=True)
    assert not certainty_weights(nats, 10, mean_one=True).requires_grad


def test_scores_that_are_far_apart_give_no_nan() -> None:
    far = torch.tensor([[1e4, 0.0, -1e4]], requires_grad=True)
    loss = teacher_loss(far, mean_one=False)
    loss.backward()
    assert float(entropy(far).detach()) == 0.0
    assert far.grad is not None
    assert torch.isfinite(far.grad).all()


@pytest.mark.parametrize("num_classes", [2, 10, 1000])
def test_entropy_of_a_blank_answer_is_ln_k(num_classes: int) -> None:
    assert float(entropy(torch.zeros(1, num_classes))) == pytest.approx(math.log(num_classes), rel=1e-5)
