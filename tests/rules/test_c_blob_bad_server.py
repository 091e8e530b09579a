"""Class C of the known failures: what a server may not say about blobs.

The load fails with an error that says why, or is repeated; nothing that is not the whole blob gets
its name, nothing is left in the cache, and the next load works.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.rules.conftest import Open, tid_of
from tests.support.blobdisk import checksum, listing
from tests.support.raw import FakeConnection, FakeServer, oid_of
from tests.support.waiting import Background
from ZODB.POSException import POSKeyError

from zeolith import ClientStorage
from zeolith.errors import ClientStorageError, ServerError
from zeolith.protocol.greeting import Coding, Greeting
from zeolith.protocol.limits import STREAM_FRAME
from zeolith.protocol.messages import (
    Call,
    Ping,
    ReceiveBlobChunk,
    ReceiveBlobStart,
    ReceiveBlobStop,
    SendBlob,
)
from zeolith.protocol.streamrequests import (
    OpenBlob,
    StreamCancel,
    StreamCredit,
    StreamData,
    StreamEnd,
    StreamFault,
)

OID, TID = oid_of(1), tid_of(1)
OTHER = oid_of(2)
DATA = b"0123456789"


class Line:
    """A client, and the test as its server.

    :ivar directory: the client's blobs.
    """

    def __init__(self, fake: FakeServer, client: Open, directory: Path, coding: Coding) -> None:
        self.directory = directory
        self.coding = coding
        self._fake = fake
        opening = Background(
            lambda: client(fake.address, blob_dir=str(directory), min_disconnect_poll=0.01)
        )
        self.server = self.admit()
        storage = opening.result()
        assert isinstance(storage, ClientStorage)
        self.storage = storage
        self.before = listing(directory)

    def admit(self) -> FakeConnection:
        """Take the client's next connection."""
        coding = Coding.PICKLE if self.coding is Coding.OWN else self.coding
        connection = self._fake.accept(coding)
        connection.admit(TID)
        return connection

    def load(self) -> tuple[Background, Any]:
        """Have the client load the blob; return the thread that does, and its call."""
        loading = Background(lambda: self.storage.loadBlob(OID, TID))
        return loading, self.call()

    def call(self) -> Any:
        return self.server.expect(OpenBlob if self.coding is Coding.OWN else SendBlob)

    def settle(self) -> None:
        """Wait until the client has read what it was sent."""
        pinging = Background(self.storage.ping)
        while True:
            message: Any = self.server.next()
            if isinstance(message, Call):
                assert isinstance(message.request, Ping)
                self.server.reply(message, None)
                break
            assert isinstance(message[-1], (StreamCancel, StreamCredit))
        pinging.result()

    def is_clean(self) -> bool:
        """Whether there is nothing of a blob; locks and directories may be."""
        names = {Path(name).name for name in set(listing(self.directory)) - set(self.before)}
        return not any(".blob" in name or ".tmp" in name for name in names)

    def check(self) -> None:
        """The next load works."""
        self.settle()
        assert self.is_clean()
        loading, call = self.load()
        self.send_good(call)
        path = loading.result()
        assert checksum(Path(str(path)).read_bytes()) == checksum(DATA)

    def send_good(self, call: Call) -> None:
        server, request = self.server, call.request
        if isinstance(request, OpenBlob):
            server.reply(call, {"size": len(DATA)})
            server.notify(StreamData(request.stream, DATA))
            server.notify(StreamEnd(request.stream))
        else:
            server.notify(ReceiveBlobStart(OID, TID))
            server.notify(ReceiveBlobChunk(OID, TID, DATA))
            server.notify(ReceiveBlobStop(OID, TID))
            server.reply(call, None)


Opener = Callable[[Coding], Line]


