"""R9 with users: nobody gets in who is none of them, and nobody does what he may not."""

from __future__ import annotations

import logging
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import trustme
from tests.rules.conftest import Connect, Open, Serve
from tests.support import users as known
from tests.support.processes import free_port
from tests.support.raw import Z64, Closed, FakeServer, RawClient, RemoteFault, connect, oid_of
from tests.support.tlscontexts import client_context, server_context
from tests.support.users import PASSWORD, entry
from tests.support.waiting import Background, promptly, wait_until
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage
from ZODB.POSException import ReadOnlyError

from zeolith.admin import statustext
from zeolith.admin.asking import NotAnswering, Refused, Target, ask
from zeolith.client.feed import changes
from zeolith.client.principal import Principal
from zeolith.config.userdirectory import UserDirectory
from zeolith.errors import AccessDenied, AuthenticationFailed, ClientDisconnected
from zeolith.protocol.framing import frame
from zeolith.protocol.greeting import Coding
from zeolith.protocol.inquiry import (
    EstimateInquiry,
    KickInquiry,
    StatusInquiry,
    serialize_inquiry,
)
from zeolith.protocol.login import LoginReply, LoginStep, serialize_step
from zeolith.protocol.messages import (
    NewOids,
    Pack,
    Register,
    SetClientLabel,
    TpcBegin,
    Undo,
    Vote,
)
from zeolith.protocol.scram import PLAIN, PLUS, ServerExchange
from zeolith.rights import Right
from zeolith.server import door

