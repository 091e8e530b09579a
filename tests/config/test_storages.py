"""Opening storages: names, and errors that say which file and what to do."""

from __future__ import annotations

import errno
import gc
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import zc.lockfile
from ZODB.FileStorage import FileStorage
from ZODB.interfaces import IBlobStorage

from zeolith.config.server import parse_server_config
from zeolith.config.storages import (
    File,
    describe_storage,
    name_storages,
    open_storages,
)
from zeolith.errors import ConfigurationError


@dataclass
class Opener:
    """Opens *result*, or raises it."""

    name: str | None
    result: Any = None

    def open(self) -> Any:
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result


@dataclass
class Closable:
    closed: list[str] = field(default_factory=list)

    def close(self) -> None:
        self.closed.append("closed")


def refusal(opener: Any) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        open_storages([opener])
    return caught.value


# -- names -------------------------------------------------------------------------------------


def test_a_single_storage_without_name_is_called_1() -> None:
    assert [opener.name for opener in name_storages([Opener(None)], "x")] == ["1"]
    assert [opener.name for opener in name_storages([Opener("")], "x")] == ["1"]


def test_names_are_kept_in_order() -> None:
    openers = [Opener("main"), Opener(None), Opener("temp")]
    assert [opener.name for opener in name_storages(openers, "x")] == ["main", "1", "temp"]


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        ([], "no storage to serve"),
        ([None, None], "2 storages have no name"),
        ([None, "1"], "two storages are called '1' (a storage without a name is called 1)"),
        (["main", "main"], "two storages are called 'main'"),
    ],
)
def test_ambiguous_names_are_refused(names: list[str | None], problem: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        name_storages([Opener(name) for name in names], "zeo.conf")
    assert caught.value.option == "zeo.conf"
    assert problem in caught.value.problem
    assert caught.value.remedy


# -- opening -----------------------------------------------------------------------------------


def test_a_file_and_its_blobs(tmp_path: Path) -> None:
    opener = File("1", str(tmp_path / "Data.fs"), str(tmp_path / "blobs"))
    storages = open_storages([opener])
    try:
        assert isinstance(storages["1"], FileStorage)
        assert IBlobStorage.providedBy(storages["1"])
        assert (tmp_path / "blobs").is_dir()
    finally:
        storages["1"].close()


def test_a_file_without_blobs(tmp_path: Path) -> None:
    storages = open_storages([File("1", str(tmp_path / "Data.fs"))])
    try:
        assert not IBlobStorage.providedBy(storages["1"])
    finally:
        storages["1"].close()


def test_what_is_served_in_a_few_words(tmp_path: Path) -> None:
    assert describe_storage(File("1", "var/Data.fs")) == "var/Data.fs"
    (opener,) = parse_server_config(
        "<zeo>\naddress 1\n</zeo>\n<mappingstorage>\n</mappingstorage>\n"
    ).storages
    assert describe_storage(opener) == "MappingStorage"


def test_storages_already_open_are_closed_again() -> None:
    first = Closable()
    with pytest.raises(ConfigurationError):
        open_storages([Opener("a", first), Opener("b", ImportError("no psycopg2"))])
    assert first.closed == ["closed"]


@pytest.fixture
def _leaking_open() -> Iterator[None]:
    """Let the files go that FileStorage leaves open when it fails, while that is no error."""
    yield
    gc.collect()


def leaks(test: Any) -> Any:
    ignored = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
    return pytest.mark.usefixtures("_leaking_open")(ignored(test))


# -- errors ------------------------------------------------------------------------------------


def test_a_missing_directory(tmp_path: Path) -> None:
    error = refusal(File("1", str(tmp_path / "missing" / "Data.fs")))
    assert error.option == f"storage '1' ({tmp_path}/missing/Data.fs)"
    assert "No such file or directory" in error.problem
    assert error.remedy.startswith(f"create the directory {tmp_path}/missing")


@leaks
def test_a_directory_in_place_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "Data.fs").mkdir()
    error = refusal(File("1", str(tmp_path / "Data.fs")))
    assert "Is a directory" in error.problem
    assert "not a directory" in error.remedy


@leaks
def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "Data.fs").write_bytes(b"Dear diary, today I wrote something else.")
    error = refusal(File("1", str(tmp_path / "Data.fs")))
    assert f"{tmp_path}/Data.fs" in error.option
    assert "is not a FileStorage, or is damaged" in error.problem
    assert error.remedy


def test_a_locked_file_names_the_process(tmp_path: Path) -> None:
    path = tmp_path / "Data.fs"
    (tmp_path / "Data.fs.lock").write_text(" 12345\n")
    lock = zc.lockfile.LockFile(str(path) + ".lock", content_template="12345")
    try:
        error = refusal(File("1", str(path)))
    finally:
        lock.close()
    assert error.problem == f"is already open in process 12345 (see {path}.lock)"
    assert "stop that process" in error.remedy


def test_a_file_named_twice_is_locked_by_ourselves(tmp_path: Path) -> None:
    path = str(tmp_path / "Data.fs")
    with pytest.raises(ConfigurationError) as caught:
        open_storages([File("1", path), File("2", path)])
    assert caught.value.option == f"storage '2' ({path})"
    assert "is already open in this process" in caught.value.problem
    # The first has been closed: the file is free again.
    open_storages([File("1", path)])["1"].close()


@pytest.mark.parametrize("message", ["Couldn't lock something", "Couldn't lock '/nowhere/x.lock'"])
def test_a_lock_without_a_readable_owner(message: str) -> None:
    error = refusal(Opener("1", zc.lockfile.LockError(message)))
    assert "another process" in error.problem


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.EACCES, "let the user that runs the server read and write it"),
        (errno.EROFS, "let the user that runs the server read and write it"),
        (errno.ENOSPC, "make room on the disk"),
        (errno.EIO, ""),
    ],
)
def test_trouble_of_the_operating_system(number: int, remedy: str) -> None:
    error = refusal(Opener("1", OSError(number, os.strerror(number), "/data/Data.fs")))
    assert error.problem == f"cannot be opened: /data/Data.fs: {os.strerror(number)}"
    assert error.remedy.startswith(remedy)
    assert bool(error.remedy) is bool(remedy)


def test_trouble_without_a_file_name() -> None:
    error = refusal(Opener("1", ConnectionRefusedError(errno.ECONNREFUSED, "refused")))
    assert error.problem == "cannot be opened: refused"


def test_a_missing_module() -> None:
    error = refusal(Opener("1", ModuleNotFoundError("No module named 'relstorage'")))
    assert "No module named 'relstorage'" in error.problem
    assert error.remedy == "install it"


def test_errors_of_unknown_storages_keep_their_class_and_name_the_storage() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        open_storages([Opener("main", ZeroDivisionError("who knows"))])
    assert caught.value.__notes__ == ["while opening storage 'main'"]
