"""The networks that Littoral knows by name: ``littoral.models.zoo:<name>`` in a bundle's manifest.

Each is a factory of keyword arguments that JSON can hold, deterministic after ``torch.manual_seed``. A network of your
own needs no entry here: any ``package.module:factory`` is accepted.
"""

from __future__ import annotations

from littoral.models.mobilenet import mobilenet_v2
from littoral.models.resnet import resnet18, resnet20, resnet50, resnet56
from littoral.models.small_cnn import small_cnn
from littoral.models.vit import vit_small, vit_tiny

__all__ = ["mobilenet_v2", "resnet18", "resnet20", "resnet50", "resnet56", "small_cnn", "vit_small", "vit_tiny"]
