"""Who a peer is before it has said anything."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import Any

import pytest

from zeolith.protocol.scram import Secret
from zeolith.server.identifying import identify
from zeolith.server.users import User

CERTIFICATE = {"subject": ((("commonName", "web.example"),),)}


class Known:
    """Users by what they are known by."""

    realm = "ZEO"

    def __init__(self, uids: dict[int, User], names: dict[str, User]) -> None:
        self._uids = uids
        self._names = names

    def find(self, name: str) -> User | None:
        return None

    def find_by_certificate(self, names: Iterable[str]) -> User | None:
        return next((self._names[name] for name in names if name in self._names), None)

    def find_by_uid(self, uid: int) -> User | None:
        return self._uids.get(uid)

    def decoy(self, name: str) -> Secret:
        raise NotImplementedError


@pytest.fixture
def unix() -> Iterator[socket.socket]:
    ours, theirs = socket.socketpair()
    with closing(ours), closing(theirs):
        yield ours


LOCAL, WEB = User("local"), User("web")


@pytest.mark.parametrize(
    ("uids", "certificate", "expected"),
    [
        ({os.getuid(): LOCAL}, None, LOCAL),
        ({os.getuid(): LOCAL}, CERTIFICATE, LOCAL),
        ({os.getuid() + 1: LOCAL}, None, None),
        ({os.getuid() + 1: LOCAL}, CERTIFICATE, WEB),
        ({}, {"subject": ((("commonName", "stranger"),),)}, None),
    ],
)
def test_over_a_unix_socket_with_tls(
    unix: socket.socket, uids: dict[int, User], certificate: Any, expected: User | None
) -> None:
    known = Known(uids, {"web.example": WEB})
    assert identify(known, {"socket": unix, "peercert": certificate}.get) is expected
