"""Torch modules: the zoo of networks that Littoral knows by name, and how a bundle's network is rebuilt."""

from littoral.models.factory import load_model, make_model

__all__ = ["load_model", "make_model"]
