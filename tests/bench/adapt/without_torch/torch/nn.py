"""The part of the stand-in that the bench's annotations name."""


class Module:
    """Nothing is done with one."""
