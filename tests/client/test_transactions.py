"""What travels with a transaction, between a client and a server of ours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import transaction

import zeolith
from zeolith.protocol.values import Prefix


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Any]:
    address, stop = zeolith.server(str(tmp_path / "data.fs"))
    database = zeolith.DB(address)
    yield database
    database.close()
    stop()


def commit(database: Any, user: str, **extension: Any) -> None:
    manager = transaction.TransactionManager()
    connection = database.open(manager)
    root = connection.root()
    root["count"] = root.get("count", 0) + 1
    manager.get().setUser(user, "/site/acl")
    for name, value in extension.items():
        manager.get().setExtendedInfo(name, value)
    manager.commit()
    connection.close()


def test_undo_info_is_found_by_the_beginning_of_a_path(database: Any) -> None:
    commit(database, "joe")
    commit(database, "ann")
    wanted = {"user_name": Prefix(("", "site"))}
    found = database.storage.undoInfo(0, -10, wanted)
    assert [entry["user_name"] for entry in found] == [b"/site/acl ann", b"/site/acl joe"]
    assert database.storage.undoInfo(0, -10, {"user_name": Prefix(("", "other"))}) == []
    (one,) = database.storage.undoInfo(0, -10, {"user_name": b"/site/acl joe"})
    assert one["user_name"] == b"/site/acl joe"


def test_the_undo_log_is_filtered_here(database: Any) -> None:
    commit(database, "joe")
    commit(database, "ann")
    found = database.storage.undoLog(0, -10, lambda entry: b"joe" in entry["user_name"])
    assert [entry["user_name"] for entry in found] == [b"/site/acl joe"]


def test_extension_data_reach_the_storage_as_they_are(tmp_path: Path) -> None:
    from ZODB.FileStorage import FileStorage

    path = str(tmp_path / "data.fs")
    address, stop = zeolith.server(path)
    database = zeolith.DB(address)
    commit(database, "joe", list=[1, 2, (3, "x")], more={(1, 2): "key"})
    database.close()
    stop()
    storage = FileStorage(path, read_only=True)
    extension = list(storage.iterator())[-1].extension
    storage.close()
    assert extension == {"list": [1, 2, (3, "x")], "more": {(1, 2): "key"}}
