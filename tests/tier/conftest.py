"""Fixtures of the tests of object stores."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.stores import MemoryStore, moto_server
from ZODB.blob import FilesystemHelper


@pytest.fixture(scope="module")
def moto() -> Iterator[int]:
    """The port of an S3 server with an empty bucket."""
    with moto_server() as port:
        yield port


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def helper(tmp_path: Path) -> Any:
    """A blob directory of a server."""
    found = FilesystemHelper(str(tmp_path / "blobs"))
    found.create()
    return found
