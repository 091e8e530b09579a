"""What becomes of transactions, asked on another connection."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.server.conftest import Connect, Serve
from tests.support.processes import running_server
from tests.support.raw import Z64, Closed, RawClient, RemoteFault, oid_of
from tests.support.storages import gate
from tests.support.waiting import promptly, wait_until
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage

from zeolith.errors import ClientDisconnected, NotCommitted, OutcomeUnknown
from zeolith.protocol.greeting import Coding
from zeolith.protocol.messages import Store, TpcBegin, TpcFinish, Vote
from zeolith.protocol.outcome import NOT_COMMITTED, Outcome, State, Verdict, parse_verdict
from zeolith.server import outcomes as outcomes_module
from zeolith.server.outcomelog import NO_UID, OutcomeLog
from zeolith.server.outcomes import Outcomes
from zeolith.server.transactions import Stage, Transaction

UID = bytes(range(16))
OTHER = bytes(range(1, 17))


def begin(client: RawClient, uid: bytes = UID, number: int = 1) -> None:
    """Begin a transaction and store an object in it."""
    client.send(TpcBegin(1, b"", b"", b"", None, " ", uid), Store(oid_of(number), Z64, b"data", 1))


def begin_large(client: RawClient) -> None:
    """Begin a transaction whose vote is taken on the commit thread, where nothing can stop it."""
    client.send(TpcBegin(1, b"", b"", b"", None, " ", UID))
    client.send(*(Store(oid_of(n), Z64, b"data", 1) for n in range(1, 20)))


def commit(client: RawClient, uid: bytes = UID, number: int = 1) -> bytes:
    begin(client, uid, number)
    client.vote()
    return client.finish()


def verdict(client: RawClient, uid: bytes = UID, since: bytes = Z64) -> Verdict:
    return parse_verdict(client.call(Outcome(uid, since)))


@pytest.fixture
def own(raw: Connect) -> Connect:
    """Open raw clients that speak Zeolith's own protocol."""
    return lambda *args, **kw: raw(*args, coding=Coding.OWN, **kw)


# -- after its end -----------------------------------------------------------------------------


def test_a_committed_transaction(files: FileStorage, serve: Serve, own: Connect) -> None:
    server = serve(files)
    one, two = own(server.address), own(server.address)
    tid = commit(one)
    assert verdict(two) == verdict(one) == Verdict(State.COMMITTED, tid)


@pytest.mark.parametrize("end", ["abort", "vote fails", "disconnect"])
def test_one_that_ended_otherwise(files: FileStorage, serve: Serve, own: Connect, end: str) -> None:
    server = serve(files)
    one, two = own(server.address), own(server.address)
    first = commit(one, OTHER)
    if end == "vote fails":
        begin(one)  # the object is there already
        with pytest.raises(RemoteFault, match="ConflictError"):
            one.vote()
    else:
        begin(one, number=2)
        one.vote()
        if end == "abort":
            assert verdict(one) == NOT_COMMITTED  # whoever asks gives it up
            one.ping()
        else:
            one.close()
    assert verdict(two, since=first) == NOT_COMMITTED
    assert verdict(two, OTHER) == Verdict(State.COMMITTED, first)
    # Nothing holds the lock.
    commit(two, bytes(15) + b"\1", 3)


def test_one_that_the_server_has_never_seen(files: FileStorage, serve: Serve, own: Connect) -> None:
    client = own(serve(files).address)
    first = commit(client, OTHER)
    # Whatever it was: it would be here.
    assert verdict(client) == verdict(client, since=first) == NOT_COMMITTED


def test_one_that_comes_after_the_answer(files: FileStorage, serve: Serve, own: Connect) -> None:
    """Another connection may have been slow: "never" has been said."""
    server = serve(files)
    one, two = own(server.address), own(server.address)
    assert verdict(two) == NOT_COMMITTED
    begin(one)
    with pytest.raises(RemoteFault, match="has been used before"):
        one.vote()
    assert verdict(two) == NOT_COMMITTED


