"""What is where in a client's blob directory, and which directories are refused."""

from __future__ import annotations

import os
import threading
from contextlib import closing
from pathlib import Path

import pytest
import ZODB.blob
import ZODB.utils

from tests.support.blobdirectories import (
    SERIAL,
    no_fetch,
    read,
    sender,
)
from tests.support.raw import oid_of
from zeolith.client import bloblayout
from zeolith.client.blobs import BlobDirectory
from zeolith.errors import ConfigurationError


def test_layout_is_zeos(blob_cache: BlobDirectory) -> None:
    path = blob_cache.filename(oid_of(997 * 5 + 3), SERIAL)
    assert path == os.path.join(os.path.abspath(blob_cache.path), "3", "5.03ff000000000001.blob")
    assert Path(blob_cache.path, ".layout").read_text() == "zeocache"
    assert "zeocache" in ZODB.blob.LAYOUTS
    assert blob_cache.temp_dir == os.path.join(blob_cache.path, "tmp")
    assert os.path.isdir(blob_cache.temp_dir)
    assert isinstance(blob_cache.fshelper, ZODB.blob.FilesystemHelper)


def test_zodbs_table_of_layouts_takes_our_class() -> None:
    layout = bloblayout.CacheLayout()
    assert layout.getBlobFilePath(oid_of(998), SERIAL) == os.path.join(
        "1", "1.03ff000000000001.blob"
    )
    assert layout.oid_to_path(oid_of(998)) == "1"


@pytest.mark.parametrize("marker", ["bushy", "lawn", "something"])
def test_a_cache_refuses_a_directory_of_another_layout(tmp_path: Path, marker: str) -> None:
    (tmp_path / ".layout").write_text(marker)
    with pytest.raises(ConfigurationError, match=marker):
        BlobDirectory(str(tmp_path), shared=False, cache_size=None)
    assert os.listdir(tmp_path) == [".layout"]


def test_a_cache_refuses_a_servers_directory_from_before_markers(tmp_path: Path) -> None:
    (tmp_path / "0x01").mkdir()
    with pytest.raises(ConfigurationError, match="server"):
        BlobDirectory(str(tmp_path), shared=False, cache_size=None)


def test_shared_refuses_a_cache(blob_cache: BlobDirectory) -> None:
    with pytest.raises(ConfigurationError, match="cache of a client"):
        BlobDirectory(blob_cache.path, shared=True, cache_size=None)


def test_shared_refuses_an_unknown_layout(tmp_path: Path) -> None:
    (tmp_path / ".layout").write_text("spiral")
    with pytest.raises(ConfigurationError, match="spiral"):
        BlobDirectory(str(tmp_path), shared=True, cache_size=None)


def test_a_file_in_place_of_the_directory_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for shared in (True, False):
        with pytest.raises(ConfigurationError, match="cannot be used"):
            BlobDirectory(str(tmp_path / "file"), shared=shared, cache_size=None)


def test_a_cache_may_be_opened_twice(blob_cache: BlobDirectory) -> None:
    with closing(BlobDirectory(blob_cache.path, shared=False, cache_size=None)) as second:
        blob_cache.load(oid_of(1), SERIAL, sender(blob_cache, b"data"))
        assert read(second.load(oid_of(1), SERIAL, no_fetch)) == b"data"


def test_many_clients_may_make_a_directory_at_once(tmp_path: Path) -> None:
    start = threading.Barrier(8)
    made: list[BlobDirectory] = []
    errors: list[BaseException] = []

    def make() -> None:
        start.wait(30)
        try:
            made.append(BlobDirectory(str(tmp_path / "a" / "b"), shared=False, cache_size=None))
        except ConfigurationError as error:
            errors.append(error)

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert errors == []
    assert len(made) == 8
    assert sorted(os.listdir(tmp_path / "a" / "b")) == [".layout", "tmp"]


def test_an_unfinished_marker_is_finished(tmp_path: Path) -> None:
    """A client of ZEO has just created the file and not yet written the name."""
    (tmp_path / ".layout").touch()
    BlobDirectory(str(tmp_path), shared=False, cache_size=None).close()
    assert (tmp_path / ".layout").read_text() == "zeocache"
