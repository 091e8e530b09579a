"""The encoding of Zeolith's own protocol, version 1.

A payload begins with one byte that tells its *kind*.  What travels all the time has a kind of its
own with a fixed binary layout; everything else is a number for the method and its arguments in
msgpack.  There is no pickle: the pickles that ZODB makes travel
as bytes that nobody here looks into.

All numbers are big-endian.  ``docs/protocol.md`` has the layouts as a table.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from struct import Struct
from typing import Any, Final

from ..errors import IllegalMessage, MessageTooLarge, UndecodableMessage
from . import messages as m
from . import msgpacks
from .codec import Codec, Loaded
from .framing import HEADER_SIZE, MAX_PAYLOAD, frame, pack_length
from .greeting import Coding
from .limits import Limits
from .messages import (
    WIRE_NAMES,
    Call,
    Fault,
    Form,
    Heartbeat,
    Message,
    MsgId,
    Notice,
    Reply,
    make_tuple,
    parse_request,
)
from .messages import Request as AnyRequest

# -- kinds -------------------------------------------------------------------------------------

CALL: Final = 0x01
NOTICE: Final = 0x02
REPLY: Final = 0x03
FAULT: Final = 0x04
HEARTBEAT: Final = 0x05
REPLY_NOTHING: Final = 0x06
REPLY_ID: Final = 0x07
REPLY_IDS: Final = 0x08
LOAD: Final = 0x10
LOADED: Final = 0x11
LOADED_EARLIER: Final = 0x12
LOADED_NOTHING: Final = 0x13
LOAD_FAULT: Final = 0x14
BEGIN: Final = 0x20
STORE: Final = 0x21
STORE_NEW: Final = 0x22
VOTE: Final = 0x23
FINISH: Final = 0x24
INVALIDATE: Final = 0x30
INFO: Final = 0x31

METHODS: Final[Mapping[int, type[Any]]] = {
    1: m.Register,
    2: m.GetInfo,
    3: m.LastTransaction,
    4: m.Ping,
    5: m.ServerStatus,
    6: m.GetInvalidations,
    7: m.LoadSerial,
    8: m.GetTid,
    9: m.History,
    10: m.RecordIternext,
    11: m.NewOids,
    12: m.SetClientLabel,
    13: m.Pack,
    14: m.UndoLog,
    15: m.UndoInfo,
    16: m.IteratorStart,
    17: m.IteratorNext,
    18: m.IteratorRecordStart,
    19: m.IteratorRecordNext,
    20: m.IteratorGc,
    32: m.CheckCurrentSerial,
    33: m.DeleteObject,
    34: m.Restore,
    35: m.Undo,
    36: m.TpcAbort,
    37: m.TpcBegin,
    38: m.Store,
    48: m.StoreBlobStart,
    49: m.StoreBlobChunk,
    50: m.StoreBlobEnd,
    51: m.StoreBlobShared,
    52: m.SendBlob,
    64: m.Info,
    65: m.ReceiveBlobStart,
    66: m.ReceiveBlobChunk,
    67: m.ReceiveBlobStop,
}
"""The requests that have no kind of their own, and two that have one only as notices, by number; a
number is never used for another."""

_NUMBERS: Final = {cls: number for number, cls in METHODS.items()}
_NAMES: Final = {number: WIRE_NAMES[cls] for number, cls in METHODS.items()}

_MAX_ID: Final = 0xFFFFFFFFFFFFFFFF
"""Greatest id of a call."""

# -- layouts -----------------------------------------------------------------------------------

# With the length of the frame, for writing.
_pack_tagged = Struct(">IBQ").pack
_pack_call = Struct(">IBQB").pack
_pack_notice = Struct(">IBB").pack
_pack_step = Struct(">IBQq").pack
_pack_store = Struct(">IBq").pack
_pack_begin = Struct(">IBqBBIII").pack
_pack_head = Struct(">IB").pack
_pack_info = Struct(">IBQQ").pack

# Without it, for reading.
_TAG: Final = Struct(">xQ")
_CALL: Final = Struct(">xQB")
_STEP: Final = Struct(">xQq")
_BEGIN: Final = Struct(">xqBBIII")
_unpack_key = Struct(">x8s8s").unpack_from
_unpack_store = Struct(">xq8s8s").unpack_from
_unpack_store_new = Struct(">xq8s").unpack_from
_unpack_info = Struct(">xQQ").unpack
_unpack_load = Struct(">5s8s8s").unpack
_unpack_loaded = Struct(">5x8s8s8s").unpack_from
_unpack_earlier = Struct(">5x8s8s8s8s").unpack_from

_LOAD_HEAD: Final = pack_length(17) + bytes([LOAD])
_LOADED_SIZE: Final = 25
_EARLIER_SIZE: Final = 33
_HAS_TID: Final = 1
"""Flag of a BEGIN that ends with the id which the transaction is to have."""


class OwnCodec(Codec):
    """Coding of Zeolith's own protocol."""

    coding = Coding.OWN
    load_before_size = HEADER_SIZE + 17

    def __init__(
        self, incoming: Mapping[str, Form], limits: Limits, max_payload: int = MAX_PAYLOAD
    ) -> None:
        super().__init__(incoming, limits, max_payload)
        self._readers: Mapping[int, Callable[[bytes], Message]] = {
            CALL: self._read_call,
            NOTICE: self._read_notice,
            REPLY: self._read_reply,
            FAULT: self._read_fault,
            HEARTBEAT: _read_heartbeat,
            REPLY_NOTHING: _read_nothing,
            REPLY_ID: _read_id,
            REPLY_IDS: self._read_ids,
            LOAD: _read_load,
            LOADED: _read_loaded,
            LOADED_EARLIER: _read_earlier,
            LOADED_NOTHING: _read_load_nothing,
            LOAD_FAULT: self._read_load_fault,
            BEGIN: _read_begin,
            STORE: _read_store,
            STORE_NEW: _read_store_new,
            VOTE: _read_vote,
            FINISH: _read_finish,
            INVALIDATE: self._read_invalidate,
            INFO: _read_info,
        }

    # -- loads ---------------------------------------------------------------------------------

    def load_before(self, oid: bytes, tid: bytes) -> bytes:
        return _LOAD_HEAD + oid + tid

    def loaded(
        self, key: tuple[bytes, bytes], data: bytes, start: bytes, end: bytes | None
    ) -> bytes:
        oid, tid = key
        if end is None:
            size = _LOADED_SIZE + len(data)
            if size > self.max_payload:
                raise MessageTooLarge(size, self.max_payload)
            return b"".join((_pack_head(size, LOADED), oid, tid, start, data))
        size = _EARLIER_SIZE + len(data)
        if size > self.max_payload:
            raise MessageTooLarge(size, self.max_payload)
        return b"".join((_pack_head(size, LOADED_EARLIER), oid, tid, start, end, data))

    def parse_load_before(self, frame: bytes) -> tuple[bytes, bytes] | None:
        head, oid, tid = _unpack_load(frame)
        return (oid, tid) if head == _LOAD_HEAD else None

    def parse_loaded(self, frame: bytes) -> Loaded | None:
        size = len(frame)
        if size < HEADER_SIZE + _LOADED_SIZE:
            return None
        kind = frame[HEADER_SIZE]
        if kind == LOADED:
            oid, tid, start = _unpack_loaded(frame)
            return (oid, tid), (frame[HEADER_SIZE + _LOADED_SIZE :], start, None)
        if kind == LOADED_EARLIER and size >= HEADER_SIZE + _EARLIER_SIZE:
            oid, tid, start, end = _unpack_earlier(frame)
            return (oid, tid), (frame[HEADER_SIZE + _EARLIER_SIZE :], start, end)
        return None

    # -- writing -------------------------------------------------------------------------------

    def call(self, msgid: MsgId, request: AnyRequest) -> bytes:
        cls = request.__class__
        if cls is m.LoadBefore:
            oid, tid = request
            if msgid != (oid, tid):
                raise ValueError("the id of a load is what it asks for")
            return self.load_before(_id(oid), _id(tid))
        _check_tag(msgid)
        if cls is m.Vote:
            return _pack_step(17, VOTE, msgid, _txn(request[0]))
        if cls is m.TpcFinish:
            return _pack_step(17, FINISH, msgid, _txn(request[0]))
        self._check_parts(request)
        if cls is m.TpcBegin:
            request = _normalized(request)
        args = msgpacks.dumps(tuple(request))
        size = self._fit(10 + len(args))
        return _pack_call(size, CALL, msgid, _number(cls)) + args

    def notice(self, request: AnyRequest) -> bytes:
        self._check_parts(request)
        writer = _NOTICE_WRITERS.get(request.__class__)
        found = None if writer is None else writer(request, self.max_payload)
        if found is not None:
            return found
        args = msgpacks.dumps(tuple(request))
        size = self._fit(2 + len(args))
        return _pack_notice(size, NOTICE, _number(request.__class__)) + args

    def _check_parts(self, request: AnyRequest) -> None:
        # Before it is copied.
        for value in request:
            if value.__class__ is bytes and len(value) > self.max_payload:
                raise MessageTooLarge(len(value), self.max_payload)

    def _fit(self, size: int) -> int:
        """Return *size*, which is that of a payload to be written."""
        return _fit(size, self.max_payload)

    def reply(self, msgid: MsgId, value: Any) -> bytes:
        if isinstance(msgid, tuple):
            oid, tid = msgid
            if value is None:
                return _pack_head(17, LOADED_NOTHING) + _id(oid) + _id(tid)
            data, start, end = value
            return self.loaded((_id(oid), _id(tid)), data, start, end)
        _check_tag(msgid)
        cls = value.__class__
        if value is None:
            return _pack_tagged(9, REPLY_NOTHING, msgid)
        if cls is bytes and len(value) == 8:
            head: bytes = _pack_tagged(17, REPLY_ID, msgid)
            return head + bytes(value)
        if (cls is list or cls is tuple) and _are_ids(value):
            ids = b"".join(value)
            return _pack_tagged(self._fit(9 + len(ids)), REPLY_IDS, msgid) + ids
        body = msgpacks.dumps(value)
        return _pack_tagged(self._fit(9 + len(body)), REPLY, msgid) + body

    def fault(self, msgid: MsgId, name: str, details: Any) -> bytes:
        body = msgpacks.dumps((name, details))
        if isinstance(msgid, tuple):
            oid, tid = msgid
            head = _pack_head(self._fit(17 + len(body)), LOAD_FAULT) + _id(oid) + _id(tid)
        else:
            _check_tag(msgid)
            head = _pack_tagged(self._fit(9 + len(body)), FAULT, msgid)
        return head + body

    def heartbeat(self) -> bytes:
        return frame(bytes([HEARTBEAT]))

    # -- reading -------------------------------------------------------------------------------

    def decode(self, payload: bytes) -> Message:
        reader = self._readers.get(payload[0]) if payload else None
        if reader is None:
            raise UndecodableMessage(f"a message of unknown kind {payload[:1].hex()!r}")
        try:
            return reader(payload)
        except struct.error:
            raise UndecodableMessage(
                f"a message of kind {payload[0]:#04x} has not its length"
            ) from None

    def _read_call(self, payload: bytes) -> Message:
        msgid, number = _CALL.unpack_from(payload)
        try:
            return Call(msgid, self._parse(number, False, payload[10:]))
        except IllegalMessage as error:
            error.msgid = msgid
            raise

    def _read_notice(self, payload: bytes) -> Message:
        if len(payload) < 2:
            raise UndecodableMessage("a notice without a method")
        return Notice(self._parse(payload[1], True, payload[2:]))

    def _parse(self, number: int, is_notice: bool, body: bytes) -> AnyRequest:
        name = _NAMES.get(number)
        if name is None:
            raise IllegalMessage(f"unknown method {number}")
        args = msgpacks.loads(body, self._limits)
        request = parse_request(self._incoming, is_notice, name, args)
        if request.__class__ is m.TpcBegin and type(request[3]) is not bytes:
            raise IllegalMessage("tpc_begin: extension is not the bytes that storages keep")
        return request

    def _read_reply(self, payload: bytes) -> Message:
        (msgid,) = _TAG.unpack_from(payload)
        return Reply(msgid, msgpacks.loads(payload[9:], self._limits))

    def _read_fault(self, payload: bytes) -> Message:
        (msgid,) = _TAG.unpack_from(payload)
        return Fault(msgid, *self._error(payload[9:]))

    def _read_load_fault(self, payload: bytes) -> Message:
        return Fault(_unpack_key(payload), *self._error(payload[17:]))

    def _error(self, body: bytes) -> tuple[str, Any]:
        error = msgpacks.loads(body, self._limits)
        if type(error) is not tuple or len(error) != 2 or type(error[0]) is not str:
            raise UndecodableMessage("an error is a class name and its arguments")
        return error

    def _read_ids(self, payload: bytes) -> Message:
        (msgid,) = _TAG.unpack_from(payload)
        return Reply(msgid, self._ids(payload))

    def _read_invalidate(self, payload: bytes) -> Message:
        (tid,) = struct.unpack_from(">x8s", payload)
        return make_tuple(Notice, (make_tuple(m.InvalidateTransaction, (tid, self._ids(payload))),))

    def _ids(self, payload: bytes) -> tuple[bytes, ...]:
        """Return the ids that fill *payload* from its tenth byte on."""
        size = len(payload)
        count, rest = divmod(size - 9, 8)
        if rest:
            raise UndecodableMessage("a list of ids ends within one")
        if count > self._limits.max_items:
            raise UndecodableMessage(f"more than {self._limits.max_items} items in one message")
        return tuple([payload[at : at + 8] for at in range(9, size, 8)])


