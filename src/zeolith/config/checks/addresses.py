"""Checks of where the server listens."""

from __future__ import annotations

import ipaddress
import os
import socket
from typing import Final

from ..address import Address
from ..outline import Section
from .findings import Findings

_OPEN: Final = ("optional", "none")
_FIRST_FREE_PORT: Final = 1024


def is_public(address: Address) -> bool:
    """Return whether others than this machine may be able to connect to *address*.

    :raises OSError: its host is not known.
    """
    if isinstance(address, str):
        return False
    host = address[0]
    if not host:
        return True
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return any(not ipaddress.ip_address(str(item[4][0])).is_loopback for item in found)


def check_addresses(findings: Findings) -> None:
    """Check the addresses of ``<zeo>``."""
    for zeo in findings.outline.find("zeo"):
        tls = next((section for section in zeo.sections if section.type == "ssl"), None)
        for key in ("address", "monitor-address"):
            address = zeo.value_of(key)
            if address is not None:
                _check(findings, zeo, key, address, tls)
        address = zeo.value_of("address")
        if address is not None and address == zeo.value_of("monitor-address"):
            findings.error(
                zeo, "monitor-address", "is the same as address", "choose another port or path"
            )
        if isinstance(address, tuple):
            for key in ("socket-mode", "socket-owner"):
                if zeo.value_of(key) is not None:
                    findings.error(zeo, key, "has no effect: the address is no path", "remove it")


def _check(
    findings: Findings, zeo: Section, key: str, address: Address, tls: Section | None
) -> None:
    if isinstance(address, str):
        findings.check_entry(zeo, key, address)
        findings.check_absolute(zeo, key, address)
        return
    host, port = address
    if port == 0:
        findings.warning(
            zeo, key, "port 0 is another port at each start", "name the port that clients know"
        )
    elif port < _FIRST_FREE_PORT and os.geteuid() != 0:
        findings.warning(
            zeo, key, f"only root may listen on port {port}", "use a port from 1024 on"
        )
    try:
        is_open = is_public(address)
    except OSError as error:
        findings.error(
            zeo, key, f"the host {host} is not known here: {error.strerror}", "correct the name"
        )
        return
    has_users = zeo.value_of("authentication-database") is not None
    if tls is not None and has_users and key == "address":
        return  # encrypted, and who he is each has to prove
    if is_open and (tls is None or tls.value_of("client-certificates") in _OPEN):
        what = (
            "learns what the server does"
            if key != "address"
            else "reads and changes the whole database"
            if not has_users
            else "can read along, and take over the connection of who has logged in"
        )
        findings.warning(
            zeo,
            key,
            f"whoever reaches this address over the network {what}",
            ("add an <ssl> section" if tls is None else "set client-certificates required")
            + ", or listen on 127.0.0.1, a private network or a Unix socket",
        )
