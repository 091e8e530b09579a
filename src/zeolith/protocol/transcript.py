"""What two peers say to each other, overheard: bytes of both directions in, entries out.

A :class:`Transcript` stands between a client and a server and reads along, in all codings.  It
judges what it hears as the receiver will, and so tells which side broke the protocol.  It writes
nothing, never raises for anything that travels, and keeps little of it.

Bytes have to be fed before they are passed on: then a question is known before its answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple, TypeAlias

from ..errors import FrameTooLarge, ProtocolViolation, UnknownVersion
from .checksums import ALGORITHMS
from .compression import COMPRESSED, HEAD_SIZE, is_available, original_size
from .framing import HEADER_SIZE, frame, pack_length, unpack_length
from .greeting import Coding, is_tls
from .hello import Terms
from .inquiry import parse_answer
from .limits import DEFAULT_LIMITS, Limits
from .login import LoginReply, LoginStep, mechanisms
from .messages import Call, Fault, MsgId, Register, Reply
from .peers import (
    ClientPeer,
    Event,
    Greeted,
    Hello,
    Inquired,
    Probe,
    ServerPeer,
    Violated,
)

MAX_DECODED: Final = 1024 * 1024
"""Bytes of the longest message that is decoded: of longer ones only the length is told.  Whoever
reads along holds this much of each direction, however long the messages are."""

_COMPRESSED: Final = bytes([COMPRESSED])

MAX_CALLS: Final = 10_000
"""Calls whose answers are awaited.  A client rarely has more than a few hundred; of older ones it
is forgotten what they asked."""


class Answered(NamedTuple):
    """The server answers an administrator's question."""

    answer: dict[str, Any]


class TooLong(NamedTuple):
    """A message that is too long to be looked at, or compressed where the library is missing.

    :ivar kind: its first byte, in Zeolith's own protocol; else None.
    """

    kind: int | None


class Encrypted(NamedTuple):
    """The client begins TLS: nobody can read along."""


Happening: TypeAlias = Event | Answered | TooLong | Encrypted


class Entry(NamedTuple):
    """One message, as its receiver understands it.

    :ivar is_from_client: who sent it.
    :ivar event: what it is; of Violated and Encrypted, the last that is known of this direction.
    :ivar size: bytes on the wire, with the length in front; of a length that is not legal, those
        of the length.
    :ivar asked: class of the request that an answer answers, if that is known.
    """

    is_from_client: bool
    event: Happening
    size: int
    asked: type[Any] | None = None


class _Piece(NamedTuple):
    """A frame, or the beginning of one that is too long.

    :ivar payload: None if only the length is known so far.
    """

    size: int
    payload: bytes | None
    is_whole: bool


class _Cutter:
    """Cuts a stream into frames, and keeps at most ``MAX_DECODED`` bytes of it.

    :param peer: the receiver, which knows how long a frame may be at present.

    :ivar at: how many of the bytes that were fed last have been looked at.
    """

    def __init__(self, peer: ServerPeer | ClientPeer) -> None:
        self._peer = peer
        self.at = 0
        self._head = bytearray()
        self._kept = bytearray()
        self._size = 0
        self._left = 0

    def feed(self, data: bytes) -> Iterator[_Piece]:
        """Yield each frame that is complete; of a long one, and of one that may not be as long as
        it is, first the length; and of a long one its first byte."""
        self.at, end = 0, len(data)
        while self.at < end:
            if self._left:
                part = data[self.at : self.at + self._left]
                is_first = self._left == self._size
                self._left -= len(part)
                self.at += len(part)
                if self._size <= MAX_DECODED:
                    self._kept += part
                elif is_first:
                    yield _Piece(self._size, part[:1], False)
            else:
                part = data[self.at : self.at + HEADER_SIZE - len(self._head)]
                self._head += part
                self.at += len(part)
                if len(self._head) < HEADER_SIZE:
                    return
                (self._size,) = unpack_length(self._head)
                self._left = self._size
                self._head.clear()
                if self._size > min(MAX_DECODED, self._peer.max_size):
                    yield _Piece(self._size, None, False)
            if not self._left and self._size <= MAX_DECODED:
                payload = bytes(self._kept)
                self._kept.clear()
                yield _Piece(self._size, payload, True)


class _Side:
    """What one side says.

    :ivar peer: the receiver of it.
    :ivar is_lost: nothing more is understood of it.
    :ivar undecoded: bytes that were not, since.
    """

    def __init__(self, peer: ServerPeer | ClientPeer) -> None:
        self.peer = peer
        self.cutter = _Cutter(peer)
        self.is_lost = False
        self.undecoded = 0


