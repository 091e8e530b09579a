"""What is said while FileStorage rebuilds its index."""

from __future__ import annotations

import logging
import os
import pickle
import re
from contextlib import closing
from pathlib import Path

import pytest
import ZODB
from tests.support.waiting import wait_until
from ZODB.FileStorage import FileStorage

from zeolith.config.indexing import bytes_to_read, told_of_indexing
from zeolith.config.storages import File, open_storages

SIZE = 300_000
COUNT = 10


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A FileStorage of 3 MB with its index."""
    path = tmp_path_factory.mktemp("large") / "Data.fs"
    with closing(ZODB.DB(FileStorage(str(path)))) as db:
        for _ in range(COUNT):
            with db.transaction() as connection:
                connection.root()["data"] = os.urandom(SIZE)
    return path


@pytest.fixture
def data(large: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    for name in ("Data.fs", "Data.fs.index"):
        (tmp_path / name).write_bytes((large.parent / name).read_bytes())
    return tmp_path / "Data.fs"


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "zeolith.config.indexing"]


def index(data: Path) -> Path:
    return data.with_name("Data.fs.index")


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def test_a_good_index_is_not_worth_a_word(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert bytes_to_read(str(data)) == 0
    open_storages([File("1", str(data))])["1"].close()
    assert lines(caplog) == []


def test_a_missing_index(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    index(data).unlink()
    reports: list[str] = []
    open_storages([File("main", str(data))], reports.append)["main"].close()
    first, *_, last = lines(caplog)
    assert first == (
        f"storage 'main': {data}.index is missing: reading 3.0 MB to rebuild the index"
    )
    assert re.fullmatch(r"storage 'main': the index is rebuilt, after \d+\.\d s", last)
    assert reports == lines(caplog)


def test_an_index_older_than_the_file(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    old = index(data).read_bytes()
    with closing(ZODB.DB(FileStorage(str(data)))) as db, db.transaction() as connection:
        connection.root()["data"] = os.urandom(5 * SIZE)
    index(data).write_bytes(old)
    open_storages([File("1", str(data))])["1"].close()
    assert "is older than the file: reading 1.5 MB to rebuild the index" in lines(caplog)[0]


@pytest.mark.parametrize(
    "content",
    [b"", b"x", b"\x80", pickle.dumps("text"), pickle.dumps(os.getcwd), b"cos\nsystem\n.", b"(((("],
)
def test_a_damaged_index_is_none(data: Path, content: bytes) -> None:
    index(data).write_bytes(content)
    assert bytes_to_read(str(data)) == data.stat().st_size


def test_what_is_no_filestorage(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"SQLite" + bytes(2_000_000))
    assert bytes_to_read(str(tmp_path / "other")) == 0
    assert bytes_to_read(str(tmp_path / "missing")) == 0
    assert bytes_to_read(str(tmp_path)) == 0


def test_how_far_the_file_has_been_read(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    index(data).unlink()
    size = data.stat().st_size
    with told_of_indexing("1", str(data), interval=0.001), data.open("rb", buffering=0) as file:
        file.seek(size // 2)
        wait_until(lambda: any("(49 %)" in line or "(50 %)" in line for line in lines(caplog)))
    assert "rebuilding the index: 1.5 of 3.0 MB" in " ".join(lines(caplog))


def test_a_failure_ends_the_watching(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    index(data).unlink()
    with pytest.raises(ZeroDivisionError), told_of_indexing("1", str(data), interval=0.001):
        raise ZeroDivisionError
    assert not any("is rebuilt" in line for line in lines(caplog))


def test_a_storage_without_a_file() -> None:
    with told_of_indexing("1", None):
        pass
