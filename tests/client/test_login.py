"""Logging in at servers that are not as they should be: the client finds out, and gives up."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.raw import FakeConnection, FakeServer
from tests.support.waiting import Background, promptly
from zeolith.client import connector
from zeolith.client.connector import Connector, Mode
from zeolith.client.principal import Principal
from zeolith.errors import AuthenticationFailed, ClientDisconnected
from zeolith.protocol import msgpacks
from zeolith.protocol.framing import frame
from zeolith.protocol.hello import Introduction, serialize_introduction
from zeolith.protocol.login import MAGIC, LoginReply, LoginStep, serialize_reply
from zeolith.protocol.scram import PLAIN, PLUS, ServerExchange, make_secret

from .conftest import Open
from .scripted import tid

SECRET = make_secret("pencil", b"0123456789abcdef", 4096)
LOGIN = {"username": "alice", "password": "pencil"}


def hello(**said: Any) -> bytes:
    return frame(serialize_introduction(Introduction(1, 1 << 20, "hostile", **said)))


def reply(**said: Any) -> bytes:
    return frame(serialize_reply(LoginReply(**said)))


class Impostor:
    """Plays a server until the client has had enough."""

    def __init__(self, connection: FakeConnection) -> None:
        self._connection = connection
        self.exchange: ServerExchange
        self.step: LoginStep

    def send(self, data: bytes) -> None:
        self._connection.socket.sendall(data)

    def begin(self, mechanisms: tuple[str, ...] = (PLAIN,), **more: Any) -> None:
        """Greet, and take the first step of the client."""
        peer = self._connection.peer
        peer.know_users((PLAIN, PLUS), "ZEO", must_log_in=True)
        self._connection.socket.sendall(peer.greeting())
        self._hear()
        self.send(hello(login=mechanisms, **more))

    def _hear(self) -> Any:
        while True:
            data = self._connection.socket.recv(10_000)
            assert data, "the client has left"
            events = self._connection.peer.receive(data)
            if events:
                return events[0]

    def challenge(self) -> bytes:
        """Return the right answer to the client's first step."""
        step = self._hear()
        assert isinstance(step, LoginStep)
        self.exchange = ServerExchange(step.mechanism or "", step.data)
        return self.exchange.challenge(SECRET, "servernonce")

    def final(self) -> bytes:
        """Return the right answer to the second one."""
        step = self._hear()
        assert isinstance(step, LoginStep)
        return self.exchange.finish(step.data)


def no_mechanism(server: Impostor) -> None:
    server.begin(("kerberos",))


def none_at_all(server: Impostor) -> None:
    server.begin(())


def nothing_to_know(server: Impostor) -> None:
    server.begin()
    server.challenge()
    server.send(reply(data=b"", is_done=True))


def no_proof(server: Impostor) -> None:
    server.begin()
    server.send(reply(data=server.challenge()))
    server.final()
    server.send(reply(data=b"v=" + b"A" * 43 + b"=", is_done=True))


def no_message(server: Impostor) -> None:
    server.begin()
    server.send(reply(data=server.challenge()))
    server.final()
    server.send(reply(data=b"", is_done=True))


def no_end(server: Impostor) -> None:
    server.begin()
    server.send(reply(data=server.challenge()))
    server.send(reply(data=server.final()))


def another_nonce(server: Impostor) -> None:
    server.begin()
    server.send(reply(data=server.challenge().replace(b"r=", b"r=x")))


def few_rounds(server: Impostor) -> None:
    server.begin()
    server.send(reply(data=server.challenge().replace(b"i=4096", b"i=1")))


def many_rounds(server: Impostor) -> None:
    server.begin()
    server.send(reply(data=server.challenge().replace(b"i=4096", b"i=999999999")))


def noise(server: Impostor) -> None:
    server.begin()
    server.challenge()
    server.send(frame(b"\x05"))


def no_map(server: Impostor) -> None:
    server.begin()
    server.challenge()
    server.send(frame(MAGIC + msgpacks.dumps([])))


def too_much(server: Impostor) -> None:
    server.begin()
    server.send(reply(data=server.challenge()) * 2)


def too_long(server: Impostor) -> None:
    server.begin()
    server.challenge()
    server.send(b"\0\1\0\0")


def refusal(server: Impostor) -> None:
    server.begin()
    server.challenge()
    server.send(reply(error="not today"))


