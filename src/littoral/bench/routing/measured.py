"""What the loop table is made of: CIFAR-10's test frames, and what the device, splits and pictures make of them.

The device is ResNet-20 with three trained exits; the splits start from its features or from pixels and end in
ResNet-56, as `littoral.bench.split` trains them; pictures go to the whole ResNet-56. Everything is computed once and
kept in the work folder, for frames as they are (``clean``) and under one corruption each (``shifted``). The name of a
file that is kept has the digest of all that its numbers hang on: where any of it is another, there is no such file.

Axes: N frames, P answers of the device, L levels, K classes.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import PIL
from numpy.typing import NDArray
from torch import nn

from littoral.bench.alone import alone
from littoral.bench.document import versions
from littoral.bench.exits.bundles import PLACES, trained_chain, trained_exits
from littoral.bench.exits.chain import Chain
from littoral.bench.exits.material import ExitMaterial
from littoral.bench.fingerprint import fingerprint
from littoral.bench.split.codecs import PictureCodec, recode, why_not
from littoral.bench.split.material import INPUT, STUDENT, Labels, SplitMaterial, outputs_of, torch_device
from littoral.bench.split.plan import QUICK, Budget, product_training
from littoral.bench.split.training import Trained, codec_digest, train_or_load
from littoral.bench.streams.corruptions import VERSION, corrupt_at
from littoral.core.arrays import Float64s, FloatArray, Frame
from littoral.core.codec import decode
from littoral.core.heads import softmax64
from littoral.train.exit_heads import TrainedExits, load_trained_exits, save_trained_exits
from littoral.train.exit_places import place_exits
from littoral.train.exits import ExitRecipe, train_exits

World = Literal["clean", "shifted"]
Say = Callable[..., None]
CODE_WITHOUT = ("littoral.errors", "littoral.bench.document")
"""What the fingerprint of this table's code leaves out: how errors are named and documents stamped."""
SHIFTS = ("gaussian_noise", "defocus_blur", "contrast", "pixelate")
SEVERITY = 3
_SHIFT_SEED = 5
QUICK_EXIT_FRAMES = 640
_BATCH = 500
CODECS: Mapping[str, PictureCodec] = {
    "webp": PictureCodec(name="webp", format="WEBP", options={"method": 4}, feature="webp"),
    "jpeg": PictureCodec(name="jpeg", format="JPEG", options={"optimize": True}),
    "png": PictureCodec(name="png", format="PNG", options={}, lossy=False),
}
"""At Pillow's own effort: a camera has no time for more. Effort 6 saves a hundredth of the bytes for twice the time."""

PICTURES = (("webp", 90), ("webp", 95), ("webp", 100), ("jpeg", 95), ("png", 0))


@dataclass(frozen=True, kw_only=True)
class MeasuredConfig:
    """What the tables are of. Everything that can change their numbers is in it."""

    frames: int = 10_000
    """Of CIFAR-10's test frames, the first so many."""
    epochs: int = 20
    """Of the splits' trainings."""
    inputs: tuple[str, ...] = ("layer2.1",)
    """What the splits start from: ``layer2.1``, the device's own features, and ``pixels``."""
    pictures: tuple[tuple[str, int], ...] = PICTURES
    """Codecs with their qualities."""
    quick: bool = False
    """Splits of `littoral.bench.split.plan.QUICK`, hardly trained: the numbers mean nothing."""

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> MeasuredConfig:
        """From JSON."""
        lists = {"inputs": tuple(options["inputs"]), "pictures": tuple((name, q) for name, q in options["pictures"])}
        return cls(**{**options, **lists})

    def options(self) -> dict[str, Any]:
        """As JSON has it."""
        made: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return made


QUICK_CONFIG = MeasuredConfig(
    frames=600,
    inputs=("layer2.1",),
    pictures=(("webp", 90), ("webp", 100), ("jpeg", 95), ("png", 0)),
    quick=True,
)


@dataclass(frozen=True, kw_only=True)
class WayAnswers:
    """What comes back by one way.

    Attributes:
        answers_N: Labels.
        bytes_N: Of each payload or file.
    """

    answers_N: Labels
    bytes_N: Labels


