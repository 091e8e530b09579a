"""A server in front of another server's client storage."""

from __future__ import annotations

import pytest
import ZODB
from tests.conformance.site import Site
from tests.support.hosts import Hosts, RunningServer
from tests.support.processes import running_server
from tests.support.waiting import wait_until
from ZODB.POSException import StorageError
from ZODB.utils import maxtid

import zeolith

_CLIENT = """
%import ZEO
<clientstorage>
  server {0}:{1}
</clientstorage>
"""
"""A client storage of ZEO's in the configuration of a server."""


def _middle(site: Site, upstream: RunningServer) -> RunningServer:
    """Start a server whose storage is another server's."""
    return site.serve(_CLIENT.format(*upstream.address))


def test_commits_travel_through_two_levels(site: Site) -> None:
    upstream = site.serve()
    one, other = (site.database(_middle(site, upstream).address) for _ in range(2))
    with one.transaction() as connection:
        connection.root.x = 1
    storage = other.storage
    wait_until(lambda: storage.lastTransaction() == one.storage.lastTransaction())
    with other.transaction() as connection:
        assert connection.root.x == 1
        connection.root.y = connection.root().__class__()
    wait_until(lambda: storage.lastTransaction() == one.storage.lastTransaction())
    with one.transaction() as connection:
        assert connection.root.y is not None
    direct = site.client(upstream.address)
    assert direct.lastTransaction() == storage.lastTransaction()
    assert direct.loadBefore(bytes(8), maxtid) == storage.loadBefore(bytes(8), maxtid)


def test_undo_through_two_levels(site: Site) -> None:
    if site.pairing.server == "zeo":
        pytest.skip("a server of ZEO's expects undo() of its storage to name the objects")
    upstream = site.serve()
    one, other = (site.database(_middle(site, upstream).address) for _ in range(2))
    for value in (1, 2):
        with one.transaction(f"made {value}") as connection:
            connection.root.x = value
    wait_until(lambda: other.storage.lastTransaction() == one.storage.lastTransaction())
    log = other.undoLog(0, 1)
    assert log[0]["description"] == "made 2"
    connection = other.open()
    other.undo(log[0]["id"], connection.transaction_manager.get())
    connection.transaction_manager.commit()
    connection.close()
    wait_until(lambda: other.storage.lastTransaction() == one.storage.lastTransaction())
    with one.transaction() as connection:
        assert connection.root.x == 1


def test_upstream_restarts(site: Site) -> None:
    upstream = site.serve()
    address = upstream.address
    database = site.database(_middle(site, upstream).address)
    with database.transaction() as connection:
        connection.root.x = 1
    upstream.stop()
    site.serve(address=address)

    def commit() -> bool:
        try:
            with database.transaction() as connection:
                connection.root.x = 2
        except StorageError:
            return False  # the client's or the server's own connection is lost
        return True

    wait_until(commit, "the middle server is back")
    with site.database(address).transaction() as connection:
        assert connection.root.x == 2


@pytest.mark.parametrize("loads", ["loop", "workers"])
def test_zeolith_in_front_of_zeolith(hosts: Hosts, loads: str) -> None:
    upstream = hosts.start("zeolith", {"1": "<mappingstorage/>"})
    try:
        with (
            running_server(zeolith.ClientStorage(upstream.address), loads=loads) as middle,
            running_server(zeolith.ClientStorage(upstream.address), loads=loads) as other_middle,
        ):
            one, other = (ZODB.DB(zeolith.client(it.address)) for it in (middle, other_middle))
            for value in range(100):
                with one.transaction() as connection:
                    connection.root.x = value
                tid = one.storage.lastTransaction()
                wait_until(lambda: other.storage.lastTransaction() == tid)  # noqa: B023
                with other.transaction() as connection:
                    assert connection.root.x == value
            one.close()
            other.close()
    finally:
        upstream.stop()
