"""What a training of a split needs of its parts before it begins."""

from __future__ import annotations

import numpy as np
import torch

from littoral.models.bottleneck import check_symbols
from littoral.models.entropy import FactorisedPrior
from littoral.models.frames import normalise
from littoral.models.modes import in_eval_mode
from littoral.train.split_data import SplitData, SplitNetworks
from littoral.train.split_recipe import SplitRecipe


def check_training(recipe: SplitRecipe, networks: SplitNetworks, data: SplitData) -> None:
    """See that recipe, networks and frames fit together.

    Raises:
        ValueError: they do not; says which part, and what to do.
    """
    bottleneck = networks.bottleneck
    if len(recipe.rate_weights) != bottleneck.num_levels:
        raise ValueError(
            f"the recipe has {len(recipe.rate_weights)} rate weights, the bottleneck {bottleneck.num_levels} levels; "
            "give each level one"
        )
    for phase in recipe.phases:
        if phase.loss.features and networks.teacher is None:
            raise ValueError("the loss compares features, for which a teacher is needed")
        if phase.loss.pooled and networks.teacher is None and data.bank is None:
            raise ValueError("the loss compares pooled features, for which a teacher or its bank is needed")
        if data.bank is not None and (missing := set(phase.loss.pooled) - set(data.bank.pooled_VNC)):
            raise ValueError(f"the teacher's bank lacks the pooled features of {sorted(missing)}; fill it with them")
        if phase.quantile_loss and not (
            isinstance(bottleneck.prior, FactorisedPrior) and bottleneck.prior.learns_quantiles
        ):
            raise ValueError("the loss trains quantiles, and the prior has none; make it with learns_quantiles=True")
    _check_latent(networks, data)


def _check_latent(networks: SplitNetworks, data: SplitData) -> None:
    """By what the encoder makes of one frame."""
    bottleneck, head = networks.bottleneck, networks.head
    device = next(bottleneck.parameters()).device
    frame = torch.from_numpy(np.ascontiguousarray(data.frames[:1])).to(device)
    with torch.no_grad(), in_eval_mode(bottleneck, head):
        x = normalise(frame, data.input)
        latent = bottleneck.latent(x if head is None else head(x))
    check_symbols(max(bottleneck.kept), *latent.shape[2:])
