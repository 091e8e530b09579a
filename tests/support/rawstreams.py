"""Streams on a raw client's connection, driven message by message."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from tests.support.raw import RawClient

from zeolith.protocol.limits import BULK_FRAME, FIRST_UPLOAD, STREAM_FRAME
from zeolith.protocol.messages import Message, Notice, Ping, Store
from zeolith.protocol.streamrequests import (
    AttachBlob,
    OpenBlob,
    StreamCancel,
    StreamCredit,
    StreamData,
    StreamEnd,
    StreamFault,
)


class RawStreams:
    """Keeps what comes on streams, and sends uploads.

    :ivar data: what has come, by the stream's number.
    :ivar order: numbers of the streams, one for each message of data.
    :ivar ends: StreamEnd or StreamFault, by number.
    :ivar credit: given by the server for uploads, by number.
    :ivar cancelled: uploads that the server wants no more of.
    """

    def __init__(self, client: RawClient) -> None:
        self.client = client
        self.data: dict[int, bytes] = defaultdict(bytes)
        self.order: list[int] = []
        self.ends: dict[int, Any] = {}
        self.credit: dict[int, int] = defaultdict(int)
        self.cancelled: set[int] = set()
        codec = client.peer.codec
        assert codec is not None
        self._most = STREAM_FRAME if codec.checksum is None else BULK_FRAME

    def next(self) -> Message:
        """Take the next message, whatever it is, and return it."""
        message = self.client.next()
        if isinstance(message, Notice):
            request = message.request
            if isinstance(request, StreamData):
                assert 0 < len(request.data) <= self._most
                assert request.stream not in self.ends
                self.data[request.stream] += request.data
                self.order.append(request.stream)
            elif isinstance(request, (StreamEnd, StreamFault)):
                assert request.stream not in self.ends
                self.ends[request.stream] = request
            elif isinstance(request, StreamCredit):
                self.credit[request.stream] += request.size
            elif isinstance(request, StreamCancel):
                self.cancelled.add(request.stream)
        return message

    def open(self, number: int, oid: bytes, tid: bytes, offset: int = 0, credit: int = 0) -> Any:
        """Open a blob; return the answer."""
        return self.client.call(OpenBlob(number, oid, tid, offset, credit))

    def settle(self) -> None:
        """Take all that the server has sent up to now."""
        msgid = self.client.ask(Ping())
        while getattr(self.next(), "msgid", None) != msgid:
            pass

    def read_to_end(self, number: int, gives_credit: bool = True) -> Any:
        """Take messages until the stream ends; return how it did."""
        while number not in self.ends:
            message = self.next()
            if gives_credit and isinstance(message, Notice):
                request = message.request
                if isinstance(request, StreamData) and request.stream == number:
                    self.client.send(StreamCredit(number, len(request.data)))
        return self.ends[number]

    def read_until(self, number: int, size: int) -> None:
        """Take messages until *size* bytes of the stream have come."""
        while len(self.data[number]) < size:
            assert number not in self.ends
            self.next()

    def upload(self, number: int, data: bytes, size: int = STREAM_FRAME) -> None:
        """Send a whole upload, within the first credit."""
        parts = [data[at : at + size] for at in range(0, len(data), size)]
        self.client.send(*(StreamData(number, part) for part in parts), StreamEnd(number))

    def attach(
        self, number: int, oid: bytes, size: int, serial: bytes = bytes(8), txn: int = 1
    ) -> None:
        """Store a record, and attach an upload to it."""
        self.client.send(
            Store(oid, serial, b"record", txn),
            AttachBlob(number, oid, serial, b"record", txn, size),
        )

    def commit(self, oid: bytes, data: bytes, number: int = FIRST_UPLOAD) -> bytes:
        """Commit a small blob; return the transaction's id."""
        self.client.begin()
        self.upload(number, data)
        self.attach(number, oid, len(data))
        self.client.vote()
        return self.client.finish()
