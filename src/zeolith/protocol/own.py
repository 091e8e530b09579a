"""The encoding of Zeolith's own protocol, version 1.

A payload begins with one byte that tells its *kind*.  What travels all the time has a kind of its
own with a fixed binary layout; everything else is a number for the method and its arguments in
msgpack.  There is no pickle: the pickles that ZODB makes travel
as bytes that nobody here looks into.

All numbers are big-endian.  ``docs/protocol.md`` has the layouts as a table.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from struct import Struct
from typing import Any, Final

from ..errors import IllegalMessage, MessageTooLarge, UndecodableMessage
from . import messages as m
from . import msgpacks
from .additions import NAMES, CacheReport, ChangesSince, VerifyMany
from .attachments import parse_attachment
from .codec import Codec, Loaded
from .compression import COMPRESSED, HEAD_SIZE, decompress, original_size
from .framing import HEADER_SIZE, frame, pack_length
from .greeting import Coding
from .layouts import (
    CALL,
    EARLIER_SIZE,
    FAULT,
    FINISH,
    FIXED_READERS,
    HEARTBEAT,
    INVALIDATE,
    LOAD,
    LOAD_FAULT,
    LOAD_MANY,
    LOADED,
    LOADED_EARLIER,
    LOADED_MANY,
    LOADED_NOTHING,
    LOADED_SIZE,
    NOTICE,
    NOTICE_WRITERS,
    REPLY,
    REPLY_ID,
    REPLY_IDS,
    REPLY_NOTHING,
    TAG,
    VOTE,
    are_ids,
    check_id,
    check_tag,
    check_txn,
    fit,
    normalized,
    pack_head,
    size_numbers,
    write_committed,
)
from .lead import GiveLead, TakeLead
from .loadrequests import LoadedMany, LoadMany, SyncTo
from .manyloads import (
    read_load_many,
    read_loaded_many,
    write_load_many,
    write_load_manys,
    write_loaded_many,
)
from .messages import (
    Call,
    Fault,
    Message,
    MsgId,
    Notice,
    Reply,
    make_tuple,
    parse_request,
)
from .messages import Request as AnyRequest
from .openings import parse_opening
from .outcome import Outcome
from .streamlayouts import STREAM, STREAM_FAULT, STREAM_HEAD
from .streamrequests import (
    AttachBlob,
    ForgetUpload,
    OpenBlob,
    OpenIteration,
    OpenUpload,
    StreamFault,
)

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
    21: VerifyMany,
    22: ChangesSince,
    23: Outcome,
    24: SyncTo,
    30: TakeLead,
    31: GiveLead,
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
    53: OpenBlob,
    54: AttachBlob,
    55: OpenIteration,
    56: OpenUpload,
    57: ForgetUpload,
    61: CacheReport,
    64: m.Info,
    65: m.ReceiveBlobStart,
    66: m.ReceiveBlobChunk,
    67: m.ReceiveBlobStop,
}
"""The requests that have no kind of their own, and two that have one only as notices, by number; a
number is never used for another."""

_OPEN_BLOB: Final = next(number for number, cls in METHODS.items() if cls is OpenBlob)
_ATTACH_BLOB: Final = next(number for number, cls in METHODS.items() if cls is AttachBlob)

_WRITERS: Final[Mapping[type[Any], Callable[[AnyRequest, int], bytes | None]]] = {
    **NOTICE_WRITERS,
    LoadMany: write_load_many,
    LoadedMany: write_loaded_many,
}

_NUMBERS: Final = {cls: number for number, cls in METHODS.items()}
_NAMES: Final = {number: NAMES[cls] for number, cls in METHODS.items()}

# -- layouts -----------------------------------------------------------------------------------

# With the length of the frame, for writing.
_pack_tagged = Struct(">IBQ").pack
_pack_call = Struct(">IBQB").pack
_pack_notice = Struct(">IBB").pack
_pack_step = Struct(">IBQq").pack

# Without it, for reading.
_CALL: Final = Struct(">xQB")
_unpack_key = Struct(">x8s8s").unpack_from
_unpack_load = Struct(">5s8s8s").unpack
_unpack_loaded = Struct(">5x8s8s8s").unpack_from
_unpack_earlier = Struct(">5x8s8s8s8s").unpack_from

_LOAD_HEAD: Final = pack_length(17) + bytes([LOAD])


def _number(cls: type[Any]) -> int:
    number = _NUMBERS.get(cls)
    if number is None:
        raise ValueError(f"{cls.__name__} cannot be sent in this way")
    return number


def _fields(request: AnyRequest) -> Sequence[Any]:
    """Return the arguments of *request* as they travel in msgpack."""
    if request.__class__ is AttachBlob and request[-1] is None:
        return tuple(request[:-1])  # peers that verify nothing know no more
    return tuple(request)


class OwnCodec(Codec):
    """Coding of Zeolith's own protocol."""

    coding = Coding.OWN
    load_before_size = HEADER_SIZE + 17

    def check(self, frame: bytes) -> bytes:
        if frame[HEADER_SIZE] == COMPRESSED:
            size = original_size(frame[HEADER_SIZE : HEADER_SIZE + HEAD_SIZE])
            if size > self.max_payload:
                raise MessageTooLarge(size, self.max_payload)
            return frame
        return super().check(frame)

    # -- loads ---------------------------------------------------------------------------------

    def load_before(self, oid: bytes, tid: bytes) -> bytes:
        return _LOAD_HEAD + oid + tid

    def load_many(self, oids: Sequence[bytes], tid: bytes) -> bytes:
        if len(oids) == 1:
            return self.load_before(oids[0], tid)
        return write_load_manys(oids, tid, self.max_payload)

    def loaded(
        self, key: tuple[bytes, bytes], data: bytes, start: bytes, end: bytes | None
    ) -> bytes:
        oid, tid = key
        if end is None:
            size = LOADED_SIZE + len(data)
            if size > self.max_payload:
                raise MessageTooLarge(size, self.max_payload)
            return b"".join((pack_head(size, LOADED), oid, tid, start, data))
        size = EARLIER_SIZE + len(data)
        if size > self.max_payload:
            raise MessageTooLarge(size, self.max_payload)
        return b"".join((pack_head(size, LOADED_EARLIER), oid, tid, start, end, data))

    def parse_load_before(self, frame: bytes) -> tuple[bytes, bytes] | None:
        head, oid, tid = _unpack_load(frame)
        return (oid, tid) if head == _LOAD_HEAD else None

    def parse_loaded(self, frame: bytes) -> Loaded | None:
        size = len(frame)
        if size < HEADER_SIZE + LOADED_SIZE:
            return None
        kind = frame[HEADER_SIZE]
        if kind == LOADED:
            oid, tid, start = _unpack_loaded(frame)
            return (oid, tid), (frame[HEADER_SIZE + LOADED_SIZE :], start, None)
        if kind == LOADED_EARLIER and size >= HEADER_SIZE + EARLIER_SIZE:
            oid, tid, start, end = _unpack_earlier(frame)
            return (oid, tid), (frame[HEADER_SIZE + EARLIER_SIZE :], start, end)
        return None

    # -- writing -------------------------------------------------------------------------------

    def call(self, msgid: MsgId, request: AnyRequest) -> bytes:
        cls = request.__class__
        if cls is m.LoadBefore:
            oid, tid = request
            if msgid != (oid, tid):
                raise ValueError("the id of a load is what it asks for")
            return self.load_before(check_id(oid), check_id(tid))
        check_tag(msgid)
        if cls is m.Vote:
            return _pack_step(17, VOTE, msgid, check_txn(request[0]))
        if cls is m.TpcFinish:
            return _pack_step(17, FINISH, msgid, check_txn(request[0]))
        self._check_parts(request)
        args = msgpacks.dumps(normalized(request) if cls is m.TpcBegin else _fields(request))
        size = self._fit(10 + len(args))
        return _pack_call(size, CALL, msgid, _number(cls)) + args

    def notice(self, request: AnyRequest) -> bytes:
        self._check_parts(request)
        writer = _WRITERS.get(request.__class__)
        found = None if writer is None else writer(request, self.max_payload)
        if found is not None:
            return found
        args = msgpacks.dumps(_fields(request))
        size = self._fit(2 + len(args))
        return _pack_notice(size, NOTICE, _number(request.__class__)) + args

    def _check_parts(self, request: AnyRequest) -> None:
        # Before it is copied.
        for value in request:
            if value.__class__ is bytes and len(value) > self.max_payload:
                raise MessageTooLarge(len(value), self.max_payload)

    def _fit(self, size: int) -> int:
        """Return *size*, which is that of a payload to be written."""
        return fit(size, self.max_payload)

    def reply(self, msgid: MsgId, value: Any) -> bytes:
        if isinstance(msgid, tuple):
            oid, tid = msgid
            if value is None:
                return pack_head(17, LOADED_NOTHING) + check_id(oid) + check_id(tid)
            data, start, end = value
            return self.loaded((check_id(oid), check_id(tid)), data, start, end)
        check_tag(msgid)
        cls = value.__class__
        if value is None:
            return _pack_tagged(9, REPLY_NOTHING, msgid)
        if cls is bytes and len(value) == 8:
            head: bytes = _pack_tagged(17, REPLY_ID, msgid)
            return head + bytes(value)
        if (cls is list or cls is tuple) and are_ids(value):
            ids = b"".join(value)
            return _pack_tagged(self._fit(9 + len(ids)), REPLY_IDS, msgid) + ids
        if cls is m.Committed:
            return write_committed(msgid, *value)
        body = msgpacks.dumps(value)
        return _pack_tagged(self._fit(9 + len(body)), REPLY, msgid) + body

    def committed(self, msgid: MsgId, tid: bytes, info: dict[str, Any] | None) -> bytes:
        numbers = None if info is None else size_numbers(info)
        if numbers is None:
            return super().committed(msgid, tid, info)
        return write_committed(msgid, tid, *numbers)

    def fault(self, msgid: MsgId, name: str, details: Any) -> bytes:
        body = msgpacks.dumps((name, details))
        if isinstance(msgid, tuple):
            oid, tid = msgid
            head = pack_head(self._fit(17 + len(body)), LOAD_FAULT) + check_id(oid) + check_id(tid)
        else:
            check_tag(msgid)
            head = _pack_tagged(self._fit(9 + len(body)), FAULT, msgid)
        return head + body

    def heartbeat(self) -> bytes:
        return frame(bytes([HEARTBEAT]))

    # -- reading -------------------------------------------------------------------------------

    def decode(self, payload: bytes) -> Message:
        kind = payload[0] if payload else -1
        try:
            fixed = _FIXED_READERS.get(kind)
            if fixed is not None:
                return fixed(payload)
            reader = _READERS.get(kind)
            if reader is not None:
                return reader(self, payload)
        except struct.error:
            raise UndecodableMessage(f"a message of kind {kind:#04x} has not its length") from None
        raise UndecodableMessage(f"a message of unknown kind {payload[:1].hex()!r}")

    def _read_call(self, payload: bytes) -> Message:
        msgid, number = _CALL.unpack_from(payload)
        if number == _OPEN_BLOB and "open_blob" in self._incoming:
            opening = parse_opening(payload[10:])
            if opening is not None:
                return make_tuple(Call, (msgid, opening))
        try:
            return Call(msgid, self._parse(number, False, payload[10:]))
        except IllegalMessage as error:
            error.msgid = msgid
            raise

    def _read_notice(self, payload: bytes) -> Message:
        if len(payload) < 2:
            raise UndecodableMessage("a notice without a method")
        if payload[1] == _ATTACH_BLOB and "attach_blob" in self._incoming:
            attachment = parse_attachment(payload[2:])
            if attachment is not None:
                return make_tuple(Notice, (attachment,))
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
        (msgid,) = TAG.unpack_from(payload)
        return Reply(msgid, msgpacks.loads(payload[9:], self._limits))

    def _read_fault(self, payload: bytes) -> Message:
        (msgid,) = TAG.unpack_from(payload)
        return Fault(msgid, *self._error(payload[9:]))

    def _read_load_fault(self, payload: bytes) -> Message:
        return Fault(_unpack_key(payload), *self._error(payload[17:]))

    def _read_stream_fault(self, payload: bytes) -> Message:
        (number,) = STREAM.unpack_from(payload)
        return Notice(StreamFault(number, *self._error(payload[STREAM_HEAD:])))

    def _error(self, body: bytes) -> tuple[str, Any]:
        error = msgpacks.loads(body, self._limits)
        if type(error) is not tuple or len(error) != 2 or type(error[0]) is not str:
            raise UndecodableMessage("an error is a class name and its arguments")
        return error

    def _read_ids(self, payload: bytes) -> Message:
        (msgid,) = TAG.unpack_from(payload)
        return Reply(msgid, self._ids(payload))

    def _read_compressed(self, payload: bytes) -> Message:
        if not self.takes_compressed:
            raise IllegalMessage("a compressed message, which has not been agreed upon")
        content = decompress(payload, self._limits.max_message_size)
        self.expanded += len(content) - len(payload)
        return self.decode(content)

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


# Shared by all connections: a server has thousands of them.
_FIXED_READERS: Final[Mapping[int, Callable[[bytes], Message]]] = {
    **FIXED_READERS,
    LOAD_MANY: read_load_many,
    LOADED_MANY: read_loaded_many,
}
_READERS: Final[Mapping[int, Callable[[OwnCodec, bytes], Message]]] = {
    CALL: OwnCodec._read_call,
    NOTICE: OwnCodec._read_notice,
    REPLY: OwnCodec._read_reply,
    FAULT: OwnCodec._read_fault,
    REPLY_IDS: OwnCodec._read_ids,
    LOAD_FAULT: OwnCodec._read_load_fault,
    INVALIDATE: OwnCodec._read_invalidate,
    COMPRESSED: OwnCodec._read_compressed,
    STREAM_FAULT: OwnCodec._read_stream_fault,
}
KINDS: Final = frozenset({*_FIXED_READERS, *_READERS})
"""All kinds of messages."""
