"""The tools of the rule tests do what the tests take them to do."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.support.proxy import DOWN, UP, Action, Direction, Passing, Proxy
from tests.support.raw import (
    Closed,
    FakeConnection,
    FakeServer,
    RawClient,
    RemoteFault,
    fault_of,
    is_refused,
    oid_of,
)
from tests.support.waiting import Background, promptly, wait_until

from zeolith.protocol.greeting import Coding
from zeolith.protocol.messages import InvalidateTransaction, LoadBefore, Ping, Register

TID = b"\3" * 8


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    with FakeServer() as server:
        yield server


@pytest.fixture
def proxy(fake: FakeServer) -> Iterator[Proxy]:
    with Proxy(fake.address) as found:
        yield found


def admit(fake: FakeServer) -> FakeConnection:
    connection = fake.accept()
    connection.greet()
    connection.reply(connection.expect(Register), connection.admission(TID))
    connection.peer.registered()
    return connection


def connected(fake: FakeServer, proxy: Proxy, coding: Coding) -> tuple[RawClient, FakeConnection]:
    client = Background(lambda: RawClient(proxy.address, coding=coding))
    connection = admit(fake)
    found = client.result()
    assert isinstance(found, RawClient)
    return found, connection


@pytest.mark.parametrize("coding", Coding)
def test_client_proxy_and_server_understand_each_other(
    fake: FakeServer, proxy: Proxy, coding: Coding
) -> None:
    client, server = connected(fake, proxy, coding)
    with client:
        assert client.tid == TID
        first = client.ask(LoadBefore(oid_of(1), TID))
        second = client.ask(Ping())
        call = server.expect(LoadBefore)
        server.notify(InvalidateTransaction(TID, [oid_of(1)]))
        server.reply(call, (b"data", TID, None))
        server.fault(server.next_call(), "ZODB.POSException.POSKeyError", (b"x",))
        assert client.answer(first) == (b"data", TID, None)
        assert fault_of(lambda: client.answer(second)) == "POSKeyError"
        with pytest.raises(RemoteFault):
            client.answer(second)
        assert client.invalidations() == [(TID, [oid_of(1)])]
        # What has been passed on is noted just after that.
        proxy.wait_frame(lambda item: item.name == ".fault")
        names = [(item.direction, item.name) for item in proxy.frames() if item.name]
        assert sorted(names, key=lambda item: item[0].value) == [
            (UP, "register"),
            (UP, "loadBefore"),
            (UP, "ping"),
            (DOWN, ".reply"),
            (DOWN, "invalidateTransaction"),
            (DOWN, ".reply"),
            (DOWN, ".fault"),
        ]


@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize("action", [Action.CUT, Action.CUT_AFTER, Action.CUT_WITHIN])
def test_cutting_a_message(
    fake: FakeServer, proxy: Proxy, direction: Direction, action: Action
) -> None:
    client, server = connected(fake, proxy, Coding.PICKLE)

    def rule(passing: Passing) -> Action:
        wanted = {UP: "ping", DOWN: ".reply"}[direction]
        is_it = passing.direction is direction and passing.name == wanted
        return action if is_it else Action.PASS

    proxy.rule = rule
    with client:
        ping = client.ask(Ping())
        if direction is DOWN or action is Action.CUT_AFTER:
            call = server.next_call()
        else:
            with pytest.raises(Closed):
                server.next()
        if direction is DOWN:
            server.reply(call, None)
            if action is Action.CUT_AFTER:
                assert client.answer(ping) is None
        client.wait_closed()
        assert proxy.links[0].is_cut.wait(10)


def test_stalling_one_direction(fake: FakeServer, proxy: Proxy) -> None:
    client, server = connected(fake, proxy, Coding.PICKLE)
    with client:
        proxy.stall(DOWN)
        ping = client.ask(Ping())
        server.reply(server.next_call(), None)
        client.socket.settimeout(0.05)
        with pytest.raises(TimeoutError):
            client.receive()
        client.socket.settimeout(10)
        proxy.resume(DOWN)
        assert client.answer(ping) is None


def test_a_black_hole_closes_nothing(fake: FakeServer, proxy: Proxy) -> None:
    client, server = connected(fake, proxy, Coding.PICKLE)
    with client:
        proxy.blackhole()
        client.ask(Ping())
        for sock, receive in ((client.socket, client.receive), (server.socket, server.next)):
            sock.settimeout(0.05)
            with pytest.raises(TimeoutError):
                receive()


def test_closing_the_proxy_ends_everything(fake: FakeServer) -> None:
    with Proxy(fake.address) as proxy:
        client, server = connected(fake, proxy, Coding.PICKLE)
    with client:
        assert is_refused(client.receive)
    with pytest.raises(Closed):
        server.next()


def test_waiting_gives_up() -> None:
    with pytest.raises(AssertionError, match="a miracle"):
        wait_until(lambda: False, "a miracle", timeout=0.02)
    with pytest.raises(AssertionError, match="allowed"), promptly(-1.0):
        pass
