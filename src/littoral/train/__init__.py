"""Offline: a torch model and data become a bundle."""
