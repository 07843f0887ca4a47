"""Omniglot by writer: drawings, a small network with exits, and its users.

Every writer drew every character of one alphabet once, and writers of two alphabets are different people as far as the
files say. So nobody has two drawings of a character, and a head over characters has nothing of a user to learn for the
characters that it is tested on. Two tasks make that plain and make the best of it:

- ``characters``: which of all characters; a user is one writer. Learned from half of the writer's characters, tested
  on others: classes that the user never showed. What a writer's hand has in common is all there is to gain.
- ``alphabets``: which alphabet; a user has one writer in each (eight pen friends). Many drawings of a class by one
  hand, and no drawing on both sides.

Writers from `FIRST_HELD_OUT` on are no one's training data. Axes: N drawings, D features, K classes, E exits.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from littoral.bench.exits.seen import Part
from littoral.bundle.manifest import InputSpec
from littoral.core.arrays import Float64s, FloatArray, Frame
from littoral.core.exits import ExitCosts, fit_temperature
from littoral.core.heads import LinearHead, SourceMoments, fit_sgd, lda_matrix, with_one
from littoral.models.bottleneck import count_macs
from littoral.models.frames import normalise
from littoral.models.small_cnn import SmallCNN, small_cnn
from littoral.train.fit import fit_classifier

OmniglotTask = Literal["characters", "alphabets"]
Labels = NDArray[np.int64]
FILES = ("images_background_small1.zip", "images_background_small2.zip")
SIDE = 32
NUM_WRITERS = 20
FIRST_SETTLING, FIRST_HELD_OUT = 13, 15
"""Writers 1 to 12 of each alphabet train the network and its heads, 13 and 14 find temperatures, 15 to 20 are users."""
INPUT = InputSpec(height=SIDE, width=SIDE, channels=1, mean=(0.1,), std=(0.3,))
_MOST_FEATURES = 64
_SHIFT = 2
_SHARES = {"personal": 0.5, "calibration": 0.2, "test": 0.3}


@dataclass(frozen=True, kw_only=True, eq=False)
class Drawings:
    """What is in the files, each drawing once (two alphabets are in both files).

    Attributes:
        frames: uint8 ``(N, 32, 32, 1)``, ink is bright.
        characters_N: Counted over all alphabets.
        alphabets_N: Likewise.
        writers_N: 1 to 20, of the alphabet.
    """

    frames: Frame
    characters_N: Labels
    alphabets_N: Labels
    writers_N: Labels
    alphabet_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.frames)

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> Drawings:
        """Some of the drawings."""
        return Drawings(
            frames=self.frames[rows],
            characters_N=self.characters_N[rows],
            alphabets_N=self.alphabets_N[rows],
            writers_N=self.writers_N[rows],
            alphabet_names=self.alphabet_names,
        )

    def labels_of(self, task: OmniglotTask) -> Labels:
        """What is asked in a task."""
        return self.characters_N if task == "characters" else self.alphabets_N


@dataclass(frozen=True, kw_only=True)
class WriterUser:
    """A user.

    Attributes:
        writers: By alphabet, whose hand it is; one of them in ``characters``.
        parts: ``personal``, ``calibration`` and ``test``, no drawing in two of them.
    """

    name: str
    writers: Mapping[str, int]
    parts: Mapping[str, Part]


@dataclass(frozen=True, kw_only=True, eq=False)
class OmniglotNetwork:
    """A frozen network, its exits (the deepest last) and what a bundle would ship of them.

    Attributes:
        projections: By exit what turns the pooled features into at most 64: offset and matrix.
        alphabets_K: Of each class.
    """

    task: OmniglotTask
    model: SmallCNN
    projections: tuple[tuple[FloatArray, FloatArray], ...]
    heads: tuple[LinearHead, ...]
    moments: tuple[SourceMoments, ...]
    temperatures: tuple[float, ...]
    class_shares_K: Float64s
    alphabets_K: Labels
    costs: ExitCosts

    def features(self, frames: Frame) -> tuple[FloatArray, ...]:
        """By exit ``(N, D)``, rounded to float16 as a device keeps them."""
        return tuple(
            ((found - offset) @ matrix).astype(np.float16).astype(np.float32)
            for found, (offset, matrix) in zip(pooled_features(self.model, frames), self.projections, strict=True)
        )

    def part(self, drawings: Drawings) -> Part:
        """Drawings as the network sees them."""
        features = self.features(drawings.frames)
        logits = self.heads[-1].logits(features[-1])
        return Part(features=features, logits_NK=logits, labels_N=drawings.labels_of(self.task))


def load_omniglot(folder: Path) -> Drawings:
    """All drawings of `FILES`.

    Args:
        folder: Has ``omniglot/images_background_small{1,2}.zip``.
    Raises:
        ValueError: a file is missing or holds something else.
    """
    found: dict[tuple[str, str, int], Frame] = {}
    for name in FILES:
        path = folder / "omniglot" / name
        try:
            with zipfile.ZipFile(path) as archive:
                for member in archive.namelist():
                    if member.endswith(".png"):
                        *_, alphabet, character, file = member.split("/")
                        found[alphabet, character, int(file[-6:-4])] = _frame(archive.read(member))
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} cannot be read ({error}); give the folder that has it") from error
    if not found:
        raise ValueError(
            f"{', '.join(FILES)} in {folder / 'omniglot'} hold no drawing: a .png in a folder of its character, "
            "in one of its alphabet; give the archives as Omniglot ships them"
        )
    keys = sorted(found)
    alphabets = sorted({alphabet for alphabet, _, _ in keys})
    characters = sorted({(alphabet, character) for alphabet, character, _ in keys})
    numbers = {pair: i for i, pair in enumerate(characters)}
    return Drawings(
        frames=np.stack([found[key] for key in keys]),
        characters_N=np.array([numbers[alphabet, character] for alphabet, character, _ in keys], dtype=np.int64),
        alphabets_N=np.array([alphabets.index(alphabet) for alphabet, _, _ in keys], dtype=np.int64),
        writers_N=np.array([writer for _, _, writer in keys], dtype=np.int64),
        alphabet_names=tuple(alphabets),
    )


def _frame(png: bytes) -> Frame:
    """Black ink on white, 105 x 105 and 1 bit, to bright ink, 32 x 32, averaged."""
    picture = Image.open(io.BytesIO(png)).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    return (255 - np.asarray(picture))[:, :, None]


def train_backbone(
    source: Drawings, *, width: int = 8, epochs: int = 20, seed: int = 0, say: Callable[[str], None] | None = None
) -> SmallCNN:
    """A small network that tells the source writers' characters apart; seconds to a few minutes of one core."""
    torch.manual_seed(seed)
    model = small_cnn(width=width, num_classes=int(source.characters_N.max()) + 1, channels=1, depth=3)
    fit_classifier(
        model,
        source.frames,
        source.characters_N,
        input=INPUT,
        epochs=epochs,
        lr=5e-3,
        label_smoothing=0.1,
        augment=_moved,
        seed=seed,
        progress=say,
    )
    return model