@pytest.fixture
def line(fake: FakeServer, client: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Opener:
    def open_line(coding: Coding) -> Line:
        if coding is not Coding.OWN:
            monkeypatch.setattr(Greeting, "version", None)
        return Line(fake, client, tmp_path / "blobs", coding)

    return open_line


# -- Zeolith's own protocol --------------------------------------------------------------------


@pytest.mark.parametrize("size", [-1, 0, 9, 11, 1 << 62])
def test_c_a_size_that_is_not_true(line: Opener, size: int) -> None:
    found = line(Coding.OWN)
    loading, call = found.load()
    found.server.reply(call, {"size": size})
    found.server.notify(StreamData(call.request.stream, DATA))
    found.server.notify(StreamEnd(call.request.stream))
    with pytest.raises(ClientStorageError, match=rf"{size} bytes|how long"):
        loading.result()
    found.check()


def test_c_more_than_was_announced_is_not_taken(line: Opener) -> None:
    """A blob without end would fill the disk."""
    found = line(Coding.OWN)
    loading, call = found.load()
    found.server.reply(call, {"size": 10})
    for _ in range(4):
        found.server.notify(StreamData(call.request.stream, bytes(STREAM_FRAME)))
    # Without waiting for the end.
    with pytest.raises(ClientStorageError, match="10 bytes"):
        loading.result()
    found.server.notify(StreamEnd(call.request.stream))
    found.check()


@pytest.mark.parametrize("answer", [None, {}, {"size": "10"}, {"size": True}, {"size": 1.0}, 10])
def test_c_an_answer_without_a_size(line: Opener, answer: Any) -> None:
    found = line(Coding.OWN)
    loading, call = found.load()
    found.server.reply(call, answer)
    with pytest.raises(ClientStorageError, match="how long"):
        loading.result()
    found.server.notify(StreamEnd(call.request.stream))
    found.check()


def test_c_an_error_in_the_middle(line: Opener) -> None:
    found = line(Coding.OWN)
    loading, call = found.load()
    found.server.reply(call, {"size": 10})
    found.server.notify(StreamData(call.request.stream, b"01234"))
    found.server.notify(StreamFault(call.request.stream, "builtins.OSError", (5, "broken disk")))
    with pytest.raises(ServerError, match="broken disk"):
        loading.result()
    found.check()


def _unknown_data(number: int) -> list[Any]:
    return [StreamData(number + 1, DATA)]


def _two_ends(number: int) -> list[Any]:
    return [StreamEnd(number), StreamEnd(number)]


def _data_behind_the_end(number: int) -> list[Any]:
    return [StreamEnd(number), StreamData(number, DATA)]


def _beyond_the_credit(number: int) -> list[Any]:
    return [StreamData(number, bytes(STREAM_FRAME))] * 9


@pytest.mark.parametrize(
    "make", [_unknown_data, _two_ends, _data_behind_the_end, _beyond_the_credit]
)
def test_c_what_is_not_legal_ends_the_connection(line: Opener, make: Any) -> None:
    """The load is gone on with by the next one, and fails or succeeds with that."""
    found = line(Coding.OWN)
    loading, call = found.load()
    # Before the answer: the client gives no more credit until it has that.
    found.server.send(*map(found.server.notice_bytes, make(call.request.stream)))
    found.server = found.admit()
    call = found.call()
    if call.request.offset:
        # What came before the violation may be gone on with; it is not what it should be.
        found.server.reply(call, {"size": len(DATA)})
        found.server.notify(StreamEnd(call.request.stream))
        with pytest.raises(ClientStorageError, match="10 bytes"):
            loading.result()
        found.check()
        return
    found.send_good(call)
    assert Path(str(loading.result())).read_bytes() == DATA


# -- ZEO's protocol ----------------------------------------------------------------------------

_START, _STOP = ReceiveBlobStart(OID, TID), ReceiveBlobStop(OID, TID)
_CHUNK = ReceiveBlobChunk(OID, TID, DATA)


@pytest.mark.parametrize("coding", [Coding.PICKLE, Coding.MSGPACK], ids=["Z5", "M5"])
@pytest.mark.parametrize(
    "notices",
    [
        pytest.param([], id="nothing"),
        pytest.param([_STOP], id="an end without a beginning"),
        pytest.param([_CHUNK, _STOP], id="data without a beginning"),
        pytest.param([_START, _CHUNK], id="no end"),
        pytest.param([_START], id="a beginning only"),
        pytest.param(
            [
                ReceiveBlobStart(OTHER, TID),
                ReceiveBlobChunk(OTHER, TID, DATA),
                ReceiveBlobStop(OTHER, TID),
            ],
            id="another blob",
        ),
        pytest.param(
            [_START, _CHUNK, ReceiveBlobStop(OID, tid_of(2))], id="the end of another revision"
        ),
    ],
)
def test_c_a_stream_that_is_none(line: Opener, coding: Coding, notices: list[Any]) -> None:
    found = line(coding)
    loading, call = found.load()
    for notice in notices:
        found.server.notify(notice)
    found.server.reply(call, None)
    with pytest.raises(POSKeyError):
        loading.result()
    found.check()


@pytest.mark.parametrize("coding", [Coding.PICKLE, Coding.MSGPACK], ids=["Z5", "M5"])
def test_c_a_stream_that_begins_again(line: Opener, coding: Coding) -> None:
    """Only what follows the last beginning counts."""
    found = line(coding)
    loading, call = found.load()
    for notice in (_START, ReceiveBlobChunk(OID, TID, b"dropped"), _START, _CHUNK, _STOP):
        found.server.notify(notice)
    found.server.notify(_CHUNK)  # behind the end: nobody wants it
    found.server.reply(call, None)
    assert Path(str(loading.result())).read_bytes() == DATA
    found.settle()
    assert Path(found.storage.loadBlob(OID, TID)).read_bytes() == DATA


@pytest.mark.parametrize("coding", list(Coding), ids=lambda coding: coding.name.lower())
def test_c_an_error_instead_of_a_blob(line: Opener, coding: Coding) -> None:
    found = line(coding)
    loading, call = found.load()
    found.server.fault(call, "builtins.OSError", (13, "Permission denied"))
    with pytest.raises(ServerError, match="Permission denied"):
        loading.result()
    found.check()
