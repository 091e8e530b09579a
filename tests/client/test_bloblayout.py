"""What is where in a client's blob directory, and which directories are refused."""

from __future__ import annotations

import os
import threading
from contextlib import closing
from pathlib import Path

import pytest
import ZODB.blob
import ZODB.utils
from ZODB.Connection import TransactionMetaData
from ZODB.MappingStorage import MappingStorage

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


def test_a_servers_directory_that_was_marked_as_a_cache_is_refused(tmp_path: Path) -> None:
    """C: a client of ZEO with shared_blob_dir off on a server's directory without a marker."""
    (tmp_path / "0x00").mkdir()
    (tmp_path / ".layout").write_text("zeocache")
    with pytest.raises(ConfigurationError, match="layout 'lawn' of a server"):
        BlobDirectory(str(tmp_path), shared=False, cache_size=None)
    assert sorted(os.listdir(tmp_path)) == [".layout", "0x00"]


@pytest.mark.parametrize("layout", ["bushy", "lawn"])
@pytest.mark.parametrize("is_marked", [True, False])
def test_a_cache_refuses_the_directory_of_a_real_server(
    tmp_path: Path, layout: str, is_marked: bool
) -> None:
    """C: known by its marker, and without that by what is in it."""
    path = str(tmp_path / "blobs")
    with closing(ZODB.blob.BlobStorage(path, MappingStorage(), layout)) as storage:
        (tmp_path / "source").write_bytes(b"data")
        meta = TransactionMetaData()
        storage.tpc_begin(meta)
        storage.storeBlob(oid_of(1), bytes(8), b"record", str(tmp_path / "source"), "", meta)
        storage.tpc_vote(meta)
        storage.tpc_finish(meta)
    if not is_marked:
        os.remove(os.path.join(path, ".layout"))
    before = sorted(os.walk(path))
    with pytest.raises(ConfigurationError, match="of a server's blob directory"):
        BlobDirectory(path, shared=False, cache_size=None)
    assert sorted(os.walk(path)) == before
    if is_marked:
        BlobDirectory(path, shared=True, cache_size=None).close()


def test_shared_refuses_a_cache_without_its_marker(blob_cache: BlobDirectory) -> None:
    blob_cache.load(oid_of(1), SERIAL, sender(blob_cache, b"data"))
    os.remove(os.path.join(blob_cache.path, ".layout"))
    with pytest.raises(ConfigurationError, match="cache of a client"):
        BlobDirectory(blob_cache.path, shared=True, cache_size=None)


@pytest.mark.parametrize("is_there", [False, True])
def test_a_shared_directory_that_no_server_has_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, is_there: bool
) -> None:
    """Client and server may be started for the first time together; more often, the file system
    is not mounted."""
    path = tmp_path / "blobs"
    if is_there:
        path.mkdir()
    with closing(BlobDirectory(str(path), shared=True, cache_size=None)):
        assert "not mounted" in caplog.text
        assert str(path) in caplog.text
    assert (path / ".layout").read_text() == "bushy"
    caplog.clear()
    BlobDirectory(str(path), shared=True, cache_size=None).close()
    assert caplog.text == ""


def test_many_clients_may_make_a_shared_directory_at_once(tmp_path: Path) -> None:
    assert make_at_once(tmp_path / "a" / "b", shared=True) == 8
    assert sorted(os.listdir(tmp_path / "a" / "b")) == [".layout", "tmp"]
    assert (tmp_path / "a" / "b" / ".layout").read_text() == "bushy"


@pytest.mark.parametrize("has_links", [True, False])
def test_who_comes_second_leaves_the_layout_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_links: bool
) -> None:
    """Between its look at the marker and that at the files another client makes the directory: what
    it sees looks like an old one.  With another layout, blobs of the first would not be found."""
    path = tmp_path / "blobs"
    path.mkdir()
    select = ZODB.blob.auto_layout_select

    def make_first(found: str) -> str:
        monkeypatch.setattr(ZODB.blob, "auto_layout_select", select)
        BlobDirectory(str(path), shared=True, cache_size=None).close()
        return "lawn"

    def refuse(*arguments: object) -> None:
        raise PermissionError("no second names")

    monkeypatch.setattr(ZODB.blob, "auto_layout_select", make_first)
    if not has_links:
        monkeypatch.setattr(os, "link", refuse)
    second = BlobDirectory(str(path), shared=True, cache_size=None)
    assert second.fshelper.layout_name == "bushy"
    assert (path / ".layout").read_text() == "bushy"
    assert sorted(os.listdir(path)) == [".layout", "tmp"]
    second.close()


def test_a_marker_that_nobody_finished_is_written_anew(tmp_path: Path) -> None:
    (tmp_path / ".layout").touch()
    BlobDirectory(str(tmp_path), shared=False, cache_size=None).close()
    assert (tmp_path / ".layout").read_text() == "zeocache"


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


def make_at_once(path: Path, shared: bool) -> int:
    """Have eight threads open a directory that is not there; return how many could."""
    start = threading.Barrier(8)
    made: list[BlobDirectory] = []
    errors: list[BaseException] = []

    def make() -> None:
        start.wait(30)
        try:
            made.append(BlobDirectory(str(path), shared=shared, cache_size=None))
        except ConfigurationError as error:
            errors.append(error)

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert errors == []
    return len(made)


def test_many_clients_may_make_a_directory_at_once(tmp_path: Path) -> None:
    assert make_at_once(tmp_path / "a" / "b", shared=False) == 8
    assert sorted(os.listdir(tmp_path / "a" / "b")) == [".layout", "tmp"]


def test_an_unfinished_marker_is_finished(tmp_path: Path) -> None:
    """A client of ZEO has just created the file and not yet written the name."""
    (tmp_path / ".layout").touch()
    BlobDirectory(str(tmp_path), shared=False, cache_size=None).close()
    assert (tmp_path / ".layout").read_text() == "zeocache"
