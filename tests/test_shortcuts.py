"""``zeolith.client``, ``DB``, ``connection``: who closes what."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import ZODB

import zeolith
from zeolith.client.storage import ClientStorage
from zeolith.config.address import Address


@pytest.fixture
def address() -> Iterator[Address]:
    address, stop = zeolith.server()
    yield address
    stop()


@pytest.fixture
def storages(monkeypatch: pytest.MonkeyPatch) -> list[ClientStorage]:
    """The client storages that have been made."""
    made: list[ClientStorage] = []

    class Recorded(ClientStorage):
        def __init__(self, *args: Any, **kw: Any) -> None:
            super().__init__(*args, **kw)
            made.append(self)

    monkeypatch.setattr("zeolith.client.storage.ClientStorage", Recorded)
    return made


def is_closed(storage: ClientStorage) -> bool:
    return not storage.is_connected()


def test_client_takes_the_storages_arguments(address: Address) -> None:
    storage = zeolith.client(address, name="mine", wait_timeout=5)
    assert isinstance(storage, ClientStorage)
    assert "mine" in storage.getName()
    storage.close()


def test_closing_the_database_closes_the_storage(
    address: Address, storages: list[ClientStorage]
) -> None:
    db = zeolith.DB(address)
    assert isinstance(db, ZODB.DB)
    (storage,) = storages
    assert not is_closed(storage)
    db.close()
    assert is_closed(storage)


def test_a_database_that_cannot_be_made_leaves_no_storage(
    address: Address, storages: list[ClientStorage], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(storage: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(ZODB, "DB", fail)
    with pytest.raises(ZeroDivisionError):
        zeolith.DB(address)
    assert is_closed(storages[0])


def test_closing_the_connection_closes_everything(
    address: Address, storages: list[ClientStorage]
) -> None:
    connection = zeolith.connection(address)
    assert connection.root() == {}
    connection.close()
    assert is_closed(storages[0])


def test_a_connection_that_cannot_be_opened_leaves_no_storage(
    address: Address, storages: list[ClientStorage], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(ZODB.DB, "open_then_close_db_when_connection_closes", fail)
    with pytest.raises(ZeroDivisionError):
        zeolith.connection(address)
    assert is_closed(storages[0])
