"""Is this one of the frames that the device gets wrong and the cloud right? A small calibrated predictor.

At each point where a frame may be answered there are two logistic regressions on what is known there for nothing: one
says how likely the cloud's answer `helps` (device wrong, cloud right), one how likely it `harms` (the other way about).
Their difference is the accuracy that an offload gains. They are fitted at build from the network's own outputs, and
fitted anew on the device from answers that come back.

What comes back is no fair sample: frames are offloaded *because* the device was unsure. So a share of all frames is
asked for whatever the router thinks (an audit), every frame is kept with the chance that it had of being asked for, and
counts one over that chance.

Axes: N frames, F features and one constant, P points.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from littoral.core.arrays import Float64s, Indices
from littoral.errors import SwitcherStateError

NUM_FEATURES = 4
"""Log-odds of the confidence, margin, entropy as a share of ln K, share of the earlier exits that agree."""
_MOST_LOG_ODDS = 6.0
_OUTCOMES = 2
_LEAST_PART = 0.01
_MAGIC, _FORMAT, _DIGEST_BYTES = b"LSWITC", 1, 32
_HEADER = struct.Struct("<6sH32sHIIII")
"""Magic, format, digest of what was shipped, points, capacity, examples, the next place, refits."""
_NEWTON_STEPS, _TOLERANCE = 30, 1e-9


def switch_features(probabilities_K: Float64s, answers: Sequence[int] = (), *, unasked: int = 0) -> Float64s:
    """What the switcher looks at: ``(F,)``, finite.

    Args:
        probabilities_K: Of the exit at this point (the deepest, where the whole network has run).
        answers: The labels that earlier exits gave for this frame.
        unasked: So many more earlier exits were not asked. Each is taken to agree as likely as this answer is right.
    """
    two = np.partition(probabilities_K, -2)[-2:]
    top = float(two[1])
    entropy = -float(sum(p * math.log(p) for p in probabilities_K.tolist() if p > 0)) / math.log(len(probabilities_K))
    label = int(probabilities_K.argmax())
    agree, count = sum(answer == label for answer in answers) + unasked * top, len(answers) + unasked
    agreement = agree / count if count else 0.5
    return np.array([log_odds(top), top - float(two[0]), entropy, agreement])


def all_switch_features(probabilities_NPK: Float64s) -> Float64s:
    """`switch_features` of many frames at all points, ``(N, P, F)``, for a build."""
    n, points, num_classes = probabilities_NPK.shape
    two = np.partition(probabilities_NPK, -2, axis=2)[..., -2:]
    logs = np.log(np.where(probabilities_NPK > 0, probabilities_NPK, 1))
    entropy = -(probabilities_NPK * logs).sum(axis=2) / math.log(num_classes)
    answers = probabilities_NPK.argmax(axis=2)
    agreement = np.full((n, points), 0.5)
    for point in range(1, points):
        agreement[:, point] = (answers[:, :point] == answers[:, point, None]).mean(axis=1)
    least = 1 / (1 + math.exp(_MOST_LOG_ODDS))
    held = np.clip(two[..., 1], least, 1 - least)
    return np.stack([np.log(held / (1 - held)), two[..., 1] - two[..., 0], entropy, agreement], axis=2)


def log_odds(share: float) -> float:
    """``ln(p / (1 - p))``, held within 6 either way."""
    least = 1 / (1 + math.exp(_MOST_LOG_ODDS))
    held = min(max(share, least), 1 - least)
    return math.log(held / (1 - held))


def switch_score(gain: float) -> float:
    """Where a frame lies on `littoral.core.route_plan.ErrorCurves` made with a switcher: the less gain, the higher.

    A refit moves frames between the bins, and the bins keep their meaning.
    """
    return 1 - gain


def fit_logistic(
    x_NF: Float64s,
    y_N: Float64s,
    weights_N: Float64s,
    *,
    mean_F: Float64s,
    precision_FF: Float64s,
) -> tuple[Float64s, Float64s]:
    """Logistic regression drawn towards a Gaussian prior, by Newton's method (iteratively reweighted least squares).

    Args:
        x_NF: With a column of ones.
        y_N: 0 or 1.
        weights_N: How many frames each stands for.
        mean_F, precision_FF: The prior; the precision positive definite, so that there is one maximum.
    Returns:
        The coefficients, and the curvature of the negative log posterior there.
    """
    beta = mean_F.copy()

    def objective(at_F: Float64s) -> float:
        z = x_NF @ at_F
        gone = at_F - mean_F
        return float((weights_N * (np.logaddexp(0, z) - y_N * z)).sum() + gone @ precision_FF @ gone / 2)

    now = objective(beta)
    hessian = precision_FF
    for _ in range(_NEWTON_STEPS):
        p = _sigmoid(x_NF @ beta)
        gradient = x_NF.T @ (weights_N * (p - y_N)) + precision_FF @ (beta - mean_F)
        hessian = (x_NF * (weights_N * p * (1 - p))[:, None]).T @ x_NF + precision_FF
        step, size = np.linalg.solve(hessian, gradient), 1.0
        while (reached := objective(beta - size * step)) > now and size > 1e-4:
            size /= 2
        if reached > now:
            break
        beta, moved, now = beta - size * step, now - reached, reached
        if moved < _TOLERANCE * max(1.0, abs(now)):
            break
    return beta, hessian


@dataclass(frozen=True, kw_only=True)
class SwitcherConfig:
    """How a device's own answers move the switcher."""

    capacity: int = 512
    """Examples that are remembered; the oldest gives way."""
    prior_frames: float = 300.0
    """The build's frames count for at most so many of the device's."""
    most_weight: float = 100.0
    """The most frames that one example stands for: no audit share below a hundredth is made up for wholly."""
    ridge: float = 1.0
    """Precision of the build's own prior around 0, the constant excepted."""
    importance: bool = True
    """False takes examples as they come: the negative control, whose predictions are of offloaded frames only."""

    def __post_init__(self) -> None:
        if self.capacity < 1 or not (self.prior_frames > 0 and self.most_weight >= 1 and self.ridge > 0):
            raise ValueError(
                "a switcher needs capacity >= 1, prior_frames > 0, most_weight >= 1 and ridge > 0, got "
                f"{self.capacity}, {self.prior_frames}, {self.most_weight} and {self.ridge}"
            )


