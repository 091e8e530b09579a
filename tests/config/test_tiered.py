"""``<tieredblobs>`` in a zeo.conf."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from tests.support.stores import write_credentials
from ZODB.FileStorage import FileStorage

from zeolith.cli.main import main
from zeolith.config.server import parse_server_config
from zeolith.config.storages import describe_storage, open_storages
from zeolith.config.tiered import TieredBlobs
from zeolith.errors import ConfigurationError
from zeolith.tier.tier import BlobTier

FILE_STORAGE = "<filestorage>\npath {0}/Data.fs\nblob-dir {0}/blobs\n</filestorage>"


def text_of(directory: Path, keys: str = "", storage: str = FILE_STORAGE) -> str:
    inner = storage.format(directory)
    place = "bucket b\nregion r\nendpoint-url http://127.0.0.1:1\n"
    place += f"credentials-file {write_credentials(directory)}\n"
    section = f"<tieredblobs main>\n{place}{keys}\n{inner}\n</tieredblobs>\n"
    return f"<zeo>\naddress 8100\n</zeo>\n{section}"


def test_what_is_opened_is_the_file_storage(tmp_path: Path) -> None:
    config = parse_server_config(text_of(tmp_path, "prefix a/b/\ncache-size 5MB\nworkers 7"))
    (opener,) = config.storages
    assert isinstance(opener, TieredBlobs)
    assert opener.config.prefix == "a/b/"
    assert describe_storage(opener) == f"{tmp_path}/Data.fs"
    storages = open_storages(config.storages)
    storage = storages["main"]
    assert type(storage) is FileStorage
    tier = storage.blob_tier
    assert isinstance(tier, BlobTier)
    assert (tier.workers, tier.describe()["limit"]) == (7, 5 << 20)
    assert storage.loadBlob == tier.load
    storage.close()


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ("prefix /a", "cannot begin a key"),
        ("cache-size 10KB", "too small"),
        ("workers 0", "at least 1"),
        ("read-timeout 0", "read-timeout"),
        ("nonsense 1", "nonsense"),
    ],
)
def test_bad_values(tmp_path: Path, keys: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        parse_server_config(text_of(tmp_path, keys))


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("bucket b", "bucket s3://b", "without s3://"),
        ("bucket b\n", "", "bucket"),
        ("http://127.0.0.1:1", "127.0.0.1:1", "is no address"),
        ("http://127.0.0.1:1", "http://127.0.0.1:99999", "is no address"),
        ("http://127.0.0.1:1", "http://key:secret@host", "name or password in it"),
    ],
    ids=["name", "none", "no scheme", "port", "secret"],
)
def test_bad_places(tmp_path: Path, old: str, new: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem) as caught:
        parse_server_config(text_of(tmp_path).replace(old, new))
    assert "key:secret" not in str(caught.value)


def test_a_storage_that_is_read_only(tmp_path: Path) -> None:
    FileStorage(str(tmp_path / "Data.fs"), blob_dir=str(tmp_path / "blobs")).close()
    storage = FILE_STORAGE.replace("path", "read-only true\npath")
    config = parse_server_config(text_of(tmp_path, storage=storage))
    with pytest.raises(ConfigurationError, match="is read-only"):
        open_storages(config.storages)


@pytest.mark.parametrize(
    "storage",
    ["<mappingstorage>\n</mappingstorage>", "<filestorage>\npath {0}/Data.fs\n</filestorage>"],
    ids=["mapping", "without blobs"],
)
def test_only_a_file_storage_with_blobs(tmp_path: Path, storage: str) -> None:
    config = parse_server_config(text_of(tmp_path, storage=storage))
    with pytest.raises(ConfigurationError, match="no FileStorage with a blob directory"):
        open_storages(config.storages)
    if "path" in storage:
        FileStorage(str(tmp_path / "Data.fs")).close()  # its lock is free


def test_without_boto3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    config = parse_server_config(text_of(tmp_path))
    with pytest.raises(ConfigurationError, match=r"install zeolith\[s3\]"):
        open_storages(config.storages)


def test_check_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "zeo.conf"
    path.write_text(text_of(tmp_path))
    assert main(["check-config", str(path)]) == 0
    output = capsys.readouterr()
    assert re.search(r"cache-size +10GB", output.out)
    assert "very-secret-key" not in output.out + output.err
