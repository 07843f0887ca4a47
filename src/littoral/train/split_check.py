"""What a training of a split needs of its parts before it begins."""

from __future__ import annotations

from littoral.models.entropy import FactorisedPrior
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
