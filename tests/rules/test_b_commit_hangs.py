"""Class B of the known failures: errors and conflicts in a commit, and locks that stay."""

from __future__ import annotations

from typing import Any

import pytest
from tests.rules.commits import RECORD, blob, commit
from tests.rules.conftest import Attach, Connect, Open, Serve, tid_of
from tests.support.processes import is_listening
from tests.support.raw import (
    Z64,
    Closed,
    FakeServer,
    RemoteFault,
    fault_of,
    oid_of,
)
from tests.support.storages import hook
from tests.support.waiting import Background, promptly, wait_until
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage
from ZODB.POSException import ConflictError, ReadOnlyError

from zeolith.errors import ClientDisconnected
from zeolith.protocol.messages import (
    LoadBefore,
    Store,
    TpcAbort,
    TpcBegin,
    Vote,
)
from zeolith.types import MAX_TID

# -- errors in the storage ---------------------------------------------------------------------


@pytest.mark.parametrize("method", ["tpc_begin", "store", "tpc_vote"])
def test_b_an_error_while_committing_frees_the_lock(
    mapping: MappingStorage, serve: Serve, raw: Connect, loop: str, method: str
) -> None:
    """lp 374737."""

    def fail(*_args: Any, **_kw: Any) -> None:
        raise OSError(28, "No space left on device")

    server = serve(mapping, loop=loop)
    unlucky, other = raw(server.address), raw(server.address)
    unlucky.begin()
    unlucky.store(oid_of(1), b"x")
    with hook(mapping, method, before=fail), promptly(10):
        try:
            unlucky.vote()
            unlucky.finish()
        except (RemoteFault, Closed):
            pass
        else:
            pytest.fail("the error was not reported")
    with promptly(10):
        other.commit({oid_of(2): (Z64, b"x")})
    assert fault_of(lambda: other.load(oid_of(1))) == "POSKeyError"


def test_b_an_error_in_the_last_phase_is_told_and_nobody_hangs(
    mapping: MappingStorage, serve: Serve, raw: Connect, loop: str
) -> None:
    """Nobody can know what is on disk then: the server ends rather than guess, and says so."""

    def fail(*_args: Any, **_kw: Any) -> None:
        raise OSError(28, "No space left on device")

    server = serve(mapping, loop=loop)
    unlucky, other = raw(server.address), raw(server.address)
    unlucky.begin()
    unlucky.store(oid_of(1), b"x")
    unlucky.vote()
    other.begin()
    waiting = other.ask(Vote(1))
    with hook(mapping, "tpc_finish", before=fail), promptly(10):
        with pytest.raises((RemoteFault, Closed)):
            unlucky.finish()
        with pytest.raises(Closed):
            other.answer(waiting)
        other.wait_closed()
        wait_until(lambda: not is_listening(server.address))


def test_b_a_conflict_of_blobs_does_not_stop_commits(
    files: FileStorage, serve: Serve, raw: Connect, loop: str
) -> None:
    """3.9.1: a conflict while committing blobs."""
    server = serve(files, loop=loop)
    one, two = raw(server.address), raw(server.address)
    one.begin()
    one.store_blob(oid_of(1), RECORD, b"first")
    one.vote()
    first = one.finish()
    for client, data in ((one, b"one"), (two, b"two")):
        client.begin()
        client.store_blob(oid_of(1), RECORD, data * 1000, first)
    one.vote()
    waiting = two.ask(Vote(1))
    second = one.finish()
    assert fault_of(lambda: two.answer(waiting)) == "ConflictError"
    with promptly(10):
        two.send(TpcAbort(1))
        two.begin()
        two.store_blob(oid_of(1), RECORD, b"two", second)
        two.vote()
        third = two.finish()
    assert one.load(oid_of(1))[1] == third
    assert blob(one, oid_of(1), second) == b"one" * 1000
    assert blob(one, oid_of(1), third) == b"two"


def test_b_a_conflict_frees_the_lock_and_names_the_object(
    mapping: MappingStorage, serve: Serve, raw: Connect, client: Open
) -> None:
    server = serve(mapping)
    first = raw(server.address).commit({oid_of(1): (Z64, b"one")})
    storage = client(server.address)
    assert storage.load(oid_of(1)) == (b"one", first)
    raw(server.address).commit({oid_of(1): (first, b"two")})
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    storage.store(oid_of(1), first, b"three", "", meta)
    with pytest.raises(ConflictError) as caught:
        storage.tpc_vote(meta)
    assert caught.value.oid == oid_of(1)
    storage.tpc_abort(meta)
    with promptly(5):
        raw(server.address).commit({oid_of(2): (Z64, b"x")})


def test_b_a_conflict_evicts_what_caused_it(attach: Attach) -> None:
    """A (3.9.6): holding on to the stale entry would repeat the conflict for ever."""
    storage, server = attach()
    loading = Background(lambda: storage.loadBefore(oid_of(1), MAX_TID))
    server.reply(server.expect(LoadBefore), (b"stale", tid_of(1), None))
    loading.result()
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    storage.store(oid_of(1), tid_of(1), b"mine", "", meta)
    voting = Background(lambda: storage.tpc_vote(meta))
    server.expect(TpcBegin)
    server.expect(Store)
    server.fault(
        server.expect(Vote),
        "ZODB.POSException.ConflictError",
        {"oid": oid_of(1), "serials": (tid_of(2), tid_of(1)), "message": "conflict"},
    )
    with pytest.raises(ConflictError):
        voting.result()
    aborting = Background(lambda: storage.tpc_abort(meta))
    server.reply(server.expect(TpcAbort), None)
    aborting.result()
    again = Background(lambda: storage.loadBefore(oid_of(1), MAX_TID))
    server.reply(server.expect(LoadBefore), (b"fresh", tid_of(2), None))
    assert again.result() == (b"fresh", tid_of(2), None)


# -- locks in the client -----------------------------------------------------------------------


def test_b_a_begin_that_fails_leaves_the_client_usable(
    mapping: MappingStorage, serve: Serve, client: Open
) -> None:
    """ZEO#1: the commit lock of the client stayed taken."""
    server = serve(mapping, read_only=True)
    storage = client(server.address, read_only_fallback=True)
    for _ in range(3):
        with promptly(5), pytest.raises(ReadOnlyError):
            storage.tpc_begin(TransactionMetaData())


def test_b_a_begin_without_a_server_leaves_the_client_usable(
    fake: FakeServer, attach: Attach
) -> None:
    storage, server = attach(wait_timeout=0.05)
    server.close()
    wait_until(lambda: not storage.is_connected())
    for _ in range(3):
        with promptly(5), pytest.raises(ClientDisconnected):
            storage.tpc_begin(TransactionMetaData())


def test_b_threads_commit_in_turn(mapping: MappingStorage, serve: Serve, client: Open) -> None:
    storage = client(serve(mapping).address)

    def work(number: int) -> None:
        tid = Z64
        for turn in range(20):
            tid = commit(storage, oid_of(number), b"%d" % turn, tid)

    threads = [Background(lambda number=n: work(number)) for n in range(1, 6)]  # type: ignore[misc]
    for thread in threads:
        thread.result()
    assert [storage.load(oid_of(n))[0] for n in range(1, 6)] == [b"19"] * 5
