"""Littoral: vision models that keep right where they run."""
