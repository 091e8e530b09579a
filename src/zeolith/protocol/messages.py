"""One immutable class per message of ZEO protocol 5, and the table of their wire forms.

Source: ``zeo-reference`` C.5 (captured from ZEO 6.2); see ``docs/protocol.md``.

A message on the wire is the tuple ``(msgid, flag, name, args)``.  Here it becomes

- :class:`Call` (an answer is expected) or :class:`Notice` (none is), each wrapping a *request*,
- :class:`Reply` or :class:`Fault` for an answer,
- :class:`Heartbeat`.

Requests are named tuples whose fields are the wire arguments in wire order, so serialising one
is ``tuple(request)`` and parsing one is checking each argument against :data:`REQUESTS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Final, NamedTuple, TypeAlias

from ..errors import IllegalMessage

MsgId: TypeAlias = Any
"""Chosen by the caller and echoed by the answer: ZEO uses integers, and the tuple
``(oid, tid)`` for ``loadBefore``.  Any number, short text or bytes, or tuple of a few of them
is legal."""


# -- requests from client to server ------------------------------------------------------------


class Register(NamedTuple):
    storage: str
    read_only: bool


class GetInfo(NamedTuple):
    pass


class LastTransaction(NamedTuple):
    pass


class Ping(NamedTuple):
    pass


class ServerStatus(NamedTuple):
    pass


class GetInvalidations(NamedTuple):
    tid: bytes


class LoadBefore(NamedTuple):
    oid: bytes
    tid: bytes


class LoadSerial(NamedTuple):
    oid: bytes
    serial: bytes


class GetTid(NamedTuple):
    oid: bytes


class History(NamedTuple):
    oid: bytes
    size: int = 1


class RecordIternext(NamedTuple):
    next: bytes | None = None


class NewOids(NamedTuple):
    n: int = 100


class SetClientLabel(NamedTuple):
    label: str


class TpcBegin(NamedTuple):
    txn: int
    user: bytes
    description: bytes
    extension: dict[Any, Any] | bytes
    tid: bytes | None = None
    status: str = " "
    uid: bytes | None = None
    """16 bytes by which its client may ask later what became of it; only in Zeolith's own protocol:
    ZEO's codings neither send nor take it."""


class Store(NamedTuple):
    oid: bytes
    serial: bytes | None
    data: bytes
    txn: int


class CheckCurrentSerial(NamedTuple):
    oid: bytes
    serial: bytes
    txn: int


class DeleteObject(NamedTuple):
    oid: bytes
    serial: bytes
    txn: int


class Restore(NamedTuple):
    oid: bytes
    serial: bytes
    data: bytes | None
    prev_txn: bytes | None
    txn: int


class Undo(NamedTuple):
    trans_id: bytes
    txn: int


class StoreBlobStart(NamedTuple):
    pass


class StoreBlobChunk(NamedTuple):
    chunk: bytes


class StoreBlobEnd(NamedTuple):
    oid: bytes
    serial: bytes | None
    data: bytes
    txn: int


class StoreBlobShared(NamedTuple):
    oid: bytes
    serial: bytes | None
    data: bytes
    filename: str
    txn: int


class Vote(NamedTuple):
    txn: int


class TpcFinish(NamedTuple):
    txn: int


class TpcAbort(NamedTuple):
    txn: int


class Pack(NamedTuple):
    time: float
    wait: bool = True


class UndoLog(NamedTuple):
    first: int
    last: int


class UndoInfo(NamedTuple):
    first: int
    last: int
    specification: Any = None


class SendBlob(NamedTuple):
    oid: bytes
    serial: bytes


class IteratorStart(NamedTuple):
    start: bytes | None = None
    stop: bytes | None = None


class IteratorNext(NamedTuple):
    iid: int


class IteratorRecordStart(NamedTuple):
    iid: int
    tid: bytes


class IteratorRecordNext(NamedTuple):
    iid: int


class IteratorGc(NamedTuple):
    iids: list[int]


# -- notices from server to client -------------------------------------------------------------


class InvalidateTransaction(NamedTuple):
    tid: bytes
    oids: list[bytes]


class Info(NamedTuple):
    info: dict[str, Any]


class ReceiveBlobStart(NamedTuple):
    oid: bytes
    serial: bytes


class ReceiveBlobChunk(NamedTuple):
    oid: bytes
    serial: bytes
    chunk: bytes


class ReceiveBlobStop(NamedTuple):
    oid: bytes
    serial: bytes


UID_SIZE: Final = 16
"""Bytes of the unique id of a transaction."""