def test_unique_ids_are_used_once(files: FileStorage, serve: Serve, own: Connect) -> None:
    server = serve(files)
    one, two = own(server.address), own(server.address)

    def is_refused(uid: bytes) -> bool:
        begin(two, uid, 7)
        with pytest.raises(RemoteFault, match="has been used before"):
            two.vote()
        return True

    begin(one)
    one.ping()
    assert is_refused(UID)
    one.vote()
    assert is_refused(UID)
    tid = one.finish()
    assert is_refused(UID)
    begin(one, OTHER, 2)
    assert verdict(one, OTHER) == NOT_COMMITTED
    assert is_refused(OTHER)
    assert is_refused(NO_UID)
    assert is_refused(b"\xff" * 16)
    with pytest.raises(RemoteFault, match="has been used before"):
        two.call(TpcBegin(1, b"", b"", b"", None, " ", UID))
    assert verdict(two) == Verdict(State.COMMITTED, tid)


# -- before its end ----------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["begun", "waiting", "voted"])
def test_r7_one_that_was_not_finished_is_given_up(
    files: FileStorage, serve: Serve, own: Connect, loop: str, stage: str
) -> None:
    """The server has not noticed that the connection on which it was begun is dead."""
    server = serve(files, loop=loop)
    one, two, holder = (own(server.address) for _ in range(3))
    begin(one)
    if stage == "waiting":
        begin(holder, OTHER, 2)
        holder.vote()
        one.ask(Vote(1))
    elif stage == "voted":
        one.vote()
    one.ping()
    with promptly(10):
        assert verdict(two) == NOT_COMMITTED
    # What is still on its way comes too late.
    try:
        with pytest.raises((Closed, ConnectionError)):
            one.call(TpcFinish(1))
    finally:
        one.close()
    if stage == "waiting":
        holder.finish()
    with pytest.raises(RemoteFault, match="POSKeyError"):
        two.load(oid_of(1))
    with promptly(10):
        commit(two, bytes(15) + b"\1", 3)


def test_r4_it_is_given_up_before_that_is_said(
    files: FileStorage, serve: Serve, own: Connect
) -> None:
    server = serve(files)
    one, two = own(server.address), own(server.address)
    begin_large(one)
    with gate(files, "tpc_vote") as voting, gate(files, "tpc_abort") as aborting:
        one.ask(Vote(1))
        voting.wait_reached()
        question = two.ask(Outcome(UID, Z64))
        two.ping()
        voting.open()
        aborting.wait_reached()
        two.ping()
        assert not [m for m in two.inbox if getattr(m, "msgid", None) == question]
        aborting.open()
        assert parse_verdict(two.answer(question)) == NOT_COMMITTED


def test_r4_r1_one_that_is_being_committed_is_waited_for(
    files: FileStorage, serve: Serve, own: Connect, loop: str
) -> None:
    server = serve(files, loop=loop)
    one, two = own(server.address), own(server.address)
    begin(one)
    one.vote()
    with gate(files, "tpc_finish", after=True) as finishing:
        one.ask(TpcFinish(1))
        finishing.wait_reached()
        one.close()
        question = two.ask(Outcome(UID, Z64))
        finishing.open()
        found = parse_verdict(two.answer(question))
    assert found.state is State.COMMITTED
    # The invalidation came before.
    assert two.invalidations() == [(found.tid, [oid_of(1)])]
    assert two.load(oid_of(1))[1] == found.tid


def test_the_one_who_asks_may_go_meanwhile(files: FileStorage, serve: Serve, own: Connect) -> None:
    server = serve(files)
    one, two, three = (own(server.address) for _ in range(3))
    begin(one)
    one.vote()
    with gate(files, "tpc_finish", after=True) as finishing:
        one.ask(TpcFinish(1))
        finishing.wait_reached()
        two.ask(Outcome(UID, Z64))
        two.close()
        question = three.ask(Outcome(UID, Z64))
        wait_until(lambda: len(server._lobby.connections) == 2)
        finishing.open()
        assert parse_verdict(three.answer(question)).state is State.COMMITTED
    assert len(three.load(oid_of(1))) == 3


