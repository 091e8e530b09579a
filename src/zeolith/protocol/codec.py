"""Messages to bytes and back, in both codings of ZEO protocol 5.

The general path goes through :mod:`.pickles` or :mod:`.msgpacks`.  Loading an object is what a
server does nearly all the time, so its call and its reply also have a fixed layout here: peers
write them in one way only, byte for byte, and comparing with that layout is both the quickest
decoder and a complete check.  Storing an object has its own in :mod:`.stores`.  Anything that
differs takes the general path.  The codec of Zeolith's own protocol is in :mod:`.own`.

Any number of threads may use a codec, and one of them decodes.  What concerns the peer changes
once, before much is sent.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from struct import Struct
from typing import Any, TypeAlias

from ..errors import IllegalMessage, MessageTooLarge, UndecodableMessage
from . import msgpacks, pickles
from .framing import HEADER_SIZE, MAX_PAYLOAD, frame, pack_length
from .greeting import Coding
from .limits import STREAM_FRAME, Limits
from .messages import (
    WIRE_NAMES,
    Call,
    Fault,
    Form,
    Heartbeat,
    Info,
    LoadBefore,
    Message,
    MsgId,
    Notice,
    Reply,
    Request,
    Store,
    TpcBegin,
    make_tuple,
    parse_request,
)
from .stores import msgpack_store, pickle_store, unpack_store, unpickle_store
from .values import ATOMS

Loaded: TypeAlias = tuple[tuple[bytes, bytes], tuple[bytes, bytes, bytes | None]]
"""``(oid, tid)`` as asked, and ``(data, start, end)`` as answered."""

_REPLY = ".reply"
_FLAG_OK, _FLAG_ERROR = 0, 2
_HEARTBEAT_ID = -1

_unpack_length = Struct("<I").unpack_from
_unpack_big_length = Struct(">I").unpack_from
_unpack_short = Struct(">H").unpack_from


_MAX_LOADED = MAX_PAYLOAD - 128
"""Bytes of the longest record that an answer can hold, whatever the peer accepts."""

_MAX_MSGID_ITEMS = 8
_MAX_MSGID_SIZE = 256


def _is_msgid(value: Any) -> bool:
    """Tell whether *value* is hashable, and small: every answer repeats it."""
    if type(value) is tuple:
        return len(value) <= _MAX_MSGID_ITEMS and all(map(_is_short_atom, value))
    return _is_short_atom(value)


def _is_short_atom(value: Any) -> bool:
    cls = type(value)
    if cls is bytes or cls is str:
        return len(value) <= _MAX_MSGID_SIZE
    return cls in ATOMS


class Codec(ABC):
    """Writes and reads the messages of one coding.

    :param incoming: the requests that the peer may make, by wire name.
    :param limits: what is accepted from the peer.
    :param max_payload: bytes of the longest message that the peer accepts, as far as is known.

    All ``call``, ``notice``, ``reply``, ``fault``, ``loaded`` methods return whole frames, length
    included, and raise TypeError or ValueError for values that the coding cannot carry, among
    them MessageTooLarge.

    :ivar max_payload: bytes of the longest payload that the peer takes, as far as is known.  In
        Zeolith's own protocol :meth:`notice` does not look at it for invalidations, which go to
        many clients: that is for :meth:`check`.
    :ivar compress: returns the frame to send in place of one that any method has returned; None if
        the peer takes no compressed messages.
    :ivar checksum: name of the algorithm by which both sides verify blobs; None if they do not.
    :ivar life: what tells a server from the same one after another start; empty if not known.
    :ivar transactions: how many the client may have in progress at once.
    :ivar keeps: seconds for which a server keeps an upload that is cut off; 0: not at all.
    :ivar stream_frame: bytes of data that the peer takes in one message of a stream.
    :ivar takes_compressed: whether the peer may send compressed messages.
    :ivar expanded: bytes by which the messages decoded so far were longer than they arrived; who
        counts them sets it back.
    """

    coding: Coding
    load_before_size: int
    """Length of the frames that :meth:`load_before` returns."""

    def __init__(
        self, incoming: Mapping[str, Form], limits: Limits, max_payload: int = MAX_PAYLOAD
    ) -> None:
        self._incoming = incoming
        self._limits = limits
        self.max_payload = max_payload
        self.compress: Callable[[bytes], bytes] | None = None
        self.checksum: str | None = None
        self.life = ""
        self.transactions = 1
        self.keeps = 0
        self.stream_frame = STREAM_FRAME
        self.takes_compressed = False
        self.expanded = 0

    def check(self, frame: bytes) -> bytes:
        """Return *frame*.

        :raises MessageTooLarge: the peer would not accept it.
        """
        size = len(frame) - HEADER_SIZE
        if size > self.max_payload:
            raise MessageTooLarge(size, self.max_payload)
        return frame

    @property
    def data_frame(self) -> int:
        """Bytes of data that one message of a stream may have: what is compressed the peer keeps
        until it is complete, as any message, so it is short."""
        return STREAM_FRAME if self.compress is not None else self.stream_frame

    @abstractmethod
    def load_before(self, oid: bytes, tid: bytes) -> bytes:
        """Return the frame of a ``loadBefore`` call whose msgid is ``(oid, tid)``."""

    @abstractmethod
    def load_many(self, oids: Sequence[bytes], tid: bytes) -> bytes:
        """Return the frames, one behind the other, that ask for all of *oids* as
        :meth:`load_before` does for one."""

    @abstractmethod
    def loaded(
        self, key: tuple[bytes, bytes], data: bytes, start: bytes, end: bytes | None
    ) -> bytes:
        """Return the frame of the reply to a ``loadBefore`` call whose msgid is *key*."""

    @abstractmethod
    def parse_load_before(self, frame: bytes) -> tuple[bytes, bytes] | None:
        """Return ``(oid, tid)`` if *frame*, of :attr:`load_before_size` bytes, is what
        :meth:`load_before` returns for them; None if it is anything else."""

    @abstractmethod
    def parse_loaded(self, frame: bytes) -> Loaded | None:
        """Return what *frame*, of which the length is known to be right, says if it has the layout
        that :meth:`loaded` gives; None if it is anything else."""

    @abstractmethod
    def call(self, msgid: MsgId, request: Request) -> bytes:
        """Return the frame of a call."""

    @abstractmethod
    def notice(self, request: Request) -> bytes:
        """Return the frame of a request that expects no answer."""

    @abstractmethod
    def reply(self, msgid: MsgId, value: Any) -> bytes:
        """Return the frame of an answer."""

    def committed(self, msgid: MsgId, tid: bytes, info: dict[str, Any] | None) -> bytes:
        """Return what answers a ``tpc_finish``, in one frame or two.

        :param info: what the storage's size is now; None if that is not known.
        """
        frame = self.reply(msgid, tid)
        return frame if info is None else self.notice(Info(info)) + frame

    @abstractmethod
    def fault(self, msgid: MsgId, name: str, details: Any) -> bytes:
        """Return the frame of an answer that is an error."""

    @abstractmethod
    def heartbeat(self) -> bytes:
        """Return the frame of a heartbeat."""

    @abstractmethod
    def decode(self, payload: bytes) -> Message:
        """Return the message that a frame's payload holds.

        :raises UndecodableMessage: not a message of this coding, or not within the limits.
        :raises IllegalMessage: an unknown method, or arguments that do not fit.
        """


class ZeoCodec(Codec):
    """What both codings of ZEO protocol 5 have in common: a message is a tuple of four."""

    @abstractmethod
    def _dumps(self, value: Any) -> bytes: ...

    @abstractmethod
    def _loads(self, payload: bytes) -> Any: ...

    @abstractmethod
    def _parse_loaded(self, payload: bytes) -> Loaded | None: ...

    def load_many(self, oids: Sequence[bytes], tid: bytes) -> bytes:
        return b"".join([self.load_before(oid, tid) for oid in oids])

    def parse_loaded(self, frame: bytes) -> Loaded | None:
        return self._parse_loaded(frame[HEADER_SIZE:])

    def call(self, msgid: MsgId, request: Request) -> bytes:
        return self._request(msgid, False, request)

    def notice(self, request: Request) -> bytes:
        return self._request(0, True, request)

    def _request(self, msgid: MsgId, is_notice: bool, request: Request) -> bytes:
        # Before it is copied; also, the codings have errors of their own for what they cannot say.
        for value in request:
            if value.__class__ is bytes and len(value) > self.max_payload:
                raise MessageTooLarge(len(value), self.max_payload)
        name = WIRE_NAMES[type(request)]
        if request.__class__ is TpcBegin:
            request = _without_uid(request)
        payload = self._dumps((msgid, is_notice, name, tuple(request)))
        return frame(payload, self.max_payload)

    def reply(self, msgid: MsgId, value: Any) -> bytes:
        if type(msgid) is LoadBefore:
            msgid = tuple(msgid)
        return frame(self._dumps((msgid, _FLAG_OK, _REPLY, value)))

    def fault(self, msgid: MsgId, name: str, details: Any) -> bytes:
        if type(msgid) is LoadBefore:
            msgid = tuple(msgid)
        return frame(self._dumps((msgid, _FLAG_ERROR, _REPLY, (name, details))))

    def heartbeat(self) -> bytes:
        return frame(self._dumps((_HEARTBEAT_ID, _FLAG_OK, _REPLY, None)))

    def decode(self, payload: bytes) -> Message:
        message = self._loads(payload)
        if type(message) is not tuple or len(message) != 4:
            raise UndecodableMessage("a message is a tuple of four")
        msgid, flag, name, args = message
        if not _is_msgid(msgid):
            raise UndecodableMessage("a message id is a number, a short text or a few of them")
        # A Prefix equals other texts, so the class is compared first.
        if type(name) is str and name == _REPLY:
            if msgid == _HEARTBEAT_ID:
                return Heartbeat()
            if flag == _FLAG_OK:
                return Reply(msgid, args)
            if type(args) not in (tuple, list) or len(args) != 2 or type(args[0]) is not str:
                raise UndecodableMessage("an error is a class name and its arguments")
            return Fault(msgid, args[0], args[1])
        if msgid == _HEARTBEAT_ID:
            return Heartbeat()
        if flag is not False and flag is not True and flag not in (0, 1):
            raise UndecodableMessage("a request's flag is true or false")
        try:
            request = parse_request(self._incoming, bool(flag), name, args)
        except IllegalMessage as error:
            if not flag:
                error.msgid = msgid
            raise
        return Notice(request) if flag else Call(msgid, request)


def _without_uid(request: Request) -> Request:
    *fields, uid = request
    if uid is not None:
        raise ValueError("ZEO's protocol has no place for the unique id of a transaction")
    return tuple(fields)


class PickleCodec(ZeoCodec):
    """Coding ``Z``: pickle protocol 3."""

    coding = Coding.PICKLE

    # Layout of a loadBefore call: PROTO 3, MARK, msgid, NEWFALSE, name, args, TUPLE, STOP;
    # msgid and args are both SHORT_BINBYTES oid, SHORT_BINBYTES tid, TUPLE2.
    _CALL_A = b"\x80\x03(C\x08"
    _CALL_B = b"C\x08"
    _CALL_C = b"\x86\x89X\x0a\x00\x00\x00loadBeforeC\x08"
    _CALL_D = b"\x86t."
    _CALL_SIZE = len(_CALL_A + _CALL_B + _CALL_C + _CALL_B + _CALL_D) + 32
    _CALL_HEAD = pack_length(_CALL_SIZE) + _CALL_A
    load_before_size = HEADER_SIZE + _CALL_SIZE
    # Layout of its reply: msgid as above, BININT1 0, name, then data, start, end, TUPLE3.
    _REPLY_C = b"\x86K\x00X\x06\x00\x00\x00.reply"
    _REPLY_DATA = 23 + len(_REPLY_C)

    def _dumps(self, value: Any) -> bytes:
        return pickles.dumps(value)

    def _loads(self, payload: bytes) -> Any:
        return pickles.loads(payload, self._limits)

    def notice(self, request: Request) -> bytes:
        found = pickle_store(request, self.max_payload) if request.__class__ is Store else None
        return super().notice(request) if found is None else found

    def load_before(self, oid: bytes, tid: bytes) -> bytes:
        return b"".join(
            (self._CALL_HEAD, oid, b"C\x08", tid, self._CALL_C, oid, b"C\x08", tid, b"\x86t.")
        )

    def loaded(
        self, key: tuple[bytes, bytes], data: bytes, start: bytes, end: bytes | None
    ) -> bytes:
        oid, tid = key
        size = len(data)
        if size < 256:
            head = b"C%c" % size
            length = self._REPLY_DATA + size + 16
        else:
            if size > _MAX_LOADED:
                raise MessageTooLarge(size, _MAX_LOADED)
            head = b"B" + size.to_bytes(4, "little")
            length = self._REPLY_DATA + size + 19
        if end is None:
            return b"".join(
                (
                    pack_length(length),
                    b"\x80\x03(C\x08",
                    oid,
                    b"C\x08",
                    tid,
                    self._REPLY_C,
                    head,
                    data,
                    b"C\x08",
                    start,
                    b"N\x87t.",
                )
            )
        return b"".join(
            (
                pack_length(length + 9),
                b"\x80\x03(C\x08",
                oid,
                b"C\x08",
                tid,
                self._REPLY_C,
                head,
                data,
                b"C\x08",
                start,
                b"C\x08",
                end,
                b"\x87t.",
            )
        )

    def parse_load_before(self, frame: bytes) -> tuple[bytes, bytes] | None:
        oid = frame[9:17]
        tid = frame[19:27]
        return (oid, tid) if frame == self.load_before(oid, tid) else None

    def _parse_loaded(self, payload: bytes) -> Loaded | None:
        if payload[23:37] != self._REPLY_C or payload[:5] != b"\x80\x03(C\x08":
            return None
        kind = payload[37:38]
        if kind == b"C" and len(payload) > 38:
            data_at = 39
            data_end = data_at + payload[38]
        elif kind == b"B" and len(payload) > 42:
            data_at = 42
            data_end = data_at + _unpack_length(payload, 38)[0]
        else:
            return None
        if payload[13:15] != b"C\x08" or payload[data_end : data_end + 2] != b"C\x08":
            return None
        tail = payload[data_end + 10 :]
        if tail == b"N\x87t.":
            end = None
        elif len(tail) == 13 and tail[:2] == b"C\x08" and tail[10:] == b"\x87t.":
            end = tail[2:10]
        else:
            return None
        return (
            (payload[5:13], payload[15:23]),
            (payload[data_at:data_end], payload[data_end + 2 : data_end + 10], end),
        )

    def decode(self, payload: bytes) -> Message:
        if len(payload) == self._CALL_SIZE:
            oid = payload[5:13]
            tid = payload[15:23]
            if payload == b"".join(
                (self._CALL_A, oid, b"C\x08", tid, self._CALL_C, oid, b"C\x08", tid, b"\x86t.")
            ):
                key = make_tuple(LoadBefore, (oid, tid))
                return make_tuple(Call, (key, key))
        store = unpickle_store(payload)
        if store is not None:
            return make_tuple(Notice, (store,))
        found = self._parse_loaded(payload)
        return super().decode(payload) if found is None else make_tuple(Reply, found)


class MsgpackCodec(ZeoCodec):
    """Coding ``M``: msgpack."""

    coding = Coding.MSGPACK

    _CALL_A = b"\x94\x92\xc4\x08"
    _CALL_C = b"\xc2\xaaloadBefore\x92\xc4\x08"
    _CALL_SIZE = len(_CALL_A + _CALL_C) + 2 * 2 + 32
    _CALL_HEAD = pack_length(_CALL_SIZE) + _CALL_A
    load_before_size = HEADER_SIZE + _CALL_SIZE
    _REPLY_C = b"\x00\xa6.reply\x93"
    _REPLY_DATA = 22 + len(_REPLY_C)

    def _dumps(self, value: Any) -> bytes:
        return msgpacks.dumps(value)

    def _loads(self, payload: bytes) -> Any:
        return msgpacks.loads(payload, self._limits)

    def notice(self, request: Request) -> bytes:
        found = None
        if request.__class__ is Store:
            found = msgpack_store(request, self.max_payload)
        return super().notice(request) if found is None else found

    def load_before(self, oid: bytes, tid: bytes) -> bytes:
        return b"".join(
            (self._CALL_HEAD, oid, b"\xc4\x08", tid, self._CALL_C, oid, b"\xc4\x08", tid)
        )

    def loaded(
        self, key: tuple[bytes, bytes], data: bytes, start: bytes, end: bytes | None
    ) -> bytes:
        oid, tid = key
        size = len(data)
        if size < 256:
            head = b"\xc4%c" % size
        elif size < 65536:
            head = b"\xc5" + size.to_bytes(2, "big")
        else:
            if size > _MAX_LOADED:
                raise MessageTooLarge(size, _MAX_LOADED)
            head = b"\xc6" + size.to_bytes(4, "big")
        length = self._REPLY_DATA + len(head) + size + 11
        if end is None:
            tail = b"\xc0"
        else:
            tail = b"\xc4\x08" + end
            length += 9
        return b"".join(
            (
                pack_length(length),
                b"\x94\x92\xc4\x08",
                oid,
                b"\xc4\x08",
                tid,
                self._REPLY_C,
                head,
                data,
                b"\xc4\x08",
                start,
                tail,
            )
        )

    def parse_load_before(self, frame: bytes) -> tuple[bytes, bytes] | None:
        oid = frame[8:16]
        tid = frame[18:26]
        return (oid, tid) if frame == self.load_before(oid, tid) else None

    def _parse_loaded(self, payload: bytes) -> Loaded | None:
        if payload[22:31] != self._REPLY_C or payload[:4] != self._CALL_A or len(payload) <= 46:
            return None
        kind = payload[31]
        if kind == 0xC4:
            data_at = 33
            data_end = data_at + payload[32]
        elif kind == 0xC5:
            data_at = 34
            data_end = data_at + _unpack_short(payload, 32)[0]
        elif kind == 0xC6:
            data_at = 36
            data_end = data_at + _unpack_big_length(payload, 32)[0]
        else:
            return None
        if payload[12:14] != b"\xc4\x08" or payload[data_end : data_end + 2] != b"\xc4\x08":
            return None
        tail = payload[data_end + 10 :]
        if tail == b"\xc0":
            end = None
        elif len(tail) == 10 and tail[:2] == b"\xc4\x08":
            end = tail[2:]
        else:
            return None
        return (
            (payload[4:12], payload[14:22]),
            (payload[data_at:data_end], payload[data_end + 2 : data_end + 10], end),
        )

    def decode(self, payload: bytes) -> Message:
        if len(payload) == self._CALL_SIZE:
            oid = payload[4:12]
            tid = payload[14:22]
            if payload == b"".join(
                (self._CALL_A, oid, b"\xc4\x08", tid, self._CALL_C, oid, b"\xc4\x08", tid)
            ):
                key = make_tuple(LoadBefore, (oid, tid))
                return make_tuple(Call, (key, key))
        store = unpack_store(payload)
        if store is not None:
            return make_tuple(Notice, (store,))
        found = self._parse_loaded(payload)
        return super().decode(payload) if found is None else make_tuple(Reply, found)
