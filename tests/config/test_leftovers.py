"""What a pack that was cut off has left is seen to when a storage is opened."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.support.packing import Contents, check_database, debris
from zc.lockfile import LockFile
from ZODB.FileStorage import FileStorage

from zeolith.config.server import parse_server_config
from zeolith.config.storages import File, StorageOpener, open_storages
from zeolith.errors import ConfigurationError


def opener(directory: Path, blobs: bool = True) -> File:
    return File("main", str(directory / "Data.fs"), str(directory / "blobs") if blobs else None)


def open_and_close(*openers: StorageOpener) -> None:
    for storage in open_storages(openers).values():
        storage.close()


def names_in(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()} - {"Data.fs.lock", "Data.fs.tmp"}


def test_an_unfinished_pack_is_removed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    contents = Contents(tmp_path, 20)
    (tmp_path / "Data.fs.pack").write_bytes(b"half")
    (tmp_path / "blobs" / ".removed").write_bytes(b"00\n")
    open_and_close(opener(tmp_path))
    assert debris(tmp_path) == []
    assert check_database(tmp_path) == contents.expected
    assert f"removed {tmp_path / 'Data.fs.pack'}" in caplog.text


def test_a_database_without_its_name_gets_it_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """ZODB's packer renames twice; in between there is no Data.fs."""
    contents = Contents(tmp_path, 20)
    os.rename(tmp_path / "Data.fs", tmp_path / "Data.fs.old")
    (tmp_path / "Data.fs.pack").write_bytes(b"whole")
    open_and_close(opener(tmp_path))
    assert names_in(tmp_path) == {"Data.fs", "Data.fs.index", "blobs"}
    assert check_database(tmp_path) == contents.expected
    assert f"{tmp_path / 'Data.fs.old'} is {tmp_path / 'Data.fs'} again" in caplog.text


def test_a_missing_database_is_not_made_anew_beside_its_old_file(tmp_path: Path) -> None:
    """That may be a pack that was cut off, or an administrator who begins anew: he must say."""
    Contents(tmp_path, 20)
    os.rename(tmp_path / "Data.fs", tmp_path / "Data.fs.old")
    before = names_in(tmp_path)
    with pytest.raises(ConfigurationError, match=r"Data\.fs is missing.*rename that to"):
        open_and_close(opener(tmp_path))
    assert names_in(tmp_path) == before


def test_a_second_name_of_the_database_is_removed(tmp_path: Path) -> None:
    contents = Contents(tmp_path, 20)
    os.link(tmp_path / "Data.fs", tmp_path / "Data.fs.old")
    (tmp_path / "Data.fs.pack").write_bytes(b"whole")
    open_and_close(opener(tmp_path))
    assert names_in(tmp_path) == {"Data.fs", "Data.fs.index", "blobs"}
    assert check_database(tmp_path) == contents.expected


def test_what_the_pack_before_has_kept_stays(tmp_path: Path) -> None:
    Contents(tmp_path, 20)
    (tmp_path / "Data.fs.old").write_bytes(b"kept")
    (tmp_path / "Data.fs.pack").write_bytes(b"half")
    open_and_close(opener(tmp_path))
    assert (tmp_path / "Data.fs.old").read_bytes() == b"kept"


def test_a_pack_of_another_process_is_left_alone(tmp_path: Path) -> None:
    Contents(tmp_path, 20)
    (tmp_path / "Data.fs.pack").write_bytes(b"being written")
    lock = LockFile(str(tmp_path / "Data.fs.lock"))
    try:
        with pytest.raises(ConfigurationError, match="already open"):
            open_and_close(opener(tmp_path))
        assert (tmp_path / "Data.fs.pack").read_bytes() == b"being written"
    finally:
        lock.close()


def test_a_list_of_blobs_never_takes_what_the_database_has(tmp_path: Path) -> None:
    """Also if it was left by a pack that never came to its end."""
    contents = Contents(tmp_path)
    with closing(FileStorage(str(tmp_path / "Data.fs"), blob_dir=str(tmp_path / "blobs"))) as found:
        blobs = sorted((tmp_path / "blobs").rglob("*.blob"))
        helper = found.fshelper
        entries = []
        for path in blobs:
            oid, tid = helper.splitBlobFilename(str(path))
            entries += [oid.hex(), (oid + tid).hex()]
    lines = "\n".join([*entries, "no entry", entries[0][:-3]])
    (tmp_path / "blobs" / ".removed").write_text(lines)
    open_and_close(opener(tmp_path))
    assert sorted((tmp_path / "blobs").rglob("*.blob")) == blobs
    assert debris(tmp_path) == []
    assert check_database(tmp_path) == contents.expected


def test_blobs_that_are_not_removed_yet_go(tmp_path: Path) -> None:
    Contents(tmp_path)
    orphan = tmp_path / "blobs/0x00/0x00/0x00/0x00/0x00/0x00/0x7f/0xff/0x0123456789abcdef.blob"
    orphan.parent.mkdir(parents=True)
    orphan.write_bytes(b"of an object that was packed away")
    (tmp_path / "blobs" / ".removed").write_text("0000000000007fff\n")
    open_and_close(opener(tmp_path))
    assert not orphan.exists()
    assert not orphan.parents[1].exists()  # nothing else was in it
    assert (tmp_path / "blobs.old" / orphan.relative_to(tmp_path / "blobs")).exists()
    assert debris(tmp_path) == []


CONFIGURATIONS = {
    "filestorage": "<filestorage>\npath {0}/Data.fs\nblob-dir {0}/blobs\n</filestorage>",
    "blobstorage": "<blobstorage>\nblob-dir {0}/blobs\n<filestorage>\npath {0}/Data.fs\n"
    "</filestorage>\n</blobstorage>",
    "demostorage": "<demostorage>\n<mappingstorage base>\n</mappingstorage>\n"
    "<filestorage changes>\npath {0}/Data.fs\nblob-dir {0}/blobs\n</filestorage>\n</demostorage>",
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_storages_of_a_configuration_are_seen_to(tmp_path: Path, name: str) -> None:
    Contents(tmp_path, 20)
    (tmp_path / "Data.fs.pack").write_bytes(b"half")
    config = parse_server_config(
        "<zeo>\naddress 127.0.0.1:0\n</zeo>\n" + CONFIGURATIONS[name].format(tmp_path)
    )
    open_and_close(*config.storages)
    assert debris(tmp_path) == []


def test_a_storage_opened_for_reading_leaves_a_pack_alone(tmp_path: Path) -> None:
    Contents(tmp_path, 20)
    (tmp_path / "Data.fs.pack").write_bytes(b"being written")
    (tmp_path / "blobs" / ".removed").write_text("0000000000007fff\n")
    config: Any = parse_server_config(
        "<zeo>\naddress 127.0.0.1:0\n</zeo>\n<filestorage>\n"
        f"path {tmp_path}/Data.fs\nblob-dir {tmp_path}/blobs\nread-only true\n</filestorage>\n"
    )
    open_and_close(*config.storages)
    assert len(debris(tmp_path)) == 2