class LoopMaterial:
    """Makes each part once, in the work folder.

    Args:
        data, work: The data folder; where trainings and answers are kept.
    """

    def __init__(
        self, data: Path, work: Path, config: MeasuredConfig, say: Say = lambda done, of, text="": None
    ) -> None:
        self.config, self.say = config, say
        self.split, self._exits = SplitMaterial(data, work), ExitMaterial(data, work)
        self._work = work
        self._trained: dict[str, Trained] = {}

    # -- frames --------------------------------------------------------------------------------------------------------

    @cached_property
    def labels(self) -> Labels:
        """int64 ``(N,)``."""
        return self.split.first("test", self.config.frames)[1].astype(np.int64)

    @cached_property
    def groups(self) -> Labels:
        """Which of `SHIFTS` a frame is seen under in the shifted world, -1 for none: a fifth each, by chance."""
        drawn = np.random.default_rng(_SHIFT_SEED).permutation(self.config.frames)
        groups: Labels = (drawn % (len(SHIFTS) + 1) - 1).astype(np.int64)
        return groups

    @cached_property
    def frames_digest(self) -> int:
        """Of the clean frames."""
        return zlib.crc32(self.frames("clean").tobytes())

    def frames(self, world: World) -> Frame:
        """uint8 ``(N, 32, 32, 3)``."""
        clean, _ = self.split.first("test", self.config.frames)
        if world == "clean":
            return clean
        shifted = clean.copy()
        for number, name in enumerate(SHIFTS):
            places = np.flatnonzero(self.groups == number)
            shifted[places] = corrupt_at(
                clean[places], [int(p) for p in places], name, severity=SEVERITY, seed=_SHIFT_SEED
            )
        return shifted

    # -- networks ------------------------------------------------------------------------------------------------------

    @cached_property
    def exits(self) -> TrainedExits:
        """The device's exits as `littoral bench exits` has them: trained once and kept."""
        if not self.config.quick:
            return trained_exits(self._exits, STUDENT, lambda line: self.say(0, 1, line))
        folder = self._work / "exits"
        file = folder / f"{STUDENT}-quick.safetensors"
        with alone(folder):
            if file.is_file():
                return load_trained_exits(file)
            frames, labels = self.split.first("train", QUICK_EXIT_FRAMES)
            model = self.split.network(STUDENT)
            places = place_exits(model, INPUT, PLACES[STUDENT])
            made = train_exits(model, INPUT, frames, labels, ExitRecipe(epochs=1), places=places)
            save_trained_exits(file, made)
            return made

    @cached_property
    def chain(self) -> Chain:
        """The device's segments, stems and heads as sessions."""
        return trained_chain(self.split.network(STUDENT), INPUT, self.exits)

    def trained(self, given: str) -> Trained:
        """The product's split that starts from this: trained, or read."""
        if given not in self._trained:
            self._trained[given] = train_or_load(product_training(self._budget, given, 0), self.split, self.say)
        return self._trained[given]

    @property
    def teacher(self) -> str:
        """The network whose tail the splits end in, and which gets pictures."""
        return self._budget.teacher

    @property
    def _budget(self) -> Budget:
        return QUICK if self.config.quick else Budget(epochs=self.config.epochs)

    @cached_property
    def device_digest(self) -> str:
        """Names the device's network with its exits: trunk, stems, heads and temperatures."""
        exits = [(e.place, e.head.digest().hex(), e.temperature) for e in self.exits.exits]
        stems = [e.stem for e in self.exits.exits if e.stem is not None]
        return _digest(json.dumps([exits, weights_digest(self.split.network(STUDENT), *stems)]))

    @cached_property
    def teacher_digest(self) -> str:
        """Names the network that gets pictures."""
        return weights_digest(self.split.network(self.teacher))

    def split_digest(self, given: str) -> str:
        """Names a split: its networks' weights, gains, tables and deadzones."""
        trained = self.trained(given)
        head = [] if trained.head is None else [trained.head]
        weights = weights_digest(*head, trained.bottleneck, trained.tail)
        return _digest(json.dumps([weights, codec_digest(trained.codec)]))

    # -- what they make of the frames ----------------------------------------------------------------------------------

    def device(self, world: World) -> Float64s:
        """Probabilities of each exit, then of the whole network: ``(N, P, K)``."""

        def make() -> dict[str, NDArray[Any]]:
            frames, early, deep = self.frames(world), list[list[FloatArray]](), list[FloatArray]()
            early = [[] for exit in self.chain.exits[:-1]]
            for start in range(0, len(frames), _BATCH):
                self.say(start, len(frames), f"the device's answers, {world}")
                features, logits = self.chain.run(frames[start : start + _BATCH])
                for part, found, exit in zip(early, features, self.chain.exits, strict=False):
                    part.append(exit.head.logits(found) / np.float32(exit.temperature))
                deep.append(logits)
            logits_NPK = np.stack([np.concatenate(part) for part in [*early, deep]], axis=1)
            return {"logits": logits_NPK.astype(np.float32)}

        logits = self._kept(f"device-{world}", [world, self.device_digest], make)["logits"]
        return np.stack([softmax64(logits[:, p]) for p in range(logits.shape[1])], axis=1)

    def split_way(self, world: World, given: str) -> list[WayAnswers]:
        """By level. A payload that its level's ceiling refuses goes at the next coarser one, as on a device."""
        trained = self.trained(given)

        def make() -> dict[str, NDArray[Any]]:
            frames, levels = self.frames(world), trained.codec.num_levels
            answers, sizes = (np.zeros((len(frames), levels), np.int64) for _ in range(2))
            for start in range(0, len(frames), _BATCH):
                rows = slice(start, start + _BATCH)
                self.say(start, len(frames), f"split from {given}, {world}")
                latents = trained.latents(frames[rows])
                for level in range(levels):
                    answers[rows, level], sizes[rows, level] = _through(trained, latents, level)
            return {"answers": answers, "bytes": sizes}

        kept = self._kept(f"split-{given}-{world}", [world, self.split_digest(given)], make)
        pairs = zip(kept["answers"].T, kept["bytes"].T, strict=True)
        return [WayAnswers(answers_N=answers, bytes_N=sizes) for answers, sizes in pairs]

    def picture_way(self, world: World, codec: str, quality: int) -> WayAnswers:
        """What the whole teacher makes of what a receiver sees."""

        def make() -> dict[str, NDArray[Any]]:
            frames, network = self.frames(world), self.split.network(self.teacher).to(torch_device())
            answers, sizes = list[Labels](), list[int]()
            for start in range(0, len(frames), _BATCH):
                self.say(start, len(frames), f"{codec} {quality}, {world}")
                seen, some = recode(CODECS[codec], frames[start : start + _BATCH], quality)
                answers.append(outputs_of(network, seen).argmax(axis=1))
                sizes += some
            return {"answers": np.concatenate(answers).astype(np.int64), "bytes": np.array(sizes, np.int64)}

        told = [world, self.teacher_digest, repr(CODECS[codec]), quality, PIL.__version__]
        kept = self._kept(f"{codec}-{quality}-{world}", told, make)
        return WayAnswers(answers_N=kept["answers"], bytes_N=kept["bytes"])

    def pictures(self) -> list[tuple[str, int]]:
        """Those that this Pillow can make."""
        return [(name, quality) for name, quality in self.config.pictures if why_not(CODECS[name]) is None]

    def _kept(self, name: str, told: Sequence[Any], make: Callable[[], dict[str, NDArray[Any]]]) -> dict[str, Any]:
        """Arrays from the work folder, or made now.

        Args:
            told: What they hang on, beside the test frames, shifts and code.
        """
        shifts, code = [SHIFTS, SEVERITY, _SHIFT_SEED, VERSION], fingerprint([__name__], without=CODE_WITHOUT)
        whole = json.dumps([self.config.frames, self.frames_digest, shifts, code, versions(), *told])
        file = self._work / "loop" / f"{name}-{_digest(whole)}.npz"
        with alone(file.parent / name):
            if not file.is_file():
                temporary = file.with_name(f".{file.stem}.{os.getpid()}.npz")
                np.savez(temporary, **make())  # type: ignore[arg-type]
                os.replace(temporary, file)
        with np.load(file, allow_pickle=False) as held:
            return {key: held[key] for key in held.files}


def _through(trained: Trained, latents: FloatArray, level: int) -> tuple[Labels, list[int]]:
    """Payloads, decoded again, through the tail: labels and sizes."""
    payloads = [trained.codec.encode(latent, level) for latent in latents]
    decoded = [decode(payload, trained.codec.tables) for payload in payloads]
    symbols = [trained.codec.padded(each.symbols) for each in decoded]
    used, answers = np.array([each.level for each in decoded]), np.zeros(len(payloads), np.int64)
    for each in np.unique(used):
        rows = np.flatnonzero(used == each)
        answers[rows] = trained.logits(np.stack([symbols[row] for row in rows]), int(each)).argmax(axis=1)
    return answers, [len(payload) for payload in payloads]


def weights_digest(*networks: nn.Module) -> str:
    """Names what these networks hold: the SHA-256 of all their tensors with their names."""
    digest = hashlib.sha256()
    for network in networks:
        for name, value in network.state_dict().items():
            digest.update(name.encode() + b"\0" + value.detach().cpu().numpy().tobytes())
    return digest.hexdigest()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:10]
