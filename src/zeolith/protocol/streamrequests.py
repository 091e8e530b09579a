"""What is said about streams in Zeolith's own protocol: requests that open one, and its messages.

Each is a named tuple as those in :mod:`.messages` are.  The messages of a stream have kinds of
their own (:mod:`.streamlayouts`), the others a number (:mod:`.own`); ``docs/protocol.md`` says what
they mean, :mod:`.streams` when they are legal.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from .checksums import DIGEST_SIZE
from .limits import FIRST_UPLOAD, IDENTITY_SIZE, MAX_STREAM_CREDIT, MAX_STREAM_NUMBER
from .messages import Check, Flow, Form


class OpenBlob(NamedTuple):
    """Send a blob from *offset* on; the answer is a map with its ``size``, all of it."""

    stream: int
    oid: bytes
    serial: bytes
    offset: int
    credit: int


class OpenUpload(NamedTuple):
    """The next upload is *stream*, and is known by *identity* on other connections, too.

    A call is answered with a map: ``offset``, how many bytes of it the server has.

    :ivar identity: :data:`.limits.IDENTITY_SIZE` random bytes.
    """

    stream: int
    identity: bytes


class AttachBlob(NamedTuple):
    """What arrived on *stream*, *size* bytes, is the blob of *oid* in transaction *txn*.

    :ivar checksum: of it, by the algorithm of the connection; None if there is none.
    """

    stream: int
    oid: bytes
    serial: bytes | None
    data: bytes
    txn: int
    size: int
    checksum: bytes | None = None


class ForgetUpload(NamedTuple):
    """The client gives *stream* up, whatever it has said of it so far; nothing if a transaction has
    it, or if there is none."""

    stream: int


class OpenIteration(NamedTuple):
    """Send the transactions from *start* to *stop*, as :mod:`.entries` has them."""

    stream: int
    start: bytes | None
    stop: bytes | None
    credit: int


class StreamData(NamedTuple):
    """The next bytes; of a long message those that have come, as a view."""

    stream: int
    data: bytes | memoryview


class StreamEnd(NamedTuple):
    """All has been sent.

    :ivar checksum: of the whole blob, by the algorithm of the connection; None if it has none, or
        the stream is no blob.
    """

    stream: int
    checksum: bytes | None = None


class StreamFault(NamedTuple):
    """Instead of an end: dotted class name of the error, and its attributes or arguments."""

    stream: int
    name: str
    details: Any


class StreamCredit(NamedTuple):
    """The receiver takes *size* bytes more."""

    stream: int
    size: int


class StreamCancel(NamedTuple):
    """The receiver wants no more; the sender ends the stream."""

    stream: int


def _is_number(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_STREAM_NUMBER


def _is_download(value: Any) -> bool:
    return type(value) is int and 0 <= value < FIRST_UPLOAD


def _is_upload(value: Any) -> bool:
    return type(value) is int and FIRST_UPLOAD <= value <= MAX_STREAM_NUMBER


def _is_credit(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_STREAM_CREDIT


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _is_int(value: Any) -> bool:
    return type(value) is int


def _is_checksum(value: Any) -> bool:
    return value is None or (type(value) is bytes and len(value) == DIGEST_SIZE)


def _is_bytes(value: Any) -> bool:
    return type(value) is bytes


def _is_identity(value: Any) -> bool:
    return type(value) is bytes and len(value) == IDENTITY_SIZE


def _is_id(value: Any) -> bool:
    return type(value) is bytes and len(value) == 8


def _is_id_or_none(value: Any) -> bool:
    return value is None or _is_id(value)


def _is_text(value: Any) -> bool:
    return type(value) is str


def _is_anything(_value: Any) -> bool:
    # The decoder has already restricted this to plain values.
    return True


def _form(cls: type[Any], name: str, flow: Flow, *checks: Check) -> Form:
    assert len(cls._fields) == len(checks), name
    return Form(name, cls, flow, checks, len(checks) - len(cls._field_defaults))


_OPENING: Final = (
    _form(
        OpenBlob, "open_blob", Flow.CALL,
        _is_download, _is_id, _is_id, _is_size, _is_credit,
    ),
    _form(OpenUpload, "open_upload", Flow.EITHER, _is_upload, _is_identity),
    _form(
        AttachBlob, "attach_blob", Flow.EITHER,
        _is_upload, _is_id, _is_id_or_none, _is_bytes, _is_int, _is_size, _is_checksum,
    ),
    _form(ForgetUpload, "forget_upload", Flow.NOTICE, _is_upload),
    _form(
        OpenIteration, "open_iteration", Flow.CALL,
        _is_download, _is_id_or_none, _is_id_or_none, _is_credit,
    ),
)  # fmt: skip

_MESSAGES: Final = (
    _form(StreamData, "stream_data", Flow.NOTICE, _is_number, _is_bytes),
    _form(StreamEnd, "stream_end", Flow.NOTICE, _is_number, _is_checksum),
    _form(StreamFault, "stream_fault", Flow.NOTICE, _is_number, _is_text, _is_anything),
    _form(StreamCredit, "stream_credit", Flow.NOTICE, _is_number, _is_credit),
    _form(StreamCancel, "stream_cancel", Flow.NOTICE, _is_number),
)

STREAM_CLIENT_REQUESTS: Final[Mapping[str, Form]] = {form.name: form for form in _MESSAGES}
"""What a server may tell a client about streams, by name."""

STREAM_SERVER_REQUESTS: Final[Mapping[str, Form]] = {
    **{form.name: form for form in _OPENING},
    **STREAM_CLIENT_REQUESTS,
}
"""What a client may ask of a server about streams, by name."""

STREAM_MESSAGES: Final = frozenset(form.cls for form in _MESSAGES)
"""The messages of a stream that has been opened."""
