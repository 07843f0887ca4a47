"""A head that follows one user, and falls back to the shipped one when it did not help.

`PersonalHead` takes pooled features with a label, or with the deep exit's probabilities, or both. It keeps sums by day,
a bounded memory, and held-back frames. All it does is decided by what it was given: no clock (a day is a number), no
hidden seed. None of it belongs on the hot path: observe and fit in the background, then hand over a `LinearHead`.

What stands against drift of its own making: the teacher is the shipped deep exit and never a personal head; frames of
which it is not sure are not used, nor any while it is unsure on the whole; the fit is drawn towards the shipped head;
and held-back frames decide which of the two heads serves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from littoral.core.arrays import Float64s, FloatArray
from littoral.core.class_prior import ClassShares, PriorConfig, corrected, prior_ratio
from littoral.core.evidence import DaySums, Evidence
from littoral.core.head_memory import HALF_MAX, FeatureMap, FeatureMemory, HeldBack
from littoral.core.heads import Fit, LinearHead, SourceMoments, fit_sgd, lda_matrix, ridge_matrix, softmax64
from littoral.core.protection import Judgement, judge_head
from littoral.core.unseen import imagine_unseen

MOST_STANDS_FOR = 100.0
"""Of `PersonalHead.observe`: an audit of one frame in a hundred."""
_MOST_REPLACED = 8.0
"""A remembered frame may stand for so many others of its day and class when sums are made anew."""


@dataclass(frozen=True, kw_only=True)
class PersonalConfig:
    """How a head follows its user. Weights are in frames."""

    fit: Fit = "onehot"
    """What is fitted. ``logits``: the shipped head's logits plus ``step`` times what was wrong with its probabilities;
    ``onehot``: ``step`` times the centred one-hot answer; both by ridge regression towards the shipped head. ``lda``:
    with the source's moments, the best where a bundle has them. ``sgd``: as published, from the memory."""
    step: float = 12.0
    """Logits per unit of probability."""
    prior_frames: float = 50.0
    """The pull of the shipped head, in ridge regression and SGD."""
    least_share: float = 0.02
    """Of all evidence; a class with less of it is filled up from the source's class means (``onehot``, where the bundle
    has them): else a class that never comes would never be answered any more. 0 for users whose classes are closed."""
    label_weight: float = 5.0
    """Of a frame with a label; one with the deep exit's answer weighs at most 1."""
    sure: float = 0.9
    """From this probability on, the deep exit's answer is taken as a label; below, as it is."""
    unsure: float = 0.5
    """Below this it is not used."""
    most_taught_ratio: float = 1.0
    """By no larger factor do the user's class shares change what the deep exit teaches; 1 leaves its answers as they
    are. A teacher that misses a class gives it too small a share, and a head taught under that share does harm."""
    healthy: float = 0.6
    """While the deep exit's mean corrected probability over a day is below this, nothing is learned from it."""
    keep_per_day: float = 1.0
    """The share of its weight that a day keeps with each later day; the shipped head's pull does not fade."""
    max_days: int = 7
    """Days that can be taken back one by one; older ones only together."""
    memory_frames: int = 112
    held_frames: int = 128
    hold_back_every: int = 5
    """One in so many of the frames with a label, and of those without, judges and does not teach."""
    min_held: int = 12
    """With fewer held-back frames the shipped head serves."""
    luck: float = 0.1
    """The personal head begins to serve when one no better than the shipped would look so good with at most this
    probability."""
    harm: float = 0.2
    """It is rolled back when one that is as good as the shipped would look so bad with at most this
    probability."""
    agree: float = 0.6
    """With few labels or none, the head of the exit that teaches serves where it gives this share of its answers."""
    keep_own: float = 1.0
    """Below 1 a head that serves gets a gate against classes never shown, which keeps this share of own frames."""
    protected: bool = True
    """False lets a fitted head serve whatever it does: for measurements."""
    prior: PriorConfig = field(default_factory=PriorConfig)
    mean_frames: float = 10.0
    """What the source's class means weigh in ``lda``."""
    covariance_frames: float = 300.0
    shrinkage: float = 0.02
    learning_rate: float = 0.01
    num_epochs: int = 5

    def __post_init__(self) -> None:
        if self.fit not in ("logits", "onehot", "lda", "sgd"):
            raise ValueError(f"fit is 'logits', 'onehot', 'lda' or 'sgd', got {self.fit!r}")
        if not (self.step > 0 and self.prior_frames > 0 and self.label_weight > 0 and self.covariance_frames > 0):
            raise ValueError("step, prior_frames, label_weight and covariance_frames are positive")
        if not (self.most_taught_ratio >= 1 and 0 <= self.agree <= 1 and 0 < self.keep_own <= 1):
            raise ValueError("most_taught_ratio >= 1, 0 <= agree <= 1 and 0 < keep_own <= 1 must hold")
        if not (
            0 <= self.unsure <= self.sure <= 1
            and 0 < self.keep_per_day <= 1
            and 0 < self.luck < 1
            and 0 < self.harm < 1
        ):
            raise ValueError("0 <= unsure <= sure <= 1, 0 < keep_per_day <= 1, 0 < luck < 1 and 0 < harm < 1 must hold")
        if not 0 <= self.least_share < 1:
            raise ValueError(f"least_share is 0 or more and below 1, got {self.least_share}")
        if not (1 <= self.max_days <= 366 and self.hold_back_every >= 2 and self.min_held >= 1):
            raise ValueError("max_days is 1 to 366, hold_back_every at least 2 and min_held at least 1")


