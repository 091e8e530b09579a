"""Which coding a connection really uses."""

from __future__ import annotations

import socket

import pytest
from tests.conformance.clients import FORGIVEN, client_class
from tests.conformance.site import MAPPING, Site
from tests.support.hosts import Kind
from tests.support.raw import connect


def _first_frame(connection: socket.socket) -> bytes:
    def read(size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = connection.recv(size - len(data))
            assert part, "the connection ended"
            data += part
        return data

    return read(int.from_bytes(read(4), "big"))


def test_the_server_proposes_the_configured_coding(site: Site) -> None:
    connection = connect(site.serve(MAPPING).address)
    with connection:
        assert _first_frame(connection)[:2] == (b"M5" if site.pairing.is_msgpack else b"Z5")


@pytest.mark.parametrize("greeting", [b"M5", b"Z5", b"M5 zeolith", b"Z5 zeolith 1"])
@pytest.mark.parametrize("kind", ["zeolith", pytest.param("zeo", marks=FORGIVEN["zeo"])])
def test_the_client_takes_the_proposed_coding(kind: Kind, greeting: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = client_class(kind)(listener.getsockname(), wait=False)
        try:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(len(greeting).to_bytes(4, "big") + greeting)
                assert _first_frame(connection) == greeting[:2]
        finally:
            client.close()


def test_which_protocol_is_spoken(site: Site) -> None:
    """What the names of the tests say is what happens on the wire."""
    if site.pairing.client == "zeolith":
        client = site.client(site.serve(MAPPING).address)
        codec = client._link.channel()._codec
        assert (
            codec.coding.name
            == {"own": "OWN", "M5": "MSGPACK", "Z5": "PICKLE"}[site.pairing.name.rpartition("-")[2]]
        )