@dataclass(frozen=True, kw_only=True)
class ShippedSwitcher:
    """What a build fits: ``coefficients (P, 2, F + 1)`` and their ``precision (P, 2, F + 1, F + 1)`` in frames."""

    coefficients: Float64s
    precision: Float64s

    def __post_init__(self) -> None:
        points, size = len(self.coefficients), NUM_FEATURES + 1
        wanted = (points, _OUTCOMES, size), (points, _OUTCOMES, size, size)
        if points < 1 or (self.coefficients.shape, self.precision.shape) != wanted:
            raise ValueError(f"expected shapes {wanted}, got {self.coefficients.shape} and {self.precision.shape}")
        if not (np.isfinite(self.coefficients).all() and np.isfinite(self.precision).all()):
            raise ValueError("a coefficient of the switcher is not finite; fit it again")

    def digest(self) -> bytes:
        """The SHA-256 of the values."""
        return hashlib.sha256(
            b"littoral/switcher/1\0"
            + self.coefficients.astype("<f8").tobytes()
            + self.precision.astype("<f8").tobytes()
        ).digest()


def fit_switcher(
    features_NPF: Float64s,
    device_right_NP: Float64s,
    cloud_right_N: Float64s,
    *,
    config: SwitcherConfig | None = None,
) -> ShippedSwitcher:
    """Fit at build, on frames on which the network was not trained.

    Args:
        features_NPF: `switch_features` of each frame at each point.
        device_right_NP: 1 where the device's answer at the point is right, else 0.
        cloud_right_N: The same of the cloud's. Without labels the cloud's answer counts as right, and nothing harms.
    Raises:
        ValueError: shapes that do not fit, no frame, or a feature that is not finite.
    """
    config = config or SwitcherConfig()
    n, points = device_right_NP.shape
    if n == 0 or features_NPF.shape != (n, points, NUM_FEATURES) or cloud_right_N.shape != (n,):
        raise ValueError(
            f"expected features (N, P, {NUM_FEATURES}), (N, P) and (N,) of at least 1 frame, got {features_NPF.shape}, "
            f"{device_right_NP.shape} and {cloud_right_N.shape}"
        )
    if not np.isfinite(features_NPF).all():
        raise ValueError("a feature is not finite; fit the switcher without such frames")
    size = NUM_FEATURES + 1
    flat = np.diag([config.ridge] * NUM_FEATURES + [1e-3])
    coefficients, precision = np.zeros((points, _OUTCOMES, size)), np.zeros((points, _OUTCOMES, size, size))
    counted = min(1.0, config.prior_frames / n)
    for point in range(points):
        x_NF = _with_one(features_NPF[:, point])
        for outcome, y_N in enumerate(_outcomes(device_right_NP[:, point], cloud_right_N)):
            beta, hessian = fit_logistic(x_NF, y_N, np.ones(n), mean_F=np.zeros(size), precision_FF=flat)
            coefficients[point, outcome], precision[point, outcome] = beta, (hessian - flat) * counted + flat
    return ShippedSwitcher(coefficients=coefficients, precision=precision)