# -- fixed layouts -----------------------------------------------------------------------------


def _id(value: bytes) -> bytes:
    if value.__class__ is not bytes or len(value) != 8:
        raise ValueError(f"{value!r:.60} is no id of eight bytes")
    return value


def _are_ids(values: Any) -> bool:
    return all(value.__class__ is bytes and len(value) == 8 for value in values)


def _check_tag(msgid: Any) -> None:
    if msgid.__class__ is not int or not 0 <= msgid <= _MAX_ID:
        raise ValueError(f"{msgid!r:.60} is no id of a call")


def _txn(value: int) -> int:
    if value.__class__ is not int or not -(1 << 63) <= value < 1 << 63:
        raise ValueError(f"{value!r:.60} is no number of a transaction")
    return value


def _number(cls: type[Any]) -> int:
    number = _NUMBERS.get(cls)
    if number is None:
        raise ValueError(f"{cls.__name__} cannot be sent in this way")
    return number


def _fit(size: int, limit: int) -> int:
    if size > limit:
        raise MessageTooLarge(size, limit)
    return size


def _write_store(request: AnyRequest, limit: int) -> bytes:
    oid, serial, data, txn = request
    if serial is None:
        size = _fit(17 + len(data), limit)
        return b"".join((_pack_store(size, STORE_NEW, _txn(txn)), _id(oid), data))
    size = _fit(25 + len(data), limit)
    return b"".join((_pack_store(size, STORE, _txn(txn)), _id(oid), _id(serial), data))


