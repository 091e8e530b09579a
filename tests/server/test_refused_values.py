"""Values that decode well, but must not reach a storage."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from persistent.TimeStamp import TimeStamp
from tests.server.conftest import Connect, Serve
from tests.support.raw import Z64, RawClient, RemoteFault, oid_of
from ZODB.DemoStorage import DemoStorage
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage

from zeolith.errors import ConfigurationError
from zeolith.protocol import messages as m
from zeolith.protocol.limits import DEFAULT_LIMITS
from zeolith.server import ServerOptions
from zeolith.server.access import StorageAccess
from zeolith.types import MAX_TID

ALL_ONES = b"\xff" * 8
NEARLY = b"\x7f" + b"\xff" * 7


@pytest.fixture
def client(files: FileStorage, serve: Serve, raw: Connect) -> RawClient:
    return raw(serve(files).address)


def tid_in(days: float) -> bytes:
    """Return the transaction id of a time so many days from now."""
    year, month, day, hour, minute = time.gmtime(time.time() + days * 86400)[:5]
    return bytes(TimeStamp(year, month, day, hour, minute, 0).raw())


def begin(client: RawClient, tid: bytes | None = None, status: str = " ") -> None:
    client.send(m.TpcBegin(1, b"", b"", {}, tid, status))


def refused(client: RawClient) -> str:
    """Vote; return what the server says."""
    with pytest.raises(RemoteFault) as caught:
        client.vote()
    assert caught.value.name == "builtins.ValueError"
    return str(caught.value)


def goes_on(client: RawClient, raw: Connect, address: Any) -> None:
    """Check that this client and new ones can make objects, and see them."""
    for each in (client, raw(address)):
        (oid,) = each.call(m.NewOids(1))
        tid = each.commit({oid: (Z64, b"x")})
        assert raw(address).load(oid) == (b"x", tid, None)


# -- ids ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tid",
    [ALL_ONES, NEARLY, MAX_TID, tid_in(36_600)],
    ids=["all ones", "nearly", "greatest", "in a century"],
)
def test_r7_transactions_from_the_end_of_time_are_refused(
    files: FileStorage, serve: Serve, raw: Connect, tid: bytes
) -> None:
    """Nothing could be committed behind them."""
    server = serve(files)
    client = raw(server.address)
    begin(client, tid)
    client.store(oid_of(1), b"x")
    assert tid.hex() in refused(client)
    with pytest.raises(RemoteFault, match=tid.hex()):
        client.call(m.TpcBegin(2, b"", b"", {}, tid, " "))
    goes_on(client, raw, server.address)


def test_transactions_of_a_clock_that_was_wrong_are_taken(client: RawClient) -> None:
    begin(client, tid := tid_in(36_500))
    client.send(m.Restore(oid_of(1), tid, b"x", None, 1))
    client.vote()
    assert client.finish() == tid
    later = client.commit({oid_of(2): (Z64, b"y")})
    assert later > tid
    assert client.load(oid_of(1)) == (b"x", tid, None)


@pytest.mark.parametrize(
    "serial", [ALL_ONES, NEARLY, tid_in(2)], ids=["all ones", "nearly", "in two days"]
)
def test_revisions_that_nobody_could_see_are_refused(client: RawClient, serial: bytes) -> None:
    begin(client, tid_in(1))
    client.send(m.Restore(oid_of(1), serial, b"x", None, 1))
    assert serial.hex() in refused(client)
    begin(client)
    client.send(m.Restore(oid_of(1), ALL_ONES, b"x", None, 1))
    assert ALL_ONES.hex() in refused(client)


Operation = Callable[[bytes], Any]
OPERATIONS: dict[str, Operation] = {
    "store": lambda oid: m.Store(oid, Z64, b"x", 1),
    "restore": lambda oid: m.Restore(oid, tid_in(0), b"x", None, 1),
    "delete": lambda oid: m.DeleteObject(oid, Z64, 1),
    "check": lambda oid: m.CheckCurrentSerial(oid, Z64, 1),
    "shared blob": lambda oid: m.StoreBlobShared(oid, Z64, b"x", "a.tmp", 1),
}


@pytest.mark.parametrize("kind", [*OPERATIONS, "blob"])
@pytest.mark.parametrize("oid", [ALL_ONES, NEARLY, b"\x7f" + bytes(7)])
def test_r7_the_last_object_ids_are_refused(
    files: FileStorage, serve: Serve, raw: Connect, kind: str, oid: bytes
) -> None:
    """Storages count on from the greatest: there would be none for new objects."""
    server = serve(files)
    client = raw(server.address)
    begin(client)
    if kind == "blob":
        client.send(m.StoreBlobStart(), m.StoreBlobChunk(b"x"), m.StoreBlobEnd(oid, Z64, b"x", 1))
    else:
        client.send(OPERATIONS[kind](oid))
    assert oid.hex() in refused(client)
    begin(client)
    if kind == "blob":
        client.send(m.StoreBlobStart())
    call = m.StoreBlobEnd(oid, Z64, b"x", 1) if kind == "blob" else OPERATIONS[kind](oid)
    with pytest.raises(RemoteFault, match=oid.hex()):
        client.call(call)
    client.call(m.TpcAbort(1))
    goes_on(client, raw, server.address)


@pytest.mark.parametrize(
    "wrap", [lambda storage: storage, lambda storage: DemoStorage("", storage)]
)
def test_r7_the_greatest_object_id_that_is_taken_leaves_enough(
    tmp_path: Path, serve: Serve, raw: Connect, wrap: Callable[[Any], Any]
) -> None:
    files = FileStorage(str(tmp_path / "Data.fs"))
    server = serve(wrap(files))
    client = raw(server.address)
    client.commit({b"\x7e" + b"\xff" * 7: (Z64, b"x")})
    goes_on(client, raw, server.address)


def test_what_a_storage_has_handed_out_or_holds_is_taken(tmp_path: Path) -> None:
    files = FileStorage(str(tmp_path / "Data.fs"))
    files.set_max_oid(b"\x7f" + bytes(6) + b"\7")
    access = StorageAccess("1", files)
    (oid,) = access.new_oids(1)
    assert oid == b"\x7f" + bytes(6) + b"\x08"
    access.check_oid(oid)
    with pytest.raises(ValueError, match="7f00000000000009"):
        access.check_oid(b"\x7f" + bytes(6) + b"\x09")
    access.close()


def test_storages_that_do_not_say_which_ids_they_have_given() -> None:
    class Foreign(MappingStorage):
        def __init__(self) -> None:
            super().__init__()
            del self._oid

    access = StorageAccess("1", Foreign())
    access.check_oid(NEARLY)
    with pytest.raises(ValueError, match="8000000000000000"):
        access.check_oid(b"\x80" + bytes(7))
    access.close()


def test_new_ids_of_a_storage_that_has_none(
    files: FileStorage, serve: Serve, raw: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    """As one server that took everything may have left it."""
    files.set_max_oid(ALL_ONES)
    client = raw(serve(files).address)
    with pytest.raises(RemoteFault, match=r"StorageError.*no object ids left"):
        client.call(m.NewOids(1))
    client.commit({oid_of(1): (Z64, b"x")})
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("status", ["c", "u", "", "  ", "\xff"])
def test_r4_transactions_that_a_storage_would_forget_are_refused(
    tmp_path: Path, serve: Serve, raw: Connect, status: str
) -> None:
    """FileStorage cuts its file off at the first transaction that is marked as incomplete."""
    path = str(tmp_path / "Data.fs")
    client = raw(serve(FileStorage(path)).address)
    begin(client, status=status)
    client.store(oid_of(1), b"x")
    assert repr(status) in refused(client)
    begin(client, status="p")
    client.store(oid_of(1), b"x")
    client.vote()
    client.finish()


# -- packing -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "when", [math.nan, math.inf, -math.inf, -1e300, 1e18, 1 << 70, 253_402_300_800, -3e9]
)
def test_times_that_nobody_can_pack_to(
    client: RawClient, files: FileStorage, when: float, caplog: pytest.LogCaptureFixture
) -> None:
    first = client.commit({bytes(8): (Z64, b"\x80\x03}q\x00.}q\x01.")})
    client.commit({bytes(8): (first, b"\x80\x03}q\x00.}q\x02.")})
    before = files.getSize()
    for wait in (True, False):
        with pytest.raises(RemoteFault, match="cannot pack to") as caught:
            client.call(m.Pack(when, wait))
        assert caught.value.name == "builtins.ValueError"
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    for earlier in (0, -1.5, -2e9):
        client.call(m.Pack(earlier))
        assert files.getSize() == before
    client.call(m.Pack(time.time() + 1))
    assert files.getSize() < before


# -- errors that can be understood -------------------------------------------------------------


def test_what_is_illegal_is_said(client: RawClient) -> None:
    with pytest.raises(RemoteFault) as caught:
        client.call(m.GetTid(b"x"))
    assert caught.value.name == "zeolith.errors.IllegalMessage"
    assert caught.value.details == ("getTid: oid is of type bytes or malformed",)


@pytest.mark.parametrize("specification", [5, "x", ["user_name"], b"", True])
def test_undo_information_about_nonsense(
    client: RawClient, specification: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(RemoteFault, match="dictionary") as caught:
        client.call(m.UndoInfo(0, -20, specification))
    assert caught.value.name == "builtins.TypeError"
    client.ping()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


# -- options -----------------------------------------------------------------------------------


def test_options_under_which_messages_would_never_arrive() -> None:
    most = DEFAULT_LIMITS.max_message_size
    ServerOptions(address=("", 0), incoming_limit=most)
    with pytest.raises(ConfigurationError, match=r"incoming_limit: is less than.*at least"):
        ServerOptions(address=("", 0), incoming_limit=most - 1)
