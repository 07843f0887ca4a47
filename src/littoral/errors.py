"""The errors of Littoral: whose fault it is decides the family.

    LittoralError
    ├── BundleError          the artefact is damaged, incomplete, unsigned, or of another kind
    ├── UpdateRejected       an affine version is not fit to be installed here (``.code`` says why)
    ├── ModelOutputError     a network produced NaN, infinity, or what is no answer
    ├── StorageError         the state folder cannot hold what must be kept (disk full, read only)
    ├── LinkError            the road between device and cloud
    │   ├── ProtocolError    bytes that break the wire format
    │   └── LinkRefused      the other side said no (``.code`` says why)
    ├── FetchError           a data set's home cannot be reached, or sent something else than it published
    ├── PayloadError         a split's payload is damaged, too large, or of other tables (also a ValueError; ``.code``)
    ├── HeadStateError   a personal head's saved state is damaged or of another head (also a ValueError; ``.code``)
    ├── SwitcherStateError   a switcher's saved state is damaged or of another one (also a ValueError; ``.code``)
    ├── FrameError           a frame is not what the bundle's input says (also a ValueError)
    └── MissingExtra         a command needs packages that are not installed (also an ImportError)

The caller's other mistakes are ``ValueError``. Every message says what came, what was expected and what to do.
"""

from __future__ import annotations


class LittoralError(Exception):
    """Base of all errors that Littoral raises on purpose."""


class BundleError(LittoralError):
    """The bundle is damaged, incomplete, unsigned, or not the one that was expected."""


class UpdateRejected(LittoralError):
    """An affine version was refused; the installed one goes on serving.

    Attributes:
        code: One of ``unsigned``, ``other-bundle``, ``other-cohort``, ``older``, ``truncated``, ``out-of-bounds``,
            ``not-finite``, ``probe``, ``storage``, ``malformed``, ``watch``.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class ModelOutputError(LittoralError):
    """A network's output is not finite, or is no answer to its task."""


class StorageError(LittoralError):
    """What must be kept could not be written; nothing was half applied."""


class LinkError(LittoralError):
    """The road between device and cloud failed.

    The message may quote the other side, and goes into logs and on terminals: a character that is not printed is
    replaced, so that nobody can write lines of their own there.
    """

    def __init__(self, message: str) -> None:
        super().__init__("".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in message))


class ProtocolError(LinkError):
    """Bytes that break the wire format; nothing of them was used."""


class LinkRefused(LinkError):
    """The other side answered and said no.

    Attributes:
        code: One of ``not-enrolled``, ``revoked``, ``bad-signature``, ``bad-token``, ``other-bundle``, ``protocol``,
            ``busy``, ``storage``.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class FetchError(LittoralError):
    """A data set could not be had from its home."""


class PayloadError(LittoralError, ValueError):
    """A payload of symbols was refused; nothing of it was used.

    Attributes:
        code: One of ``damaged``, ``too-large``, ``other-codec``, ``other-tables``.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class HeadStateError(LittoralError, ValueError):
    """The saved state of a personal head was refused; nothing of it was used. The shipped head serves.

    Attributes:
        code: One of ``damaged``, ``other-head``, ``other-config``.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class SwitcherStateError(LittoralError, ValueError):
    """The saved state of a router's switcher was refused; nothing of it was used. The shipped one serves.

    Attributes:
        code: One of ``damaged``, ``other-switcher``.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class FrameError(LittoralError, ValueError):
    """A frame does not have the size, channels or dtype that the bundle's input states."""


class MissingExtra(LittoralError, ImportError):
    """A command needs packages that are not installed."""
