"""A frozen network that shows what exits stand on."""

from __future__ import annotations

import copy
import zlib

import numpy as np
import torch
from torch import Tensor, nn

from littoral.bundle.manifest import InputSpec
from littoral.core.arrays import Frame
from littoral.models.frames import normalise
from littoral.train.exit_places import ExitPlaces


class Trunk:
    """A copy of a network, in eval mode and float32, on the device of the caller's.

    Raises:
        ValueError: it lacks a place.
    """

    def __init__(self, model: nn.Module, spec: InputSpec, places: ExitPlaces) -> None:
        self.places, self._spec = places, spec
        self.device = next(model.parameters(), torch.zeros(())).device
        # Channels last: convolutions of few channels take half the time on a CPU.
        frozen: nn.Module = copy.deepcopy(model).float().eval()
        self._model: nn.Module = frozen.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._seen: dict[str, Tensor] = {}
        modules = dict(self._model.named_modules())
        deep = () if places.last_linear is None else (places.last_linear,)
        if unknown := [name for name in (*places.modules, *deep) if name not in modules]:
            raise ValueError(f"the network has no module {unknown[0]!r}; place the exits anew")
        for name in places.modules:  # as it is now, and as the device has it: what comes next may work in place
            modules[name].register_forward_hook(lambda _m, _i, out, name=name: self._seen.update({name: out.clone()}))
        self.last_linear: nn.Linear | None = None
        if places.last_linear is not None:
            last = modules[places.last_linear]
            assert isinstance(last, nn.Linear)
            last.register_forward_pre_hook(lambda _m, given: self._seen.update({"": given[0].clone()}))
            self.last_linear = last
        self.num_classes = self(np.zeros((1, *spec.shape), np.uint8))[2].shape[1]

    def __call__(self, frames: Frame) -> tuple[list[Tensor], Tensor | None, Tensor]:
        """For uint8 ``(B, H, W, C)``: each exit's map ``(B, C, H, W)``, what the last layer takes, and the logits."""
        with torch.no_grad():
            x = normalise(torch.from_numpy(np.ascontiguousarray(frames)).to(self.device), self._spec)
            logits = self._model(x.contiguous(memory_format=torch.channels_last))
        return [self._seen[name] for name in self.places.modules], self._seen.get(""), logits

    def checksum(self) -> int:
        """Of the network's weights."""
        crc = 0
        for value in self._model.state_dict().values():
            crc = zlib.crc32(np.ascontiguousarray(value.cpu().numpy()).data, crc)
        return crc