def _moved(frames: Frame, rng: np.random.Generator) -> Frame:
    down, right = rng.integers(-_SHIFT, _SHIFT + 1, size=2)
    return np.roll(frames, (down, right), axis=(1, 2))


@torch.inference_mode()
def pooled_features(model: SmallCNN, frames: Frame) -> tuple[FloatArray, ...]:
    """Of each stage of the network, pooled 2 x 2 and of the last over all positions: ``(N, D)``."""
    found: list[list[NDArray[np.float32]]] = []
    for start in range(0, len(frames), 256):
        x = model.stem(normalise(torch.from_numpy(np.array(frames[start : start + 256])), INPUT))
        row = []
        blocks = list(model.blocks)
        for i, block in enumerate(blocks):
            x = block(x)
            if i % 2:
                grid = 1 if i == len(blocks) - 1 else 2
                row.append(nn.functional.adaptive_avg_pool2d(x, grid).flatten(1).numpy())
        found.append(row)
    return tuple(np.concatenate(each) for each in zip(*found, strict=True))


def add_exits(
    model: SmallCNN, source: Drawings, settling: Drawings, task: OmniglotTask, *, seed: int = 0
) -> OmniglotNetwork:
    """Heads for a task on the frozen network's stages: pooled features, a projection, a linear head.

    The deepest head too is fitted so, for both tasks: the network's own last layer knows characters alone.

    Args:
        source: What heads are fitted on.
        settling: What temperatures are found on.
    """
    pooled, others = pooled_features(model, source.frames), pooled_features(model, settling.frames)
    labels = source.labels_of(task)
    num_classes = int(labels.max()) + 1
    shares = np.bincount(labels, minlength=num_classes) / len(labels)
    projections, heads, moments, temperatures = [], [], [], []
    for features, other in zip(pooled, others, strict=True):
        offset, matrix = _projection(features)
        z, held = (((x - offset) @ matrix).astype(np.float16).astype(np.float32) for x in (features, other))
        own = _moments(z, labels, num_classes)
        head = _head(z, labels, own, shares, seed=seed)
        projections.append((offset, matrix))
        heads.append(head)
        moments.append(own)
        temperatures.append(fit_temperature(head.logits(held), settling.labels_of(task)))
    return OmniglotNetwork(
        task=task,
        model=model,
        projections=tuple(projections),
        heads=tuple(heads),
        moments=tuple(moments),
        temperatures=tuple(temperatures),
        class_shares_K=shares,
        alphabets_K=np.array([source.alphabets_N[labels == k][0] for k in range(num_classes)], dtype=np.int64),
        costs=_costs(model, projections, num_classes),
    )


