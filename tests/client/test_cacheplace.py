"""Which file a client's cache lives in."""

from __future__ import annotations

from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

import zeolith
from zeolith.cache import CacheInUse, RingCache, SharedCache
from zeolith.client import cacheplace
from zeolith.client.cacheplace import (
    NAME_VARIABLE,
    find_path,
    make_cache,
    make_child_cache,
    open_cache,
)
from zeolith.errors import ConfigurationError
from zeolith.protocol.hello import Database
from zeolith.types import MAX_TID, NO_TID

OID, TID = b"\0" * 7 + b"\7", b"\0" * 7 + b"\1"


@pytest.fixture(autouse=True)
def _no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(NAME_VARIABLE, raising=False)


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ({}, None),
        ({"cache": "some/file"}, "some/file"),
        ({"cache": object()}, None),
        ({"client": "zi1"}, "./zi1-1.zec"),
        ({"client": "zi1", "var": "/v", "storage": "main"}, "/v/zi1-main.zec"),
        ({"client": ""}, None),
        ({"var": "/v"}, None),
    ],
)
def test_where_it_lives(given: dict[str, Any], path: str | None) -> None:
    asked: dict[str, Any] = {"cache": None, "client": None, "storage": "1", "var": None, **given}
    assert find_path(**asked) == path


def test_the_environment_names_it_and_a_keyword_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NAME_VARIABLE, "z2")
    assert find_path(None, None, "1", "/v") == "/v/z2-1.zec"
    assert find_path(None, "zi1", "1", "/v") == "/v/zi1-1.zec"
    assert find_path("some/file", None, "1", None) == "some/file"
    assert find_path(object(), None, "1", None) is None
    monkeypatch.setenv(NAME_VARIABLE, "")
    assert find_path(None, None, "1", "/v") is None


@pytest.mark.parametrize(
    ("given", "option"),
    [
        ({"cache": "f", "client": "c"}, "client"),
        ({"cache": "f", "var": "v"}, "var"),
        ({"cache": ""}, "cache"),
        ({"client": "a/b"}, "client"),
        ({"client": "a\0b"}, "client"),
        ({"client": "a", "storage": "../b"}, "client"),
    ],
)
def test_what_is_no_name_or_contradicts_itself(given: dict[str, Any], option: str) -> None:
    asked: dict[str, Any] = {"cache": None, "client": None, "storage": "1", "var": None, **given}
    with pytest.raises(ConfigurationError) as caught:
        find_path(**asked)
    assert caught.value.option == option


def test_a_name_of_the_environment_that_is_none_is_called_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(NAME_VARIABLE, "a/b")
    with pytest.raises(ConfigurationError, match=NAME_VARIABLE):
        find_path(None, None, "1", None)


def test_what_it_held_is_there_when_it_is_opened_again(tmp_path: Path) -> None:
    for turn in range(2):
        cache = make_cache(None, 100_000, "app", "1", str(tmp_path))
        assert len(cache) == turn
        cache.store(OID, TID, None, b"data")
        cache.set_last_tid(TID)
        cache.close()
    assert (tmp_path / "app-1.zec").exists()


def test_two_users_of_one_name(tmp_path: Path) -> None:
    cache = make_cache(None, 100_000, "app", "1", str(tmp_path))
    try:
        with pytest.raises(CacheInUse, match=r"app-1\.zec: another storage of this process"):
            make_cache(None, 100_000, "app", "1", str(tmp_path))
    finally:
        cache.close()


def test_where_the_file_cannot_be_used_it_is_temporary(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "foreign").write_bytes(b"important")
    (tmp_path / "directory").mkdir()
    for name, problem in (
        ("foreign", "no cache of Zeolith's"),
        ("missing/file", "No such file"),
        ("directory", "directory"),
    ):
        path = str(tmp_path / name)
        cache = open_cache(path, 100_000, None)
        try:
            cache.store(OID, TID, None, b"data")
            assert cache.load_before(OID, MAX_TID) == (b"data", TID, None)
        finally:
            cache.close()
        assert path in caplog.text
        assert problem in caplog.text
    assert (tmp_path / "foreign").read_bytes() == b"important"


@pytest.mark.parametrize(("size", "is_said"), [(0, True), (4095, True), (4096, False)])
def test_a_size_below_the_least(size: int, is_said: bool, caplog: pytest.LogCaptureFixture) -> None:
    with closing(make_cache(None, size, None, "1", None)) as cache:
        assert cache.statistics().capacity == 4096
    assert ("cache_size" in caplog.text) is is_said


def test_a_size_that_is_none_leaves_the_file_to_others(tmp_path: Path) -> None:
    path = str(tmp_path / "file")
    with pytest.raises(ConfigurationError, match="number of bytes"):
        open_cache(path, -1, None)
    cache = open_cache(path, 0, None)
    assert isinstance(cache, RingCache)
    cache.close()


def share(tmp_path: Path, stack: ExitStack) -> SharedCache:
    cache = make_cache(None, 100_000, "app", "1", str(tmp_path), True)
    stack.callback(cache.close)
    assert isinstance(cache, SharedCache)
    return cache