def _write_begin(request: AnyRequest, limit: int) -> bytes:
    txn, user, description, extension, tid, status = _normalized(request)
    mark = status.encode("ascii")
    if len(mark) != 1:
        raise ValueError(f"the status of a transaction is one character, not {status!r:.20}")
    tail = b"" if tid is None else _id(tid)
    flags = 0 if tid is None else _HAS_TID
    sizes = len(user), len(description), len(extension)
    size = _fit(_BEGIN.size + sum(sizes) + len(tail), limit)
    head = _pack_begin(size, BEGIN, _txn(txn), flags, mark[0], *sizes)
    return b"".join((head, user, description, extension, tail))


def _normalized(request: AnyRequest) -> AnyRequest:
    """Return a TpcBegin that has bytes for texts and extension data."""
    txn, user, description, extension, tid, status = request
    if not extension:
        extension = b""
    elif extension.__class__ is not bytes:
        raise TypeError("extension data is sent as the bytes that storages keep")
    return m.TpcBegin(txn, _bytes_of(user), _bytes_of(description), extension, tid, status)


def _bytes_of(text: str | bytes) -> bytes:
    return text.encode("utf-8") if isinstance(text, str) else text


def _write_invalidate(request: AnyRequest, _limit: int) -> bytes:
    # It goes to many clients; each connection looks at the limit of its own.
    tid, oids = request
    if not _are_ids(oids):
        raise ValueError("an object id has eight bytes")
    ids = b"".join(oids)
    size = _fit(9 + len(ids), MAX_PAYLOAD)
    return b"".join((_pack_head(size, INVALIDATE), _id(tid), ids))


