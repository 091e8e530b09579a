"""What a client asks its server for a cache that several processes read."""

from __future__ import annotations

from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from tests.support.raw import DEFAULT_INFO, FakeConnection, FakeServer, oid_of
from tests.support.waiting import Background
from zeolith import ClientStorage
from zeolith.client.cacheplace import make_cache
from zeolith.protocol.hello import Database
from zeolith.protocol.messages import GetInfo, GetInvalidations, LoadBefore, Register
from zeolith.types import MAX_TID

from .conftest import Open

DATABASE = Database("identity", 1)
OURS, THEIRS = oid_of(1), oid_of(2)


def to_tid(n: int) -> bytes:
    return n.to_bytes(8, "big")


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Any]:
    """One file as of transaction 3, which is going to be ours, and another one as of 5; returns
    the keywords of a storage that uses them."""
    with ExitStack() as stack:
        for oid, tid in ((OURS, 3), (THEIRS, 5)):
            cache = make_cache(None, 100_000, "app", "1", str(tmp_path), True)
            stack.callback(cache.close)
            cache.set_last_tid(to_tid(tid))
            cache.set_database(DATABASE)
            cache.store(oid, to_tid(2), None, b"data")
            cache.save()
    return {"client": "app", "var": str(tmp_path), "cache_size": 100_000, "shared_cache": True}


@pytest.fixture
def attach(fake: FakeServer, client: Open, files: dict[str, Any]) -> Any:
    """Connect a storage to a server whose last transaction is 9, up to its first question."""

    def attach_client(**keywords: Any) -> tuple[ClientStorage, FakeConnection]:
        storage = client(fake.address, wait=False, **files, **keywords)
        server = fake.accept()
        server.database = DATABASE
        server.greet()
        server.reply(server.expect(Register), server.admission(to_tid(9)))
        server.peer.registered()
        return storage, server

    return attach_client


def answer(server: FakeConnection, since: int, value: Any) -> None:
    call = server.expect(GetInvalidations)
    assert call.request == GetInvalidations(to_tid(since))
    server.reply(call, value)


def admit(storage: ClientStorage, server: FakeConnection) -> None:
    server.reply(server.expect(GetInfo), DEFAULT_INFO)
    storage._link.wait()


def load(storage: ClientStorage, oid: bytes) -> Background:
    return Background(lambda: storage.loadBefore(oid, MAX_TID))


FOUND = (b"data", to_tid(2), None)


def ask_for_it(storage: ClientStorage, server: FakeConnection) -> None:
    loading = load(storage, THEIRS)
    server.reply(server.expect(LoadBefore), FOUND)
    assert loading.result() == FOUND
    assert storage.cache_stats().borrowed == 0


def test_what_changed_since_the_others_saved(attach: Any) -> None:
    storage, server = attach()
    answer(server, 3, (to_tid(9), []))
    answer(server, 5, (to_tid(9), [oid_of(7)]))
    admit(storage, server)
    assert load(storage, OURS).result() == FOUND
    assert load(storage, THEIRS).result() == FOUND
    assert storage.cache_stats().borrowed == 1


def test_what_did_change_is_loaded(attach: Any) -> None:
    """R6."""
    storage, server = attach()
    answer(server, 3, (to_tid(9), []))
    answer(server, 5, (to_tid(9), [THEIRS]))
    admit(storage, server)
    ask_for_it(storage, server)


def test_a_server_that_does_not_know(attach: Any, caplog: pytest.LogCaptureFixture) -> None:
    """R6: what may have changed is loaded."""
    caplog.set_level("INFO")
    storage, server = attach()
    answer(server, 3, (to_tid(9), []))
    answer(server, 5, None)
    admit(storage, server)
    assert "are not read" in caplog.text
    ask_for_it(storage, server)


def test_a_server_that_fails(attach: Any, caplog: pytest.LogCaptureFixture) -> None:
    """It is no reason to do without the server."""
    storage, server = attach()
    answer(server, 3, (to_tid(9), []))
    call = server.expect(GetInvalidations)
    server.fault(call, "ZODB.POSException.StorageError", ("no history",))
    admit(storage, server)
    assert "cannot say what has changed: no history" in caplog.text
    ask_for_it(storage, server)


def test_who_drops_rather_than_asks(attach: Any, files: dict[str, Any]) -> None:
    # Nothing to drop: our own file is as of the server's last transaction.
    with closing(make_cache(None, 100_000, "app", "1", files["var"], True)) as ours:
        ours.set_last_tid(to_tid(9))
    storage, server = attach(drop_cache_rather_verify=True)
    admit(storage, server)
    ask_for_it(storage, server)