EVERYBODY = (
    entry("alice"),
    entry("reader", "read"),
    entry("writer", "write"),
    entry("packer", "pack"),
    entry("boss", "all"),
    entry("warden", "administer"),
    entry("nobody", "none"),
    entry("two", "none", storages={"2": Right.READ}),
    entry("both", "none", storages={"1": Right.READ | Right.WRITE, "2": Right.READ | Right.PACK}),
    entry("web", "write", None, certificates=("web.example.org",)),
    entry("here", "write", None, accounts=(str(os.geteuid()),)),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "users"


@pytest.fixture
def users(path: Path) -> UserDirectory:
    return known.directory(path, *EVERYBODY)


class Site:
    """Certificates of one site, as files."""

    def __init__(self, directory: Path) -> None:
        self._authority = trustme.CA()
        self._directory = directory
        self.authority = str(directory / "ca.pem")
        self._authority.cert_pem.write_to_path(self.authority)

    def issue(self, name: str, *identities: str) -> str:
        """Return the file of a certificate and its key."""
        found = str(self._directory / f"{name}.pem")
        certificate = self._authority.issue_cert(*identities or ("localhost",))
        Path(found).write_bytes(
            certificate.private_key_pem.bytes()
            + b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
        )
        return found

    def server(self, name: str = "server", *, anonymous: bool = True) -> ssl.SSLContext:
        """Return a server's context.

        :param anonymous: whether clients need no certificate.
        """
        context = server_context(self.issue(name), self.authority)
        if anonymous:
            context.verify_mode = ssl.CERT_OPTIONAL
        return context

    def client(self, *identities: str) -> ssl.SSLContext:
        """Return a client's context, with a certificate for *identities* if there are any."""
        certificate = self.issue(identities[0], *identities) if identities else None
        return client_context(certificate, self.authority)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def login(name: str, password: str = PASSWORD) -> dict[str, Any]:
    return {"username": name, "password": password}


def target(server: Any, name: str | None, password: str = PASSWORD) -> Target:
    principal = None if name is None else Principal(name, password)
    return Target(server.address, principal=principal)


# -- who gets in -------------------------------------------------------------------------------


def test_r9_who_knows_the_password_gets_in(
    mapping: MappingStorage, serve: Serve, client: Open, users: UserDirectory, loop: str
) -> None:
    server = serve(mapping, loop=loop, users=users)
    storage = client(server.address, **login("alice"))
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    storage.store(oid_of(1), Z64, b"data", "", meta)
    storage.tpc_vote(meta)
    tid = storage.tpc_finish(meta)
    reader = client(server.address, **login("reader"), read_only=True)
    assert reader.load(oid_of(1)) == (b"data", tid)


@pytest.mark.parametrize(
    ("keywords", "problem"),
    [
        (login("alice", "wrong"), "wrong user name or password"),
        (login("mallory"), "wrong user name or password"),
        (login("web"), "wrong user name or password"),  # has none
        ({}, "wants its clients to log in"),
        ({**login("alice"), "realm": "other"}, "realm 'ZEO', not 'other'"),
        (login("nobody"), "lacks the right 'read' on storage '1'"),
        (login("two"), "lacks the right 'read' on storage '1'"),
        (login("reader"), "lacks the right 'write' on storage '1'"),
    ],
)
def test_r9_who_does_not_is_told_at_once(
    mapping: MappingStorage,
    serve: Serve,
    client: Open,
    users: UserDirectory,
    loop: str,
    keywords: dict[str, Any],
    problem: str,
) -> None:
    server = serve(mapping, loop=loop, users=users)
    with promptly(5), pytest.raises(AuthenticationFailed, match=problem):
        client(server.address, **keywords)


def test_r9_a_user_of_the_old_form_is_as_one_who_does_not_exist(
    mapping: MappingStorage,
    serve: Serve,
    client: Open,
    path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path.write_text("realm ZEO\nbob:5f1d3cf4c2a2f8a2f5e0bd51d1fd6d8b1b5b3c0e\n")
    path.chmod(0o600)
    server = serve(mapping, users=UserDirectory(str(path)))
    with promptly(5), pytest.raises(AuthenticationFailed, match="wrong user name or password"):
        client(server.address, **login("bob"))
    assert "zeolith user passwd" in caplog.text


def strangers() -> list[bytes]:
    register = b"\x01" + bytes(7) + b"\1\1\x92\xa11\xc2"
    hello = b"zhello\0\1\x81\xa6limits\x81\xa7message\xcd\xff\xff"
    first = serialize_step(LoginStep(b"n,,n=alice,r=x", PLAIN))
    return [
        b"",
        frame(b"Z5"),
        frame(b"M5"),
        frame(b"M5") + frame(b"\x94\x01\xc2\xa8register\x92\xa11\xc2"),
        frame(b"ruok"),
        frame(serialize_inquiry(StatusInquiry())),
        frame(serialize_inquiry(KickInquiry())),
        frame(register),
        frame(hello) + frame(register),
        frame(hello) + frame(b"ruok"),
        frame(hello) + frame(serialize_inquiry(StatusInquiry())),
        frame(hello) + frame(serialize_inquiry(EstimateInquiry("the-storage", 1.0))),
        # Half a log-in, and then what may be said after one.
        frame(hello) + frame(first) + frame(register),
        frame(hello) + frame(first) + frame(serialize_inquiry(StatusInquiry())),
        frame(b"zlogin\x81\xa4data\xc4\x00"),
        bytes(1000),
    ]


@pytest.mark.parametrize("data", strangers())
def test_r9_a_stranger_learns_nothing(
    serve: Serve, users: UserDirectory, loop: str, data: bytes
) -> None:
    storages = {"the-storage": MappingStorage("the-name")}
    server = serve(storages, loop=loop, users=users, register_timeout=1)
    with connect(server.address) as sock, promptly(10):
        sock.sendall(data)
        said = b""
        with suppress(ConnectionError):
            while part := sock.recv(10_000):
                said += part
    for secret in (b"the-storage", b"the-name", b"alice", b"tid", b"commits", b"epoch"):
        assert secret not in said


def test_r9_zeo_clients_do_not_get_in(
    mapping: MappingStorage, serve: Serve, raw: Connect, users: UserDirectory, loop: str
) -> None:
    server = serve(mapping, loop=loop, users=users)
    for coding in (Coding.PICKLE, Coding.MSGPACK):
        with promptly(5), pytest.raises((Closed, ConnectionError)):
            raw(server.address, coding=coding)


def test_r9_a_client_with_a_password_insists_on_a_server_that_asks_for_it(
    mapping: MappingStorage, serve: Serve, client: Open
) -> None:
    """Else whoever takes the server's place would not have to know the password."""
    server = serve(mapping)
    with promptly(5), pytest.raises(AuthenticationFailed, match="does not ask its clients"):
        client(server.address, **login("alice"))


def test_r9_nor_does_it_say_anything_to_a_zeo_server(fake: FakeServer, client: Open) -> None:
    opening = Background(lambda: client(fake.address, **login("alice")))
    connection = fake.accept()
    connection.socket.sendall(frame(b"Z5"))
    assert connection.socket.recv(1000) == b""
    with pytest.raises(AuthenticationFailed, match="does not ask its clients"):
        opening.result()


def test_r9_a_damaged_exchange_is_refused(
    mapping: MappingStorage, serve: Serve, raw: Connect, users: UserDirectory, loop: str
) -> None:
    server = serve(mapping, loop=loop, users=users)
    for step in (
        LoginStep(b"", PLAIN),
        LoginStep(b"n,,n=alice,r=x", "DIGEST"),
        LoginStep(b"n,,n=alice,r=x"),
        LoginStep(b"p=tls-server-end-point,,n=alice,r=x", PLUS),
        LoginStep(b"n,a=boss,n=alice,r=x", PLAIN),
    ):
        connection = raw(server.address, None, coding=Coding.OWN)
        reply = say(connection, step)
        assert reply.error
        assert not reply.is_done
        assert_closed(connection)


@pytest.mark.parametrize(
    "payload",
    [b"ruok", serialize_inquiry(KickInquiry()), serialize_inquiry(StatusInquiry()), b"register"],
)
@pytest.mark.parametrize("steps", [0, 1])
def test_r9_who_is_about_to_log_in_can_do_nothing_else(
    mapping: MappingStorage,
    serve: Serve,
    raw: Connect,
    stack: ExitStack,
    users: UserDirectory,
    loop: str,
    payload: bytes,
    steps: int,
) -> None:
    """What comes later, not in one packet with the hello, and after the first half of a log-in."""
    server = serve(mapping, loop=loop, users=users)
    friend = logged_in(server, "alice", stack)
    connection = raw(server.address, None, coding=Coding.OWN)
    while connection.peer.phase.value == "awaiting the server's hello":
        connection.peer.receive(connection.socket.recv(1000))
    for _ in range(steps):
        assert say(connection, LoginStep(b"n,,n=alice,r=x", PLAIN)).data
    if payload == b"register":
        assert connection.peer.codec is not None
        connection.socket.sendall(connection.peer.codec.call(1, Register("1", True)))
    else:
        connection.socket.sendall(frame(payload))
    said = b""
    with promptly(10), suppress(ConnectionError):  # not only after register-timeout
        while part := connection.socket.recv(1000):
            said += part
    for secret in (b"commits", b"tid", b"alice", b"connections"):
        assert secret not in said
    friend.ping()


def say(connection: RawClient, step: LoginStep) -> LoginReply:
    """Log in by hand: send *step*, return the answer."""
    while connection.peer.phase.value == "awaiting the server's hello":
        connection.peer.receive(connection.socket.recv(1000))
    connection.socket.sendall(connection.peer.login_step(step))
    events: list[Any] = []
    while not events:
        events = connection.peer.receive(connection.socket.recv(1000))
    (reply,) = events
    assert isinstance(reply, LoginReply)
    return reply


def assert_closed(connection: RawClient) -> None:
    connection.socket.settimeout(10)
    with suppress(ConnectionError):
        assert connection.socket.recv(1000) == b""


def test_r9_a_proof_that_was_overheard_is_of_no_use(
    mapping: MappingStorage, serve: Serve, raw: Connect, users: UserDirectory
) -> None:
    from zeolith.protocol.scram import ClientExchange

    server = serve(mapping, users=users)
    exchange = ClientExchange("alice", Principal("alice", PASSWORD).salted, "nonce")
    first = LoginStep(exchange.first(), PLAIN)
    one, two = (raw(server.address, None, coding=Coding.OWN) for _ in range(2))
    proof = LoginStep(exchange.answer(say(one, first).data or b""))
    assert say(one, proof).is_done
    assert say(two, first).data
    assert "another log-in" in say(two, proof).error
    assert_closed(two)
    # Nor can who is in log in once more.
    assert say(one, first).error


def test_r9_an_exchange_that_is_not_ended_ends_the_connection(
    mapping: MappingStorage, serve: Serve, raw: Connect, users: UserDirectory, loop: str
) -> None:
    server = serve(mapping, loop=loop, users=users, register_timeout=0.5)
    connection = raw(server.address, None, coding=Coding.OWN)
    assert say(connection, LoginStep(b"n,,n=alice,r=x", PLAIN)).data
    assert_closed(connection)


def test_who_exists_cannot_be_told_from_the_challenge(
    mapping: MappingStorage, serve: Serve, raw: Connect, users: UserDirectory
) -> None:
    server = serve(mapping, users=users)

    def salt_of(name: str) -> bytes:
        connection = raw(server.address, None, coding=Coding.OWN)
        data = say(connection, LoginStep(f"n,,n={name},r=x".encode(), PLAIN)).data or b""
        return data.partition(b",")[2]

    found = {name: salt_of(name) for name in ("alice", "web", "mallory", "eve")}
    for name, salt in found.items():
        assert salt_of(name) == salt
        assert len(salt) == len(found["alice"])
        assert salt.endswith(b",i=4096")
    assert len(set(found.values())) == len(found)


# -- guessing ----------------------------------------------------------------------------------


def test_who_guesses_waits(
    mapping: MappingStorage,
    serve: Serve,
    client: Open,
    users: UserDirectory,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = serve(mapping, users=users, login_attempts=2)
    for _ in range(2):
        with pytest.raises(AuthenticationFailed):
            client(server.address, **login("alice", "wrong"))
    with promptly(5), pytest.raises(ClientDisconnected, match="too many log-ins") as caught:
        client(server.address, **login("alice"), wait_timeout=0.3)
    # Not for good: who knows the password gets in when others have stopped to guess.
    assert not isinstance(caught.value, AuthenticationFailed)
    assert "as 'alice' refused: too many" in caplog.text


def test_a_refused_client_does_not_ask_again(
    mapping: MappingStorage, serve: Serve, client: Open, users: UserDirectory
) -> None:
    server = serve(mapping, users=users)
    storage = client(
        server.address, **login("alice", "wrong"), wait=False, min_disconnect_poll=0.001
    )
    for _ in range(20):
        with promptly(5), pytest.raises(AuthenticationFailed):
            storage.ping()
    lobby = server._lobby
    seen = lobby.peers
    # The client goes on to look for a server all the time, every millisecond at first.
    with pytest.raises(AuthenticationFailed):
        client(server.address, **login("mallory"))
    assert seen == 1
    assert lobby.peers == 2


def test_other_servers_are_tried(
    serve: Serve, client: Open, users: UserDirectory, tmp_path: Path
) -> None:
    others = known.directory(tmp_path / "others", entry("alice", password="another"))
    refusing = serve(MappingStorage(), users=others)
    admitting = serve(MappingStorage(), users=users)
    storage = client([refusing.address, admitting.address], **login("alice"))
    assert storage.is_connected()
    assert refusing._lobby.peers <= 1


# -- what users may do -------------------------------------------------------------------------


def test_a_reader_reads_whatever_it_asks_for(
    mapping: MappingStorage, serve: Serve, client: Open, users: UserDirectory, loop: str
) -> None:
    server = serve(mapping, loop=loop, users=users)
    storage = client(server.address, **login("reader"), read_only_fallback=True)
    assert storage.isReadOnly()
    with pytest.raises(ReadOnlyError):
        storage.tpc_begin(TransactionMetaData())
    with pytest.raises(AccessDenied, match="'reader' lacks the right 'pack'"):
        storage.pack(1.0, None)


def logged_in(
    server: Any, name: str, stack: ExitStack, read_only: bool = False, storage: str = "1"
) -> RawClient:
    """Return a client that says what it likes once it is in."""
    from zeolith.client.login import Conversation

    connection = stack.enter_context(RawClient(server.address, None, coding=Coding.OWN))
    talk = Conversation(
        connection.peer, lambda: connection.socket.recv(1000), connection.socket.sendall
    )
    talk.log_in(Principal(name, PASSWORD), None)
    connection.call(Register(storage, read_only))
    connection.peer.registered()
    return connection


def begin(txn: int) -> TpcBegin:
    return TpcBegin(txn, b"", b"", b"", None, " ")


def test_a_hostile_reader_cannot_write(
    mapping: MappingStorage, serve: Serve, stack: ExitStack, users: UserDirectory
) -> None:
    server = serve(mapping, users=users)
    with pytest.raises(RemoteFault) as caught:
        logged_in(server, "reader", stack)
    assert caught.value.name == "zeolith.errors.AccessDenied"
    connection = logged_in(server, "reader", stack, read_only=True)
    with pytest.raises(RemoteFault, match="ReadOnlyError"):
        connection.call(NewOids(5))
    connection.send(begin(1))
    with pytest.raises(RemoteFault, match="ReadOnlyError"):
        connection.call(Vote(1))


def test_to_undo_is_a_right_of_its_own(
    files: FileStorage, serve: Serve, stack: ExitStack, users: UserDirectory, client: Open
) -> None:
    server = serve(files, users=users)
    alice = client(server.address, **login("alice"))
    meta = TransactionMetaData()
    alice.tpc_begin(meta)
    alice.store(oid_of(1), Z64, b"data", "", meta)
    alice.tpc_vote(meta)
    tid = alice.tpc_finish(meta)
    writer = logged_in(server, "writer", stack)
    writer.send(begin(1), Undo(tid, 1))
    with pytest.raises(RemoteFault) as caught:
        writer.call(Vote(1))
    assert caught.value.name == "zeolith.errors.AccessDenied"
    assert caught.value.details["right"] == "undo"
    # And the connection goes on.
    writer.send(begin(2))
    assert writer.call(Vote(2)) == ()
    storage = client(server.address, **login("writer"))
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    storage.undo(tid, meta)
    with pytest.raises(AccessDenied, match="'undo'"):
        storage.tpc_vote(meta)


def test_to_pack_is_a_right_of_its_own(
    files: FileStorage, serve: Serve, stack: ExitStack, users: UserDirectory
) -> None:
    server = serve(files, users=users)
    writer = logged_in(server, "writer", stack)
    with pytest.raises(RemoteFault) as caught:
        writer.call(Pack(1.0, True))
    assert caught.value.details["right"] == "pack"
    packer = logged_in(server, "packer", stack, read_only=True)
    packer.call(Pack(1.0, True))
    for name, problem in (("writer", "neither"), ("warden", "lacks the right 'pack'")):
        with pytest.raises(Refused, match=problem):
            ask(target(server, name), EstimateInquiry("1", 1.0))
    assert ask(target(server, "packer"), EstimateInquiry("1", 1.0)).content == {"started": True}


def test_rights_on_one_storage(
    serve: Serve, client: Open, users: UserDirectory, raw: Connect
) -> None:
    server = serve({"1": MappingStorage(), "2": MappingStorage()}, users=users)
    storage = client(server.address, storage="2", **login("two"), read_only=True)
    assert storage.is_connected()
    with pytest.raises(ClientDisconnected, match="served here: '2'"):
        client(server.address, storage="3", **login("two"), read_only=True)


def test_what_is_a_right_on_one_storage_is_none_on_another(
    serve: Serve, stack: ExitStack, users: UserDirectory
) -> None:
    server = serve({"1": MappingStorage(), "2": MappingStorage()}, users=users)
    one = logged_in(server, "both", stack)
    assert len(one.call(NewOids(5))) == 5
    with pytest.raises(RemoteFault) as caught:
        one.call(Pack(1.0, True))
    assert (caught.value.details["right"], caught.value.details["storage"]) == ("pack", "1")
    with pytest.raises(RemoteFault) as caught:
        logged_in(server, "both", stack, storage="2")
    assert (caught.value.details["right"], caught.value.details["storage"]) == ("write", "2")
    two = logged_in(server, "both", stack, read_only=True, storage="2")
    two.call(Pack(1.0, True))
    with pytest.raises(RemoteFault, match="ReadOnlyError"):
        two.call(NewOids(5))
    seen = ask(target(server, "both"), StatusInquiry()).content
    assert set(seen["storages"]) == {"2"}


def test_who_may_see_how_a_storage_is_does_not_see_who_commits(
    mapping: MappingStorage, serve: Serve, stack: ExitStack, users: UserDirectory
) -> None:
    server = serve(mapping, users=users)
    writer = logged_in(server, "writer", stack)
    writer.call(SetClientLabel("the one"))
    writer.send(begin(1))
    writer.call(Vote(1))
    for name, said, shown in (("packer", "", "a client (number"), ("boss", "the one", "the one 1")):
        status = ask(target(server, name), StatusInquiry()).content
        (turn,) = status["storages"]["1"]["commits"]["holders"]
        assert turn["label"] == said
        assert bool(turn["address"]) is bool(said)
        assert statustext._turn(turn).startswith(shown)


def test_who_may_see_and_end_connections(
    serve: Serve, client: Open, users: UserDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve({"1": MappingStorage(), "2": MappingStorage()}, users=users)
    storage = client(server.address, **login("alice"), client_label="the one")
    for name, password in ((None, ""), ("alice", "wrong")):
        with promptly(5), pytest.raises(Refused, match=r"log in|wrong user"):
            ask(target(server, name, password), StatusInquiry())
    for name in ("writer", "two", "nobody"):
        with pytest.raises(Refused, match=f"{name!r} has neither"):
            ask(target(server, name), StatusInquiry())
    # Who may pack sees how storages are, not who uses them.
    seen = ask(target(server, "packer"), StatusInquiry()).content
    assert set(seen["storages"]) == {"1", "2"}
    assert seen["connections"] == []
    with pytest.raises(Refused, match="'packer' lacks the right 'administer'"):
        ask(target(server, "packer"), KickInquiry("the one"))
    assert storage.is_connected()
    seen = ask(target(server, "boss"), StatusInquiry()).content
    assert [each["user"] for each in seen["connections"]] == ["alice"]
    assert seen["server"]["log_in"] is True
    kicked = ask(target(server, "boss"), KickInquiry("the one")).content
    assert len(kicked["connections"]) == 1
    assert "kicked by boss from 127.0.0.1" in caplog.text


def test_refusals_are_logged_once_with_who_and_where(
    mapping: MappingStorage,
    serve: Serve,
    stack: ExitStack,
    users: UserDirectory,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = serve(mapping, users=users)
    writer = logged_in(server, "writer", stack)
    for _ in range(5):
        with pytest.raises(RemoteFault):
            writer.call(Pack(1.0, True))
    port = writer.socket.getsockname()[1]
    problem = "the user 'writer' lacks the right 'pack' on storage '1'"
    lines = [line for line in caplog.messages if "refused" in line]
    assert lines == [f"(127.0.0.1:{port} as writer) refused: {problem}"]


def test_passwords_are_nowhere(
    mapping: MappingStorage,
    serve: Serve,
    client: Open,
    users: UserDirectory,
    caplog: pytest.LogCaptureFixture,
) -> None:
    import traceback

    caplog.set_level(logging.DEBUG)
    server = serve(mapping, users=users)
    secret = "very $ecret"
    with pytest.raises(AuthenticationFailed) as caught:
        client(server.address, **login("alice", secret))
    text = "".join(traceback.format_exception(caught.value))
    assert "alice" in caplog.text
    storage = client(server.address, **login("alice"))
    for place in (caplog.text, text, repr(storage._options), repr(storage)):
        assert secret not in place
        assert PASSWORD not in place


# -- without a password ------------------------------------------------------------------------


def test_a_certificate_stands_for_a_user(
    mapping: MappingStorage, serve: Serve, raw: Connect, site: Site, users: UserDirectory, loop: str
) -> None:
    """ZEO's clients, too, which cannot log in."""
    server = serve(mapping, loop=loop, users=users, ssl=site.server(anonymous=False))
    web = site.client("web.example.org", "another.example.org")
    for coding in (Coding.PICKLE, Coding.OWN):
        connection = raw(server.address, coding=coding, tls=web)
        fault = "StorageError" if coding is Coding.PICKLE else "AccessDenied"
        with pytest.raises(RemoteFault, match=fault):
            connection.call(Pack(1.0, True))
    stranger = site.client("stranger.example.org")
    for coding in (Coding.PICKLE, Coding.MSGPACK, Coding.OWN):
        with pytest.raises((Closed, ConnectionError)):
            raw(server.address, coding=coding, tls=stranger)


def test_a_certificate_with_the_names_of_two_users_is_nobodys(
    mapping: MappingStorage, serve: Serve, client: Open, site: Site, path: Path
) -> None:
    users = known.directory(
        path,
        entry("one", None, None, certificates=("one.example.org",)),
        entry("two", None, None, certificates=("two.example.org",)),
    )
    server = serve(mapping, users=users, ssl=site.server(anonymous=False))
    both = site.client("one.example.org", "two.example.org")
    with pytest.raises(AuthenticationFailed):
        client(server.address, ssl=both, ssl_server_hostname="localhost")


def test_who_shows_a_certificate_may_log_in_as_somebody_else(
    mapping: MappingStorage, serve: Serve, client: Open, site: Site, users: UserDirectory
) -> None:
    server = serve(mapping, users=users, ssl=site.server(anonymous=False))
    web = {"ssl": site.client("web.example.org"), "ssl_server_hostname": "localhost"}
    client(server.address, **web)
    client(server.address, **web, **login("alice"))
    names = [connection.user.name for connection in server._lobby.connections]
    assert sorted(names) == ["alice", "web"]
    with pytest.raises(AuthenticationFailed):
        client(server.address, **web, **login("alice", "wrong"))


@pytest.mark.parametrize("is_known", [True, False])
def test_processes_of_this_machine_are_known_by_their_user_id(
    mapping: MappingStorage,
    serve: Serve,
    raw: Connect,
    users: UserDirectory,
    loop: str,
    tmp_path: Path,
    path: Path,
    is_known: bool,
) -> None:
    if not is_known:
        known.write(path, entry("here", accounts=(str(os.geteuid() + 1),)))
    server = serve(mapping, loop=loop, users=users, address=str(tmp_path / "socket"))
    for coding in (Coding.PICKLE, Coding.OWN):
        if is_known:
            raw(server.address, coding=coding)
        else:
            with pytest.raises((Closed, ConnectionError)):
                raw(server.address, coding=coding)
    if is_known:
        assert [one.user.name for one in server._lobby.connections] == ["here", "here"]


def test_the_report_of_the_monitor_is_for_users_only(
    mapping: MappingStorage, serve: Serve, users: UserDirectory, path: Path, tmp_path: Path
) -> None:
    where = str(tmp_path / "monitor")
    serve(mapping, users=users, monitor_address=where)

    def report() -> bytes:
        with connect(where) as sock:
            said = b""
            with suppress(ConnectionError):
                while part := sock.recv(1000):
                    said += part
            return said

    assert b"ZEO monitor" in report()
    assert b"Storage" not in report()  # may neither pack nor administer
    known.write(path, entry("here", "pack", accounts=(str(os.geteuid()),)))
    assert b"Storage: 1" in report()
    known.write(path, entry("here", "all"))
    assert report() == b""


# -- TLS ---------------------------------------------------------------------------------------


def test_a_login_is_tied_to_the_connection(
    mapping: MappingStorage,
    serve: Serve,
    client: Open,
    site: Site,
    users: UserDirectory,
    loop: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    used: list[str] = []

    def note(mechanism: str, *arguments: Any) -> Any:
        used.append(mechanism)
        return ServerExchange(mechanism, *arguments)

    monkeypatch.setattr(door, "ServerExchange", note)
    server = serve(mapping, loop=loop, users=users, ssl=site.server())
    context = site.client()
    client(server.address, ssl=context, ssl_server_hostname="localhost", **login("alice"))
    ask(
        Target(server.address, context, "localhost", 10, Principal("boss", PASSWORD)),
        StatusInquiry(),
    )
    assert used == [PLUS, PLUS]


class Relay:
    """Sits between: speaks TLS with another certificate of the same authority to clients."""

    def __init__(self, context: ssl.SSLContext, outward: ssl.SSLContext, server: Any) -> None:
        self._context = context
        self._outward = outward
        self._server = server
        self._listener = socket.create_server(("127.0.0.1", free_port()))
        self.address = self._listener.getsockname()
        self.change: Callable[[bytes], bytes] = lambda data: data
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._sockets: list[socket.socket] = []
        self._threads[0].start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                plain, _ = self._listener.accept()
                near = self._context.wrap_socket(plain, server_side=True)
                far = self._outward.wrap_socket(connect(self._server), server_hostname="localhost")
                self._sockets += [near, far]
                for one, two, change in ((near, far, bytes), (far, near, self.change)):
                    thread = threading.Thread(target=self._pump, args=(one, two, change))
                    self._threads.append(thread)
                    thread.start()

    def _pump(self, one: Any, two: Any, change: Callable[[bytes], bytes]) -> None:
        with suppress(OSError):
            while data := one.recv(10_000):
                two.sendall(change(data))
        with suppress(OSError):
            two.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in self._sockets:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        for sock in self._sockets:
            sock.close()


@pytest.fixture
def relay(
    mapping: MappingStorage, serve: Serve, site: Site, users: UserDirectory
) -> Iterator[Relay]:
    server = serve(mapping, users=users, ssl=site.server())
    found = Relay(site.server("relay"), site.client(), server.address)
    yield found
    found.close()


def keep_offer_back(data: bytes) -> bytes:
    """Take the mechanism with channel binding out of a server's hello."""
    if not data[4:].startswith(b"zhello"):
        return data
    from zeolith.protocol.hello import parse_introduction, serialize_introduction
    from zeolith.protocol.limits import DEFAULT_LIMITS

    said = parse_introduction(data[4:], DEFAULT_LIMITS)
    return frame(serialize_introduction(said._replace(login=(PLAIN,))))


@pytest.mark.parametrize(
    ("change", "problem"), [(bytes, "relays"), (keep_offer_back, "kept the offer")]
)
def test_r9_who_sits_between_does_not_get_in(
    relay: Relay, client: Open, site: Site, change: Callable[[bytes], bytes], problem: str
) -> None:
    """Although he has a certificate that the client trusts, for the right name."""
    relay.change = change
    with promptly(10), pytest.raises(AuthenticationFailed, match=problem):
        client(relay.address, ssl=site.client(), ssl_server_hostname="localhost", **login("alice"))


def test_a_certificate_that_is_renewed_under_way(
    mapping: MappingStorage, serve: Serve, client: Open, site: Site, users: UserDirectory
) -> None:
    from zeolith.server.bindings import note_certificate

    context = site.server()
    server = serve(mapping, users=users, ssl=context)
    keywords = {"ssl": site.client(), "ssl_server_hostname": "localhost", **login("alice")}
    client(server.address, **keywords)
    renewed = site.issue("renewed")
    note_certificate(context, Path(renewed).read_text())
    client(server.address, **keywords)  # was shown the one before
    context.load_cert_chain(renewed)
    client(server.address, **keywords)


# -- the file changes --------------------------------------------------------------------------


def test_changes_of_the_file_count_at_the_next_login(
    mapping: MappingStorage,
    serve: Serve,
    client: Open,
    users: UserDirectory,
    path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = serve(mapping, users=users)
    known.write(path, entry("carol"))
    client(server.address, **login("carol"))
    with pytest.raises(AuthenticationFailed):
        client(server.address, **login("alice"))
    text = path.read_text()
    path.write_text(text.replace("SCRAM", "SCRUM"))
    client(server.address, **login("carol"))
    client(server.address, **login("carol"))
    complaints = [line for line in caplog.messages if "the users stay what they were" in line]
    assert len(complaints) == 1
    assert "line 3" in complaints[0]
    path.unlink()
    client(server.address, **login("carol"))
    path.write_text(text)
    path.chmod(0o600)
    client(server.address, **login("carol"))
    assert "0644" not in caplog.text
    path.chmod(0o644)
    client(server.address, **login("carol"))
    assert "0644" in caplog.text


def test_a_new_password_in_a_client_s_file_is_used_at_once(
    mapping: MappingStorage,
    serve: Serve,
    client: Open,
    users: UserDirectory,
    path: Path,
    tmp_path: Path,
) -> None:
    """Although a server that has refused is not asked again for a minute."""
    server = serve(mapping, users=users)
    file = tmp_path / "password"
    file.write_text(PASSWORD)
    storage = client(server.address, username="alice", password_file=str(file))
    known.write(path, entry("alice", password="another"), entry("boss", "all"))
    ask(target(server, "boss"), KickInquiry())

    def is_refused() -> bool:
        try:
            storage.ping()
        except AuthenticationFailed:
            return True
        except ClientDisconnected:
            pass
        return False

    wait_until(is_refused)
    file.write_text("another")
    wait_until(storage.is_connected)
    storage.ping()


# -- other clients -----------------------------------------------------------------------------


def test_the_change_feed_logs_in(
    mapping: MappingStorage, serve: Serve, client: Open, users: UserDirectory
) -> None:
    server = serve(mapping, users=users)
    with pytest.raises(AuthenticationFailed):
        changes(server.address, wait=False)
    with changes(server.address, bytes(8), wait=False, **login("reader")) as feed:
        assert list(feed) == []


def test_heartbeats_go_on_after_a_login(
    mapping: MappingStorage, serve: Serve, client: Open, users: UserDirectory
) -> None:
    server = serve(mapping, users=users)
    client(server.address, **login("alice"))
    (connection,) = server._lobby.connections
    assert connection.liveness is not None


def test_a_server_that_is_not_there_is_another_matter(users: UserDirectory) -> None:
    with pytest.raises(NotAnswering):
        ask(
            Target(("127.0.0.1", free_port()), principal=Principal("boss", PASSWORD)),
            StatusInquiry(),
        )


def test_after_a_break_the_client_logs_in_again(
    mapping: MappingStorage, serve: Serve, client: Open, users: UserDirectory
) -> None:
    server = serve(mapping, users=users)
    storage = client(server.address, **login("alice"))
    ask(target(server, "boss"), KickInquiry())
    wait_until(lambda: len(server._lobby.connections) == 1)
    storage.ping()
    wait_until(lambda: [one.user.name for one in server._lobby.connections] == ["alice"])
