"""Clients that commit without a pause, and what has to be true of their work afterwards.

Each transaction stores two objects that hold the same text, and every other one a blob with it.
"""

from __future__ import annotations

import random
import threading
from typing import Any, NamedTuple

from tests.support.raw import Z64, Address, Closed, RawClient, RemoteFault, oid_of
from tests.support.waiting import DEADLINE

from zeolith.protocol.messages import Notice, ReceiveBlobChunk, SendBlob

RECORD = b"cZODB.blob\nBlob\n."


class Work(NamedTuple):
    """One transaction that was tried.

    :ivar tid: None if it was not acknowledged.
    """

    number: int
    text: bytes
    has_blob: bool
    tid: bytes | None


class Writers:
    """Threads that commit until the server goes or they are stopped.

    :param seed: makes the sizes of texts and blobs.
    :param start: number of the first transaction; numbers are not used twice.
    """

    def __init__(self, address: Address, count: int, seed: int = 0, start: int = 1) -> None:
        self._address = address
        self.done: list[Work] = []
        self.errors: list[BaseException] = []
        self._changed = threading.Condition()
        self._next = start
        self._is_stopped = False
        self._threads = [
            threading.Thread(target=self._run, args=(random.Random(seed * 100 + n),))
            for n in range(count)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def next_number(self) -> int:
        """The first number that has not been used."""
        return self._next

    def _run(self, generator: random.Random) -> None:
        try:
            with RawClient(self._address) as client:
                while not self._is_stopped:
                    with self._changed:
                        number, self._next = self._next, self._next + 1
                    self._commit(client, number, generator)
        except (Closed, ConnectionError):
            pass  # The server is gone, which is what this is about.
        except BaseException as error:  # noqa: BLE001 - handed to stop()
            self.errors.append(error)

    def _commit(self, client: RawClient, number: int, generator: random.Random) -> None:
        text = b"%d " % number * generator.randrange(1, 400)
        has_blob = number % 2 == 0
        tid = None
        try:
            client.begin()
            client.store(oid_of(3 * number), text)
            client.store(oid_of(3 * number + 1), text)
            if has_blob:
                client.store_blob(oid_of(3 * number + 2), RECORD, blob_of(text))
            client.vote()
            tid = client.finish()
        finally:
            with self._changed:
                self.done.append(Work(number, text, has_blob, tid))
                self._changed.notify_all()

    @property
    def acknowledged(self) -> int:
        """How many transactions were acknowledged."""
        return sum(1 for work in self.done if work.tid is not None)

    def wait_acknowledged(self, count: int) -> None:
        """Wait until *count* transactions were acknowledged."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.acknowledged >= count, DEADLINE)

    def stop(self) -> None:
        """Stop the threads; raise what went wrong in them."""
        self._is_stopped = True
        for thread in self._threads:
            thread.join(DEADLINE)
            assert not thread.is_alive()
        if self.errors:
            raise self.errors[0]


def blob_of(text: bytes) -> bytes:
    """Return the contents of the blob that goes with a text."""
    return text * 200


def load(client: RawClient, oid: bytes) -> Any:
    """Return ``(data, tid)`` or None."""
    try:
        data, tid, _end = client.load(oid)
    except RemoteFault as fault:
        if fault.name.endswith("POSKeyError"):
            return None
        raise
    return data, tid


def load_blob(client: RawClient, oid: bytes, tid: bytes) -> bytes:
    """Return a blob as the server sends it."""
    at = len(client.inbox)
    client.call(SendBlob(oid, tid))
    parts = [
        message.request.chunk
        for message in client.inbox[at:]
        if isinstance(message, Notice) and isinstance(message.request, ReceiveBlobChunk)
    ]
    del client.inbox[at:]
    return b"".join(parts)


def verify(address: Address, *all_writers: Writers) -> tuple[int, int]:
    """Check that every acknowledged transaction is there, and no half one.

    :returns: how many were acknowledged, and how many of the others are there nevertheless.
    """
    acknowledged = unknown = 0
    with RawClient(address) as client:
        for writers in all_writers:
            for work in writers.done:
                first = load(client, oid_of(3 * work.number))
                second = load(client, oid_of(3 * work.number + 1))
                assert first == second, work.number
                if work.tid is not None:
                    assert first == (work.text, work.tid), work.number
                    acknowledged += 1
                elif first is None:
                    assert load(client, oid_of(3 * work.number + 2)) is None
                    continue
                else:
                    assert first[0] == work.text
                    unknown += 1
                if work.has_blob:
                    oid = oid_of(3 * work.number + 2)
                    assert load(client, oid) == (RECORD, first[1])
                    assert load_blob(client, oid, first[1]) == blob_of(work.text)
        writes = {oid_of(2): (Z64, b"x")} if load(client, oid_of(2)) is None else {}
        client.commit(writes)
    return acknowledged, unknown