Request: TypeAlias = tuple[Any, ...]
"""An instance of one of the request classes above."""


make_tuple: Final = tuple.__new__
"""``make_tuple(Store, (oid, serial, data, txn))`` makes a request without the named tuple's own
constructor, which is Python code and takes as long as decoding the fields.  Unlike that it checks
nothing, so it is for decoders of a fixed layout only."""


# -- envelopes ---------------------------------------------------------------------------------


class Call(NamedTuple):
    msgid: MsgId
    request: Request


class Notice(NamedTuple):
    request: Request


class Reply(NamedTuple):
    msgid: MsgId
    value: Any


class Committed(NamedTuple):
    """The value of the answer to a ``tpc_finish`` in Zeolith's own protocol.

    :ivar tid: of the transaction.
    :ivar length: objects in the storage now.
    :ivar size: bytes of the storage now.
    """

    tid: bytes
    length: int
    size: int


class Fault(NamedTuple):
    """An answer that is an error: dotted class name and its attributes or arguments."""

    msgid: MsgId
    name: str
    details: Any


class Heartbeat(NamedTuple):
    pass


Message: TypeAlias = Call | Notice | Reply | Fault | Heartbeat


# -- the table ---------------------------------------------------------------------------------


class Flow(Enum):
    """Whether the caller may, must or must not expect an answer."""

    CALL = "call"
    NOTICE = "notice"
    EITHER = "either"


Check: TypeAlias = Callable[[Any], bool]


def _is_id(value: Any) -> bool:
    return type(value) is bytes and len(value) == 8


def _is_id_or_none(value: Any) -> bool:
    return value is None or (type(value) is bytes and len(value) == 8)


def _is_bytes(value: Any) -> bool:
    return type(value) is bytes


def _is_bytes_or_none(value: Any) -> bool:
    return value is None or type(value) is bytes


def _is_text(value: Any) -> bool:
    return type(value) is str


def _is_int(value: Any) -> bool:
    return type(value) is int


def _is_flag(value: Any) -> bool:
    return value is None or type(value) is bool or (type(value) is int and 0 <= value <= 1)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _is_text_or_bytes(value: Any) -> bool:
    # user and description are bytes since ZODB 5, but copyTransactionsFrom of foreign records
    # and old clients pass text; a storage takes both.
    return type(value) is bytes or type(value) is str


def _is_extension(value: Any) -> bool:
    return type(value) is dict or type(value) is bytes or value is None


def _is_ints(value: Any) -> bool:
    return type(value) in (list, tuple) and all(type(item) is int for item in value)


def _is_ids(value: Any) -> bool:
    return type(value) in (list, tuple, set, frozenset) and all(map(_is_id, value))


def _is_dict(value: Any) -> bool:
    return type(value) is dict


def _is_anything(value: Any) -> bool:
    # The decoder has already restricted this to plain values.
    return True


class Form(NamedTuple):
    """Wire form of one request class."""

    name: str
    cls: type[Any]
    flow: Flow
    checks: tuple[Check, ...]
    required: int


def _form(cls: type[Any], name: str, flow: Flow, *checks: Check) -> Form:
    fields = cls._fields
    # Of TpcBegin ZEO's codings know all fields but the last.
    assert len(checks) in (len(fields), len(fields) - (cls is TpcBegin)), name
    return Form(name, cls, flow, checks, len(fields) - len(cls._field_defaults))


_CALL, _EITHER, _NOTICE = Flow.CALL, Flow.EITHER, Flow.NOTICE

