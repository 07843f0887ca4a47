"""Fixtures of the cloud's tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the cloud needs its extra")
pytest.importorskip("starlette", reason="the cloud needs its extra")

from cloud_peer import enrolled, write_bundle

from littoral.bundle import Bundle
from littoral.cloud.domains import DomainRule
from littoral.cloud.store import EnrolledDevice, Store

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:  # for ``attacks/``
    sys.path.insert(0, str(ROOT))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle")


@pytest.fixture
def opened(bundle: Path) -> Bundle:
    return Bundle.open(bundle, require_cloud=True)


@pytest.fixture
def store(tmp_path: Path, opened: Bundle) -> Iterator[Store]:
    store = Store(tmp_path / "state", bundle_digest=opened.digest, rule=DomainRule.of(opened.manifest))
    yield store
    store.close()


@pytest.fixture
def device(store: Store) -> EnrolledDevice:
    return enrolled(store)
