"""Streams of the benches: corruptions, data sets, and the orders in which frames are played."""
