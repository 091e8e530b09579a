"""Addresses are taken early, once, and given back."""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from zeolith.errors import ConfigurationError
from zeolith.server import listening
from zeolith.server.endpoint import Endpoint
from zeolith.server.listening import SocketPermissions


def is_locked(directory: Path) -> bool:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def test_from_the_look_for_a_stale_socket_to_the_new_one_nobody_else_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or two servers could find the same one stale, and the second remove the first's new one."""
    seen: list[tuple[str, bool]] = []
    for name in ("_remove_stale", "_bind_unix"):
        original = getattr(listening, name)

        def spy(*args: Any, name: str = name, original: Any = original) -> Any:
            seen.append((name, is_locked(tmp_path)))
            return original(*args)

        monkeypatch.setattr(listening, name, spy)
    endpoint = Endpoint.bind(str(tmp_path / "s"))
    assert seen == [("_remove_stale", True), ("_bind_unix", True)]
    assert not is_locked(tmp_path)
    endpoint.close()


def test_a_tcp_port_is_taken_before_it_accepts() -> None:
    endpoint = Endpoint.bind(("127.0.0.1", 0))
    assert isinstance(endpoint.address, tuple)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(endpoint.address, 5)
    endpoint.listen()
    socket.create_connection(endpoint.address, 5).close()
    with pytest.raises(ConfigurationError, match="is in use"):
        Endpoint.bind(endpoint.address)
    endpoint.close()
    Endpoint.bind(endpoint.address).close()


def test_of_two_that_took_the_same_port_the_first_to_listen_has_it() -> None:
    """SO_REUSEADDR lets both bind; the second learns of it before it serves anybody."""
    first = Endpoint.bind(("127.0.0.1", 0))
    second = Endpoint.bind(first.address)
    first.listen()
    with pytest.raises(ConfigurationError, match=r"address: 127\.0\.0\.1:\d+ is in use"):
        second.listen()
    first.close()
    second.close()


def test_a_unix_socket_has_its_mode_from_the_first_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: list[int] = []
    chown = os.chown

    def spy(path: str, *args: Any, **options: Any) -> None:
        modes.append(os.stat(path).st_mode & 0o777)
        chown(path, *args, **options)

    monkeypatch.setattr(os, "chown", spy)
    endpoint = Endpoint.bind(str(tmp_path / "s"), SocketPermissions(mode=0o620))
    assert modes == [0]  # before the owner is known, nobody may connect
    assert (tmp_path / "s").stat().st_mode & 0o777 == 0o620
    endpoint.close()


def test_closing_twice_leaves_the_next_servers_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    first = Endpoint.bind(path)
    first.close()
    second = Endpoint.bind(path)
    first.close()
    assert (tmp_path / "s").exists()
    second.close()
    assert not (tmp_path / "s").exists()


def test_an_adopted_socket_stays(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "s"))
        sock.listen()
        endpoint = Endpoint.adopt([sock.dup()])
        assert endpoint.address == str(tmp_path / "s")
        endpoint.listen()
        endpoint.close()
        assert (tmp_path / "s").exists()


def test_an_owner_that_cannot_be_set_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refuse)
    with pytest.raises(ConfigurationError, match="owner or mode cannot be set"):
        Endpoint.bind(str(tmp_path / "s"), SocketPermissions(uid=1))
    assert not (tmp_path / "s").exists()
