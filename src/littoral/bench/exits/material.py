"""What the exits table is made of: CIFAR-10's test images, its ResNets, and a chain of exits for each of these."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file
from torch import nn

from littoral.bench.exits.bundles import trained_chain, trained_exits
from littoral.bench.exits.chain import Chain
from littoral.bench.exits.pooled import pooled_chain
from littoral.bench.exits.seen import Seen, see
from littoral.bench.exits.unit import ExitUnit
from littoral.bench.exits.users import KINDS, User, UserPlan, draw_user
from littoral.bench.inputs import inputs_digest
from littoral.bench.streams.cifar import CLASS_NAMES, load_cifar10
from littoral.bundle import InputSpec, TorchModel
from littoral.core.arrays import Frame
from littoral.errors import LittoralError
from littoral.models.factory import load_model
from littoral.train.exit_heads import TrainedExits

Labels = NDArray[np.int64]
DIGITS, SMALL, LARGE = "digits", "resnet20", "resnet56"
INPUT = InputSpec(height=32, width=32, channels=3, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
KWARGS: dict[str, Any] = {"num_classes": len(CLASS_NAMES)}
FACTORY = {name: f"littoral.models.zoo:{name}" for name in (SMALL, LARGE)}
WEIGHTS = {name: f"weights/cifar10_{name}.safetensors" for name in FACTORY}
NEEDED = ("cifar10/train.npz", "cifar10/test.npz", *WEIGHTS.values())
SHARES = {SMALL: (0.25, 0.36, 0.45, 0.68, 0.77), LARGE: (0.19, 0.34, 0.45, 0.56, 0.7), DIGITS: (0.3, 0.7)}
"""Where pooled stems stand, as shares of the network's work."""
POOLED_FRAMES = 6_000
QUICK = UserPlan(num_classes=4, personal=150, calibration=150, test=200, unseen=50)
_WORD = "'littoral bench exits'"


def check_data(folder: Path | None) -> Path:
    """The folder, if it has all that the table needs.

    Raises:
        LittoralError: it does not; says what is missing and how to get it.
    """
    missing = [name for name in NEEDED if folder is None or not (folder / name).is_file()]
    if folder is None or missing:
        where = "no data folder was given" if folder is None else f"{folder} lacks {', '.join(missing)}"
        raise LittoralError(
            f"{where}; {_WORD} needs CIFAR-10 (cifar10/train.npz and cifar10/test.npz) and the networks "
            "weights/cifar10_resnet20.safetensors and cifar10_resnet56.safetensors; give the folder that has them with "
            "--data, or set LITTORAL_DATA. benchmarks/README.md says where they come from; --quick needs none of this"
        )
    return folder


class ExitMaterial:
    """Loads each thing once per process.

    Args:
        data: The data folder; not read by a quick run.
        work: Where bundles and features are kept.
    """

    def __init__(self, data: Path, work: Path) -> None:
        self.data, self.work = data, work
        self._chains: dict[tuple[str, str], Chain] = {}
        self._exits: dict[str, TrainedExits] = {}

    @cached_property
    def test(self) -> tuple[Frame, Labels]:
        """CIFAR-10's test frames and labels."""
        return load_cifar10(self.data, "test")

    @cached_property
    def train(self) -> tuple[Frame, Labels]:
        return load_cifar10(self.data, "train")

    @cached_property
    def digits(self) -> Any:
        """The quick run's network and frames."""
        from littoral.bench.exits.quick import small_world

        return small_world()

    def frames(self, network: str) -> tuple[Frame, Labels]:
        """What users are drawn from; no network was trained on it."""
        return (self.digits.frames, self.digits.labels) if network == DIGITS else self.test

    def data_digest(self, network: str) -> str | None:
        """Of the files that the network and its frames are from; None for digits, which are made, and without files."""
        names = () if network == DIGITS else ("cifar10/train.npz", "cifar10/test.npz", WEIGHTS[network])
        return inputs_digest(self.data, names)

    def network(self, name: str) -> nn.Module:
        """A fresh network in eval mode."""
        if name == DIGITS:
            network: nn.Module = self.digits.fresh()
            return network
        path = self.data / WEIGHTS[name]
        try:
            tensors = load_file(path)
        except (OSError, SafetensorError) as error:
            raise LittoralError(f"{path} cannot be read ({error}); fetch the data again") from error
        return load_model(TorchModel(factory=FACTORY[name], kwargs=KWARGS, file=str(path)), tensors)

    def input(self, network: str) -> InputSpec:
        """How frames are normalised."""
        spec: InputSpec = self.digits.input if network == DIGITS else INPUT
        return spec

    def source(self, network: str) -> tuple[Frame, Labels]:
        """What the network was trained on."""
        source: tuple[Frame, Labels] = self.digits.source if network == DIGITS else self.train
        return source

    def exits(self, network: str) -> TrainedExits:
        """The network's trained exits: trained once and kept in the work folder."""
        if network not in self._exits:
            self._exits[network] = trained_exits(self, network)
        return self._exits[network]

    def chain(self, network: str, stems: str) -> Chain:
        """What runs: with trained stems, or with pooled ones."""
        key = network, stems
        if key not in self._chains:
            if stems == "trained":
                self._chains[key] = trained_chain(self.network(network), self.input(network), self.exits(network))
            else:
                frames, labels = self.source(network)
                self._chains[key] = pooled_chain(
                    self.network(network),
                    self.input(network),
                    frames[:POOLED_FRAMES],
                    labels[:POOLED_FRAMES],
                    shares=SHARES[network],
                )
        return self._chains[key]

    def plan(self, unit: ExitUnit) -> UserPlan:
        """How the unit's users are drawn."""
        return QUICK if unit.users == "quick" else KINDS[unit.users]

    def user(self, unit: ExitUnit, index: int) -> User:
        """One of them."""
        return draw_user(self.frames(unit.network)[1], self.plan(unit), seed=unit.seed, index=index)

    def seen(self, unit: ExitUnit, index: int) -> Seen:
        """One of them, with all that the network made of the frames; kept in the work folder."""
        chain, user = self.chain(unit.network, unit.stems), self.user(unit, index)
        frames, labels = self.frames(unit.network)
        facts = [str(self.data_digest(unit.network)), repr(chain.costs()), user.style, user.unseen.tobytes().hex()]
        facts += [exit.head.digest().hex() + exit.moments.means_KD.tobytes().hex() for exit in chain.exits]
        facts += [user.places[part].tobytes().hex() for part in user.places]
        name = hashlib.sha256("\0".join(facts).encode()).hexdigest()[:12]
        kept = self.work / "features" / f"{unit.network}-{unit.stems}-{unit.users}-{unit.seed}-{index}-{name}.npz"
        return see(user, chain, frames, labels, kept=kept)
