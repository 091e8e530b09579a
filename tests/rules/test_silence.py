"""Silence: a dead peer is noticed within the bound on either side, and a busy one is not dead.

With real sockets and the shortest limit there is, one second.
"""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from tests.rules.conftest import Attach, Connect, Database, Open, Serve, tid_of
from tests.support.processes import ServerProcess, run_python
from tests.support.proxy import DOWN, UP, Proxy
from tests.support.raw import FakeServer, fault_of, oid_of
from tests.support.storages import gate
from tests.support.waiting import Background, promptly, wait_until
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage

import zeolith
from zeolith.protocol.greeting import Coding
from zeolith.protocol.hello import Terms
from zeolith.protocol.messages import Heartbeat, InvalidateTransaction, LoadBefore, SetClientLabel
from zeolith.protocol.peers import ServerPeer

Z64 = bytes(8)


def own(fake_connection: Any, silence: float | None) -> None:
    """Have the server that the test plays speak Zeolith's own protocol."""
    fake_connection.peer = ServerPeer(Coding.MSGPACK, terms=Terms(silence))


def test_r7_a_silent_client_is_dropped_and_its_lock_is_free(
    mapping: MappingStorage,
    serve: Serve,
    raw: Connect,
    loop: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A cable pulled out: the client is not even there to acknowledge that the connection ends."""
    server = serve(mapping, loop=loop, dead_peer_timeout=1.0)
    with Proxy(server.address) as proxy:
        gone = raw(proxy.address, coding=Coding.OWN)
        gone.send(SetClientLabel("the silent one"))
        gone.begin()
        gone.store(oid_of(1), b"never")
        gone.vote()
        began = time.monotonic()
        proxy.blackhole()
        other = raw(server.address)
        with promptly(5):
            other.commit({oid_of(2): (Z64, b"x")})
        taken = time.monotonic() - began
    assert taken > 0.8
    assert fault_of(lambda: raw(server.address).load(oid_of(1))) == "POSKeyError"
    assert "the silent one" in caplog.text
    assert caplog.text.count("nothing has been heard of it for 1 s (dead-peer-timeout)") == 1
    assert server.statistics()["1"]["silent_clients"] == 1


def test_a_client_of_zeo_s_protocol_need_not_say_anything(
    mapping: MappingStorage, serve: Serve, raw: Connect
) -> None:
    server = serve(mapping, dead_peer_timeout=1.0)
    zeo, own_ = raw(server.address), raw(server.address, coding=Coding.OWN)
    with promptly(5):
        own_.wait_closed()
    zeo.ping()
    assert not any(isinstance(message, Heartbeat) for message in zeo.inbox)


def test_r7_a_silent_server_is_given_up_and_what_waits_goes_to_the_next(
    mapping: MappingStorage, serve: Serve, client: Open, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    server = serve(mapping)
    with Proxy(server.address) as proxy:
        storage = client(proxy.address, dead_server_timeout=1)
        oid = storage.new_oid()
        began = time.monotonic()
        # What is on its way when the network goes, waits; another thread, too.
        proxy.strand()
        waiting = [Background(lambda: fault_of_load(storage, oid)) for _ in range(2)]
        with promptly(5):
            for each in waiting:
                assert each.result() == "POSKeyError"
        taken = time.monotonic() - began
    assert taken > 0.8
    assert "the server has not been heard of for 1 seconds" in caplog.text


def fault_of_load(storage: Any, oid: bytes) -> str:
    try:
        storage.load(oid)
    except Exception as error:  # noqa: BLE001 - its name is what the test looks at
        return type(error).__name__
    return ""


def test_an_idle_client_notices_that_its_server_is_gone(
    mapping: MappingStorage, serve: Serve, client: Open
) -> None:
    server = serve(mapping)
    with Proxy(server.address) as proxy:
        storage = client(proxy.address, dead_server_timeout=1)
        proxy.blackhole()
        began = time.monotonic()
        wait_until(lambda: not storage.is_connected(), timeout=5)
        assert time.monotonic() - began > 0.4


def test_a_change_feed_goes_on_with_the_next_server(
    mapping: MappingStorage, serve: Serve, raw: Connect
) -> None:
    server = serve(mapping)
    committer = raw(server.address)
    with (
        Proxy(server.address) as proxy,
        zeolith.changes(proxy.address, bytes(8), dead_server_timeout=1) as feed,
    ):
        first = committer.commit({oid_of(1): (Z64, b"x")})
        assert next(feed).tid == first
        proxy.strand()
        second = committer.commit({oid_of(2): (Z64, b"x")})
        with promptly(10):
            assert next(feed).tid == second
        assert len(proxy.links) == 2


def test_heartbeats_keep_both_sides_connected(
    mapping: MappingStorage, serve: Serve, client: Open, loop: str
) -> None:
    server = serve(mapping, dead_peer_timeout=1.0, loop=loop)
    with Proxy(server.address) as proxy:
        storage = client(proxy.address, dead_server_timeout=1)
        began = time.monotonic()
        for direction in (UP, DOWN):
            beats = 0
            while beats < 6:
                beats = sum(
                    passing.direction is direction and isinstance(passing.message, Heartbeat)
                    for passing in wait_more(proxy)
                )
        assert time.monotonic() - began > 1.2
        assert len(proxy.links) == 1
        assert storage.is_connected()
        # No more than are needed: three or four a second, and one for good measure.
        assert beats <= 5 * (time.monotonic() - began) + 1


def wait_more(proxy: Proxy) -> Any:
    """Wait until another frame has passed; return all."""
    with proxy.changed:
        assert proxy.changed.wait(5)
    return proxy.frames()


@pytest.mark.long
def test_a_long_call_is_not_cut_off(mapping: MappingStorage, serve: Serve, client: Open) -> None:
    """Ten times as long as the silence that either side stands."""
    server = serve(mapping, dead_peer_timeout=1.0)
    storage = client(server.address, dead_server_timeout=1)
    with gate(mapping, "pack") as packing:
        pack = Background(lambda: storage.pack(time.time(), lambda data, oids: None, wait=True))
        packing.wait_reached()
        channel = storage._link.channel()
        # Nothing but heartbeats: the thread that packs reads them.
        reads = channel.reads
        wait_until(lambda: channel.reads >= reads + 30, timeout=20)
        packing.open()
        pack.result()
    assert storage._link.channel() is channel


def test_a_client_that_is_busy_with_its_database_is_neither_dead_nor_blind(
    attach: Attach, fake: FakeServer, client: Open
) -> None:
    """The thread that reads is in the database's code; what the server says waits."""
    opening = Background(lambda: client(fake.address, dead_server_timeout=1))
    connection = fake.accept()
    own(connection, 1.0)
    connection.admit(tid_of(1))
    storage: Any = opening.result()
    database = Database(storage)
    entered, leave = threading.Event(), threading.Event()

    def invalidate(tid: bytes) -> None:
        entered.set()
        assert leave.wait(20)

    database.on_invalidate = invalidate
    loading = Background(lambda: storage.loadBefore(oid_of(1), tid_of(9)))
    call = connection.expect(LoadBefore)
    codec = connection.peer.codec
    assert codec is not None
    # Nothing has come that the watcher could read: it is the thread that loads.
    wait_until(lambda: storage._link.channel().is_being_read)
    invalidation = codec.notice(InvalidateTransaction(tid_of(2), [oid_of(7)]))
    connection.send(invalidation)
    assert entered.wait(10)
    # The only sign of life from now on, and nobody reads it.
    connection.send(codec.heartbeat())
    # For three seconds; its own heartbeats come all the same.
    for _ in range(9):
        assert isinstance(connection.next(), Heartbeat)
    leave.set()
    connection.reply(call, (b"data", tid_of(1), None))
    assert loading.result() == (b"data", tid_of(1), None)
    assert storage.is_connected()


def test_r7_a_client_that_we_do_not_read_from_is_not_dead(
    files: FileStorage, serve: Serve, client: Open, raw: Connect, loop: str
) -> None:
    """What it has sent waits for the disk, so nothing more is read from it."""
    server = serve(files, dead_peer_timeout=1.0, loop=loop)
    storage = client(server.address, dead_server_timeout=1)
    with gate(files, "tpc_finish") as finishing:
        committer = raw(server.address)
        commit = Background(lambda: committer.commit({oid_of(1): (Z64, b"x")}))
        finishing.wait_reached()
        # Loads wait for the end of the commit, and behind them the heartbeats.
        loading = Background(lambda: fault_of_load(storage, oid_of(2)))
        connections = list(server._lobby.connections)
        wait_until(lambda: any(each._is_hushed for each in connections), timeout=10)
        # For three times as long as the server stands silence; its own heartbeats come meanwhile.
        channel = storage._link.channel()
        reads = channel.reads
        wait_until(lambda: channel.reads >= reads + 9, timeout=20)
        finishing.open()
        commit.result()
        assert loading.result() == "POSKeyError"
    assert server.statistics()["1"]["silent_clients"] == 0


# -- where threads are not threads, and where processes fork ------------------------------------


IDLE = """
import zeolith
def idle(storage, pause):
    "Wait for heartbeats, for longer than silence is stood."
    channel = storage._link.channel()
    reads = channel.reads
    while channel.reads < reads + 5:
        pause(0.01)
    assert storage._link.channel() is channel
"""


def test_gevent_heartbeats_and_the_end_of_a_silent_server(tmp_path: Path) -> None:
    with (
        ServerProcess(tmp_path, config="dead-peer-timeout 1") as server,
        Proxy(server.address) as proxy,
    ):
        steps = Background(lambda: strand_on_request(proxy))
        printed = run_python(
            "from gevent import monkey\nmonkey.patch_all()\nimport gevent, socket, sys\n"
            + IDLE
            + """
storage = zeolith.ClientStorage((sys.argv[1], int(sys.argv[2])), dead_server_timeout=1)
with gevent.Timeout(50):
    idle(storage, gevent.sleep)
    old = storage._link.channel()
    from zeolith.protocol.messages import SetClientLabel
    old.call(SetClientLabel("strand"))
    while storage._link._channel in (old, None):
        gevent.sleep(0.01)
    assert old.is_broken
    storage.ping()
    idle(storage, gevent.sleep)
    storage.close()
print("done")
""",
            *map(str, proxy.address),
        )
        steps.result()
    assert printed == "done\n"


def strand_on_request(proxy: Proxy) -> None:
    """Strand the client as soon as it has been called so."""
    asked = proxy.wait_frame(lambda passing: passing.name == "set_client_label")
    proxy.wait_frame(
        lambda passing: (
            passing.direction is DOWN
            and getattr(passing.message, "msgid", 0) == getattr(asked.message, "msgid", 1)
        )
    )
    proxy.strand()


def test_a_forked_child_has_heartbeats_of_its_own(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, config="dead-peer-timeout 1") as server:
        printed = run_python(
            "import os, sys, time\n"
            + IDLE
            + """
storage = zeolith.ClientStorage((sys.argv[1], int(sys.argv[2])), dead_server_timeout=1)
storage.ping()
child = os.fork()
status = 1
try:
    storage.ping()
    idle(storage, time.sleep)
    storage.close()
    status = 0
finally:
    if child == 0:
        os._exit(status)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
print("done")
""",
            *map(str, server.address),
        )
    assert printed == "done\n"