def test_r8_questions_that_wait_are_counted(files: FileStorage, serve: Serve, own: Connect) -> None:
    server = serve(files, max_outstanding=3)
    one, two, three = (own(server.address) for _ in range(3))
    begin_large(one)
    with gate(files, "tpc_vote") as voting:
        one.ask(Vote(1))
        voting.wait_reached()
        questions = [two.ask(Outcome(UID, Z64)) for _ in range(8)]
        live = server._services["1"].outcomes._live[UID]
        wait_until(lambda: len(live.waiting) >= 3)
        three.ping()  # the loop has had time for more
        assert len(live.waiting) == 3
        voting.open()
        found = {parse_verdict(two.answer(question)) for question in questions}
    assert found == {NOT_COMMITTED}


# -- after a restart ---------------------------------------------------------------------------


def test_r4_a_restarted_server_knows(tmp_path: Path, own: Connect) -> None:
    path = str(tmp_path / "Data.fs")
    with running_server(FileStorage(path)) as server:
        tid = commit(own(server.address))
    with running_server(FileStorage(path)) as server:
        client = own(server.address)
        assert verdict(client) == Verdict(State.COMMITTED, tid)
        assert verdict(client, OTHER) == NOT_COMMITTED


def test_a_server_whose_file_was_lost_does_not_guess(tmp_path: Path, own: Connect) -> None:
    path = str(tmp_path / "Data.fs")
    with running_server(FileStorage(path)) as server:
        commit(own(server.address))
        last = commit(own(server.address), OTHER, 2)
    os.unlink(path + ".outcomes")
    with running_server(FileStorage(path)) as server:
        client = own(server.address)
        for uid in (UID, OTHER):
            found = verdict(client, uid)
            assert found.state is State.UNKNOWN
            assert "does not go back that far" in found.reason
        # Had it been committed, the database would go further.
        assert verdict(client, bytes(15) + b"\1", last) == NOT_COMMITTED


def test_a_read_only_server_knows_only_what_it_has(
    tmp_path: Path, serve: Serve, own: Connect
) -> None:
    path = str(tmp_path / "Data.fs")
    FileStorage(path).close()
    server = serve(FileStorage(path, read_only=True))
    found = verdict(own(server.address, read_only=True), since=b"\x7f" * 8)
    assert found.state is State.UNKNOWN
    assert "others may change the database" in found.reason
    assert not [name for name in os.listdir(tmp_path) if "outcomes" in name]


def test_a_storage_in_memory(mapping: MappingStorage, serve: Serve, own: Connect) -> None:
    client = own(serve(mapping).address)
    tid = commit(client)
    assert verdict(client) == Verdict(State.COMMITTED, tid)
    assert verdict(client, OTHER) == NOT_COMMITTED


def test_the_file_is_brought_to_disk_at_the_end(tmp_path: Path, own: Connect) -> None:
    path = str(tmp_path / "Data.fs")
    with running_server(FileStorage(path)) as server:
        client = own(server.address)
        commit(client)
        log = server._services["1"].outcomes.log
        assert not log._is_synced
    assert log._is_synced
    assert log._descriptor is None


