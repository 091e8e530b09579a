"""R7: one stuck client stops nobody."""

from __future__ import annotations

import logging
import socket
from typing import Any

import pytest
from tests.rules.conftest import Connect, Serve
from tests.support.proxy import Proxy
from tests.support.raw import Z64, RawClient, fault_of, oid_of
from tests.support.storages import gate
from tests.support.waiting import Background, promptly, wait_until
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage

from zeolith.protocol.greeting import Coding
from zeolith.protocol.messages import (
    ServerStatus,
    SetClientLabel,
    Store,
    StoreBlobChunk,
    StoreBlobStart,
    TpcAbort,
    TpcFinish,
    Vote,
)
from zeolith.server.options import ServerOptions

RECORD = b"cZODB.blob\nBlob\n."


def status(client: RawClient) -> dict[str, Any]:
    """Return the server's counters."""
    counters: dict[str, Any] = client.call(ServerStatus())
    return counters


def reset(client: RawClient) -> None:
    """Break a connection the hard way."""
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()


def test_r7_the_commit_lock_has_a_time_limit_by_default() -> None:
    """B row 1: ZEO's documentation promises 30 seconds, its code gives for ever."""
    assert ServerOptions(address=("", 0)).transaction_timeout == 30.0


def test_r7_a_configuration_file_without_a_word_has_it_too() -> None:
    from zeolith.config.server import parse_server_config

    config = parse_server_config(
        "<zeo>\naddress 127.0.0.1:0\n</zeo>\n<mappingstorage 1>\n</mappingstorage>", "<test>"
    )
    assert config.transaction_timeout == 30.0