class PersonalHead:
    """The state behind one exit's personal head.

    Args:
        shipped: The bundle's head for this exit.
        affine_version: Under which features are made.
        seed: Of the memory's draws and of SGD.
        source_shares_K: The class shares of the training data; None for equal ones.
        moments: The source's; `fit` ``lda`` needs them.
        class_means_KD: The source's class means, where the moments are not at hand; `fit` ``onehot`` makes use of them.
        teaches: The shipped head is the deep exit's, which teaches all.
    """

    def __init__(
        self,
        shipped: LinearHead,
        *,
        affine_version: int,
        seed: int,
        config: PersonalConfig | None = None,
        source_shares_K: Float64s | None = None,
        moments: SourceMoments | None = None,
        class_means_KD: NDArray[np.floating] | None = None,
        teaches: bool = False,
    ) -> None:
        self.config = config = config if config is not None else PersonalConfig()
        if config.fit == "lda" and moments is None:
            raise ValueError("the fit 'lda' needs the source's moments; ship them in the bundle or use 'logits'")
        if not (0 <= affine_version < 1 << 64 and 0 <= seed < 1 << 64):
            raise ValueError(f"affine_version and seed are 0 to 2**64 - 1, got {affine_version} and {seed}")
        self.shipped, self.moments, self.affine_version, self.seed = shipped, moments, affine_version, seed
        if class_means_KD is not None and class_means_KD.shape != shipped.weights_KD.shape:
            raise ValueError(f"expected class means {shipped.weights_KD.shape}, got {class_means_KD.shape}")
        self.class_means_KD = moments.means_KD if class_means_KD is None and moments is not None else class_means_KD
        size, num_classes = shipped.num_features, shipped.num_classes
        self.source_shares_K = np.full(num_classes, 1 / num_classes) if source_shares_K is None else source_shares_K
        ClassShares.start(self.source_shares_K, config.prior)  # refuses shares that are none
        self.teaches = teaches
        self.evidence = Evidence(size, num_classes, config.max_days)
        self.memory = FeatureMemory(config.memory_frames, size, num_classes, seed=seed)
        self.held = HeldBack(config.held_frames, size)
        self.personal_serves = False

    def observe(
        self,
        features_D: FloatArray,
        *,
        day: int,
        affine_version: int,
        label: int | None = None,
        deep_K: NDArray[np.floating] | None = None,
        stands_for: float = 1.0,
    ) -> bool:
        """Take in a frame.

        Args:
            features_D: Pooled, finite.
            day: Not before the last one's.
            affine_version: Under which the features were made.
            label: What the user said.
            deep_K: The shipped deep exit's probabilities.
            stands_for: How many frames it stands for. Only hard frames reach the deep exit; one of the easy ones that
                was taken there by chance, one in n, stands for n.
        Returns:
            Whether something was learned from it: not from held-back frames, nor where the deep exit is unsure.
        Raises:
            ValueError: another affine version, a shape, a value or label out of range, or a day that went back.
                Nothing was changed.
        """
        features = self._checked(features_D, affine_version, label, deep_K)
        if not 0 < stands_for <= MOST_STANDS_FOR:
            raise ValueError(f"a frame stands for at most {MOST_STANDS_FOR} and more than none, got {stands_for}")
        if not -(1 << 31) <= day < 1 << 31:
            raise ValueError(f"a day is a number of 32 bits, got {day}")
        shares = ClassShares.start(self.source_shares_K, self.config.prior)
        today = self.evidence.open(day, shares)
        if deep_K is not None and label is None:
            today.saw(float(today.shares.add(deep_K).max()))
        if label is not None:
            today.shares.add_label(label)
            today.num_labelled += 1
            held = today.num_labelled % self.config.hold_back_every == 0
            target, weight = np.eye(1, self.shipped.num_classes, label)[0], self.config.label_weight
        elif deep_K is None:
            return False
        else:
            today.num_unlabelled += 1
            held = today.num_unlabelled % self.config.hold_back_every == 0
            target, weight = self._taught(deep_K, today)
            if weight == 0:
                return False
        if held:
            self.held.add(features, int(target.argmax()), labelled=label is not None, day=day)
            return False
        minus = softmax64(self.shipped.logits(features)) if self.config.fit == "logits" else None
        today.add(features, target, weight * stands_for, minus_K=minus)
        self.memory.add(features, target, weight * stands_for, day=day)
        return True

    def matrix(self) -> Float64s:
        """The personal head in float64, weights and bias in the last row ``(A, K)``; the shipped one before any frame.

        Raises:
            ValueError: the sums allow no solution.
        """
        config = self.config
        if config.fit == "sgd":
            return self._fit_sgd().matrix()
        gram, targets, weights_K = self.evidence.total(keep_per_day=config.keep_per_day)
        frames, shipped = float(weights_K.sum()), self.shipped.matrix()
        if frames == 0:
            return shipped
        if config.fit == "lda":
            assert self.moments is not None
            return lda_matrix(
                gram,
                targets,
                self.moments,
                mean_frames=config.mean_frames,
                covariance_frames=config.covariance_frames,
                shrinkage=config.shrinkage,
                log_prior_K=np.log(self.class_shares()),
            )
        if config.fit == "onehot" and self.class_means_KD is not None:
            frames = imagine_unseen(gram, targets, self.class_means_KD, least_share=config.least_share)
        targets *= config.step
        if config.fit == "logits":
            targets += gram @ shipped
        else:
            targets -= config.step / self.shipped.num_classes * gram[:, -1:]
        return ridge_matrix(gram, targets, shipped, frames=frames, prior_frames=config.prior_frames)

    def fitted(self) -> LinearHead:
        """The personal head, whether it serves or not."""
        return LinearHead.of_matrix(self.matrix())

    def class_shares(self) -> Float64s:
        """The user's class shares over all days, none below its floor."""
        shares = self.evidence.shares()
        if shares is None:
            return self.source_shares_K
        floor = self.config.prior.floor
        return (1 - floor) * shares + floor / len(shares)

    def prior_corrected(self) -> LinearHead:
        """The shipped head with the class shares corrected: the least personal head, and the first to try."""
        shares = self.evidence.shares()
        if shares is None:
            return self.shipped
        moved = np.log(prior_ratio(shares, self.source_shares_K, self.config.prior)).astype(np.float32)
        return LinearHead(weights_KD=self.shipped.weights_KD, bias_K=self.shipped.bias_K + moved)

    def judge(self, personal: LinearHead) -> Judgement:
        """Hold a personal head against the shipped one on held-back frames, and decide which serves: `judge_head`."""
        judgement = judge_head(
            personal,
            self.shipped,
            self.held,
            serves_now=self.personal_serves,
            min_held=self.config.min_held,
            luck=self.config.luck,
            harm=self.config.harm,
            agree=self.config.agree if self.teaches else None,
        )
        if not self.config.protected:
            judgement = replace(judgement, serves=True)
        self.personal_serves = judgement.serves
        return judgement

    def refresh(self) -> tuple[LinearHead, Judgement]:
        """Fit, judge, and give the head that serves: the personal or the shipped one."""
        personal = self.fitted()
        judgement = self.judge(personal)
        return (personal if judgement.serves else self.shipped), judgement

    def remove_day(self, day: int) -> None:
        """Take a day back: sums, class shares, memory and held-back frames. Call `refresh` afterwards.

        In closed form the head is then the one that would have been without it. The memory keeps no frame of it, but
        what had given way to its frames does not come back.

        Raises:
            ValueError: nothing of it is held, or only in the sum of older days.
        """
        self.evidence.remove(day)
        self.memory.remove_days(day, day)
        self.held.remove_days(day, day)

    def remove_older(self) -> None:
        """Take back all days that are held as one sum."""
        older = self.evidence.older
        if older is not None:
            self.evidence.older = None
            self.memory.remove_days(older.first_day, older.last_day)
            self.held.remove_days(older.first_day, older.last_day)

    def rebase(
        self, affine_version: int, *, shipped: LinearHead | None = None, feature_map: FeatureMap | None = None
    ) -> None:
        """Follow the same user under another affine version: sums are made anew from the memory's features, in place.

        A remembered frame stands for those of its day and class that were not kept, at most eight. The shipped head
        serves until `judge` says otherwise. Nothing else is held meanwhile than the state and one day's new sums.

        Args:
            shipped: If it is another one.
            feature_map: How features moved; None where they are known to have stayed.
        Raises:
            ValueError: a version out of range, or a head or map of other features or classes. Nothing was changed.
        """
        new = shipped if shipped is not None else self.shipped
        if not 0 <= affine_version < 1 << 64:
            raise ValueError(f"affine_version is 0 to 2**64 - 1, got {affine_version}")
        if new.weights_KD.shape != self.shipped.weights_KD.shape:
            raise ValueError("the new shipped head has other features or classes; start a new personal head")
        if feature_map is not None:
            if feature_map.scale_D.shape != (new.num_features,) or feature_map.shift_D.shape != (new.num_features,):
                raise ValueError(f"the map is not of {new.num_features} features")
            if not (np.isfinite(feature_map.scale_D).all() and np.isfinite(feature_map.shift_D).all()):
                raise ValueError("the map of features is not finite")
        self.shipped, self.affine_version, self.personal_serves = new, affine_version, False
        for features in (self.memory.features, self.held.features) if feature_map is not None else ():
            for i, row in enumerate(features):
                assert feature_map is not None
                features[i] = feature_map(row)
        for sums in self.evidence.everything():
            self._make_anew(sums)

    def _make_anew(self, sums: DaySums) -> None:
        new = DaySums.start(sums.first_day, self.shipped.num_features, sums.shares)
        memory = self.memory
        days, labels = memory.days[: memory.size], memory.labels[: memory.size]
        rows = np.flatnonzero((days >= sums.first_day) & (days <= sums.last_day))
        weights_K = np.bincount(labels[rows], weights=memory.weights[rows], minlength=self.shipped.num_classes)
        stand_for_K = np.clip(sums.weights_K / np.maximum(weights_K, 1e-12), 0, _MOST_REPLACED)
        for i in rows:
            features = memory.features[i].astype(np.float32)
            minus = softmax64(self.shipped.logits(features)) if self.config.fit == "logits" else None
            target = memory.targets[i].astype(np.float64)
            new.add(features, target, float(memory.weights[i] * stand_for_K[labels[i]]), minus_K=minus)
        if sums.gram.dtype != np.float64:
            new.close()
        sums.gram, sums.targets_AK, sums.weights_K = new.gram, new.targets_AK, new.weights_K

    def _fit_sgd(self) -> LinearHead:
        config, memory = self.config, self.memory
        if not memory.size:
            return self.shipped
        weights = memory.weights[: memory.size].astype(np.float64)
        total = float(weights.sum())
        return fit_sgd(
            self.shipped,
            memory.features[: memory.size],
            memory.targets[: memory.size],
            weights * (memory.size / total),
            seed=self.seed,
            num_epochs=config.num_epochs,
            learning_rate=config.learning_rate,
            recall=config.prior_frames / total,
        )

    def _taught(self, deep_K: NDArray[np.floating], today: DaySums) -> tuple[Float64s, float]:
        """What the deep exit teaches, and with what weight; 0 where it is not sure."""
        most = self.config.most_taught_ratio
        posterior_K = corrected(deep_K.astype(np.float64), np.clip(today.shares.ratio(), 1 / most, most))
        top = float(posterior_K.max())
        if top < self.config.unsure or today.sureness < self.config.healthy:
            return posterior_K, 0.0
        target = np.eye(1, len(posterior_K), int(posterior_K.argmax()))[0] if top >= self.config.sure else posterior_K
        return target, top * top

    def _checked(
        self, features_D: FloatArray, affine_version: int, label: int | None, deep_K: NDArray[np.floating] | None
    ) -> FloatArray:
        if affine_version != self.affine_version:
            raise ValueError(
                f"features of affine version {affine_version} came to a head of version {self.affine_version}; "
                "call rebase first"
            )
        size, num_classes = self.shipped.num_features, self.shipped.num_classes
        if features_D.shape != (size,) or not np.isfinite(features_D).all():
            raise ValueError(f"expected {size} finite features, got {features_D.shape}")
        if label is not None and not 0 <= label < num_classes:
            raise ValueError(f"the label is {label}, expected 0 to {num_classes - 1}")
        if deep_K is not None:
            good = deep_K.shape == (num_classes,) and bool(np.isfinite(deep_K).all()) and bool((deep_K >= 0).all())
            if not good or not math.isclose(float(deep_K.sum()), 1, abs_tol=1e-3):
                raise ValueError(f"the deep exit's probabilities are {num_classes} numbers that add up to 1")
        return np.clip(features_D, -HALF_MAX, HALF_MAX).astype(np.float16).astype(np.float32)
