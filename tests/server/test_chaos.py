"""Clients that do whatever they like, in any order, and leave when they like."""

from __future__ import annotations

import logging
import random
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.server.conftest import Connect, Serve
from tests.support.raw import Z64, Closed, RawClient, RemoteFault, oid_of
from tests.support.waiting import wait_until
from ZODB.FileStorage import FileStorage

from zeolith.protocol import messages as m
from zeolith.protocol import streamrequests as s
from zeolith.protocol.greeting import Coding
from zeolith.protocol.limits import FIRST_UPLOAD
from zeolith.types import MAX_TID


class OwnFileStorage(FileStorage):
    """A subclass: loads run on workers."""


class Fool:
    """A client that makes up its mind with a die.

    :ivar violations: order violations it has seen.
    """

    def __init__(self, address: Any, seed: int) -> None:
        self.random = random.Random(seed)
        self.address = address
        self.violations: list[str] = []
        self.commits = 0
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            for _ in range(12):
                self._one_connection()
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self.error = error

    def _one_connection(self) -> None:
        die = self.random
        coding = die.choice(list(Coding))
        read_only = die.random() < 0.1
        with RawClient(self.address, coding=coding, read_only=read_only) as client:
            txn, last = 0, client.tid
            try:
                for _ in range(die.randrange(1, 40)):
                    if die.random() < 0.4:
                        txn = die.choice([txn, txn + 1])
                    last = self._act(client, txn, last)
            except Closed:
                pass
            self._check_order(client)

    def _act(self, client: RawClient, txn: int, last: bytes) -> bytes:
        die = self.random
        oid = oid_of(die.randrange(1, 6))
        serial = die.choice([Z64, last])
        notices: list[Any] = [
            m.TpcBegin(txn, b"", b"", {}, None, " "),
            m.TpcBegin(txn, b"", b"", {}, None, " "),
            m.Store(oid, serial, die.randbytes(die.choice([10, 5000])), txn),
            m.CheckCurrentSerial(oid, serial, txn),
            m.StoreBlobStart(),
            m.StoreBlobChunk(bytes(1000)),
            m.StoreBlobEnd(oid, serial, b"blob", txn),
            m.TpcAbort(txn),
        ]
        calls: list[Any] = [
            m.Vote(txn),
            m.Vote(txn),
            m.TpcFinish(txn),
            m.LoadBefore(oid, MAX_TID[:-2] + die.randbytes(2)),
            m.LastTransaction(),
            m.GetInvalidations(last),
            m.NewOids(3),
            m.GetInfo(),
            m.IteratorStart(),
            m.IteratorNext(die.randrange(3)),
            m.SendBlob(oid, last),
            m.UndoLog(0, 3),
        ]
        if not client.is_zeo:
            stream, upload = die.randrange(3), FIRST_UPLOAD + die.randrange(2)
            notices += [
                s.StreamData(upload, bytes(1000)),
                s.StreamData(upload, bytes(1000)),
                s.StreamEnd(upload),
                s.StreamFault(upload, "x", ()),
                s.AttachBlob(upload, oid, serial, b"blob", txn, die.choice([1000, 2000])),
                s.StreamCredit(stream, 10_000),
                s.StreamCancel(stream),
            ]
            calls += [
                s.OpenBlob(stream, oid, last, 0, die.choice([0, 100, 10_000])),
                s.OpenIteration(stream, None, None, die.choice([0, 100, 10_000])),
                s.OpenIteration(stream, None, None, die.choice([0, 100, 10_000])),
            ]
        what = die.random()
        try:
            if what < 0.3:
                client.begin(txn)
                client.store(oid, die.randbytes(20), client.call(m.GetTid(oid)), txn)
                client.vote(txn)
                last = client.finish(txn)
                self.commits += 1
            elif what < 0.6:
                client.send(die.choice(notices))
            elif what < 0.9:
                client.call(die.choice(calls))
            else:
                client.ask(die.choice(calls))
        except RemoteFault as fault:
            if fault.name in ("builtins.AssertionError", "builtins.AttributeError"):
                raise
        except (BrokenPipeError, ConnectionResetError) as error:
            raise Closed from error
        return last

    def _check_order(self, client: RawClient) -> None:
        tids = [tid for tid, _ in client.invalidations()]
        if tids != sorted(set(tids)) or (tids and tids[0] <= client.tid):
            self.violations.append(f"{client.tid.hex()}: {[tid.hex() for tid in tids]}")


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("storage_class", [FileStorage, OwnFileStorage])
def test_fools(
    storage_class: type[FileStorage],
    serve: Serve,
    raw: Connect,
    loop: str,
    seed: int,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The server lives, logs no surprise, frees every lock and leaves nothing behind."""
    caplog.set_level(logging.INFO)
    storage = storage_class(str(tmp_path / "Data.fs"), blob_dir=str(tmp_path / "blobs"))
    server = serve(storage, loop=loop, commit_memory=20_000, transaction_timeout=2.0)
    with RawClient(server.address) as first:
        first.commit({oid_of(n): (Z64, b"x") for n in range(1, 6)})
    fools = [Fool(server.address, seed * 100 + number) for number in range(5)]
    for fool in fools:
        fool.thread.join(60)
        assert not fool.thread.is_alive()
        if fool.error is not None:
            raise fool.error
        assert fool.violations == []
    assert sum(fool.commits for fool in fools) > 10
    wait_until(
        lambda: server.status()["1"]["active_txns"] == server.status()["1"]["connections"] == 0,
        "all that was begun has ended",
    )
    wait_until(lambda: not list((tmp_path / "blobs" / "tmp").iterdir()), "no upload is left")
    client = raw(server.address)
    client.commit({oid_of(9): (Z64, b"last")})
    # ZODB itself reports what it cannot resolve; nothing here can be resolved.
    surprises = [
        record for record in caplog.records if record.exc_info and record.name.startswith("zeolith")
    ]
    assert [record.getMessage() for record in surprises] == []
