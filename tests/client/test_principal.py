"""Who a client says it is: what can be said, and what is shown of it."""

from __future__ import annotations

import copy
import os
import pickle
import traceback
from pathlib import Path
from typing import Any

import pytest

from tests.support.waiting import Background
from zeolith.client import principal
from zeolith.client.link import LinkOptions
from zeolith.client.principal import Principal, make_principal, read_password
from zeolith.errors import ConfigurationError
from zeolith.protocol.scram import salted_password

SECRET = "very $ecret"


def test_the_password_is_not_shown() -> None:
    found = Principal("alice", SECRET, "ZEO")
    options = LinkOptions(addresses=[], principal=found)
    for text in (repr(found), str(found), f"{found}", repr(options)):
        assert SECRET not in text
    assert repr(found) == "<Principal 'alice'>"
    assert not hasattr(found, "__dict__")
    for write in (pickle.dumps, copy.copy):
        with pytest.raises(TypeError, match="not written"):
            write(found)


def test_hashing_takes_time_once(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[tuple[bytes, int]] = []

    def count(password: str, salt: bytes, iterations: int) -> bytes:
        hashed.append((salt, iterations))
        return salted_password(password, salt, iterations)

    monkeypatch.setattr(principal, "salted_password", count)
    found = Principal("alice", "pencil")
    first = found.salted(b"salt", 4096)
    assert found.salted(b"salt", 4096) == first == salted_password("pencil", b"salt", 4096)
    assert hashed == [(b"salt", 4096)]
    found.salted(b"other", 4096)
    found.salted(b"salt", 4097)
    assert len(hashed) == 3


def test_r8_a_server_cannot_have_the_client_keep_ever_more() -> None:
    found = Principal("alice", "pencil")
    for number in range(100):
        found.salted(str(number).encode(), 1)
    assert len(found._salted) <= principal._KEPT


@pytest.mark.parametrize(
    ("keywords", "option"),
    [
        ({"password": SECRET}, "password"),
        ({"password_file": "x"}, "password_file"),
        ({"realm": "x"}, "realm"),
        ({"username": "x"}, "username"),
        ({"username": "", "password": SECRET}, "username"),
        ({"username": "x", "password": ""}, "password"),
        ({"username": "a\nb", "password": SECRET}, "username"),
        ({"username": 5, "password": SECRET}, "username"),
        ({"username": "x", "password": SECRET.encode()}, "password"),
        ({"username": "x", "password": SECRET + "\0"}, "password"),
        ({"username": "x", "password": SECRET, "realm": 5}, "realm"),
        ({"username": "x", "password": SECRET, "password_file": "y"}, "password_file"),
        ({"username": "x", "password_file": 5.0}, "password_file"),
        ({"username": "x", "password_file": "/missing/x"}, "password_file"),
        ({"credentials": ("u", SECRET)}, "credentials"),
        ({"username": "x", "credentials": Principal("u", SECRET)}, "credentials"),
    ],
)
def test_what_cannot_be_used_is_named_and_not_shown(keywords: dict[str, Any], option: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make_principal(**keywords)
    assert caught.value.option == option
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_what_can_be_used() -> None:
    assert make_principal() is None
    found = make_principal("\u2168", "x", realm="ZEO")
    assert found is not None
    assert (found.user, found.realm) == ("IX", "ZEO")
    assert make_principal(credentials=found) is found


@pytest.mark.parametrize(
    ("data", "password"),
    [
        (b"abc", "abc"),
        (b"abc\n", "abc"),
        (b"abc\r\ndef\n", "abc"),
        (b" a b \n", " a b "),
        ("ü\n".encode(), "ü"),
        (b"\n", None),
        (b"", None),
        (b"\xff\n", None),
        (b"\nabc", None),
    ],
)
def test_the_first_line_of_a_file(tmp_path: Path, data: bytes, password: str | None) -> None:
    path = tmp_path / "password"
    path.write_bytes(data)
    if password is None:
        with pytest.raises(ConfigurationError, match="no password in its first line"):
            read_password(str(path))
    else:
        assert read_password(str(path)) == password


def test_a_password_file_is_read_again_when_it_changes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "password"
    path.write_text("old\n")
    found = make_principal("alice", password_file=str(path))
    assert found is not None
    assert found.salted(b"salt", 4096) == salted_password("old", b"salt", 4096)
    assert not found.refresh()
    path.write_text("the new one\n")
    assert found.refresh()
    assert found.salted(b"salt", 4096) == salted_password("the new one", b"salt", 4096)
    assert not found.refresh()
    path.write_text("the new one\nand a comment\n")
    assert not found.refresh()
    path.unlink()
    for _ in range(3):
        assert not found.refresh()
    assert found.salted(b"salt", 4096) == salted_password("the new one", b"salt", 4096)
    (line,) = caplog.messages
    assert "the password of 'alice' stays what it was" in line
    assert not hasattr(found, "__dict__")
    assert repr(found) == "<Principal 'alice'>"


def test_a_password_that_was_given_stays() -> None:
    found = make_principal("alice", SECRET)
    assert found is not None
    assert not found.refresh()


def test_a_pipe_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = Background(lambda: path.write_text("old\n"))
    found = make_principal("alice", password_file=str(path))
    writer.result()
    assert found is not None
    assert not found.refresh()
