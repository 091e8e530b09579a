"""Requests about streams: what opens them, and what is said about those that are open."""

from __future__ import annotations

from functools import partial
from typing import Any

from ..errors import IllegalMessage, StreamViolation
from ..protocol.limits import FIRST_UPLOAD
from ..protocol.messages import MsgId
from ..protocol.streamrequests import (
    AttachBlob,
    ForgetUpload,
    OpenBlob,
    OpenIteration,
    OpenUpload,
    StreamCancel,
    StreamCredit,
    StreamData,
    StreamEnd,
    StreamFault,
)
from .blobs import add_upload
from .session import NOTICE, Session
from .sources import BlobSource, IterationSource, Source
from .uploads import size_error


def open_blob(session: Session, msgid: MsgId, request: OpenBlob) -> None:
    access, warm = session.service.access, session.service.warm
    if warm is not None and warm.send(session, msgid, request):
        return
    number, oid, serial, offset, credit = request

    def make() -> tuple[Source, Any]:
        source = BlobSource(access.load_blob(oid, serial), offset, session.codec.checksum)
        try:
            source.begin()
        except BaseException:
            source.close()
            raise
        return source, {"size": source.size}

    session.streams.open(msgid, number, credit, make, is_iteration=False)


def open_iteration(session: Session, msgid: MsgId, request: OpenIteration) -> None:
    number, start, stop, credit = request
    make = partial(_iterate, session, start, stop)
    session.streams.open(msgid, number, credit, make, is_iteration=True)


def _iterate(session: Session, start: bytes | None, stop: bytes | None) -> tuple[Source, Any]:
    return IterationSource(session.service.access, start, stop), None


def open_upload(session: Session, msgid: MsgId, request: OpenUpload) -> None:
    if session.codec.checksum is None:
        raise IllegalMessage("open_upload: no checksums were agreed upon")
    number, identity = request
    if msgid is NOTICE:
        session.incoming.begin(number, identity)
    else:
        session.incoming.open(msgid, number, identity)


def forget_upload(session: Session, msgid: MsgId, request: ForgetUpload) -> None:
    session.incoming.forget(request.stream)


def attach_blob(session: Session, msgid: MsgId, request: AttachBlob) -> None:
    if (request.checksum is None) is not (session.codec.checksum is None):
        what = "none was agreed upon" if request.checksum else "it is missing"
        raise IllegalMessage(f"attach_blob: the checksum is not legal: {what}")
    upload, size = session.incoming.take(request.stream)
    if size != request.size and upload.error is None:
        upload.error = size_error(size, request.size)
    add_upload(session, msgid, upload, request)


def data(session: Session, msgid: MsgId, request: StreamData) -> None:
    session.incoming.received(_from_client(request.stream), request.data)


def end(session: Session, msgid: MsgId, request: StreamEnd) -> None:
    session.incoming.ended(_from_client(request.stream))


def fault(session: Session, msgid: MsgId, request: StreamFault) -> None:
    session.incoming.failed(_from_client(request.stream), request.name)


def credit(session: Session, msgid: MsgId, request: StreamCredit) -> None:
    session.streams.granted(_to_client(request.stream), request.size)


def cancel(session: Session, msgid: MsgId, request: StreamCancel) -> None:
    session.streams.cancelled(_to_client(request.stream))


def _from_client(number: int) -> int:
    if number < FIRST_UPLOAD:
        raise StreamViolation(number, "its bytes come from the server")
    return number


def _to_client(number: int) -> int:
    if number >= FIRST_UPLOAD:
        raise StreamViolation(number, "its bytes come from the client")
    return number
