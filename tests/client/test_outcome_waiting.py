"""What may happen while a client waits to learn what became of its transaction."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from ZODB.Connection import TransactionMetaData

from tests.support.interrupts import interrupted_at
from tests.support.raw import (
    Closed,
    FakeServer,
    connect,
)
from tests.support.waiting import Background, promptly, wait_until
from zeolith.client import committer, outcome, turn
from zeolith.client.channel import Channel
from zeolith.client.storage import ClientStorage
from zeolith.errors import ClientDisconnected, NotCommitted, OutcomeUnknown
from zeolith.protocol.greeting import Greeting
from zeolith.protocol.messages import (
    Call,
    TpcBegin,
    TpcFinish,
    Vote,
)
from zeolith.protocol.outcome import Outcome

from .conftest import Attach
from .finishing import COMMITTED, NOT, OID, UNKNOWN, Commit, connect_again, question
from .scripted import tid


@pytest.mark.parametrize("is_own", [True, False])
def test_what_was_not_sent_was_not_committed(
    attach: Attach, fake: FakeServer, monkeypatch: pytest.MonkeyPatch, is_own: bool
) -> None:
    if not is_own:
        monkeypatch.setattr(Greeting, "version", None)
    storage, server = attach(wait_timeout=60)
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    voting = Background(lambda: storage.tpc_vote(meta))
    server.expect(TpcBegin)
    server.reply(server.expect(Vote), [])
    voting.result()
    fake.close()
    wait_until(lambda: not storage.is_connected())
    with promptly(3), pytest.raises(ClientDisconnected) as caught:
        storage.tpc_finish(meta)
    assert not isinstance(caught.value, NotCommitted)
    assert storage.tpc_transaction() is None


# -- while it waits ----------------------------------------------------------------------------


@pytest.mark.parametrize("has_server", [True, False])
def test_closing_ends_the_waiting(attach: Attach, fake: FakeServer, has_server: bool) -> None:
    storage, server = attach(wait_timeout=60)
    commit = Commit(storage, server)
    if has_server:
        server.close()
        question(connect_again(fake))
    else:
        fake.close()
        wait_until(lambda: not storage.is_connected())
    with promptly(5):
        storage.close()
        with pytest.raises(OutcomeUnknown, match="closed"):
            commit.result()


def test_other_threads_wait_for_their_turn_and_go_on(attach: Attach, fake: FakeServer) -> None:
    storage, server = attach()
    commit = Commit(storage, server)
    other = TransactionMetaData()
    beginning = Background(lambda: storage.tpc_begin(other))
    server.close()
    server = connect_again(fake)
    asked = question(server)
    # Reading is not held up, neither in the cache nor at the server.
    pinging = Background(storage.ping)
    server.reply(server.next_call_named("ping"), None)
    pinging.result()
    assert beginning.is_alive()
    server.reply(asked, COMMITTED)
    assert commit.result() == tid(5)
    beginning.result()
    assert storage.tpc_transaction() is other


@pytest.mark.parametrize("where", ["connection", "answer"])
def test_an_interrupt_gives_up_the_turn(
    attach: Attach, fake: FakeServer, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    storage, server = attach()

    def interrupt(*args: Any) -> None:
        raise KeyboardInterrupt

    commit = Commit(storage, server)
    if where == "answer":
        monkeypatch.setattr(Channel, "wait_answer", interrupt)
        server.close()
        server = connect_again(fake)
        asked = question(server)
        with pytest.raises(KeyboardInterrupt):
            commit.result()
        # The answer comes, but nobody waits for it any more.
        server.reply(asked, COMMITTED)
    else:
        monkeypatch.setattr(storage._link, "wait_until", interrupt)
        server.close()
        with pytest.raises(KeyboardInterrupt):
            commit.result()
        server = connect_again(fake)
    monkeypatch.undo()
    assert storage.tpc_transaction() is None
    wait_until(storage.is_connected)
    pinging = Background(storage.ping)
    server.reply(server.next_call_named("ping"), None)
    pinging.result()
    assert commit.told == []
    with promptly(5):
        Background(lambda: storage.tpc_begin(TransactionMetaData())).result()


def test_an_interrupt_at_every_step(fake: FakeServer, client: Callable[..., ClientStorage]) -> None:
    """The next transaction gets its turn, and nobody is told twice."""
    modules = [committer, outcome, turn]
    is_over: list[bool] = []

    def answer_all() -> None:
        """Play a server that loses its connection at each ``tpc_finish``."""
        while not is_over:
            server = fake.accept()
            try:
                server.admit(tid(1))
                while True:
                    message = server.next()
                    request = message.request if isinstance(message, Call) else None
                    if isinstance(request, TpcFinish):
                        server.close()
                        break
                    if isinstance(message, Call):
                        server.reply(message, COMMITTED if isinstance(request, Outcome) else None)
            except (Closed, OSError):
                server.close()

    serving = Background(answer_all)
    storage = client(fake.address)
    was_told = 0
    for step in count(1):
        told: list[bytes] = []
        meta = TransactionMetaData()
        storage._link.wait(10)
        storage.tpc_begin(meta)
        storage.store(OID, tid(1), b"ours", "", meta)
        storage.tpc_vote(meta)
        finish = partial(storage.tpc_finish, meta, told.append)
        is_interrupted = interrupted_at(step, finish, modules)
        assert len(told) <= 1
        was_told += len(told)
        storage.tpc_abort(meta)
        assert storage.tpc_transaction() is None
        if not is_interrupted:
            break
    assert step > 20
    assert 0 < was_told < step
    is_over.append(True)
    storage.close()
    connect(fake.address).close()
    serving.result()


# -- blobs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [COMMITTED, NOT, UNKNOWN])
def test_the_blob_of_a_transaction_is_kept_only_if_it_was_committed(
    attach: Attach, fake: FakeServer, tmp_path: Path, answer: Any
) -> None:
    blobs = tmp_path / "blobs"
    source = tmp_path / "source"
    source.write_bytes(b"blob")
    storage, server = attach(blob_dir=str(blobs))
    commit = Commit(storage, server, source)
    assert [path.read_bytes() for path in blobs.rglob("0x*") if path.is_file()] == [b"blob"]
    server.close()
    server = connect_again(fake)
    server.reply(question(server), answer)
    if answer is COMMITTED:
        assert commit.result() == tid(5)
        assert Path(storage.loadBlob(OID, tid(5))).read_bytes() == b"blob"
    else:
        with pytest.raises((NotCommitted, OutcomeUnknown)):
            commit.result()
    files = [path for path in blobs.rglob("*") if path.is_file() and path.read_bytes() == b"blob"]
    assert len(files) == (answer is COMMITTED)