class Switcher:
    """The switcher of one device: starts as shipped, learns from what the cloud answers. Bounded memory, no clock."""

    def __init__(self, shipped: ShippedSwitcher, config: SwitcherConfig | None = None) -> None:
        self.shipped, self.config = shipped, config or SwitcherConfig()
        self.coefficients = shipped.coefficients.copy()
        self.size = self.next = self.num_refits = 0
        capacity = self.config.capacity
        self._points = np.zeros(capacity, dtype=np.uint16)
        self._features = np.zeros((capacity, NUM_FEATURES), dtype=np.float32)
        self._outcome = np.zeros(capacity, dtype=np.uint8)
        self._weights = np.zeros(capacity, dtype=np.float32)

    @property
    def num_points(self) -> int:
        return len(self.shipped.coefficients)

    def chances(self, point: int, features_F: Float64s) -> tuple[float, float]:
        """How likely the cloud's answer helps, and harms; 0 and 0 where a feature is not finite."""
        return _chances(self.coefficients[point], features_F)

    def gain(self, point: int, features_F: Float64s) -> float:
        """By how much an offload makes a right answer more likely, -1 to 1."""
        helps, harms = self.chances(point, features_F)
        return helps - harms

    def scores(self, features_NPF: Float64s) -> Float64s:
        """`switch_score` of many frames at all points, ``(N, P)``: what curves are fitted on."""
        x = np.concatenate([features_NPF, np.ones((*features_NPF.shape[:2], 1))], axis=2)
        helps_harms = _sigmoid(np.einsum("npf,pof->npo", x, self.coefficients))
        scores: Float64s = 1 - helps_harms[..., 0] + helps_harms[..., 1]
        return scores

    def observe(
        self, point: int, features_F: Float64s, *, device_right: bool, cloud_right: bool, propensity: float
    ) -> None:
        """Remember a frame for which both answers are known; `refit` learns from it.

        Args:
            device_right, cloud_right: Against a label; without one the cloud's answer counts as right.
            propensity: The chance that this frame had of being asked for (`littoral.core.routing.Decision`).
        Raises:
            ValueError: a propensity outside (0, 1], a feature that is not finite, or no such point.
        """
        self._remember(
            point, features_F, 0 if device_right == cloud_right else 1 if cloud_right else 2, 1.0, propensity
        )

    def observe_unlabelled(self, point: int, features_F: Float64s, *, agrees: bool, propensity: float) -> None:
        """The same without a label: where the two agree nothing is gained, where they do not one of them is wrong.

        Which one is as likely as the shipped switcher has it: a device without labels learns from the cloud how often
        they differ, and cannot learn who is right then.
        """
        if agrees:
            return self._remember(point, features_F, 0, 1.0, propensity)
        helps, harms = _chances(self.shipped.coefficients[point], features_F)
        share = helps / max(helps + harms, 1e-9)
        for outcome, part in ((1, share), (2, 1 - share)):
            if part > _LEAST_PART:
                self._remember(point, features_F, outcome, part, propensity)

    def _remember(self, point: int, features_F: Float64s, outcome: int, part: float, propensity: float) -> None:
        if not 0 < propensity <= 1:
            raise ValueError(f"a frame that was asked for had a chance in (0, 1], got {propensity}")
        if not 0 <= point < self.num_points or not np.isfinite(features_F).all():
            raise ValueError(f"expected finite features at a point below {self.num_points}, got point {point}")
        i = self.next
        self._points[i], self._features[i] = point, features_F
        self._outcome[i] = outcome
        stands_for = min(1 / propensity, self.config.most_weight) if self.config.importance else 1.0
        self._weights[i] = part * stands_for
        self.next, self.size = (i + 1) % self.config.capacity, min(self.size + 1, self.config.capacity)

    def refit(self) -> None:
        """Fit again from what is remembered, drawn towards what was shipped. A millisecond or so for each point."""
        for point in range(self.num_points):
            mine: Indices = np.flatnonzero(self._points[: self.size] == point)
            if not len(mine):
                continue
            x_NF = _with_one(self._features[mine].astype(np.float64))
            weights_N = self._weights[mine].astype(np.float64)
            weights_N *= weights_N.sum() / (weights_N**2).sum()  # so many as they are worth, not as they stand for
            for outcome in range(_OUTCOMES):
                y_N = (self._outcome[mine] == outcome + 1).astype(np.float64)
                self.coefficients[point, outcome], _ = fit_logistic(
                    x_NF,
                    y_N,
                    weights_N,
                    mean_F=self.shipped.coefficients[point, outcome],
                    precision_FF=self.shipped.precision[point, outcome],
                )
        self.num_refits += 1

    def to_bytes(self) -> bytes:
        """The state: header, coefficients, examples, SHA-256; little-endian. The size follows from the header."""
        head = _HEADER.pack(
            _MAGIC,
            _FORMAT,
            self.shipped.digest(),
            self.num_points,
            self.config.capacity,
            self.size,
            self.next,
            min(self.num_refits, (1 << 32) - 1),
        )
        n = self.size
        body = head + self.coefficients.astype("<f8").tobytes() + self._points[:n].astype("<u2").tobytes()
        body += self._features[:n].astype("<f4").tobytes() + self._outcome[:n].tobytes()
        body += self._weights[:n].astype("<f4").tobytes()
        return body + hashlib.sha256(body).digest()

    @classmethod
    def from_bytes(cls, data: bytes, *, shipped: ShippedSwitcher, config: SwitcherConfig | None = None) -> Switcher:
        """The inverse of `to_bytes`.

        Raises:
            SwitcherStateError: damaged bytes, or those of another switcher or capacity. Start again from the shipped.
        """
        made = cls(shipped, config)
        if len(data) < _HEADER.size + _DIGEST_BYTES:
            raise SwitcherStateError("damaged", f"a switcher's state of {len(data)} bytes is cut; start as shipped")
        body, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
        magic, version, its, points, capacity, size, place, refits = _HEADER.unpack_from(body)
        if (magic, version) != (_MAGIC, _FORMAT) or hashlib.sha256(body).digest() != digest:
            raise SwitcherStateError("damaged", "a switcher's state does not match its SHA-256; start as shipped")
        if its != shipped.digest() or points != made.num_points or capacity != made.config.capacity:
            raise SwitcherStateError("other-switcher", "a state of another bundle or capacity came; start as shipped")
        count = points * _OUTCOMES * (NUM_FEATURES + 1)
        each = 2 + 4 * NUM_FEATURES + 1 + 4
        if size > capacity or place >= capacity or len(body) != _HEADER.size + 8 * count + each * size:
            raise SwitcherStateError("damaged", f"a switcher's state of {size} examples has another size; start anew")
        at = _HEADER.size

        def take(kind: str, number: int) -> Float64s:
            nonlocal at
            values = np.frombuffer(body, dtype=kind, count=number, offset=at)
            at += values.nbytes
            return values

        made.coefficients = take("<f8", count).reshape(made.coefficients.shape).copy()
        made._points[:size] = take("<u2", size)
        made._features[:size] = take("<f4", NUM_FEATURES * size).reshape(size, NUM_FEATURES)
        made._outcome[:size] = take("u1", size)
        made._weights[:size] = take("<f4", size)
        checked = (made.coefficients, made._features, made._weights)
        sound = all(np.isfinite(values).all() for values in checked) and (made._weights[:size] > 0).all()
        if not sound or (made._points[:size] >= points).any() or (made._outcome > _OUTCOMES).any():
            raise SwitcherStateError("damaged", "a switcher's state holds values that none can have; start as shipped")
        made.size, made.next, made.num_refits = size, place, refits
        return made


def _with_one(x_NF: Float64s) -> Float64s:
    return np.concatenate([x_NF, np.ones((len(x_NF), 1))], axis=1)


def _chances(coefficients: Float64s, features_F: Float64s) -> tuple[float, float]:
    helps, harms = _sigmoid(coefficients[:, :NUM_FEATURES] @ features_F + coefficients[:, NUM_FEATURES]).tolist()
    return (helps, harms) if math.isfinite(helps + harms) else (0.0, 0.0)


def _outcomes(device_right_N: Float64s, cloud_right_N: Float64s) -> tuple[Float64s, Float64s]:
    return (1 - device_right_N) * cloud_right_N, device_right_N * (1 - cloud_right_N)


def _sigmoid(z: Float64s) -> Float64s:
    p: Float64s = 0.5 * (1 + np.tanh(z / 2))
    return p
