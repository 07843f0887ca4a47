"""A bundle's early exits on the cloud's student: their answers learn from the teacher together with the network's own.

A device's stems and heads do not change in the field. What reaches them does, with each version: a student that is
fitted to the teacher at its end alone leaves them behind, and in another world fewer frames are sure there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from littoral.bundle import Bundle
from littoral.bundle.exits import ExitHeads
from littoral.models.exit_graphs import GraphStem

log = logging.getLogger(__name__)


class TaughtExits(nn.Module):
    """Early exits, frozen, that answer whenever a student runs between `watch` and `answers`.

    Args:
        places: The student's modules on whose outputs they stand.
        stems, heads: Of each.
    """

    def __init__(self, places: Sequence[nn.Module], stems: Sequence[nn.Module], heads: Sequence[nn.Linear]) -> None:
        super().__init__()
        self._stems, self._heads = nn.ModuleList(stems), nn.ModuleList(heads)
        self._said: list[list[Tensor]] = [[] for _ in places]
        self._watches = False
        self.requires_grad_(False)
        for index, place in enumerate(places):
            place.register_forward_hook(self._listener(index))

    @classmethod
    def of(cls, bundle: Bundle, student: nn.Module) -> TaughtExits | None:
        """A bundle's, on its student; None where it has none, or where they cannot be run here: that is logged.

        Raises:
            BundleError: the bundle's heads are not what they should be.
        """
        early = [(index, spec) for index, spec in enumerate(bundle.manifest.exits) if not spec.is_deep]
        if not early:
            return None
        shipped, modules = ExitHeads.open(bundle).heads, dict(student.named_modules())
        places, stems, heads = list[nn.Module](), list[nn.Module](), list[nn.Linear]()
        for index, spec in early:
            name = bundle.manifest.segments[spec.segment].output
            if name not in modules:
                log.warning("exits are not taught: exit %d stands on %r, no module of the student", index, name)
                return None
            try:
                stem = nn.Identity() if spec.stem_file is None else GraphStem(bundle.read(spec.stem_file))
            except ValueError as error:
                log.warning("exits are not taught: exit %d: %s", index, error)
                return None
            head = nn.Linear(shipped[index].num_features, shipped[index].num_classes)
            with torch.no_grad():
                head.weight.copy_(torch.tensor(shipped[index].weights_KD))
                head.bias.copy_(torch.tensor(shipped[index].bias_K))
            places.append(modules[name])
            stems.append(stem)
            heads.append(head)
        return cls(places, stems, heads)

    def watch(self) -> None:
        """Answer from the student's next forward pass on."""
        self._said = [[] for _ in self._said]
        self._watches = True

    def answers(self) -> list[Tensor]:
        """Each exit's logits ``(B, K)``, with gradient, for all frames since `watch`; then they are silent again."""
        said, self._said, self._watches = self._said, [[] for _ in self._said], False
        return [torch.cat(parts).float() for parts in said]

    def _listener(self, index: int) -> Callable[[nn.Module, object, Tensor], None]:
        def listen(module: nn.Module, given: object, value: Tensor) -> None:
            if self._watches:  # a copy: what comes after may change the value in its place
                self._said[index].append(self._heads[index](self._stems[index](value.clone())))

        return listen
