"""R6: the connection is lost at every message boundary of a session, in either direction.

One session does a bit of everything: loads, a prefetch, a commit, a blob in and out, an undo, an
iteration, and another client's transactions in between, one of which is waited for.  It is run once
undisturbed, which tells how many messages travel; then once for each of them, with the connection
cut just before it, and in its middle.  Whatever breaks, the client is usable again, shows what the
server has, and was told the truth about each commit.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest
from tests.support.processes import running_server
from tests.support.proxy import DOWN, UP, Action, Direction, Passing, Proxy
from tests.support.raw import Z64, RawClient, fault_of, oid_of
from tests.support.waiting import wait_until
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.POSException import POSKeyError, StorageError

from zeolith import ClientStorage
from zeolith.errors import ClientDisconnected, NotReached
from zeolith.types import MAX_TID

T = TypeVar("T")
Change = Callable[[Any], object]

A, B, NEW, BLOB = OIDS = tuple(oid_of(number) for number in range(1, 5))
RECORD = b"cZODB.blob\nBlob\n."
CONTENT = b"blob" * 40_000
"""Of a blob: travels in three chunks."""

ATTEMPTS = 3
"""How often an application tries: the connection breaks once, so twice would do; the third shows
in a failure that it was not bad luck."""


class Session:
    """A client through a proxy, and another one that asks and changes the server directly."""

    def __init__(self, storage: Any, other: RawClient, directory: Path) -> None:
        self.storage = storage
        self.other = other
        self.directory = directory

    def run(self) -> None:
        """Do a bit of everything."""
        first = self.commit({A: b"a1", B: b"b1"}, self.store(A, b"a1"), self.store(B, b"b1"))
        self.storage._cache.clear()
        assert self.load(A) == (b"a1", first, None)
        assert self.load(B) == (b"b1", first, None)
        second = self.commit({A: b"a2", NEW: b"n"}, self.store(A, b"a2"), self.store(NEW, b"n"))
        # Another one changes what is in the cache; the client knows when lastTransaction says so.
        _, old, _ = self.load(B)
        third = self.other.commit({B: (old, b"b2")})
        self.wait_seen(third)
        assert self.load(B) == (b"b2", third, None)
        self.storage._cache.clear()
        with suppress(StorageError):
            self.storage.prefetch([A, NEW], MAX_TID)
        assert self.load(A) == (b"a2", second, None)
        fourth = self.commit({BLOB: RECORD}, self.store_blob)
        for path in (self.directory / "client").rglob("*.blob"):
            path.unlink()
        name = self.attempt(lambda: self.storage.loadBlob(BLOB, fourth))
        assert Path(name).read_bytes() == CONTENT
        log = self.attempt(lambda: self.storage.undoLog(0, 10))
        (number,) = (entry["id"] for entry in log if entry["description"] == b"a2 n")
        self.commit({A: b"a1"}, lambda transaction: self.storage.undo(number, transaction))
        with pytest.raises(POSKeyError):
            self.load(NEW)
        # What was lost of an iteration is begun again where it was.
        assert self.attempt(self.iterate) == [
            (first, {A: b"a1", B: b"b1"}),
            (second, {A: b"a2", NEW: b"n"}),
            (third, {B: b"b2"}),
        ]
        fifth = self.other.commit({B: (third, b"b2 again")})
        self.attempt(lambda: self.storage.sync_to(fifth))
        assert self.load(B) == (b"b2 again", fifth, None)
        # What nobody commits has to be asked for; the answer is that it has not come.
        never = (int.from_bytes(fifth, "big") + 1).to_bytes(8, "big")
        wait_until(lambda: self.says_not_reached(never))

    def says_not_reached(self, tid: bytes) -> bool:
        try:
            self.storage.sync_to(tid, 0.01)
        except NotReached:
            return True
        except ClientDisconnected:
            return False
        raise AssertionError("nobody has committed it")

    def iterate(self) -> list[tuple[bytes, dict[bytes, bytes]]]:
        """Return the first three transactions."""
        return [
            (transaction.tid, {record.oid: record.data for record in transaction})
            for _, transaction in zip(range(3), self.storage.iterator())
        ]

    def check(self) -> None:
        """Nothing is stale, and the client can read and write."""
        last = self.other.commit({oid_of(9): (Z64, b"the end")})
        wait_until(lambda: self.storage.lastTransaction() == last, "the end")
        for oid in OIDS:
            found = self.find(oid)
            if found is None:
                with pytest.raises(POSKeyError):
                    self.storage.loadBefore(oid, MAX_TID)
            else:
                assert self.storage.loadBefore(oid, MAX_TID) == found
        _, tid, _ = self.find(B)
        transaction = TransactionMetaData()
        self.storage.tpc_begin(transaction)
        self.storage.store(B, tid, b"b3", "", transaction)
        self.storage.tpc_vote(transaction)
        tid = self.storage.tpc_finish(transaction)
        assert self.find(B) == (b"b3", tid, None) == self.storage.loadBefore(B, MAX_TID)

    # -- what an application does ----------------------------------------------------------------

    def attempt(self, action: Callable[[], T]) -> T:
        """Do it again if the connection was lost."""
        for _ in range(ATTEMPTS - 1):
            try:
                return action()
            except POSKeyError:
                raise
            except StorageError:
                pass
        return action()

    def load(self, oid: bytes) -> Any:
        return self.attempt(lambda: self.storage.loadBefore(oid, MAX_TID))

    def store(self, oid: bytes, data: bytes) -> Change:
        def change(transaction: Any) -> None:
            found = self.find(oid)
            self.storage.store(oid, found[1] if found else Z64, data, "", transaction)

        return change

    def store_blob(self, transaction: Any) -> None:
        path = self.directory / "upload"
        path.write_bytes(CONTENT)
        self.storage.storeBlob(BLOB, Z64, RECORD, str(path), "", transaction)

    def commit(self, expected: dict[bytes, bytes], *changes: Change) -> bytes:
        """Have the client commit *changes* once; return the transaction's id.

        :param expected: what the objects are to be then, and were not before.
        """
        errors: list[Exception] = []
        for _ in range(ATTEMPTS):
            # A transaction that begins without a connection fails at once.
            wait_until(self.storage.is_connected)
            transaction = TransactionMetaData(description=b" ".join(expected.values()))
            tid = None
            try:
                self.storage.tpc_begin(transaction)
                for change in changes:
                    change(transaction)
                self.storage.tpc_vote(transaction)
                tid = self.storage.tpc_finish(transaction)
            except StorageError as error:
                errors.append(error)
                with suppress(StorageError):
                    self.storage.tpc_abort(transaction)
            found = {oid: self.find(oid) for oid in expected}
            is_done = all(value and value[0] == expected[oid] for oid, value in found.items())
            # Also where the answer to tpc_finish is lost: the client asks what became of it.
            assert is_done == (tid is not None), f"told {tid} and {errors}: {found}"
            if is_done:
                (done,) = {value[1] for value in found.values()}
                assert tid == done
                assert isinstance(done, bytes)
                # Until it is connected again a client shows the past: what it has is consistent.
                self.wait_seen(done)
                return done
        raise AssertionError(f"no commit in {ATTEMPTS} attempts: {errors}")

    def wait_seen(self, tid: bytes) -> None:
        wait_until(lambda: self.storage.lastTransaction() >= tid)

    def find(self, oid: bytes) -> Any:
        """Return what the server has, or None if there is no such object."""
        # Loads of the same have the same id: their answers would be taken for this one.
        self.other.inbox.clear()
        self.other.taken = 0
        found: list[Any] = []
        fault = fault_of(lambda: found.append(self.other.load(oid)))
        assert fault in ("no error", "POSKeyError")
        return found[0] if found else None


def run_session(
    directory: Path, cut_at: tuple[Direction, int] | None, how: Action = Action.CUT
) -> list[Passing]:
    """Run the session, perhaps with a cut, and check what is there then; return what travelled
    before the check."""
    directory.mkdir()

    def rule(passing: Passing) -> Action:
        is_here = (passing.direction, passing.number) == cut_at and len(proxy.links) == 1
        return how if is_here else Action.PASS

    files = FileStorage(str(directory / "Data.fs"), blob_dir=str(directory / "blobs"))
    with (
        running_server(files) as server,
        RawClient(server.address) as other,
        Proxy(server.address, rule) as proxy,
    ):
        storage = ClientStorage(
            proxy.address,
            blob_dir=str(directory / "client"),
            wait_timeout=20,
            min_disconnect_poll=0.01,
        )
        try:
            session = Session(storage, other, directory)
            session.run()
            if cut_at is None:
                # What has been passed on is noted just after that.
                proxy.wait_frame(lambda passing: passing.name == ".fault")
                proxy.wait_frame(lambda passing: passing.name == "sync_to")
            passed = proxy.frames()
            session.check()
        finally:
            storage.close()
    assert len(proxy.links) == (1 if cut_at is None else 2)
    return passed


@pytest.mark.parametrize("how", [Action.CUT, Action.CUT_WITHIN])
@pytest.mark.parametrize("direction", [UP, DOWN])
def test_r6_the_connection_is_lost_at_every_message(
    tmp_path: Path, direction: Direction, how: Action
) -> None:
    undisturbed = run_session(tmp_path / "undisturbed", None)
    count = sum(passing.direction is direction for passing in undisturbed)
    names = {passing.name for passing in undisturbed}
    assert {"vote", "tpc_finish", "storea", "undoa", "undoLog", ".reply"} <= names
    assert {"invalidateTransaction", ".fault", "load_many"} <= names
    assert {"attach_blob", "open_blob", "stream_data", "stream_end"} <= names
    assert {"open_iteration", "sync_to"} <= names
    assert count > 20
    for number in range(count):
        try:
            run_session(tmp_path / str(number), (direction, number), how)
        except BaseException as error:
            error.add_note(f"at message {number}, {direction.value}: {how.value}")
            raise
