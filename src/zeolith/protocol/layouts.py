"""The fixed layouts of Zeolith's own protocol: for each kind of message that has one, both ways.

``docs/protocol.md`` has them as a table.  What has no fixed layout is in :mod:`.own`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from struct import Struct
from typing import Any, Final

from ..errors import MessageTooLarge, UndecodableMessage
from . import messages as m
from .framing import MAX_PAYLOAD
from .messages import UID_SIZE, Call, Heartbeat, Message, Notice, Reply, make_tuple
from .messages import Request as AnyRequest
from .streamlayouts import STREAM_READERS, STREAM_WRITERS

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
LOAD_MANY: Final = 0x15
LOADED_MANY: Final = 0x16
BEGIN: Final = 0x20
STORE: Final = 0x21
STORE_NEW: Final = 0x22
VOTE: Final = 0x23
FINISH: Final = 0x24
COMMITTED: Final = 0x25
INVALIDATE: Final = 0x30
INFO: Final = 0x31

# -- layouts -----------------------------------------------------------------------------------

_MAX_ID: Final = 0xFFFFFFFFFFFFFFFF
"""Greatest id of a call."""

LOADED_SIZE: Final = 25
EARLIER_SIZE: Final = 33
"""Bytes before the data of a revision."""

_HAS_TID: Final = 1
"""Flag of a BEGIN behind whose texts there is the id which the transaction is to have."""

_HAS_UID: Final = 2
"""Flag of a BEGIN that ends with the unique id of the transaction."""

# With the length of the frame, for writing.
pack_head = Struct(">IB").pack
_pack_store = Struct(">IBq").pack
_pack_begin = Struct(">IBqBBIII").pack
_pack_info = Struct(">IBQQ").pack
_pack_committed = Struct(">IBQ8sQQ").pack

# Without it, for reading.
TAG: Final = Struct(">xQ")
_STEP: Final = Struct(">xQq")
_BEGIN: Final = Struct(">xqBBIII")
_unpack_store = Struct(">xq8s8s").unpack_from
_unpack_store_new = Struct(">xq8s").unpack_from
_unpack_info = Struct(">xQQ").unpack
_unpack_committed = Struct(">xQ8sQQ").unpack
_unpack_id = Struct(">xQ8s").unpack
_unpack_load = Struct(">x8s8s").unpack
_unpack_loaded = Struct(">x8s8s8s").unpack_from
_unpack_earlier = Struct(">x8s8s8s8s").unpack_from


def check_id(value: bytes) -> bytes:
    if value.__class__ is not bytes or len(value) != 8:
        raise ValueError(f"{value!r:.60} is no id of eight bytes")
    return value


def check_uid(value: bytes) -> bytes:
    if value.__class__ is not bytes or len(value) != UID_SIZE:
        raise ValueError(f"{value!r:.60} is no unique id of sixteen bytes")
    return value


def are_ids(values: Any) -> bool:
    return all(value.__class__ is bytes and len(value) == 8 for value in values)


def check_tag(msgid: Any) -> None:
    if msgid.__class__ is not int or not 0 <= msgid <= _MAX_ID:
        raise ValueError(f"{msgid!r:.60} is no id of a call")


def check_txn(value: int) -> int:
    if value.__class__ is not int or not -(1 << 63) <= value < 1 << 63:
        raise ValueError(f"{value!r:.60} is no number of a transaction")
    return value


def fit(size: int, limit: int) -> int:
    if size > limit:
        raise MessageTooLarge(size, limit)
    return size


def _write_store(request: AnyRequest, limit: int) -> bytes:
    oid, serial, data, txn = request
    if serial is None:
        size = fit(17 + len(data), limit)
        return b"".join((_pack_store(size, STORE_NEW, check_txn(txn)), check_id(oid), data))
    size = fit(25 + len(data), limit)
    ids = check_id(oid) + check_id(serial)
    return b"".join((_pack_store(size, STORE, check_txn(txn)), ids, data))


def _write_begin(request: AnyRequest, limit: int) -> bytes:
    txn, user, description, extension, tid, status, uid = normalized(request)
    mark = status.encode("ascii")
    if len(mark) != 1:
        raise ValueError(f"the status of a transaction is one character, not {status!r:.20}")
    tail = b"" if tid is None else check_id(tid)
    flags = 0 if tid is None else _HAS_TID
    if uid is not None:
        tail += check_uid(uid)
        flags |= _HAS_UID
    sizes = len(user), len(description), len(extension)
    size = fit(_BEGIN.size + sum(sizes) + len(tail), limit)
    head = _pack_begin(size, BEGIN, check_txn(txn), flags, mark[0], *sizes)
    return b"".join((head, user, description, extension, tail))


def normalized(request: AnyRequest) -> tuple[Any, ...]:
    """Return the fields of a TpcBegin, with bytes for texts and extension data."""
    txn, user, description, extension, tid, status, uid = request
    if not extension:
        extension = b""
    elif extension.__class__ is not bytes:
        raise TypeError("extension data is sent as the bytes that storages keep")
    return txn, _bytes_of(user), _bytes_of(description), extension, tid, status, uid


def _bytes_of(text: str | bytes) -> bytes:
    return text.encode("utf-8") if isinstance(text, str) else text


def _write_invalidate(request: AnyRequest, _limit: int) -> bytes:
    # It goes to many clients; each connection looks at the limit of its own.
    tid, oids = request
    if not are_ids(oids):
        raise ValueError("an object id has eight bytes")
    ids = b"".join(oids)
    size = fit(9 + len(ids), MAX_PAYLOAD)
    return b"".join((pack_head(size, INVALIDATE), check_id(tid), ids))


def size_numbers(info: dict[str, Any]) -> tuple[int, int] | None:
    """Return length and size if that is all there is, and they fit; otherwise None."""
    length, size = info.get("length"), info.get("size")
    if (
        len(info) == 2
        and length.__class__ is int
        and size.__class__ is int
        and min(length, size) >= 0
        and max(length, size) <= _MAX_ID
    ):
        return length, size
    return None


def _write_info(request: AnyRequest, _limit: int) -> bytes | None:
    """Return the frame, or None if there is more to say than two numbers."""
    numbers = size_numbers(request[0])
    return None if numbers is None else _pack_info(17, INFO, *numbers)


def write_committed(msgid: Any, tid: bytes, length: int, size: int) -> bytes:
    check_tag(msgid)
    return _pack_committed(33, COMMITTED, msgid, check_id(tid), length, size)


NOTICE_WRITERS: Final[Mapping[type[Any], Callable[[AnyRequest, int], bytes | None]]] = {
    m.Store: _write_store,
    m.TpcBegin: _write_begin,
    m.InvalidateTransaction: _write_invalidate,
    m.Info: _write_info,
    **STREAM_WRITERS,
}


def _read_heartbeat(payload: bytes) -> Message:
    if len(payload) != 1:
        raise UndecodableMessage("a heartbeat with something in it")
    return Heartbeat()


def _read_nothing(payload: bytes) -> Message:
    (msgid,) = TAG.unpack(payload)
    return make_tuple(Reply, (msgid, None))


def _read_id(payload: bytes) -> Message:
    msgid, value = _unpack_id(payload)
    return make_tuple(Reply, (msgid, value))


def _read_committed(payload: bytes) -> Message:
    msgid, tid, length, size = _unpack_committed(payload)
    return make_tuple(Reply, (msgid, make_tuple(m.Committed, (tid, length, size))))


def _read_load(payload: bytes) -> Message:
    oid, tid = _unpack_load(payload)
    key = make_tuple(m.LoadBefore, (oid, tid))
    return make_tuple(Call, (key, key))


def _read_loaded(payload: bytes) -> Message:
    oid, tid, start = _unpack_loaded(payload)
    return make_tuple(Reply, ((oid, tid), (payload[LOADED_SIZE:], start, None)))


def _read_earlier(payload: bytes) -> Message:
    oid, tid, start, end = _unpack_earlier(payload)
    return make_tuple(Reply, ((oid, tid), (payload[EARLIER_SIZE:], start, end)))


def _read_load_nothing(payload: bytes) -> Message:
    return make_tuple(Reply, (_unpack_load(payload), None))


def _read_begin(payload: bytes) -> Message:
    txn, flags, mark, user_size, description_size, extension_size = _BEGIN.unpack_from(payload)
    if flags > _HAS_TID | _HAS_UID or mark > 127:
        raise UndecodableMessage("the beginning of a transaction with unknown flags")
    about_at = _BEGIN.size + user_size
    extension_at = about_at + description_size
    tid_at = extension_at + extension_size
    uid_at = tid_at + 8 if flags & _HAS_TID else tid_at
    if len(payload) != (uid_at + UID_SIZE if flags & _HAS_UID else uid_at):
        raise UndecodableMessage("the beginning of a transaction has not its length")
    fields = (
        txn,
        payload[_BEGIN.size : about_at],
        payload[about_at:extension_at],
        payload[extension_at:tid_at],
        payload[tid_at:uid_at] or None,
        chr(mark),
        payload[uid_at:] or None,
    )
    request = make_tuple(m.TpcBegin, fields)
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


FIXED_READERS: Final[Mapping[int, Callable[[bytes], Message]]] = {
    HEARTBEAT: _read_heartbeat,
    REPLY_NOTHING: _read_nothing,
    REPLY_ID: _read_id,
    LOAD: _read_load,
    LOADED: _read_loaded,
    LOADED_EARLIER: _read_earlier,
    LOADED_NOTHING: _read_load_nothing,
    BEGIN: _read_begin,
    STORE: _read_store,
    STORE_NEW: _read_store_new,
    VOTE: _read_vote,
    FINISH: _read_finish,
    COMMITTED: _read_committed,
    INFO: _read_info,
    **STREAM_READERS,
}
"""Kind → what reads it.  They raise struct.error if the length does not fit."""