def test_the_file_is_written_anew_while_the_server_runs(
    tmp_path: Path, own: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zeolith.server.outcomelog.KEPT", 4)
    monkeypatch.setattr("zeolith.server.outcomelog.MOST_RECORDS", 8)
    path = tmp_path / "Data.fs"
    with running_server(FileStorage(str(path))) as server:
        client = own(server.address)
        log = server._services["1"].outcomes.log
        for number in range(1, 30):
            uid = bytes(15) + bytes([number])
            tid = commit(client, uid, number)
            wait_until(lambda: log._records < 8)
        assert verdict(client, uid) == Verdict(State.COMMITTED, tid)
        assert verdict(client, bytes(15) + b"\1").state is State.UNKNOWN


# -- failures ----------------------------------------------------------------------------------


class Maker:
    """A session that does nothing."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def abort(self, transaction: Transaction, done: Callable[[], None]) -> None:
        self.heard.append("abort")

    def leave(self, reason: str) -> None:
        self.heard.append("leave")


def make(uid: bytes | None = UID) -> Transaction:
    transaction = Transaction(1, None, 1000)
    transaction.uid = uid
    return transaction


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (NotCommitted("gone"), State.NOT_COMMITTED),
        (ClientDisconnected("gone"), State.UNKNOWN),
        (OutcomeUnknown("gone", "nobody knows"), State.UNKNOWN),
    ],
)
def test_a_storage_that_is_a_client_itself_and_lost_its_server(
    error: Exception, expected: State
) -> None:
    outcomes = Outcomes(OutcomeLog(None, "", Z64), True)
    maker, transaction = Maker(), make()
    outcomes.begin(maker, transaction)
    transaction.stage = Stage.FINISHING
    heard: list[Verdict] = []
    outcomes.ask(Maker(), UID, Z64, heard.append)
    assert (heard, maker.heard) == ([], [])
    outcomes.log.committed(UID, b"\1" * 8)
    outcomes.failed(transaction, error)
    outcomes.ended(transaction)
    outcomes.ask(Maker(), UID, Z64, heard.append)
    assert [found.state for found in heard] == [expected] * 2


def test_r4_of_a_storage_that_failed_nothing_is_said() -> None:
    """What is on disk will be seen when it has been opened again."""
    outcomes = Outcomes(OutcomeLog(None, "", Z64), True)
    transaction = make()
    outcomes.begin(Maker(), transaction)
    transaction.stage = Stage.FINISHING
    heard: list[Verdict] = []
    outcomes.ask(Maker(), UID, Z64, heard.append)
    outcomes.log.committed(UID, b"\1" * 8)
    outcomes.failed(transaction, OSError("the disk is full"))
    outcomes.ended(transaction)
    assert heard == []
    outcomes.ask(Maker(), UID, Z64, heard.append)
    assert heard[0].state is State.UNKNOWN


@pytest.mark.parametrize("is_there", [True, False])
def test_r4_a_storage_that_failed_is_believed_when_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_there: bool
) -> None:
    """Also if the file of the record was written anew in between."""
    monkeypatch.setattr("zeolith.server.outcomelog.MOST_RECORDS", 2)
    path, identity = str(tmp_path / "outcomes"), "8533cc74-68ff-41bd-bc70-cf7202d4e705"
    outcomes = Outcomes(OutcomeLog(path, identity, Z64), True)
    for uid, tid in ((OTHER, b"\1" * 8), (UID, b"\2" * 8)):
        transaction = make(uid)
        outcomes.begin(Maker(), transaction)
        outcomes.log.committed(uid, tid)
    outcomes.failed(transaction, OSError("the disk is full"))
    outcomes.ended(transaction)
    assert outcomes.log.is_due
    outcomes.log.close()
    log = OutcomeLog(path, identity, (b"\2" if is_there else b"\1") * 8)
    heard: list[Verdict] = []
    Outcomes(log, True).ask(Maker(), UID, Z64, heard.append)
    log.close()
    assert heard == [Verdict(State.COMMITTED, b"\2" * 8) if is_there else NOT_COMMITTED]


def test_where_others_write_too_only_what_was_seen_is_certain() -> None:
    outcomes = Outcomes(OutcomeLog(None, "", Z64), False)
    heard: list[Verdict] = []
    outcomes.ask(Maker(), UID, b"\x7f" * 8, heard.append)
    assert heard.pop().state is State.UNKNOWN
    transaction = make()
    maker = Maker()
    outcomes.begin(maker, transaction)
    outcomes.ask(Maker(), UID, Z64, heard.append)
    assert maker.heard == ["abort", "leave"]
    assert heard == []
    outcomes.ended(transaction)
    assert heard.pop() == NOT_COMMITTED
    outcomes.ask(Maker(), UID, Z64, heard.append)
    assert heard.pop() == NOT_COMMITTED
    outcomes.failed(make(None), OSError())
    outcomes.ended(make(None))
    outcomes.ended(make(OTHER))


def test_r8_what_ended_otherwise_is_not_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcomes_module, "KEPT", 5)
    outcomes = Outcomes(OutcomeLog(None, "", Z64), False)
    for number in range(1, 20):
        transaction = make(bytes(15) + bytes([number]))
        outcomes.begin(Maker(), transaction)
        outcomes.ended(transaction)
    assert len(outcomes._others) == 5
    assert outcomes._live == {}
    heard: list[Verdict] = []
    for number in (14, 15):
        outcomes.ask(Maker(), bytes(15) + bytes([number]), Z64, heard.append)
    assert [found.state for found in heard] == [State.UNKNOWN, State.NOT_COMMITTED]
