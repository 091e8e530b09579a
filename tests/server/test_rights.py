"""What a session may do, and with which storage."""

from __future__ import annotations

import time

import pytest
from tests.server.conftest import Connect, Serve
from tests.support.raw import Z64, RemoteFault, oid_of
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage

from zeolith.protocol import messages as m


@pytest.mark.parametrize("is_server", [False, True])
def test_read_only(files: FileStorage, serve: Serve, raw: Connect, is_server: bool) -> None:
    server = serve(files, read_only=is_server)
    if is_server:
        undecided = raw(server.address, None)
        with pytest.raises(RemoteFault, match="ReadOnlyError"):
            undecided.call(m.Register("1", False))
        # The same connection may ask for less.
        assert undecided.call(m.Register("1", True)) == Z64
    reader = raw(server.address, read_only=True)
    for request in (
        m.NewOids(),
        m.TpcBegin(1, b"", b"", {}, None, " "),
        m.Store(oid_of(1), Z64, b"x", 1),
        m.Vote(1),
        m.TpcFinish(1),
    ):
        with pytest.raises(RemoteFault, match="ReadOnlyError"):
            reader.call(request)
    assert reader.call(m.TpcAbort(1)) is None
    # As a notice, the first one has no answer: its error is the vote's.
    reader.begin()
    reader.store(oid_of(1), b"x")
    with pytest.raises(RemoteFault, match="ReadOnlyError"):
        reader.vote()
    assert reader.call(m.Pack(time.time())) is None


def test_unknown_storages_are_refused_by_name(
    mapping: MappingStorage, serve: Serve, raw: Connect
) -> None:
    server = serve({"main": mapping, "other": MappingStorage()})
    client = raw(server.address, None)
    with pytest.raises(RemoteFault) as caught:
        client.call(m.Register("1", False))
    assert caught.value.name == "builtins.ValueError"
    assert "unknown storage: '1'" in str(caught.value)
    assert "'main', 'other'" in str(caught.value)
    assert client.call(m.Register("main", False)) == Z64


def test_storages_do_not_meet(mapping: MappingStorage, serve: Serve, raw: Connect) -> None:
    server = serve({"main": mapping, "other": MappingStorage()})
    one, two = raw(server.address, "main"), raw(server.address, "other")
    one.commit({oid_of(1): (Z64, b"x")})
    two.ping()
    assert two.invalidations() == []
    assert {name: status["commits"] for name, status in server.status().items()} == {
        "main": 1,
        "other": 0,
    }