def _write_info(request: AnyRequest, _limit: int) -> bytes | None:
    """Return the frame, or None if there is more to say than two numbers."""
    info = request[0]
    length, size = info.get("length"), info.get("size")
    if (
        len(info) == 2
        and length.__class__ is int
        and size.__class__ is int
        and min(length, size) >= 0
        and max(length, size) <= _MAX_ID
    ):
        return _pack_info(17, INFO, length, size)
    return None


_NOTICE_WRITERS: Final[Mapping[type[Any], Callable[[AnyRequest, int], bytes | None]]] = {
    m.Store: _write_store,
    m.TpcBegin: _write_begin,
    m.InvalidateTransaction: _write_invalidate,
    m.Info: _write_info,
}


def _read_heartbeat(payload: bytes) -> Message:
    if len(payload) != 1:
        raise UndecodableMessage("a heartbeat with something in it")
    return Heartbeat()


def _read_nothing(payload: bytes) -> Message:
    (msgid,) = _TAG.unpack(payload)
    return make_tuple(Reply, (msgid, None))


def _read_id(payload: bytes) -> Message:
    msgid, value = struct.unpack(">xQ8s", payload)
    return make_tuple(Reply, (msgid, value))


def _read_load(payload: bytes) -> Message:
    oid, tid = struct.unpack(">x8s8s", payload)
    key = make_tuple(m.LoadBefore, (oid, tid))
    return make_tuple(Call, (key, key))


