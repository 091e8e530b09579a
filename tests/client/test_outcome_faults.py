"""What became of a transaction whose ``tpc_finish`` the server, or the database, failed."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from ZODB.Connection import TransactionMetaData

from tests.support.raw import (
    FakeServer,
)
from tests.support.waiting import Background, promptly
from zeolith.client.outcome import LostFinish
from zeolith.errors import ClientDisconnected, NotCommitted, OutcomeUnknown, ServerError
from zeolith.protocol.greeting import Greeting
from zeolith.protocol.messages import (
    TpcBegin,
    TpcFinish,
    Vote,
)
from zeolith.protocol.outcome import NOT_COMMITTED, Outcome, State, Verdict, serialize_verdict

from .conftest import Attach
from .finishing import COMMITTED, NOT, UNKNOWN, connect_again, question
from .scripted import tid


def finish_with_fault(attach: Attach, name: str, details: Any = ("disk full",)) -> Any:
    """Let a server answer a ``tpc_finish`` with an error; return storage, server and commit."""
    storage, server = attach(wait_timeout=20)
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    voting = Background(lambda: storage.tpc_vote(meta))
    server.expect(TpcBegin)
    server.reply(server.expect(Vote), [])
    voting.result()
    finishing = Background(lambda: storage.tpc_finish(meta))
    server.fault(server.expect(TpcFinish), name, details)
    return storage, server, finishing


@pytest.mark.parametrize("name", ["builtins.OSError", "ZODB.POSException.StorageError"])
@pytest.mark.parametrize("answer", [COMMITTED, NOT, UNKNOWN])
def test_a_storage_that_fails_is_asked_when_it_is_back(
    attach: Attach, fake: FakeServer, name: str, answer: Any
) -> None:
    _, server, finishing = finish_with_fault(attach, name)
    server.expect(Outcome)  # nothing is known there any more
    server.close()
    server = connect_again(fake)
    server.reply(question(server), answer)
    if answer is COMMITTED:
        assert finishing.result() == tid(5)
    else:
        expected = NotCommitted if answer is NOT else OutcomeUnknown
        with pytest.raises(expected, match="disk full"):
            finishing.result()


@pytest.mark.parametrize(
    "name",
    [
        "ZODB.POSException.StorageTransactionError",
        "ZODB.POSException.ReadOnlyError",
        "builtins.ValueError",
    ],
)
def test_what_a_server_refuses_leaves_no_doubt(attach: Attach, name: str) -> None:
    storage, server, finishing = finish_with_fault(attach, name)
    with promptly(5), pytest.raises(Exception, match="disk full") as caught:
        finishing.result()
    assert type(caught.value).__name__ == name.rpartition(".")[2]
    pinging = Background(storage.ping)
    server.reply(server.next_call_named("ping"), None)
    pinging.result()


def test_in_zeo_s_protocol_what_the_server_says_counts(
    attach: Attach, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Greeting, "version", None)
    _, _, finishing = finish_with_fault(attach, "builtins.OSError")
    with promptly(5), pytest.raises(ServerError, match="disk full"):
        finishing.result()


def test_a_database_that_fails_is_not_asked_about(attach: Attach) -> None:
    """It was committed, whatever the callback raises."""
    storage, server = attach()
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    voting = Background(lambda: storage.tpc_vote(meta))
    server.expect(TpcBegin)
    server.reply(server.expect(Vote), [])
    voting.result()

    def fail(tid: bytes) -> None:
        raise ClientDisconnected("of another storage")

    finishing = Background(lambda: storage.tpc_finish(meta, fail))
    server.reply(server.expect(TpcFinish), tid(5))
    with promptly(5), pytest.raises(ClientDisconnected, match="of another storage"):
        finishing.result()


@pytest.mark.parametrize("name", ["NotCommitted", "OutcomeUnknown"])
def test_a_server_that_is_a_client_itself_passes_on_what_it_was_told(
    attach: Attach, name: str
) -> None:
    details = {"cause": "gone", "reason": "nobody knows", "uid": None}
    _, _, finishing = finish_with_fault(attach, f"zeolith.errors.{name}", details)
    with pytest.raises((NotCommitted, OutcomeUnknown), match="gone") as caught:
        finishing.result()
    assert type(caught.value).__name__ == name


class _Channels:
    """A link whose channels answer as they are told to."""

    name = "fake"

    def __init__(self, *answers: tuple[bool, Verdict]) -> None:
        self.is_read_only = False
        self._answers = list(answers)
        self.waits = 0

    def wait_until(self, deadline: float) -> Any:
        self.is_read_only, verdict = self._answers.pop(0)
        channel = SimpleNamespace(speaks_own=True, database=None, server_name="x", is_broken=False)
        slot = SimpleNamespace(done=True, error=None)

        def start(request: Any, on_reply: Callable[[Any], None]) -> Any:
            on_reply(serialize_verdict(verdict))
            return slot

        channel.start = start
        channel.wait_answer = lambda slot, timeout: None
        return channel

    def wait_lost(self, channel: Any, deadline: float) -> bool:
        self.waits += 1
        return bool(self._answers)


def test_a_read_only_server_that_stands_in_has_not_the_last_word() -> None:
    unknown = Verdict(State.UNKNOWN, None, "never seen it")
    told: list[bytes] = []

    def learn(*answers: tuple[bool, Verdict]) -> bytes:
        link: Any = _Channels(*answers)
        lost: Any = SimpleNamespace(database=None)
        cause = ClientDisconnected("gone")
        try:
            return LostFinish(link, lost, bytes(16), tid(1), told.append, cause).learn(10)
        finally:
            assert link.waits == answers.count((True, unknown))

    assert learn((True, unknown), (False, Verdict(State.COMMITTED, tid(5)))) == tid(5)
    assert told == [tid(5)]
    with pytest.raises(NotCommitted):
        learn((True, unknown), (True, NOT_COMMITTED))
    for is_read_only in (True, False):
        with pytest.raises(OutcomeUnknown, match="never seen it"):
            learn((is_read_only, unknown))
