"""Many loads in one message of Zeolith's own protocol, and their answers: layouts, both ways.

``docs/protocol.md`` has them beside the others.  Reading the answers is what a client does for
every object that it fetches ahead, so it is one loop that makes nothing but the records.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Final

from ..errors import UndecodableMessage
from .framing import HEADER_SIZE
from .layouts import LOAD_MANY, LOADED_MANY, are_ids, check_id, fit, pack_head
from .limits import MAX_LOADS
from .loadrequests import LoadedMany, LoadMany, Record
from .messages import Message, Notice, Request, make_tuple

LOADED_MANY_SIZE: Final = 64 * 1024 - HEADER_SIZE
"""Bytes of the longest payload with several records: what a client takes from the system at once.
A longer record is answered alone."""

_HEAD_SIZE: Final = 9
"""Bytes before the ids or records: the kind and the tid."""

_RECORD: Final = Struct(">8s8s8sI")
"""oid, tid of the revision, tid that ended it or zeros, length of the data."""

RECORD_SIZE: Final = _RECORD.size
"""Bytes before the data of each record."""

_CURRENT: Final = bytes(8)
"""Stands for the end of a current revision."""

_pack_record = _RECORD.pack
_unpack_record = _RECORD.unpack_from


def room_for_records(max_payload: int) -> int:
    """Return how many bytes of records, each with its head, one message may have.

    :param max_payload: bytes that the client takes.
    """
    return min(LOADED_MANY_SIZE, max_payload) - _HEAD_SIZE


def write_load_many(request: Request, limit: int) -> bytes:
    """Return the frame of a LoadMany.

    :raises ValueError: no ids, or not as many as there may be.
    """
    tid, oids = request
    if not 0 < len(oids) <= MAX_LOADS or not are_ids(oids):
        raise ValueError(f"1 to {MAX_LOADS} objects can be asked for at once, by ids of 8 bytes")
    size = fit(_HEAD_SIZE + 8 * len(oids), limit)
    return b"".join((pack_head(size, LOAD_MANY), check_id(tid), *oids))


def write_load_manys(oids: Sequence[bytes], tid: bytes, limit: int) -> bytes:
    """Return as many frames as it takes to ask for *oids* within *limit* bytes each."""
    step = min(MAX_LOADS, (limit - _HEAD_SIZE) // 8)
    return b"".join(
        write_load_many(LoadMany(tid, oids[at : at + step]), limit)
        for at in range(0, len(oids), step)
    )


def write_loaded_many(request: Request, limit: int) -> bytes:
    """Return the frame of a LoadedMany.

    :raises MessageTooLarge: it is longer than *limit*.
    :raises ValueError: no records, or not as many as there may be.
    """
    tid, records = request
    if not 0 < len(records) <= MAX_LOADS:
        raise ValueError(f"1 to {MAX_LOADS} objects can be in one message")
    parts = [b"", check_id(tid)]
    add = parts.append
    size = _HEAD_SIZE + RECORD_SIZE * len(records)
    for oid, start, end, data in records:
        length = len(data)
        size += length
        add(_pack_record(oid, start, end or _CURRENT, length))
        add(data)
    parts[0] = pack_head(fit(size, limit), LOADED_MANY)
    return b"".join(parts)


def read_load_many(payload: bytes) -> Message:
    """Return the Notice that *payload* is."""
    size = len(payload)
    count, rest = divmod(size - _HEAD_SIZE, 8)
    if rest or not 0 < count <= MAX_LOADS:
        raise UndecodableMessage(f"a load of many is for 1 to {MAX_LOADS} ids of 8 bytes")
    oids = tuple([payload[at : at + 8] for at in range(_HEAD_SIZE, size, 8)])
    return make_tuple(Notice, (make_tuple(LoadMany, (payload[1:_HEAD_SIZE], oids)),))


def read_loaded_many(payload: bytes) -> Message:
    """Return the Notice that *payload* is."""
    size = len(payload)
    records: list[Record] = []
    add = records.append
    at = _HEAD_SIZE
    left = MAX_LOADS
    while at < size and left:
        oid, start, end, length = _unpack_record(payload, at)
        at += RECORD_SIZE
        stop = at + length
        add((oid, start, None if end == _CURRENT else end, payload[at:stop]))
        at = stop
        left -= 1
    if at != size or not records:
        raise UndecodableMessage(
            f"a message of loaded objects has 1 to {MAX_LOADS}, and nothing behind the last"
        )
    return make_tuple(Notice, (make_tuple(LoadedMany, (payload[1:_HEAD_SIZE], records)),))
