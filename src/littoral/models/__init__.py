"""Torch modules: the zoo of networks that Littoral knows by name."""
