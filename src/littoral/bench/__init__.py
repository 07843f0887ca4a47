"""Streams, tables and the demo."""
