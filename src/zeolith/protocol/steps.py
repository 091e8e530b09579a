"""The fixed msgpack layout of what a small commit is made of, and of its answers.

A commit of one object is four requests, three answers and a notice, all of a few bytes; coding them
in the general way takes longer than anything else that the network part of a commit does.  Peers
write them in one way only.  What differs in any byte, and every other request or value, takes the
general way of :mod:`.codec`, with the same meaning.  Between Zeolith peers msgpack is spoken, so
there is no such layout for pickles.
"""

from __future__ import annotations

from typing import Any, Final

from .framing import pack_length
from .messages import (
    Call,
    Info,
    Message,
    MsgId,
    Notice,
    Reply,
    Request,
    TpcBegin,
    TpcFinish,
    Vote,
    make_tuple,
)

MAX_SIZE: Final = 160
"""Payloads above this are not looked at: they are something else, or hold long texts."""

_MAX_TEXT: Final = 100
"""Bytes of a user name or description that may be in the layout."""

_VOTE: Final = b"\xc2\xa4vote\x91"
_FINISH: Final = b"\xc2\xaatpc_finish\x91"
_BEGIN: Final = b"\x94\x00\xc3\xa9tpc_begin\x96"
_BEGIN_TAIL: Final = b"\x80\xc0\xa1 "  # no extension, no tid, status " "
_INFO: Final = b"\x94\x00\xc3\xa4info\x91\x82\xa6length"
_INFO_SIZE: Final = b"\xa4size"
_INFO_KEYS: Final = ("length", "size")
_REPLY: Final = b"\x00\xa6.reply"
_KIND_SIZE: Final = len(_REPLY)
_VOTE_SIZE: Final = len(_VOTE)
assert _VOTE_SIZE < _KIND_SIZE
_NIL, _EMPTY, _ID = b"\xc0", b"\x90", b"\xc4\x08"


def _number(value: int) -> bytes:
    """Return *value*, 0 to 2^32 - 1."""
    if value < 128:
        return b"%c" % value
    if value < 256:
        return b"\xcc%c" % value
    if value < 65536:
        return b"\xcd" + value.to_bytes(2, "big")
    return b"\xce" + value.to_bytes(4, "big")


def _is_number(value: Any) -> bool:
    return value.__class__ is int and 0 <= value <= 0xFFFFFFFF


def _parse_number(payload: bytes, at: int) -> tuple[int, int] | None:
    """Return the number at *at* and where it ends; raises IndexError at the end of *payload*."""
    kind = payload[at]
    if kind < 128:
        return kind, at + 1
    if 0xCC <= kind <= 0xCE:
        end = at + 1 + (1 << (kind - 0xCC))
        if end <= len(payload):
            return int.from_bytes(payload[at + 1 : end], "big"), end
    return None


def pack_call(msgid: MsgId, request: Request) -> bytes | None:
    """Return the frame of a call, or None if there is no layout for it."""
    cls = request.__class__
    if cls is Vote:
        name = _VOTE
    elif cls is TpcFinish:
        name = _FINISH
    else:
        return None
    (txn,) = request
    if not (_is_number(msgid) and _is_number(txn)):
        return None
    payload = b"\x94" + _number(msgid) + name + _number(txn)
    return pack_length(len(payload)) + payload


def pack_notice(request: Request) -> bytes | None:
    """Return the frame of a notice, or None if there is no layout for it."""
    cls = request.__class__
    if cls is Info:
        payload = _pack_info(request[0])
    elif cls is TpcBegin:
        payload = _pack_begin(request)
    else:
        return None
    return None if payload is None else pack_length(len(payload)) + payload


def _pack_begin(request: Request) -> bytes | None:
    txn, user, description, extension, tid, status = request
    if (
        not _is_number(txn)
        or user.__class__ is not bytes
        or description.__class__ is not bytes
        or max(len(user), len(description)) > _MAX_TEXT
        or extension.__class__ is not dict
        or extension
        or tid is not None
        or status != " "
    ):
        return None
    return b"%b%b\xc4%c%b\xc4%c%b%b" % (
        _BEGIN, _number(txn), len(user), user, len(description), description, _BEGIN_TAIL,
    )  # fmt: skip


def _pack_info(info: dict[str, Any]) -> bytes | None:
    if tuple(info) != _INFO_KEYS:
        return None
    length, size = info.values()
    if not (_is_number(length) and _is_number(size)):
        return None
    return b"".join((_INFO, _number(length), _INFO_SIZE, _number(size)))


def pack_reply(msgid: MsgId, value: Any) -> bytes | None:
    """Return the frame of an answer, or None if there is no layout for it."""
    if not _is_number(msgid):
        return None
    if value is None:
        tail = _NIL
    elif value.__class__ is bytes and len(value) == 8:
        tail = _ID + value
    elif value == [] and value.__class__ is list:
        tail = _EMPTY
    else:
        return None
    payload = b"\x94" + _number(msgid) + _REPLY + tail
    return pack_length(len(payload)) + payload


def parse_step(payload: bytes) -> Message | None:
    """Return the message if *payload*, a frame without its length, has one of these layouts."""
    try:
        if payload[0] != 0x94:
            return None
        first = payload[1]
        if first == 0xCD:  # two bytes: most calls of a connection that commits
            msgid = payload[2] << 8 | payload[3]
            at = 4
        elif first < 128:
            msgid = first
            at = 2
        else:
            found = _parse_number(payload, 1)
            if found is None:
                return None
            msgid, at = found
        if msgid == 0:
            return _parse_notice(payload)
        kind = payload[at : at + _KIND_SIZE]
        if kind == _REPLY:
            tail = payload[at + _KIND_SIZE :]
            if len(tail) == 10 and tail[:2] == _ID:
                return make_tuple(Reply, (msgid, tail[2:]))
            if tail == _EMPTY:
                return make_tuple(Reply, (msgid, ()))
            return Reply(msgid, None) if tail == _NIL else None
        if kind[:_VOTE_SIZE] == _VOTE:
            found = _parse_number(payload, at + _VOTE_SIZE)
            if found is not None and found[1] == len(payload):
                return make_tuple(Call, (msgid, make_tuple(Vote, found[:1])))
        elif payload.startswith(_FINISH, at):
            found = _parse_number(payload, at + len(_FINISH))
            if found is not None and found[1] == len(payload):
                return make_tuple(Call, (msgid, make_tuple(TpcFinish, found[:1])))
    except IndexError:
        pass  # cut short: the general way says so
    return None


def _parse_notice(payload: bytes) -> Notice | None:
    if payload.startswith(_BEGIN):
        return _parse_begin(payload)
    return _parse_info(payload) if payload.startswith(_INFO) else None


def _parse_begin(payload: bytes) -> Notice | None:
    found = _parse_number(payload, len(_BEGIN))
    if found is None:
        return None
    txn, at = found
    texts = []
    for _ in range(2):
        if payload[at] != 0xC4:
            return None
        end = at + 2 + payload[at + 1]
        texts.append(payload[at + 2 : end])
        at = end
    if payload[at:] != _BEGIN_TAIL:
        return None
    return make_tuple(Notice, (make_tuple(TpcBegin, (txn, *texts, {}, None, " ")),))


def _parse_info(payload: bytes) -> Notice | None:
    found = _parse_number(payload, len(_INFO))
    if found is None or not payload.startswith(_INFO_SIZE, found[1]):
        return None
    size = _parse_number(payload, found[1] + len(_INFO_SIZE))
    if size is None or size[1] != len(payload):
        return None
    return Notice(Info({"length": found[0], "size": size[0]}))
