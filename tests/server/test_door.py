"""The door by itself: one log-in on each connection, and no detail for those who fail."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support import users as known
from tests.support.users import PASSWORD, entry

from zeolith.client.principal import Principal
from zeolith.protocol.login import LoginReply, LoginStep
from zeolith.protocol.scram import PLAIN, ClientExchange
from zeolith.server.door import Door, Login
from zeolith.server.limitedlog import MOST_LINES
from zeolith.server.tally import Limit, Tally


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    loop = asyncio.new_event_loop()
    users = known.directory(
        tmp_path / "users", entry("alice"), entry("web", None, None, certificates=("web",))
    )
    found = Door(loop, users, Tally(), 50)
    yield found
    found.close()
    loop.close()


def meet(door: Door) -> Login:
    return door.meet({"peername": ("10.0.0.1", 5)}.get, "10.0.0.1:5")


def exchange_of(name: str, password: str = PASSWORD) -> ClientExchange:
    return ClientExchange(name, Principal(name, password).salted, "nonce")


def log_in(login: Login, name: str, password: str = PASSWORD) -> LoginReply:
    exchange = exchange_of(name, password)
    challenge = login.take(LoginStep(exchange.first(), PLAIN))
    if challenge.error:
        return challenge
    return login.take(LoginStep(exchange.answer(challenge.data or b"")))


def test_who_is_logged_in_is_known(door: Door) -> None:
    login = meet(door)
    assert login.user is None
    assert log_in(login, "alice").is_done
    assert login.user is not None
    assert login.user.name == "alice"


@pytest.mark.parametrize(
    ("name", "password", "reason"),
    [
        ("alice", "wrong", "the password is wrong"),
        ("mallory", PASSWORD, "there is no such user"),
        ("web", PASSWORD, "no password, or an old one"),
    ],
)
def test_the_reason_is_in_the_log_only(
    door: Door, caplog: pytest.LogCaptureFixture, name: str, password: str, reason: str
) -> None:
    login = meet(door)
    assert log_in(login, name, password) == LoginReply(error="wrong user name or password")
    assert login.user is None
    (line,) = caplog.messages
    assert line.startswith(f"(10.0.0.1:5) log-in as {name!r} refused: ")
    assert reason in line


@pytest.mark.parametrize("password", [PASSWORD, "wrong"])
def test_each_connection_has_one_try(door: Door, password: str) -> None:
    login = meet(door)
    first = log_in(login, "alice", password)
    again = exchange_of("alice")
    for step in (LoginStep(again.first(), PLAIN), LoginStep(b"c=biws,r=x,p=YQ==")):
        assert "it is over" in login.take(step).error
    assert (login.user is not None) is first.is_done


def test_r8_a_flood_of_failures_is_a_few_lines(
    door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(200):
        log_in(meet(door), "alice", "wrong")
    assert len(caplog.messages) == MOST_LINES
    door.close()
    assert "190 more peers were not let in within 60 s" in caplog.messages[-1]
    assert door._tally[Limit.LOGINS] == 200 - 50


def test_names_cannot_fill_or_feign_lines(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    log_in(meet(door), "x" * 900, "wrong")
    assert all(len(line) < 250 for line in caplog.messages)
    assert meet(door).take(LoginStep(b"n,,n=a\nb,r=x", PLAIN)).error
    assert all("\n" not in line for line in caplog.messages)
