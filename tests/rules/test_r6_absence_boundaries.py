"""R6: the connection is lost at every message of a verification after an absence.

A client was away for more transactions than the server remembers, so it has to ask about the
objects in its cache.  That is run with the connection cut just before each message since the
reconnect, and in its middle, while another client goes on writing.  What the client shows meanwhile
is what there was at the transaction that it says is its last; in the end it is connected and knows
all.
"""

from __future__ import annotations

import threading
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from tests.rules.conftest import Open
from tests.support.histories import commit
from tests.support.processes import running_server
from tests.support.proxy import DOWN, UP, Action, Direction, Passing, Proxy
from tests.support.raw import RawClient, oid_of
from tests.support.waiting import wait_until
from ZODB.FileStorage import FileStorage

from zeolith.client import rechecking
from zeolith.types import MAX_TID

OBJECTS = [oid_of(number) for number in range(9)]
MISSED = OBJECTS[::3]
"""What the other client changes in the absence; it changes the next ones while the cache is
verified."""

PAGE = 3
"""Objects per question: so there are three."""

MOST_MESSAGES = 100
"""More than travel in one direction by far."""


class Absence:
    """A client that was away, on its way back through a proxy that cuts its second connection.

    :ivar cut: what the message is that was not passed on, or not all of it; None until then.
    """

    def __init__(
        self, storage: FileStorage, server: Any, direction: Direction, number: int, how: Action
    ) -> None:
        self.storage = storage
        self.address = server.address
        self.other = RawClient(server.address)
        self.cut: str | None = None
        self.is_asked = threading.Event()
        self._place: tuple[Direction, int] | None = (direction, number)
        self._how = how
        self._last_call = ""
        self.proxy = Proxy(server.address, self._rule)

    def _rule(self, passing: Passing) -> Action:
        name = passing.name
        if passing.direction is UP:
            self._last_call = name
        elif name == ".reply":
            name = f"answer to {self._last_call}"
        if name == "verify_many" and not self.is_asked.is_set():
            self.is_asked.set()
            # Each of these is announced between the question and its answer.
            for oid in OBJECTS[1::3]:
                self._write(oid)
        is_here = len(self.proxy.links) == 2 and (passing.direction, passing.number) == self._place
        if not is_here:
            return Action.PASS
        self.cut = name
        return self._how

    def _write(self, oid: bytes) -> None:
        _, serial, _ = self.storage.loadBefore(oid, MAX_TID)
        self.other.commit({oid: (serial, b"changed")})

    def leave(self, reader: Any) -> None:
        """Lose the connection, and miss more than the server remembers."""
        self.proxy.is_refusing = True
        self.proxy.cut()
        wait_until(lambda: not reader.is_connected())
        for oid in MISSED:
            self._write(oid)

    def come_back(self, reader: Any) -> None:
        """Have the client connect, and read until it knows all."""
        self.proxy.is_refusing = False

        def knows_all() -> bool:
            self.check(reader)
            return bool(
                self.is_asked.is_set()
                and reader.is_connected()
                and not len(reader._cache.suspects)
                and reader.lastTransaction() == self.storage.lastTransaction()
            )

        wait_until(knows_all, "the client is there and knows all")
        self.check(reader)
        for oid in OBJECTS:
            assert reader.loadBefore(oid, MAX_TID) == self.storage.loadBefore(oid, MAX_TID)
        # What is lost of a commit is another test's.
        self._place = None

    def check(self, reader: Any) -> None:
        """Nothing is older, or newer, than the client says that it is."""
        tid = reader.lastTransaction()
        after = (int.from_bytes(tid, "big") + 1).to_bytes(8, "big")
        for oid in OBJECTS:
            # What is asked for is verified by that; here it is the server that shall be asked.
            ask = reader._cache.load_before if len(reader._cache.suspects) else reader.loadBefore
            found = ask(oid, after)
            if found is None:
                continue
            data, start, end = found
            right = self.storage.loadBefore(oid, after)
            assert (data, start) == right[:2], f"{oid.hex()} as of {tid.hex()}"
            assert end in (None, right[2])

    def close(self) -> None:
        self.other.close()
        self.proxy.close()


def come_back(
    directory: Path, client: Open, direction: Direction, number: int, how: Action
) -> str | None:
    """Be away and come back, with a cut at that message; return what it was, or None."""
    directory.mkdir()
    storage = FileStorage(str(directory / "Data.fs"))
    commit(storage, *OBJECTS)
    with running_server(storage, invalidation_queue_size=2, invalidation_age=None) as server:
        absence = Absence(storage, server, direction, number, how)
        try:
            reader: Any = client(absence.proxy.address, min_disconnect_poll=0.01)
            for oid in OBJECTS:
                reader.loadBefore(oid, MAX_TID)
            absence.leave(reader)
            absence.come_back(reader)
            # It can write, too, and learns of what others write.
            tid = commit(reader, OBJECTS[0], data=b"the end")
            assert storage.loadBefore(OBJECTS[0], MAX_TID) == (b"the end", tid, None)
            absence.check(reader)
            reader.close()
        finally:
            absence.close()
        assert len(absence.proxy.links) == (2 if absence.cut is None else 3)
    return absence.cut


@pytest.mark.parametrize("how", [Action.CUT, Action.CUT_WITHIN])
@pytest.mark.parametrize("direction", [UP, DOWN])
def test_r6_the_connection_is_lost_at_every_message_of_a_verification(
    tmp_path: Path,
    client: Open,
    direction: Direction,
    how: Action,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rechecking, "MAX_PAIRS", PAGE)
    cuts: list[str] = []
    for number in count():
        assert number < MOST_MESSAGES
        try:
            cut = come_back(tmp_path / str(number), client, direction, number, how)
        except BaseException as error:
            error.add_note(f"at message {number}, {direction.value}: {how.value}; after {cuts}")
            raise
        if cut is None:
            break
        cuts.append(cut)
    name = "verify_many" if direction is UP else "answer to verify_many"
    assert cuts.count(name) == len(OBJECTS) / PAGE, cuts
