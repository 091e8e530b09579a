"""Waiting before anybody watches: not longer than the time-out, and not in silence."""

from __future__ import annotations

import pytest

from tests.support.raw import FakeServer
from tests.support.waiting import Background, promptly
from zeolith.client import link
from zeolith.client.patience import Patience
from zeolith.errors import ClientDisconnected
from zeolith.protocol.greeting import Coding
from zeolith.protocol.hello import Terms
from zeolith.protocol.messages import Heartbeat, Register
from zeolith.protocol.peers import ServerPeer

from .conftest import Open
from .scripted import tid


@pytest.mark.parametrize(("demand", "part"), [(None, 30.0), (120.0, 30.0), (90.0, 30.0), (6, 2.0)])
def test_a_server_that_stands_less_silence_gets_heartbeats(
    demand: float | None, part: float
) -> None:
    patience = Patience(30.0, demand)
    assert patience.part == part
    parts = 1
    while patience.goes_on(5):
        parts += 1
    assert parts * part == 30.0


def test_what_was_read_begins_the_wait_anew() -> None:
    patience = Patience(3.0, 3.0)
    assert [patience.goes_on(reads) for reads in (1, 1, 2, 2, 3, 3, 3)] == [True] * 6 + [False]


def admit_slowly(fake: FakeServer, silence: float, beats: int, answers: bool) -> None:
    """Play a server that lets the client wait for its first answer after the admission."""
    connection = fake.accept()
    connection.peer = ServerPeer(Coding.MSGPACK, terms=Terms(silence))
    connection.greet()
    connection.reply(connection.expect(Register), connection.admission(tid(10)))
    connection.peer.registered()
    call = connection.next_call()
    for _ in range(beats):
        assert isinstance(connection.next(), Heartbeat)
    if answers:
        connection.reply(call, {"length": 0, "size": 0, "name": "x"})
        connection.next()


def test_a_slow_verification_is_not_silent(fake: FakeServer, client: Open) -> None:
    playing = Background(lambda: admit_slowly(fake, 1.0, 4, True))
    storage = client(fake.address)
    assert storage.is_connected()
    playing.result()


def test_a_server_that_never_answers_is_given_up(
    fake: FakeServer, client: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "ATTEMPT_TIMEOUT", 2.0)
    playing = Background(lambda: admit_slowly(fake, 1.0, 5, False))
    with promptly(15), pytest.raises(ClientDisconnected, match="timed out"):
        client(fake.address, wait_timeout=4)
    playing.result()


def test_a_server_that_dies_while_it_is_asked_is_given_up_as_any_other(
    fake: FakeServer, client: Open
) -> None:
    def admit_twice() -> None:
        first = fake.accept()
        first.greet()
        first.reply(first.expect(Register), first.admission(tid(10)))
        first.peer.registered()
        first.next_call()
        # Nothing more comes, neither an answer nor a heartbeat.
        fake.accept().admit(tid(10))

    playing = Background(admit_twice)
    storage = client(fake.address, dead_server_timeout=1)
    assert storage.is_connected()
    playing.result()
