"""A connection lost in ``tpc_finish``: what the client asks, and what the application is told."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from transaction.interfaces import TransientError

from tests.support.raw import (
    DEFAULT_INFO,
    FakeServer,
)
from tests.support.waiting import Background, promptly, wait_until
from zeolith.client.storage import ClientStorage
from zeolith.errors import ClientDisconnected, NotCommitted, OutcomeUnknown
from zeolith.protocol.greeting import Greeting
from zeolith.protocol.hello import Database
from zeolith.protocol.messages import (
    GetInfo,
    GetInvalidations,
    InvalidateTransaction,
    Register,
)
from zeolith.protocol.outcome import Outcome
from zeolith.types import MAX_TID

from .conftest import Attach
from .finishing import COMMITTED, DATABASE, NOT, OID, UNKNOWN, Commit, connect_again, question
from .scripted import tid


def test_it_was_committed(attach: Attach, fake: FakeServer) -> None:
    storage, server = attach()
    commit = Commit(storage, server)
    server.close()
    server = fake.accept()
    server.greet()
    server.reply(server.expect(Register), server.admission(tid(9)))
    server.peer.registered()
    missed = server.expect(GetInvalidations)
    server.reply(missed, (tid(9), [OID]))
    server.reply(server.expect(GetInfo), DEFAULT_INFO)
    asked = question(server)
    assert commit.uid is not None
    assert asked.request == Outcome(commit.uid, tid(1))
    assert len(commit.uid) == 16
    assert commit.told == []
    server.reply(asked, COMMITTED)
    assert commit.result() == tid(5)
    assert commit.told == [tid(5)]
    # Others may have changed the object since; and time does not go back (R2, R3).
    assert storage._cache.load_before(OID, MAX_TID) is None
    assert storage.lastTransaction() == tid(9)
    assert storage.tpc_transaction() is None


def test_r3_a_server_that_breaks_its_promise_of_order_does_no_harm(
    attach: Attach, fake: FakeServer
) -> None:
    """It says that something was committed of which it has not told."""
    storage, server = attach()
    storage._cache.store(OID, tid(1), None, b"before")
    commit = Commit(storage, server)
    server.close()
    server = connect_again(fake)
    server.reply(question(server), COMMITTED)
    assert commit.result() == tid(5)
    assert commit.told == [tid(5)]
    assert storage._cache.load_before(OID, MAX_TID) is None
    assert storage.lastTransaction() == tid(5)


def test_it_was_not_committed(attach: Attach, fake: FakeServer) -> None:
    storage, server = attach()
    storage._cache.store(OID, tid(1), None, b"before")
    commit = Commit(storage, server)
    server.close()
    server = connect_again(fake)
    server.reply(question(server), NOT)
    with pytest.raises(NotCommitted, match="was not committed, and may be repeated: connection to"):
        commit.result()
    assert issubclass(NotCommitted, TransientError)
    assert commit.told == []
    assert storage._cache.load_before(OID, MAX_TID) == (b"before", tid(1), None)
    with promptly(5):
        storage.tpc_abort(commit.meta)
    assert storage.lastTransaction() == tid(1)


def test_the_server_cannot_tell(attach: Attach, fake: FakeServer) -> None:
    storage, server = attach()
    commit = Commit(storage, server)
    server.close()
    server = connect_again(fake)
    server.reply(question(server), UNKNOWN)
    with pytest.raises(OutcomeUnknown, match="for some reason") as caught:
        commit.result()
    assert commit.uid is not None
    assert caught.value.uid == commit.uid
    assert commit.uid.hex() in str(caught.value)
    assert "look whether the database has its changes" in str(caught.value)
    assert not isinstance(caught.value, TransientError)
    assert commit.told == []


def test_each_transaction_has_another_id(attach: Attach, fake: FakeServer) -> None:
    storage, server = attach()
    uids = set()
    for _ in range(3):
        commit = Commit(storage, server)
        server.close()
        server = connect_again(fake)
        server.reply(question(server), NOT)
        with pytest.raises(NotCommitted):
            commit.result()
        uids.add(commit.uid)
    assert len(uids) == 3


def test_the_connection_is_lost_again(attach: Attach, fake: FakeServer) -> None:
    storage, server = attach()
    commit = Commit(storage, server)
    for _ in range(3):
        server.close()
        server = connect_again(fake)
        asked = question(server)
        assert asked.request == (commit.uid, tid(1))
    server.reply(asked, COMMITTED)
    assert commit.result() == tid(5)


def test_a_database_that_does_not_take_it(attach: Attach, fake: FakeServer) -> None:
    """It was committed: nobody may be told anything else."""
    storage, server = attach()
    commit = Commit(storage, server)

    def fail(tid: bytes) -> None:
        raise RuntimeError("a defect")

    commit.told = SimpleNamespace(append=fail)  # type: ignore[assignment]
    server.close()
    server = connect_again(fake)
    server.reply(question(server), COMMITTED)
    with pytest.raises(RuntimeError, match="a defect"):
        commit.result()
    assert storage.tpc_transaction() is None


# -- nobody can tell ---------------------------------------------------------------------------


def test_no_server_in_time(attach: Attach, fake: FakeServer) -> None:
    storage, server = attach(wait_timeout=0.3)
    commit = Commit(storage, server)
    fake.close()
    with promptly(5), pytest.raises(OutcomeUnknown, match="timed out waiting for connection"):
        commit.result()
    with promptly(5):
        storage.tpc_abort(commit.meta)


def test_no_answer_in_time(attach: Attach, fake: FakeServer) -> None:
    """And one that comes later changes nothing: the application has been told."""
    storage, server = attach(wait_timeout=0.5)
    commit = Commit(storage, server)
    server.close()
    server = connect_again(fake)
    asked = question(server)
    with promptly(5), pytest.raises(OutcomeUnknown, match="did not answer in time"):
        commit.result()
    server.send(
        server.reply_bytes(asked, COMMITTED),
        server.notice_bytes(InvalidateTransaction(tid(6), [OID])),
    )
    wait_until(lambda: storage.lastTransaction() == tid(6))
    assert commit.told == []


def test_one_time_limit_for_everything(attach: Attach, fake: FakeServer) -> None:
    storage, server = attach(wait_timeout=1)
    commit = Commit(storage, server)
    began = time.monotonic()
    server.close()
    while commit.thread.is_alive() and time.monotonic() < began + 10:
        server = fake.accept()
        server.greet()
        server.close()
    with pytest.raises(OutcomeUnknown):
        commit.result()
    assert 0.9 < time.monotonic() - began < 5


@pytest.mark.parametrize("found", [None, DATABASE._replace(epoch=2), Database("other", 1)], ids=str)
def test_another_database_or_epoch(
    fake: FakeServer, client: Callable[..., ClientStorage], found: Database | None
) -> None:
    """What became of transactions of a history that was lost cannot be told: nobody is asked."""
    opening = Background(lambda: client(fake.address))
    server = fake.accept()
    server.database = DATABASE
    server.admit(tid(1))
    storage = opening.result()
    assert isinstance(storage, ClientStorage)
    commit = Commit(storage, server)
    server.close()
    server = connect_again(fake, 1, found)
    with pytest.raises(OutcomeUnknown, match="another database by now, or it was restored"):
        commit.result()
    pinging = Background(storage.ping)
    server.reply(server.next_call_named("ping"), None)
    pinging.result()


def test_a_zeo_server_cannot_be_asked(
    attach: Attach, fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, server = attach()
    commit = Commit(storage, server)
    monkeypatch.setattr(Greeting, "version", None)  # the next one
    server.close()
    connect_again(fake)
    with pytest.raises(OutcomeUnknown, match=r"speaks ZEO's protocol, and cannot be asked"):
        commit.result()


def test_in_zeo_s_protocol_it_is_not_known_and_that_is_said_at_once(
    attach: Attach, fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Greeting, "version", None)
    storage, server = attach(wait_timeout=60)
    commit = Commit(storage, server)
    assert commit.uid is None
    fake.close()
    with promptly(3), pytest.raises(OutcomeUnknown, match="ZEO's protocol") as caught:
        commit.result()
    assert caught.value.uid is None
    assert isinstance(caught.value.__cause__, ClientDisconnected)
    with promptly(3):
        storage.tpc_abort(commit.meta)


@pytest.mark.parametrize("answer", [None, {}, {"state": "committed"}, [tid(5)], tid(5)])
def test_an_answer_that_is_none(attach: Attach, fake: FakeServer, answer: Any) -> None:
    storage, server = attach()
    commit = Commit(storage, server)
    server.close()
    server = connect_again(fake)
    server.reply(question(server), answer)
    with pytest.raises(OutcomeUnknown, match=r"what became of|committed, but not as"):
        commit.result()
    assert commit.told == []
    # That connection is not used any more.
    server = connect_again(fake)


def test_a_server_that_refuses_to_answer(attach: Attach, fake: FakeServer) -> None:
    storage, server = attach()
    commit = Commit(storage, server)
    server.close()
    server = connect_again(fake)
    server.fault(question(server), "ZODB.POSException.StorageError", ("out of service",))
    with pytest.raises(OutcomeUnknown, match="out of service"):
        commit.result()
