"""All blobs to an object store, and back."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from tests.support.raw import oid_of
from tests.support.stores import MemoryStore
from ZODB.blob import FilesystemHelper

from zeolith.admin import tiering
from zeolith.admin.tiering import Place, claim, fetch_all, upload_all
from zeolith.tier.owner import FILE_NAME
from zeolith.tier.stubs import sync_file
from zeolith.tier.tier import BlobTier

TID = bytes.fromhex("040d284fb1c9e3dd")


def no_progress(size: int) -> None:
    """Nobody looks."""


@pytest.fixture
def helper(tmp_path: Path) -> Any:
    """A blob directory with two blobs."""
    found = FilesystemHelper(str(tmp_path / "blobs"))
    found.create()
    for number in (1, 2):
        found.createPathForOID(oid_of(number))
        Path(path_of(found, number)).write_bytes(b"data")
    return found


def path_of(helper: Any, number: int) -> str:
    return str(helper.getBlobFilename(oid_of(number), TID))


def place_of(helper: Any, store: MemoryStore) -> Place:
    return Place(helper, BlobTier(helper, store, 1 << 30))


def test_an_empty_store_has_nothing_whatever_stubs_say(helper: Any) -> None:
    place = place_of(helper, MemoryStore())
    assert claim(place).pending == 2
    assert upload_all(place, no_progress) == 2
    assert claim(place).pending == 0
    os.remove(helper.base_dir + FILE_NAME)
    store = MemoryStore()
    place = place_of(helper, store)
    assert claim(place).pending == 2
    assert upload_all(place, no_progress) == 2
    assert list(store.objects.values()) == [b"data"] * 2


def test_what_was_fetched_is_on_disk(helper: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store may be emptied next."""
    place = place_of(helper, MemoryStore())
    claim(place)
    upload_all(place, no_progress)
    paths = [path_of(helper, number) for number in (1, 2)]
    for path in paths:
        os.remove(path)
    synced = []

    def note(path: str) -> None:
        sync_file(path)
        synced.append(path)

    monkeypatch.setattr(tiering, "sync_file", note)
    assert fetch_all(place, no_progress) == 2
    assert sorted(synced) == paths
