"""Commits whose connection is about to be lost in ``tpc_finish``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ZODB.Connection import TransactionMetaData

from tests.support.raw import (
    FakeConnection,
    FakeServer,
    oid_of,
)
from tests.support.waiting import Background
from zeolith.client.storage import ClientStorage
from zeolith.protocol.hello import Database
from zeolith.protocol.messages import (
    Call,
    Notice,
    TpcBegin,
    TpcFinish,
    Vote,
)
from zeolith.protocol.outcome import NOT_COMMITTED, Outcome, State, Verdict, serialize_verdict

from .scripted import tid

OID = oid_of(1)
DATABASE = Database("8533cc74-68ff-41bd-bc70-cf7202d4e705", 1)
COMMITTED = serialize_verdict(Verdict(State.COMMITTED, tid(5)))
NOT = serialize_verdict(NOT_COMMITTED)
UNKNOWN = serialize_verdict(Verdict(State.UNKNOWN, None, "for some reason"))


class Commit:
    """A commit in another thread, and the server's end of it.

    :ivar told: the ids that the database was told of.
    :ivar uid: the unique id that the transaction was begun with.
    """

    def __init__(
        self, storage: ClientStorage, server: FakeConnection, source: Path | None = None
    ) -> None:
        self.meta = TransactionMetaData()
        self.told: list[bytes] = []
        self.uid: bytes | None = None
        storage.tpc_begin(self.meta)
        if source is None:
            storage.store(OID, tid(1), b"ours", "", self.meta)
        else:
            storage.storeBlob(OID, tid(1), b"ours", str(source), "", self.meta)

        def run() -> bytes:
            storage.tpc_vote(self.meta)
            return storage.tpc_finish(self.meta, lambda tid: self.told.append(tid))

        self.thread = Background(run)
        while True:
            message = server.next()
            if isinstance(message, Notice) and isinstance(message.request, TpcBegin):
                self.uid = message.request.uid
            if isinstance(message, Call) and isinstance(message.request, Vote):
                server.reply(message, [])
                break
        server.expect(TpcFinish)

    def result(self) -> object:
        return self.thread.result()


def question(server: FakeConnection) -> Call:
    found = server.expect(Outcome)
    assert isinstance(found, Call)
    return found


def connect_again(fake: FakeServer, last: int = 1, database: Database | None = None) -> Any:
    """Play the server that the client finds next."""
    server = fake.accept()
    server.database = database
    server.admit(tid(last))
    return server
