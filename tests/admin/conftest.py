"""Fixtures of the tests of what administrators do."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.backups import Site


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A database with blobs 1, 2 and 3, each from a transaction of its own."""
    directory = tmp_path / "a site"  # repozo itself has trouble with spaces
    directory.mkdir()
    found = Site(directory)
    found.commit(1, 2, 3)
    return found
