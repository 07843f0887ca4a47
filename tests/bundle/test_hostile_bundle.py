"""A bundle from anywhere is opened or refused, whatever lies in its files."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from littoral.bundle import Bundle, Manifest
from littoral.bundle.bundle import MANIFEST_FILE, SIGNATURE_FILE
from littoral.errors import BundleError

DEEP = b'{"schema":1,"name":' + b"[" * 200_000


@pytest.mark.parametrize(
    "data", [b"", b"\xff", b"[]", b"{}", b"NaN", DEEP], ids=["empty", "bytes", "list", "none", "nan", "deep"]
)
def test_a_manifest_that_is_none_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / MANIFEST_FILE).write_bytes(data)
    with pytest.raises(BundleError, match="build"):
        Bundle.open(tmp_path)


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff", b"[]", b'{"public_key":1,"signature":2}', DEEP],
    ids=["empty", "bytes", "list", "numbers", "deep"],
)
def test_a_signature_that_is_none_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / SIGNATURE_FILE).write_bytes(data)
    bundle = Bundle(path=tmp_path, manifest=cast(Manifest, None), digest=b"d" * 32)
    with pytest.raises(BundleError, match="sign again"):
        bundle.signer()
