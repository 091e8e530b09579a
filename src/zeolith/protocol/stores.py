"""The fixed layout of ``storea``, in both codings.

After loads, stored objects are what most messages are about: one transaction may hold hundreds of
thousands.  Peers write them in one way only, so the place of each argument is known.  What differs
in any byte takes the general way of :mod:`.codec`, with the same meaning.
"""

from __future__ import annotations

from struct import Struct
from typing import Any, Final

from .framing import MAX_PAYLOAD, pack_length
from .messages import Store, make_tuple

_pack_little_short = Struct("<H").pack
_pack_little_long = Struct("<I").pack
_unpack_little_long = Struct("<I").unpack_from
_unpack_short = Struct(">H").unpack_from
_unpack_long = Struct(">I").unpack_from

_MAX_TXN: Final = 0xFFFF
"""Transaction ids above this are written in the general way; ours are small."""

# PROTO 3, MARK, BININT1 0, NEWTRUE, name, MARK, oid; serial; data; txn; TUPLE, TUPLE, STOP.
_PICKLE_HEAD: Final = b"\x80\x03(K\x00\x88X\x06\x00\x00\x00storea(C\x08"
_PICKLE_OID: Final = len(_PICKLE_HEAD)
_PICKLE_SERIAL: Final = _PICKLE_OID + 8
_PICKLE_KIND: Final = _PICKLE_SERIAL + 10

# array of 4: 0, true, name, array of 4: oid; serial; data; txn.
_MSGPACK_HEAD: Final = b"\x94\x00\xc3\xa6storea\x94\xc4\x08"
_MSGPACK_OID: Final = len(_MSGPACK_HEAD)
_MSGPACK_SERIAL: Final = _MSGPACK_OID + 8
_MSGPACK_KIND: Final = _MSGPACK_SERIAL + 10

_UNSIGNED: Final = {2: 0xCC, 3: 0xCD, 5: 0xCE, 9: 0xCF}
"""Length of an unsigned integer with its type byte → that byte."""


OVERHEAD: Final = 64
"""More than the bytes that these layouts add to a record."""


def _fits(oid: Any, serial: Any, data: Any, txn: Any, max_size: int) -> bool:
    fits: bool = (
        data.__class__ is bytes
        and oid.__class__ is bytes
        and serial.__class__ is bytes
        and len(oid) == 8
        and len(serial) == 8
        and txn.__class__ is int
        and 0 <= txn <= _MAX_TXN
        and len(data) <= max_size - OVERHEAD
    )
    return fits


def pickle_store(request: Store, max_size: int = MAX_PAYLOAD) -> bytes | None:
    """Return the frame of a ``storea`` notice, or None if it does not fit the layout.

    :param max_size: bytes of the longest payload that the peer takes; where it is not clear that
        the request is shorter, it does not fit.
    """
    oid, serial, data, txn = request
    if serial is None or not _fits(oid, serial, data, txn, max_size):
        return None
    size = len(data)
    head = b"C%c" % size if size < 256 else b"B" + _pack_little_long(size)
    tail = b"K%ctt." % txn if txn < 256 else b"M" + _pack_little_short(txn) + b"tt."
    return b"".join(
        (
            pack_length(_PICKLE_KIND + len(head) + size + len(tail)),
            _PICKLE_HEAD,
            oid,
            b"C\x08",
            serial,
            head,
            data,
            tail,
        )
    )


def unpickle_store(payload: bytes) -> Store | None:
    """Return the request if *payload* is a ``storea`` notice in this layout."""
    if (
        not payload.startswith(_PICKLE_HEAD)
        or payload[_PICKLE_SERIAL : _PICKLE_SERIAL + 2] != b"C\x08"
        or len(payload) < _PICKLE_KIND + 5
    ):
        return None
    kind = payload[_PICKLE_KIND]
    if kind == 0x43:  # SHORT_BINBYTES
        start = _PICKLE_KIND + 2
        end = start + payload[_PICKLE_KIND + 1]
    elif kind == 0x42:  # BINBYTES
        start = _PICKLE_KIND + 5
        end = start + _unpack_little_long(payload, _PICKLE_KIND + 1)[0]
    else:
        return None
    tail = payload[end:]
    size = len(tail)
    if tail[-3:] != b"tt.":
        return None
    if size == 5 and tail[:1] == b"K":
        txn = tail[1]
    elif size == 6 and tail[:1] == b"M":
        txn = int.from_bytes(tail[1:3], "little")
    elif size == 8 and tail[:1] == b"J":
        txn = int.from_bytes(tail[1:5], "little", signed=True)
    elif 5 < size <= 13 and tail[:1] == b"\x8a" and size == tail[1] + 5:  # LONG1
        txn = int.from_bytes(tail[2:-3], "little", signed=True)
    else:
        return None
    return make_tuple(
        Store,
        (
            payload[_PICKLE_OID:_PICKLE_SERIAL],
            payload[_PICKLE_SERIAL + 2 : _PICKLE_KIND],
            payload[start:end],
            txn,
        ),
    )


def msgpack_store(request: Store, max_size: int = MAX_PAYLOAD) -> bytes | None:
    """Return the frame of a ``storea`` notice, or None if it does not fit the layout.

    :param max_size: bytes of the longest payload that the peer takes; where it is not clear that
        the request is shorter, it does not fit.
    """
    oid, serial, data, txn = request
    if serial is None or not _fits(oid, serial, data, txn, max_size):
        return None
    size = len(data)
    if size < 256:
        head = b"\xc4%c" % size
    elif size < 65536:
        head = b"\xc5" + size.to_bytes(2, "big")
    else:
        head = b"\xc6" + size.to_bytes(4, "big")
    if txn < 128:
        tail = b"%c" % txn
    elif txn < 256:
        tail = b"\xcc%c" % txn
    else:
        tail = b"\xcd" + txn.to_bytes(2, "big")
    return b"".join(
        (
            pack_length(_MSGPACK_KIND + len(head) + size + len(tail)),
            _MSGPACK_HEAD,
            oid,
            b"\xc4\x08",
            serial,
            head,
            data,
            tail,
        )
    )


def unpack_store(payload: bytes) -> Store | None:
    """Return the request if *payload* is a ``storea`` notice in this layout."""
    if (
        not payload.startswith(_MSGPACK_HEAD)
        or payload[_MSGPACK_SERIAL : _MSGPACK_SERIAL + 2] != b"\xc4\x08"
        or len(payload) < _MSGPACK_KIND + 5
    ):
        return None
    kind = payload[_MSGPACK_KIND]
    if kind == 0xC4:
        start = _MSGPACK_KIND + 2
        end = start + payload[_MSGPACK_KIND + 1]
    elif kind == 0xC5:
        start = _MSGPACK_KIND + 3
        end = start + _unpack_short(payload, _MSGPACK_KIND + 1)[0]
    elif kind == 0xC6:
        start = _MSGPACK_KIND + 5
        end = start + _unpack_long(payload, _MSGPACK_KIND + 1)[0]
    else:
        return None
    tail = payload[end:]
    size = len(tail)
    if size == 1 and tail[0] < 128:
        txn = tail[0]
    elif size in (2, 3, 5, 9) and tail[0] == _UNSIGNED[size]:
        txn = int.from_bytes(tail[1:], "big")
    else:
        return None
    return make_tuple(
        Store,
        (
            payload[_MSGPACK_OID:_MSGPACK_SERIAL],
            payload[_MSGPACK_SERIAL + 2 : _MSGPACK_KIND],
            payload[start:end],
            txn,
        ),
    )