@pytest.mark.parametrize(
    ("play", "problem"),
    [
        (no_mechanism, "log in by kerberos; this client knows"),
        (none_at_all, "does not ask its clients to log in"),
        (nothing_to_know, "without having seen the password"),
        (no_proof, "cannot prove that it knows"),
        (no_message, "the server's proof is malformed"),
        (no_end, "it does not end"),
        (another_nonce, "belongs to another log-in"),
        (few_rounds, "1 rounds of hashing"),
        (many_rounds, "999999999 rounds of hashing"),
        (noise, "the server sends something else"),
        (no_map, "not a map"),
        (too_much, "bytes after the first message"),
        (too_long, "exceeds the maximum"),
        (refusal, "not today"),
    ],
)
def test_a_server_that_is_not_the_right_one(
    fake: FakeServer, client: Open, play: Callable[[Impostor], None], problem: str
) -> None:
    opening = Background(lambda: client(fake.address, **LOGIN))
    connection = fake.accept()
    play(Impostor(connection))
    with promptly(5), pytest.raises(AuthenticationFailed, match=problem):
        opening.result()


def test_the_impostor_can_play_the_right_one(fake: FakeServer, client: Open) -> None:
    """The test above can succeed."""
    opening = Background(lambda: client(fake.address, **LOGIN))
    connection = fake.accept()
    server = Impostor(connection)
    server.begin()
    server.send(reply(data=server.challenge()))
    final = server.final()
    done = connection.peer.login_reply(LoginReply(final, is_done=True))
    server.send(done)
    connection.admit_registered(tid(1))
    storage: Any = opening.result()
    assert storage.is_connected()


def test_who_has_to_wait_tries_again(fake: FakeServer, client: Open) -> None:
    opening = Background(
        lambda: client(fake.address, **LOGIN, min_disconnect_poll=0.01, wait_timeout=20)
    )
    for _ in range(2):
        server = Impostor(fake.accept())
        server.begin()
        server.challenge()
        server.send(reply(error="too many", wait=5))
    connection = fake.accept()
    server = Impostor(connection)
    server.begin()
    server.send(reply(data=server.challenge()))
    server.send(connection.peer.login_reply(LoginReply(server.final(), is_done=True)))
    connection.admit_registered(tid(1))
    storage: Any = opening.result()
    assert storage.is_connected()


def test_a_connection_that_ends_in_the_middle_is_no_refusal(fake: FakeServer, client: Open) -> None:
    opening = Background(lambda: client(fake.address, **LOGIN, wait_timeout=0.5))
    connection = fake.accept()
    server = Impostor(connection)
    server.begin()
    server.challenge()
    connection.close()
    with promptly(10), pytest.raises(ClientDisconnected) as caught:
        opening.result()
    assert not isinstance(caught.value, AuthenticationFailed)


# -- who was refused does not ask again ----------------------------------------------------------


class Deaf:
    """Takes what never comes."""

    def loaded(self, *_: object) -> None:
        """Nothing is loaded."""

    loaded_many = noticed = loaded

    def broken(self, *_: object) -> None:
        """The connection has ended."""


def refusing(fake: FakeServer) -> Callable[[], None]:
    def play() -> None:
        server = Impostor(fake.accept())
        server.begin()
        server.challenge()
        server.send(reply(error="no"))

    return play


def test_a_refusal_holds_for_a_while(fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    found = Connector(
        [fake.address], "1", Mode.WRITABLE, 5.0, None, None, Deaf, principal=Principal("a", "b")
    )
    played = Background(refusing(fake))
    with pytest.raises(AuthenticationFailed, match="no"):
        found.connect()
    played.result()
    for _ in range(3):
        with promptly(2), pytest.raises(AuthenticationFailed, match="no"):
            found.connect()  # nobody answers
    # Somebody may have set another password meanwhile.
    monkeypatch.setattr(time, "monotonic", lambda: now + connector.REFUSAL_PAUSE + 10)
    played = Background(refusing(fake))
    with pytest.raises(AuthenticationFailed):
        found.connect()
    played.result()


def test_other_addresses_are_a_reason_to_ask_again(fake: FakeServer) -> None:
    found = Connector(
        [fake.address], "1", Mode.WRITABLE, 5.0, None, None, Deaf, principal=Principal("a", "b")
    )
    for _ in range(2):
        played = Background(refusing(fake))
        with pytest.raises(AuthenticationFailed):
            found.connect()
        played.result()
        found.set_addresses([fake.address])