class Transcript:
    """Reads along on one connection.

    Not thread-safe.

    :param limits: what is taken for legal.
    """

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        # The server's greeting says what it proposes; which of the two is proposed here is
        # never sent.
        terms = Terms(compresses=is_available(), checksums=ALGORITHMS)
        self._server = ServerPeer(Coding.MSGPACK, limits, terms=terms)
        self._client = ClientPeer(limits, terms=terms)
        # Whether the client has to log in, the server will say by what it does.
        self._server.know_users(mechanisms(True), "", must_log_in=False)
        self._up, self._down = _Side(self._server), _Side(self._client)
        self._is_greeted = False
        self._hello: Hello | None = None
        self._is_asked = False
        self._calls: dict[MsgId, type[Any]] = {}

    def undecoded(self, is_from_client: bool) -> int:
        """Return how many bytes of that side were not decoded, because it broke the protocol."""
        return (self._up if is_from_client else self._down).undecoded

    def feed(self, is_from_client: bool, data: bytes) -> list[Entry]:
        """Take bytes that one side has sent; return what became complete by them."""
        side = self._up if is_from_client else self._down
        if side.is_lost:
            side.undecoded += len(data)
            return []
        entries = []
        for piece in side.cutter.feed(data):
            entry = self._understand(is_from_client, side, piece)
            if entry is not None:
                entries.append(entry)
            if side.is_lost:
                side.undecoded += len(data) - side.cutter.at
                break
        return entries

    def _understand(self, is_from_client: bool, side: _Side, piece: _Piece) -> Entry | None:
        size, payload, is_whole = piece
        heard = HEADER_SIZE + size
        if size > side.peer.max_size and not (self._is_asked and not is_from_client):
            events: list[Any] = list(side.peer.receive(pack_length(size)))
            heard = HEADER_SIZE
        elif payload is None:
            return None  # its first byte comes with the next piece
        elif not is_whole:
            codec = side.peer.codec
            is_own = codec is not None and codec.coding is Coding.OWN
            events = [TooLong(payload[0] if is_own else None)]
        elif _is_bulky(payload, side.peer):
            events = [TooLong(COMPRESSED)]
        elif self._is_asked and self._is_greeted and not is_from_client:
            events = [_parse_answer(payload)]
        else:
            events = list(side.peer.receive(frame(payload)))
        if not events:
            # The peer is closed: it has got all that it may get.
            side.is_lost = True
            side.undecoded += heard
            return None
        event, asked = self._follow(is_from_client, events[0])
        if isinstance(event, Violated | Encrypted):
            side.is_lost = True
            if isinstance(event, Encrypted):
                self._down.is_lost = True
        return Entry(is_from_client, event, heard, asked)

    def _follow(self, is_from_client: bool, event: Any) -> tuple[Any, type[Any] | None]:
        """Change the state of both ends as *event* does; return it and what it answers."""
        match event:
            case Call(msgid, request):
                self._remember(msgid, type(request))
            case Reply(msgid, _) | Fault(msgid, _, _):
                asked = self._calls.pop(msgid, None)
                if isinstance(event, Reply) and asked is Register:
                    self._server.registered()
                    self._client.registered()
                return event, asked
            case Greeted():
                self._is_greeted = True
                self._choose()
            case Hello():
                self._hello = event
                self._choose()
            case LoginStep():
                self._client.login_step(event)
            case LoginReply(is_done=True):
                self._client.logged_in()
            case Probe() | Inquired():
                self._is_asked = True
            case Violated(FrameTooLarge() as error) if is_from_client and self._hello is None:
                if is_tls(pack_length(error.announced)):
                    return Encrypted(), None
            case Violated(UnknownVersion()):
                # What comes next is the server's refusal.
                self._hello = Hello(Coding.OWN)
                self._choose()
        return event, None

    def _choose(self) -> None:
        """The client has chosen a coding.  A client that does not wait for the greeting may have
        done so before it."""
        if self._is_greeted and self._hello is not None:
            self._client.hello(self._hello.coding)

    def _remember(self, msgid: MsgId, asked: type[Any]) -> None:
        if len(self._calls) >= MAX_CALLS:
            del self._calls[next(iter(self._calls))]
        self._calls[msgid] = asked


def _is_bulky(payload: bytes, peer: ServerPeer | ClientPeer) -> bool:
    """Return whether *payload* is a compressed message that is too long to be looked at, or
    that cannot be for want of the library."""
    codec = peer.codec
    if codec is None or codec.coding is not Coding.OWN or payload[:1] != _COMPRESSED:
        return False
    if not is_available():
        # The two may know how to read it; we do not.
        return True
    return (
        codec.takes_compressed
        and len(payload) >= HEAD_SIZE
        and original_size(payload) > MAX_DECODED
    )


def _parse_answer(payload: bytes) -> Answered | Violated:
    try:
        return Answered(parse_answer(payload))
    except ProtocolViolation as error:
        return Violated(error)
