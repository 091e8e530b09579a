"""Who a peer is before he has said anything: by his certificate, or as a process of this machine.

What is asked of a transport is what both event loops know of it.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

from .users import User, Users

ExtraInfo = Callable[[str], Any]
"""A transport's ``get_extra_info``."""

CAN_TELL_UID: Final = sys.platform == "linux"
"""Whether the system tells who is at the other end of a Unix socket."""

_CREDENTIALS: Final = struct.Struct("3i")


class Process(NamedTuple):
    """The process that has connected over a Unix socket."""

    pid: int
    uid: int
    gid: int


def process_of(extra_info: ExtraInfo) -> Process | None:
    """Return who is at the other end of a Unix socket; None over a network, or if nobody knows."""
    sock = extra_info("socket")
    if sock is None or sock.family != socket.AF_UNIX or not CAN_TELL_UID:
        return None
    found = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return Process(*_CREDENTIALS.unpack(found))


def names_of_certificate(extra_info: ExtraInfo) -> list[str]:
    """Return all names in the certificate that the peer has shown and we have checked: common
    names first, then the alternative ones."""
    certificate = extra_info("peercert")
    if not certificate:
        return []
    names = [
        value
        for part in certificate.get("subject", ())
        for key, value in part
        if key == "commonName"
    ]
    names += _texts(certificate.get("subjectAltName", ()))
    return list(dict.fromkeys(names))


def _texts(names: Iterable[tuple[str, Any]]) -> list[str]:
    return [value for _, value in names if isinstance(value, str)]


def identify(users: Users, extra_info: ExtraInfo) -> User | None:
    """Return the user that the peer is without logging in; None if he has to."""
    process = process_of(extra_info)
    user = None if process is None else users.find_by_uid(process.uid)
    if user is not None:
        return user
    # Over a Unix socket, too: with TLS, whoever is there has shown one.
    names = names_of_certificate(extra_info)
    return users.find_by_certificate(names) if names else None