@pytest.mark.parametrize("coding", Coding)
def test_r7_the_time_limit_frees_the_lock(
    mapping: MappingStorage,
    serve: Serve,
    raw: Connect,
    loop: str,
    coding: Coding,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """F: on ZEO 6.2 the lock stays held after the time-out closed the voter's connection."""
    caplog.set_level(logging.INFO)
    server = serve(mapping, loop=loop, transaction_timeout=0.3)
    silent = raw(server.address, coding=coding)
    silent.send(SetClientLabel("the silent one"))
    silent.begin()
    silent.store(oid_of(1), b"never")
    silent.vote()
    others = [raw(server.address, coding=coding) for _ in range(3)]
    with promptly(10):
        tids = [other.commit({oid_of(2 + n): (Z64, b"x")}) for n, other in enumerate(others)]
    silent.wait_closed()
    assert fault_of(lambda: others[0].load(oid_of(1))) == "POSKeyError"
    assert tids == sorted(tids)
    # New clients work as well (on ZEO they hang).
    raw(server.address).commit({oid_of(9): (Z64, b"x")})
    assert "the silent one" in caplog.text


def test_r7_the_time_limit_counts_from_the_answer_to_the_vote(
    mapping: MappingStorage, serve: Serve, raw: Connect
) -> None:
    """Time spent in the queue and in the storage's vote is not the client's."""
    server = serve(mapping, transaction_timeout=0.4)
    slow = raw(server.address)
    slow.begin()
    slow.store(oid_of(1), b"x")
    with gate(mapping, "tpc_vote") as voting:
        vote = slow.ask(Vote(1))
        voting.wait_reached()
        voting.reached.clear()
        # Longer than the limit: the storage's time.
        assert not voting.reached.wait(0.8)
        voting.open()
        slow.answer(vote)
    assert slow.finish()


@pytest.mark.parametrize("leave", [RawClient.close, reset])
@pytest.mark.parametrize("moment", ["before", "holding", "waiting", "voting", "finishing"])
def test_r7_a_client_that_vanishes_frees_the_lock(
    mapping: MappingStorage, serve: Serve, raw: Connect, loop: str, leave: object, moment: str
) -> None:
    """B: the client goes while it waits for, is getting, or holds the lock."""
    assert callable(leave)
    server = serve(mapping, loop=loop)
    gone, other = raw(server.address), raw(server.address)
    gone.begin()
    gone.store(oid_of(1), b"gone's")
    if moment == "before":
        leave(gone)
    elif moment == "holding":
        gone.vote()
        leave(gone)
    elif moment == "waiting":
        other.begin()
        other.vote()
        gone.ask(Vote(1))
        leave(gone)
        other.send(TpcAbort(1))
    elif moment == "voting":
        with gate(mapping, "tpc_vote") as voting:
            gone.ask(Vote(1))
            voting.wait_reached()
            leave(gone)
            voting.open()
    else:
        gone.vote()
        with gate(mapping, "tpc_finish") as finishing:
            gone.ask(TpcFinish(1))
            finishing.wait_reached()
            leave(gone)
            finishing.open()
    with promptly(5):
        other.commit({oid_of(2): (Z64, b"other's")})
    is_there = fault_of(lambda: other.load(oid_of(1))) == "no error"
    # Once the storage is finishing nothing can stop it; before that nothing may remain.
    assert is_there is (moment == "finishing")


def test_r7_a_vanished_waiter_leaves_the_queue_in_order(
    mapping: MappingStorage, serve: Serve, raw: Connect, loop: str
) -> None:
    server = serve(mapping, loop=loop)
    clients = [raw(server.address) for _ in range(5)]
    watcher = raw(server.address)
    for number, client in enumerate(clients):
        client.begin()
        client.store(oid_of(number + 1), b"x")
        if number == 0:
            client.vote()
    votes = []
    for count, client in enumerate(clients[1:], start=1):
        votes.append(client.ask(Vote(1)))
        wait_until(lambda: status(watcher)["waiting"] == count)  # noqa: B023 - used at once
    reset(clients[2])
    with promptly(5):
        clients[0].finish()
        for number in (1, 3, 4):
            clients[number].answer(votes[number - 1])
            clients[number].finish()


def test_r7_uploads_hold_no_lock(files: FileStorage, serve: Serve, raw: Connect, loop: str) -> None:
    """A client in the middle of a large upload has nothing that others need."""
    server = serve(files, loop=loop)
    slow, other = raw(server.address), raw(server.address)
    slow.begin()
    slow.send(Store(oid_of(1), Z64, RECORD, 1), StoreBlobStart())
    slow.send(*(StoreBlobChunk(bytes(59000)) for _ in range(50)))
    with promptly(5):
        for number in range(3):
            other.commit({oid_of(2 + number): (Z64, b"x")})


def test_r7_an_abort_frees_the_lock(mapping: MappingStorage, serve: Serve, raw: Connect) -> None:
    server = serve(mapping)
    one, two = raw(server.address), raw(server.address)
    for _ in range(3):
        one.begin()
        one.store(oid_of(1), b"x")
        one.vote()
        assert one.call(TpcAbort(1)) is None
        two.begin()
        two.vote()
        two.send(TpcAbort(1))
    assert fault_of(lambda: two.load(oid_of(1))) == "POSKeyError"


def test_r7_an_unplugged_voter_is_timed_out(
    mapping: MappingStorage, serve: Serve, raw: Connect, loop: str
) -> None:
    """Nothing arrives from it any more, not even the end of the connection."""
    server = serve(mapping, loop=loop, transaction_timeout=0.3)
    with Proxy(server.address) as proxy:
        unplugged, other = raw(proxy.address), raw(server.address)
        unplugged.begin()
        unplugged.store(oid_of(1), b"x")
        unplugged.vote()
        proxy.blackhole()
        unplugged.ask(TpcFinish(1))
        with promptly(10):
            other.commit({oid_of(2): (Z64, b"x")})
        assert fault_of(lambda: other.load(oid_of(1))) == "POSKeyError"


def test_r7_a_slow_storage_does_not_stop_other_storages(
    files: FileStorage, serve: Serve, raw: Connect, loop: str
) -> None:
    """One storage's disk hangs in a commit: another storage of the server goes on."""
    slow = MappingStorage()
    server = serve({"slow": slow, "quick": files}, loop=loop)
    stuck, quick = raw(server.address, "slow"), raw(server.address, "quick")
    stuck.begin()
    stuck.store(oid_of(1), b"x")
    stuck.vote()
    with gate(slow, "tpc_finish") as finishing:
        finish = stuck.ask(TpcFinish(1))
        finishing.wait_reached()
        with promptly(5):
            quick.commit({oid_of(1): (Z64, b"x")})
            assert quick.load(oid_of(1))[0] == b"x"
        finishing.open()
        stuck.answer(finish)


def test_r7_a_long_pack_does_not_stop_commits(
    files: FileStorage, serve: Serve, raw: Connect, loop: str
) -> None:
    import time

    from zeolith.protocol.messages import Pack

    server = serve(files, loop=loop)
    packer, other = raw(server.address), raw(server.address)
    other.commit({Z64: (Z64, b"cpersistent.mapping\nPersistentMapping\n.}.")})
    with gate(files, "pack") as packing:
        pack = packer.ask(Pack(time.time()))
        packing.wait_reached()
        with promptly(5):
            other.commit({oid_of(1): (Z64, b"x")})
            packer.ping()
        packing.open()
        answer = Background(lambda: packer.answer(pack))
        assert answer.result() is None