SERVER_REQUESTS: Final[Mapping[str, Form]] = {
    form.name: form
    for form in (
        _form(Register, "register", _CALL, _is_text, _is_flag),
        _form(GetInfo, "get_info", _CALL),
        _form(LastTransaction, "lastTransaction", _CALL),
        _form(Ping, "ping", _CALL),
        _form(ServerStatus, "server_status", _CALL),
        _form(GetInvalidations, "getInvalidations", _CALL, _is_id),
        _form(LoadBefore, "loadBefore", _CALL, _is_id, _is_id),
        _form(LoadSerial, "loadSerial", _CALL, _is_id, _is_id),
        _form(GetTid, "getTid", _CALL, _is_id),
        # oid and size are left to the storage: callers rely on its TypeError and POSKeyError.
        _form(History, "history", _CALL, _is_anything, _is_anything),
        _form(RecordIternext, "record_iternext", _CALL, _is_bytes_or_none),
        _form(NewOids, "new_oids", _CALL, _is_int),
        _form(SetClientLabel, "set_client_label", _EITHER, _is_text_or_bytes),
        _form(
            TpcBegin,
            "tpc_begin",
            _EITHER,
            _is_int,
            _is_text_or_bytes,
            _is_text_or_bytes,
            _is_extension,
            _is_id_or_none,
            _is_text,
        ),
        _form(Store, "storea", _EITHER, _is_id, _is_id_or_none, _is_bytes, _is_int),
        _form(
            CheckCurrentSerial,
            "checkCurrentSerialInTransaction",
            _EITHER,
            _is_id,
            _is_id,
            _is_int,
        ),
        _form(DeleteObject, "deleteObject", _EITHER, _is_id, _is_id, _is_int),
        _form(
            Restore,
            "restorea",
            _EITHER,
            _is_id,
            _is_id_or_none,
            _is_bytes_or_none,
            _is_id_or_none,
            _is_int,
        ),
        _form(Undo, "undoa", _EITHER, _is_bytes, _is_int),
        _form(StoreBlobStart, "storeBlobStart", _EITHER),
        _form(StoreBlobChunk, "storeBlobChunk", _EITHER, _is_bytes),
        _form(StoreBlobEnd, "storeBlobEnd", _EITHER, _is_id, _is_id_or_none, _is_bytes, _is_int),
        _form(
            StoreBlobShared,
            "storeBlobShared",
            _EITHER,
            _is_id,
            _is_id_or_none,
            _is_bytes,
            _is_text,
            _is_int,
        ),
        _form(Vote, "vote", _CALL, _is_int),
        _form(TpcFinish, "tpc_finish", _CALL, _is_int),
        _form(TpcAbort, "tpc_abort", _EITHER, _is_int),
        _form(Pack, "pack", _EITHER, _is_number, _is_flag),
        _form(UndoLog, "undoLog", _CALL, _is_int, _is_int),
        _form(UndoInfo, "undoInfo", _CALL, _is_int, _is_int, _is_anything),
        _form(SendBlob, "sendBlob", _CALL, _is_id, _is_id),
        _form(IteratorStart, "iterator_start", _CALL, _is_id_or_none, _is_id_or_none),
        _form(IteratorNext, "iterator_next", _CALL, _is_int),
        _form(IteratorRecordStart, "iterator_record_start", _CALL, _is_int, _is_id),
        _form(IteratorRecordNext, "iterator_record_next", _CALL, _is_int),
        _form(IteratorGc, "iterator_gc", _EITHER, _is_ints),
    )
}
"""What a client may ask of a server, by wire name."""

CLIENT_REQUESTS: Final[Mapping[str, Form]] = {
    form.name: form
    for form in (
        _form(InvalidateTransaction, "invalidateTransaction", _NOTICE, _is_id, _is_ids),
        _form(Info, "info", _NOTICE, _is_dict),
        _form(ReceiveBlobStart, "receiveBlobStart", _NOTICE, _is_id, _is_id),
        _form(ReceiveBlobChunk, "receiveBlobChunk", _NOTICE, _is_id, _is_id, _is_bytes),
        _form(ReceiveBlobStop, "receiveBlobStop", _NOTICE, _is_id, _is_id),
    )
}
"""What a server may tell a client, by wire name."""

WIRE_NAMES: Final[Mapping[type[Any], str]] = {
    form.cls: form.name for table in (SERVER_REQUESTS, CLIENT_REQUESTS) for form in table.values()
}


def parse_request(forms: Mapping[str, Form], is_notice: bool, name: Any, args: Any) -> Request:
    """Return the request that *name* and *args* describe.

    :param forms: :data:`SERVER_REQUESTS` or :data:`CLIENT_REQUESTS`.
    :param is_notice: whether the sender expects no answer.
    :raises IllegalMessage: unknown name, wrong flow, or arguments that do not fit.
    """
    form = forms.get(name) if type(name) is str else None
    if form is None:
        raise IllegalMessage(f"unknown method {str(name)[:60]!r}")
    if form.flow is (Flow.CALL if is_notice else Flow.NOTICE):
        raise IllegalMessage(f"{form.name} is not legal as a {'notice' if is_notice else 'call'}")
    if type(args) not in (tuple, list) or not form.required <= len(args) <= len(form.checks):
        raise IllegalMessage(f"{form.name} takes {len(form.checks)} arguments")
    for field, check, value in zip(form.cls._fields, form.checks, args):
        if not check(value):
            raise IllegalMessage(
                f"{form.name}: {field} is of type {type(value).__name__} or malformed"
            )
    request: Request = form.cls(*args)
    return request
