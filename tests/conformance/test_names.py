"""What clients and storages are called: labels, several storages, unknown ones."""

from __future__ import annotations

import pytest
from tests.conformance.site import DISCONNECTED, FILE, MAPPING, Site
from tests.support.waiting import wait_until
from ZODB.POSException import StorageError


def test_a_clients_label_is_in_the_servers_log(site: Site) -> None:
    server = site.serve(MAPPING)
    client = site.client(server.address, client_label="worker-7")
    client.ping()
    client.close()
    wait_until(
        lambda: any("worker-7" in record.text for record in server.records()),
        "the label is logged",
    )


def test_storages_of_one_server_do_not_mix(site: Site) -> None:
    server = site.serve({"one": MAPPING, "two": FILE})
    one, two = (site.database(server.address, storage=name) for name in ("one", "two"))
    other_two = site.database(server.address, storage="two")
    with one.transaction() as connection:
        connection.root.name = "one"
    with two.transaction() as connection:
        assert not hasattr(connection.root, "name")
        connection.root.name = "two"
    site.catch_up(other_two, two)
    with other_two.transaction() as connection:
        assert connection.root.name == "two"
    with one.transaction() as connection:
        assert connection.root.name == "one"
    assert not one.storage.supportsUndo()
    assert two.storage.supportsUndo()
    assert one.storage.lastTransaction() < two.storage.lastTransaction()


def test_an_unknown_storage_is_refused(site: Site) -> None:
    server = site.serve({"one": MAPPING})
    with pytest.raises((*DISCONNECTED, StorageError)):
        site.client(server.address, storage="three", wait_timeout=1)
    assert site.client(server.address, storage="one").is_connected()
    wait_until(lambda: any("three" in record.text for record in server.records()))