def files(tmp_path: Path) -> set[str]:
    return {path.name for path in tmp_path.iterdir() if path.suffix not in (".lock", ".index")}


def test_each_process_that_shares_has_a_file_of_its_own(tmp_path: Path) -> None:
    with ExitStack() as stack:
        first = share(tmp_path, stack)
        share(tmp_path, stack)
        share(tmp_path, stack)
        assert files(tmp_path) == {"app-1.zec", "app-1.zec.2", "app-1.zec.3"}
        with pytest.raises(CacheInUse, match="shared_cache"):
            make_cache(None, 100_000, "app", "1", str(tmp_path))
        first.store(OID, TID, None, b"data")
        first.close()
        # Who comes next goes on with what is there.
        assert share(tmp_path, stack).load_before(OID, MAX_TID) == (b"data", TID, None)
        assert len(files(tmp_path)) == 3


def test_more_processes_than_may_have_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cacheplace, "MAX_SHARERS", 2)
    with ExitStack() as stack:
        first = share(tmp_path, stack)
        first.store(OID, TID, None, b"data")
        first.set_last_tid(TID)
        first.set_database(Database("identity", 1))
        first.save()
        share(tmp_path, stack)
        assert not caplog.records
        third = share(tmp_path, stack)
        assert "2 processes share it already" in caplog.text
        assert third.load_before(OID, MAX_TID) == (b"data", TID, None)
        assert len(files(tmp_path)) == 2


def test_who_cannot_have_a_file_reads_those_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with ExitStack() as stack:
        first = share(tmp_path, stack)
        first.store(OID, TID, None, b"data")
        first.set_last_tid(TID)
        first.set_database(Database("identity", 1))
        first.save()
        (tmp_path / "app-1.zec.2").write_bytes(b"important")
        second = share(tmp_path, stack)
        assert "app-1.zec.2: the cache is not kept" in caplog.text
        assert second.load_before(OID, MAX_TID) == (b"data", TID, None)
    assert (tmp_path / "app-1.zec.2").read_bytes() == b"important"


def test_a_directory_that_is_not_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is no reason not to start: a temporary cache lies where the system has its others."""
    for is_shared in (False, True):
        caplog.clear()
        cache = make_cache(None, 100_000, "app", "1", str(tmp_path / "missing"), is_shared)
        cache.store(OID, TID, None, b"data")
        assert cache.load_before(OID, MAX_TID) == (b"data", TID, None)
        cache.close()
        assert f"{tmp_path}/missing/app-1.zec: the cache is not kept" in caplog.text
    with pytest.raises(ConfigurationError, match="var"):
        # Without a name it is only told where to make a temporary one.
        make_cache(None, 100_000, None, "1", str(tmp_path / "missing"))


def test_a_size_that_is_none_leaves_a_shared_file_to_others(tmp_path: Path) -> None:
    path = str(tmp_path / "file")
    with pytest.raises(ConfigurationError, match="number of bytes"):
        make_cache(path, -1, None, "1", None, True)
    open_cache(path, 100_000, None).close()


def test_a_child_reads_from_its_parents_file_and_writes_none(tmp_path: Path) -> None:
    with ExitStack() as stack:
        parent = share(tmp_path, stack)
        parent.store(OID, TID, None, b"data")
        parent.set_last_tid(TID)
        parent.set_database(Database("identity", 1))
        parent.save()
        child = make_child_cache(None, 100_000, "app", "1", str(tmp_path), True)
        stack.callback(child.close)
        child.set_last_tid(parent.last_tid())
        child.set_database(parent.database)
        assert child.load_before(OID, MAX_TID) == (b"data", TID, None)
        assert files(tmp_path) == {"app-1.zec"}


def test_the_file_of_another_storage_is_not_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a server it would pass for ours (R6)."""
    path = str(tmp_path / "one-for-all")
    with ExitStack() as stack:
        first = make_cache(path, 100_000, None, "1", None, True)
        stack.callback(first.close)
        first.store(OID, TID, None, b"data")
        first.set_last_tid(TID)
        first.set_database(Database("identity", 1))
        first.save()
        for make in (make_cache, make_child_cache):
            caplog.clear()
            other = make(path, 100_000, None, "2", None, True)
            stack.callback(other.close)
            assert (other.last_tid(), other.database) == (NO_TID, None)
            other.set_last_tid(TID)
            other.set_database(Database("identity", 1))
            assert other.load_before(OID, MAX_TID) is None
            assert "a cache of storage '1', not of '2'" in caplog.text


@pytest.mark.parametrize(
    ("keywords", "problem"),
    [
        ({}, "temporary cache"),
        ({"var": "."}, "temporary cache"),
        ({"cache": object()}, "a cache of your own"),
    ],
)
def test_sharing_what_nobody_can_find(keywords: dict[str, Any], problem: str) -> None:
    """R9: an option without effect is an error."""
    with pytest.raises(ConfigurationError, match=problem) as caught:
        zeolith.ClientStorage(1, shared_cache=True, wait=False, **keywords)
    assert caught.value.option == "shared_cache"