def _read_loaded(payload: bytes) -> Message:
    oid, tid, start = struct.unpack_from(">x8s8s8s", payload)
    return make_tuple(Reply, ((oid, tid), (payload[_LOADED_SIZE:], start, None)))


def _read_earlier(payload: bytes) -> Message:
    oid, tid, start, end = struct.unpack_from(">x8s8s8s8s", payload)
    return make_tuple(Reply, ((oid, tid), (payload[_EARLIER_SIZE:], start, end)))


def _read_load_nothing(payload: bytes) -> Message:
    return make_tuple(Reply, (struct.unpack(">x8s8s", payload), None))


def _read_begin(payload: bytes) -> Message:
    txn, flags, mark, *sizes = _BEGIN.unpack_from(payload)
    if flags > _HAS_TID or mark > 127:
        raise UndecodableMessage("the beginning of a transaction with unknown flags")
    texts = []
    at = _BEGIN.size
    for size in (*sizes, 8 * flags):
        texts.append(payload[at : at + size])
        at += size
    if at != len(payload):
        raise UndecodableMessage("the beginning of a transaction has not its length")
    user, description, extension, tail = texts
    tid = tail if flags else None
    request = make_tuple(m.TpcBegin, (txn, user, description, extension, tid, chr(mark)))
    return make_tuple(Notice, (request,))


def _read_store(payload: bytes) -> Message:
    txn, oid, serial = _unpack_store(payload)
    return make_tuple(Notice, (make_tuple(m.Store, (oid, serial, payload[25:], txn)),))


def _read_store_new(payload: bytes) -> Message:
    txn, oid = _unpack_store_new(payload)
    return make_tuple(Notice, (make_tuple(m.Store, (oid, None, payload[17:], txn)),))


def _read_vote(payload: bytes) -> Message:
    msgid, txn = _STEP.unpack(payload)
    return make_tuple(Call, (msgid, make_tuple(m.Vote, (txn,))))


def _read_finish(payload: bytes) -> Message:
    msgid, txn = _STEP.unpack(payload)
    return make_tuple(Call, (msgid, make_tuple(m.TpcFinish, (txn,))))


def _read_info(payload: bytes) -> Message:
    length, size = _unpack_info(payload)
    return Notice(m.Info({"length": length, "size": size}))