def _projection(features_ND: FloatArray) -> tuple[FloatArray, FloatArray]:
    """To at most 64 of the directions in which the source varies most, each with unit variance on average."""
    offset = features_ND.mean(axis=0)
    _, spread, directions = np.linalg.svd(features_ND - offset, full_matrices=False)
    kept = min(_MOST_FEATURES, len(spread))
    scale = np.sqrt(len(features_ND)) / max(float(np.sqrt((spread[:kept] ** 2).mean())), 1e-12)
    return offset.astype(np.float32), (directions[:kept].T * scale).astype(np.float32)


def _moments(z_ND: FloatArray, labels_N: Labels, num_classes: int) -> SourceMoments:
    means = np.stack([z_ND[labels_N == k].mean(axis=0) for k in range(num_classes)])
    apart = z_ND - means[labels_N]
    covariance = apart.T @ apart / len(z_ND)
    return SourceMoments(means_KD=means.astype(np.float32), covariance_DD=covariance.astype(np.float32))


def _head(z_ND: FloatArray, labels_N: Labels, moments: SourceMoments, shares: Float64s, *, seed: int) -> LinearHead:
    """LDA of the source, then a few passes of SGD, which is right more often where classes are no one cloud."""
    x = with_one(z_ND)
    answers = np.eye(len(shares))[labels_N]
    start = LinearHead.of_matrix(
        lda_matrix(
            x.T @ x,
            x.T @ answers,
            moments,
            mean_frames=0.0,
            covariance_frames=0.0,
            shrinkage=0.02,
            log_prior_K=np.log(shares),
        )
    )
    ones = np.ones(len(z_ND))
    return fit_sgd(start, z_ND, answers, ones, seed=seed, num_epochs=5, batch_size=64, learning_rate=0.05)


def _costs(model: SmallCNN, projections: list[tuple[FloatArray, FloatArray]], num_classes: int) -> ExitCosts:
    blocks = list(model.blocks)
    until = [
        count_macs(nn.Sequential(model.stem, *blocks[: 2 * (i + 1)]), (1, SIDE, SIDE)) for i in range(len(projections))
    ]
    heads = [matrix.size + matrix.shape[1] * num_classes for _, matrix in projections]
    return ExitCosts(segment_macs=tuple(int(each) for each in np.diff([0, *until])), head_macs=tuple(heads))


def source_of(drawings: Drawings) -> tuple[Drawings, Drawings]:
    """The drawings that train the network and its heads, and those that find temperatures."""
    writers = drawings.writers_N
    return drawings.take(writers < FIRST_SETTLING), drawings.take(
        (writers >= FIRST_SETTLING) & (writers < FIRST_HELD_OUT)
    )


def users_of(network: OmniglotNetwork, drawings: Drawings, *, seed: int = 0) -> list[WriterUser]:
    """The held-out writers as users of the network's task.

    In ``characters`` each of them is one; in ``alphabets`` there are as many users as held-out writers of an alphabet,
    each with another writer of every alphabet, drawn by the seed. Parts share no drawing; in ``characters`` no class.
    """
    rng = np.random.default_rng([seed, 5])
    held = range(FIRST_HELD_OUT, NUM_WRITERS + 1)
    names = drawings.alphabet_names
    if network.task == "characters":
        groups = [{name: writer} for name in names for writer in held]
    else:
        orders = {name: rng.permutation(list(held)).tolist() for name in names}
        groups = [{name: int(orders[name][i]) for name in names} for i in range(len(held))]
    users = []
    for group in groups:
        mask = np.zeros(len(drawings), dtype=bool)
        for name, writer in group.items():
            mask |= (drawings.alphabets_N == names.index(name)) & (drawings.writers_N == writer)
        rows = rng.permutation(np.flatnonzero(mask))
        ends = np.rint(np.cumsum(list(_SHARES.values())) * len(rows)).astype(int)
        parts = {
            part: network.part(drawings.take(found))
            for part, found in zip(_SHARES, np.split(rows, ends[:-1]), strict=True)
        }
        users.append(WriterUser(name="+".join(f"{k}/{v}" for k, v in group.items()), writers=group, parts=parts))
    return users
