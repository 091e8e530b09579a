"""A connection lost in ``tpc_finish``: what the client asks, and what the application is told."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transaction.interfaces import TransientError
from ZODB.Connection import TransactionMetaData

from tests.support.interrupts import interrupted_at
from tests.support.raw import (
    DEFAULT_INFO,
    Closed,
    FakeConnection,
    FakeServer,
    connect,
    oid_of,
)
from tests.support.waiting import Background, promptly, wait_until
from zeolith.client import committer, outcome, turn
from zeolith.client.channel import Channel
from zeolith.client.outcome import LostFinish
from zeolith.client.storage import ClientStorage
from zeolith.errors import ClientDisconnected, NotCommitted, OutcomeUnknown, ServerError
from zeolith.protocol.greeting import Greeting
from zeolith.protocol.hello import Database
from zeolith.protocol.messages import (
    Call,
    GetInfo,
    GetInvalidations,
    InvalidateTransaction,
    Notice,
    Register,
    TpcBegin,
    TpcFinish,
    Vote,
)
from zeolith.protocol.outcome import NOT_COMMITTED, Outcome, State, Verdict, serialize_verdict
from zeolith.types import MAX_TID

from .conftest import Attach
from .scripted import tid

OID = oid_of(1)
DATABASE = Database("8533cc74-68ff-41bd-bc70-cf7202d4e705", 1)
COMMITTED = serialize_verdict(Verdict(State.COMMITTED, tid(5)))
NOT = serialize_verdict(NOT_COMMITTED)
UNKNOWN = serialize_verdict(Verdict(State.UNKNOWN, None, "for some reason"))


class Commit:
    """A commit in another thread, and the server's end of it.

    :ivar told: the ids that the database was told of.
    :ivar uid: the unique id that the transaction was begun with.
    """

    def __init__(
        self, storage: ClientStorage, server: FakeConnection, source: Path | None = None
    ) -> None:
        self.meta = TransactionMetaData()
        self.told: list[bytes] = []
        self.uid: bytes | None = None
        storage.tpc_begin(self.meta)
        if source is None:
            storage.store(OID, tid(1), b"ours", "", self.meta)
        else:
            storage.storeBlob(OID, tid(1), b"ours", str(source), "", self.meta)

        def run() -> bytes:
            storage.tpc_vote(self.meta)
            return storage.tpc_finish(self.meta, lambda tid: self.told.append(tid))

        self.thread = Background(run)
        while True:
            message = server.next()
            if isinstance(message, Notice) and isinstance(message.request, TpcBegin):
                self.uid = message.request.uid
            if isinstance(message, Call) and isinstance(message.request, Vote):
                server.reply(message, [])
                break
        server.expect(TpcFinish)

    def result(self) -> object:
        return self.thread.result()


def question(server: FakeConnection) -> Call:
    found = server.expect(Outcome)
    assert isinstance(found, Call)
    return found


def connect_again(fake: FakeServer, last: int = 1, database: Database | None = None) -> Any:
    """Play the server that the client finds next."""
    server = fake.accept()
    server.database = database
    server.admit(tid(last))
    return server


# -- what the server says ----------------------------------------------------------------------


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


# -- the server's storage fails ----------------------------------------------------------------


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


# -- before it was sent ------------------------------------------------------------------------


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
