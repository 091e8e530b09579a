"""Read-only servers, read-only clients, and clients that take what they can get."""

from __future__ import annotations

import time

import pytest
from tests.conformance.site import DISCONNECTED, FILE, Database, Site
from tests.support.processes import free_port
from tests.support.waiting import wait_until
from ZODB.Connection import TransactionMetaData
from ZODB.POSException import ReadOnlyError
from ZODB.serialize import referencesf

READ_ONLY_FILE = FILE.replace("</", " read-only true\n</")


@pytest.fixture
def filled_site(site: Site) -> Site:
    """A site whose file holds ``root.x == 1``."""
    server = site.serve()
    database = site.database(server.address)
    with database.transaction() as connection:
        connection.root.x = 1
    database.close()
    server.stop()
    return site


def test_a_read_only_client_reads(filled_site: Site) -> None:
    server = filled_site.serve(read_only=True)
    database = filled_site.database(server.address, read_only=True)
    assert database.storage.isReadOnly()
    with database.transaction() as connection:
        assert connection.root.x == 1
    with pytest.raises(ReadOnlyError):
        database.storage.tpc_begin(TransactionMetaData())
    with pytest.raises(ReadOnlyError):
        database.storage.new_oid()


@pytest.mark.parametrize("is_storage", [False, True], ids=["server", "storage"])
def test_a_writing_client_is_refused_by_what_is_read_only(
    filled_site: Site, is_storage: bool
) -> None:
    if is_storage:
        server = filled_site.serve(READ_ONLY_FILE)
    else:
        server = filled_site.serve(read_only=True)
    with pytest.raises((*DISCONNECTED, ReadOnlyError)):
        filled_site.client(server.address, wait_timeout=1)


def test_a_read_only_client_of_a_writable_server(filled_site: Site) -> None:
    server = filled_site.serve()
    reader = filled_site.database(server.address, read_only=True)
    writer = filled_site.database(server.address)
    with writer.transaction() as connection:
        connection.root.x = 2
    filled_site.catch_up(reader, writer)
    with reader.transaction() as connection:
        assert connection.root.x == 2
        connection.root.x = 3
        with pytest.raises(ReadOnlyError):
            connection.transaction_manager.commit()
        connection.transaction_manager.abort()


def test_a_read_only_server_may_be_packed(filled_site: Site) -> None:
    server = filled_site.serve(read_only=True)
    client = filled_site.client(server.address, read_only=True)
    client.pack(time.time(), referencesf)
    assert client.load(bytes(8))


def test_fallback_takes_a_read_only_server_and_later_a_writable_one(filled_site: Site) -> None:
    reading = filled_site.serve(READ_ONLY_FILE)
    address = ("127.0.0.1", free_port())
    database = filled_site.database([reading.address, address], read_only_fallback=True)
    assert database.storage.isReadOnly()
    with database.transaction() as connection:
        assert connection.root.x == 1
    filled_site.serve(address=address)
    wait_until(lambda: not database.storage.isReadOnly(), "the writable server is found")
    wait_until(database.storage.is_connected)
    with database.transaction() as connection:
        connection.root.x = 2


def test_fallback_prefers_a_writable_server(filled_site: Site) -> None:
    reading = filled_site.serve(READ_ONLY_FILE)
    writing = filled_site.serve()
    client = filled_site.client([reading.address, writing.address], read_only_fallback=True)
    # ZEO's client may give way to a writable server just when something is read.
    wait_until(lambda: not client.isReadOnly(), "the writable server is found")
    wait_until(client.is_connected)
    database = Database(client)
    with database.transaction() as connection:
        connection.root.x = 2
