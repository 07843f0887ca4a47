"""Bytes <-> frozen dataclasses, and the link's state machines. No socket, no clock, no thread."""
