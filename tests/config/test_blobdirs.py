"""A server does not store its blobs where clients remove them."""

from __future__ import annotations

from pathlib import Path

import pytest

from zeolith.config.server import parse_server_config
from zeolith.config.storages import File, StorageOpener, open_storages
from zeolith.errors import ConfigurationError

SECTIONS = {
    "own": "<filestorage 1>\npath {0}/Data.fs\nblob-dir {0}/cache\n</filestorage>",
    "around": "<blobstorage 1>\nblob-dir {0}/cache\n<mappingstorage/>\n</blobstorage>",
    "inside": "<demostorage 1>\n<filestorage changes>\npath {0}/Data.fs\nblob-dir {0}/cache\n"
    "</filestorage>\n</demostorage>",
}


def refuse(opener: StorageOpener) -> None:
    with pytest.raises(ConfigurationError, match="cache is the blob cache of a client"):
        open_storages([opener])


@pytest.mark.parametrize("is_marked", [True, False])
def test_a_cache_is_refused(tmp_path: Path, is_marked: bool) -> None:
    """C: what clients evict from their cache would be the only copy."""
    cache = tmp_path / "cache"
    (cache / "7").mkdir(parents=True)
    if is_marked:
        (cache / ".layout").write_text("zeocache")
    else:
        (cache / "7" / "0.03ff.blob").write_bytes(b"data")
    refuse(File("1", str(tmp_path / "Data.fs"), str(cache)))
    assert not (tmp_path / "Data.fs").exists()


@pytest.mark.parametrize("section", SECTIONS)
def test_a_cache_is_refused_in_every_section(tmp_path: Path, section: str) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / ".layout").write_text("zeocache")
    text = "<zeo>\naddress 127.0.0.1:0\n</zeo>\n" + SECTIONS[section].format(tmp_path)
    refuse(parse_server_config(text).storages[0])
