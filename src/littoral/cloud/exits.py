"""A bundle's early exits on the cloud's student: their answers learn from the teacher together with the network's own.

A device's stems and heads do not change in the field. What reaches them does, with each version: so a student that is
fitted to the teacher at its end alone leaves exits behind, and in another world fewer frames are sure there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from littoral.bundle import Bundle
from littoral.bundle.exits import ExitHeads
from littoral.models.exit_graphs import GraphStem

if TYPE_CHECKING:
    from collections.abc import Callable


class TaughtExits(nn.Module):
    """The early exits, frozen, fed by a student whenever it runs while `watch` was called last.

    Raises:
        BundleError: the bundle's heads are not what they should be.
        ValueError: a stem has a layer that is not known, or the student lacks a module on which an exit stands.
    """

    def __init__(self, bundle: Bundle, student: nn.Module) -> None:
        super().__init__()
        early = [(i, spec) for i, spec in enumerate(bundle.manifest.exits) if not spec.is_deep]
        heads = ExitHeads.open(bundle).heads
        self._seen: list[list[Tensor]] = [[] for _ in early]
        self._watches = False
        self._stems, self._heads = nn.ModuleList(), nn.ModuleList()
        for place, (index, spec) in enumerate(early):
            name = bundle.manifest.segments[spec.segment].output
            try:
                module = student.get_submodule(name)
            except AttributeError as error:
                raise ValueError(f"exit {index} stands on {name!r}, which the student does not have") from error
            module.register_forward_hook(self._keeper(place))
            head = nn.Linear(heads[index].num_features, heads[index].num_classes)
            with torch.no_grad():
                head.weight.copy_(torch.from_numpy(heads[index].weights_KD.copy()))
                head.bias.copy_(torch.from_numpy(heads[index].bias_K.copy()))
            self._stems.append(nn.Identity() if spec.stem_file is None else GraphStem(bundle.read(spec.stem_file)))
            self._heads.append(head)
        self.requires_grad_(False)

    def watch(self) -> None:
        """Keep what reaches the exits from the next forward pass on."""
        self._seen = [[] for _ in self._seen]
        self._watches = True

    def answers(self) -> list[Tensor]:
        """Each exit's logits ``(B, K)``, with gradient, of all frames since `watch`; then no more is kept."""
        seen, self._seen, self._watches = self._seen, [[] for _ in self._seen], False
        pairs = zip(self._stems, self._heads, seen, strict=True)
        return [head(stem(torch.cat(values))) for stem, head, values in pairs]

    def _keeper(self, place: int) -> Callable[[nn.Module, object, Tensor], None]:
        def keep(module: nn.Module, given: object, value: Tensor) -> None:
            if self._watches:
                self._seen[place].append(value)

        return keep
