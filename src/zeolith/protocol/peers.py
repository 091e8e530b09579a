"""One connection's protocol state, on either side: bytes in, events out.

Neither class writes anything by itself: the shell sends what ``greeting``/``hello`` and the codec
return.  What is legal when is the table :data:`LEGAL`; a pair that is not in it is a violation.

Not thread-safe: whoever holds the reading role of the connection feeds it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any, Final, NamedTuple, TypeAlias

from ..errors import IllegalMessage, LoginRequired, ProtocolViolation
from .additions import (
    OWN_CLIENT_REQUESTS,
    OWN_SERVER_REQUESTS,
    requests_to_client,
    requests_to_server,
)
from .bodies import Bodies
from .checksums import choose
from .codec import Codec, Loaded
from .codecs import make_codec
from .compression import CAPABILITY, compress
from .framing import HEADER_SIZE, MAX_PAYLOAD, FrameReader, frame, unpack_length
from .greeting import (
    OWN_VERSIONS,
    STATUS_PROBE,
    Coding,
    Greeting,
    parse_greeting,
    parse_hello,
    serialize_greeting,
    serialize_hello,
)
from .hello import (
    BLOBS,
    MAGIC,
    NO_TERMS,
    Introduction,
    Terms,
    blob_terms,
    most_transactions,
    parse_answer,
    parse_introduction,
    serialize_introduction,
)
from .inquiry import PREFIX, Inquiry, parse_inquiry
from .limits import BULK_FRAME, DEFAULT_LIMITS, MAX_TRANSACTIONS, STREAM_FRAME, Limits
from .loadrequests import LoadedMany
from .login import MAGIC as LOGIN
from .login import (
    LoginReply,
    LoginStep,
    parse_reply,
    parse_step,
    serialize_reply,
    serialize_step,
)
from .messages import (
    Call,
    Fault,
    Heartbeat,
    Message,
    Notice,
    Register,
    Reply,
)
from .streamlayouts import DATA_HEAD_SIZE, STREAM_HEAD
from .wholes import Whole, cut_wholes


class Phase(Enum):
    """Where a connection is in its life."""

    GREETING = "greeting"
    """The first frame of the peer is awaited."""

    WELCOMING = "awaiting the server's hello"
    """Client only, in Zeolith's own protocol: we have said hello; the server's is awaited."""

    LOGGING_IN = "logging in"
    """In Zeolith's own protocol, where the server knows its users: the client is to say who it is.
    """

    REGISTERING = "registering"
    """The coding is settled; the client has not been admitted to a storage."""

    OPEN = "open"
    """The client is admitted."""

    CLOSED = "closed"
    """The peer broke the protocol, or only had a question."""


class Hello(NamedTuple):
    """The client has chosen a coding; the server's codec is ready.

    :ivar introduction: what it says of itself, in Zeolith's own protocol; it is to get
        :meth:`ServerPeer.welcome` before anything else.
    """

    coding: Coding
    introduction: Introduction | None = None


class Probe(NamedTuple):
    """The client asks ``ruok``: it gets one frame of JSON, then the connection ends."""


class Inquired(NamedTuple):
    """An administrator asks: he gets one frame of JSON, then the connection ends."""

    inquiry: Inquiry


class Greeted(NamedTuple):
    """The server has greeted; the client is to choose a coding."""

    greeting: Greeting


class Welcomed(NamedTuple):
    """The server has answered our hello.

    :ivar introduction: what it says of itself.
    """

    introduction: Introduction


class Violated(NamedTuple):
    """The peer broke the protocol; always the last event of a connection."""

    error: ProtocolViolation


Event: TypeAlias = (
    Message | Hello | Probe | Inquired | Greeted | Welcomed | LoginStep | LoginReply | Violated
)

_REQUESTS = frozenset(form.cls for form in OWN_SERVER_REQUESTS.values())
_NOTICES = frozenset(form.cls for form in OWN_CLIENT_REQUESTS.values())

LEGAL: Final[Mapping[tuple[str, Phase], frozenset[type[Any]]]] = {
    ("server", Phase.GREETING): frozenset({Hello, Probe, Inquired}),
    ("server", Phase.LOGGING_IN): frozenset({LoginStep}),
    ("server", Phase.REGISTERING): frozenset({Register, Heartbeat}),
    ("server", Phase.OPEN): (_REQUESTS - {Register}) | {Heartbeat},
    ("client", Phase.GREETING): frozenset({Greeted}),
    ("client", Phase.WELCOMING): frozenset({Welcomed}),
    ("client", Phase.LOGGING_IN): frozenset({LoginReply}),
    ("client", Phase.REGISTERING): frozenset({Reply, Fault, Heartbeat}) | (_NOTICES - {LoadedMany}),
    ("client", Phase.OPEN): frozenset({Reply, Fault, Heartbeat}) | _NOTICES,
}
"""(our role, phase) → the requests and envelopes that the peer may send then.  ``Call`` and
``Notice`` are judged by the request inside.  While greeting or awaiting a hello, exactly one frame
of those that the table names may come; while logging in, one at a time.  Who may log in, but need
not, may go on as when registering, or ask as in a greeting.  After these phases nothing is legal.
"""

_ZEO_LEGAL: Final[Mapping[tuple[str, Phase], frozenset[type[Any]]]] = {
    (role, phase): kinds - {Heartbeat} if role == "client" else kinds
    for (role, phase), kinds in LEGAL.items()
}
"""The same for ZEO's protocol, whose servers are silent when they have nothing to say."""


class _Peer:
    """What both sides share.

    :ivar phase: present phase.
    :ivar codec: writes messages; None until the coding is settled.
    """

    __slots__ = (
        "_bodies",
        "_compresses",
        "_frames",
        "_legal",
        "_limits",
        "_program",
        "_reader",
        "_terms",
        "_version",
        "codec",
        "phase",
    )

    def __init__(self, limits: Limits, first_frame_size: int, program: str, terms: Terms) -> None:
        self._limits = limits
        self._program = program
        self._terms = terms
        self._version = 0
        # Whether both sides want it.
        self._compresses = False
        self._frames = FrameReader(first_frame_size)
        self._bodies = Bodies()
        self._legal: frozenset[type[Any]] = frozenset()
        self.codec: Codec | None = None
        # The codec, as soon as what arrives are messages.
        self._reader: Codec | None = None
        self.phase = Phase.GREETING

    @property
    def pending(self) -> int:
        """Bytes received that do not yet make a message."""
        return self._frames.pending

    @property
    def body_left(self) -> int:
        """Bytes that are to come of a long message of a stream; nothing else comes before them."""
        return self._bodies.left

    @property
    def body_number(self) -> int:
        """Of the stream whose long message came last."""
        return self._bodies.number

    @property
    def body_limit(self) -> int:
        """Bytes of data that a long message of a stream may have."""
        return self._bodies.limit

    def took_body(self, left: int) -> None:
        """Somebody else has received from the long message that is to come; *left* bytes of that
        one, or of one behind it, are to come now."""
        self._bodies.left = left

    @property
    def max_size(self) -> int:
        """Bytes of the longest payload that is accepted at present."""
        return self._frames.max_size

    def forget(self) -> None:
        """The connection is given up: drop what is pending, and ignore what still comes."""
        self.phase = Phase.CLOSED
        self._frames = FrameReader(0)
        self._bodies = Bodies()

    def _first_frame(self, payload: bytes) -> Event:
        raise NotImplementedError  # pragma: no cover - both sides define it

    def _may_follow(self, event: Event) -> bool:
        """Return whether something may follow *event*, behind which no messages come yet."""
        return False

    def _too_early(self) -> ProtocolViolation:
        """Return the error of bytes that had to wait for our answer."""
        return IllegalMessage("bytes after the first message")

    def receive(self, data: bytes | memoryview) -> list[Event]:
        """Take bytes from the peer; return what they mean, in order.

        Never raises for anything the peer can send: a violation is the last event returned, and
        the peer is then closed and ignores further bytes.

        :param data: a view only while :attr:`body_left` says so, and of not more than that; the
            event has a part of it, which is good until the view is.
        """
        events: list[Event] = []
        if self.phase is Phase.CLOSED:
            return events
        try:
            if self._bodies.limit:
                self._receive_long(data, events)
            else:
                self._receive_frames(bytes(data), events)
        except ProtocolViolation as error:
            self.phase = Phase.CLOSED
            events.append(Violated(error))
        return events

    def _receive_long(self, data: bytes | memoryview, events: list[Event]) -> None:
        """As :meth:`_receive_frames`, where streams may have long messages."""
        bodies = self._bodies
        while data:
            if bodies.left:
                message, data = bodies.cut(memoryview(data))
                events.append(self._judge(message))
            elif not self._frames.pending and bodies.begins(data):
                data = memoryview(data)[DATA_HEAD_SIZE:]
            elif self._reader is not None and (found := self._frames.cut(memoryview(data))):
                # What is said between two long messages: the second need not be copied with it.
                events.append(self._decode(self._reader, found[0]))
                data = found[1]
            else:
                self._receive_frames(bytes(data), events)
                data = bodies.open(self._frames)

    def _receive_frames(self, data: bytes, events: list[Event]) -> None:
        frames = self._frames.feed(data)
        reader = self._reader
        if reader is not None and len(frames) == 1 and not self._frames.pending:
            events.append(self._decode(reader, frames[0]))
            return
        while frames:
            for number, payload in enumerate(frames):
                if self._reader is None:
                    events.append(self._first_frame(payload))
                    if self._reader is None and not self._may_follow(events[-1]):
                        # Nothing may follow before the greeting is answered (a probe gets
                        # no more, and a server waits for the client's choice).
                        if number + 1 < len(frames) or self._frames.pending:
                            raise self._too_early()
                        return
                    continue
                events.append(self._decode(self._reader, payload))
            # A frame may have been held back by the limit of the greeting that came before.
            frames = self._frames.feed(b"") if self._frames.pending else []

    def _decode(self, reader: Codec, payload: bytes) -> Message:
        if self._bodies.limit:
            message = self._bodies.whole(payload)
            if message is not None:
                return self._judge(message)
        return self._judge(reader.decode(payload))

    def _judge(self, message: Message) -> Message:
        cls = message.__class__
        if cls is Call or cls is Notice:
            request = message[-1]  # type: ignore[misc]  # a Heartbeat is none of these
            if request.__class__ not in self._legal:
                error = IllegalMessage(
                    f"{type(request).__name__} is not legal while {self.phase.value}"
                )
                if isinstance(message, Call):
                    error.msgid = message.msgid
                raise error
        elif cls not in self._legal:
            raise IllegalMessage(f"{cls.__name__} is not legal while {self.phase.value}")
        return message

    def _enter(self, role: str, phase: Phase) -> None:
        self.phase = phase
        is_own = self.codec is not None and self.codec.coding is Coding.OWN
        self._legal = (LEGAL if is_own else _ZEO_LEGAL)[role, phase]

    def _introduce(self) -> bytes:
        """Return the frame of our hello."""
        said = Introduction(
            self._version,
            self._limits.max_message_size,
            self._program,
            self._terms.capabilities,
            silence=self._terms.silence,
            **self._login_terms(),
        )
        return frame(serialize_introduction(said))

    def _login_terms(self) -> dict[str, Any]:
        """Return what our hello says about logging in."""
        return {}

    def _meet(self, codec: Codec, introduction: Introduction) -> None:
        """Note what the peer's hello says."""
        codec.max_payload = min(introduction.max_message, MAX_PAYLOAD)
        self._compresses = self._terms.compresses and CAPABILITY in introduction.capabilities
        theirs = blob_terms(introduction.capabilities)
        if self._terms.checksums and BLOBS in introduction.capabilities:
            codec.checksum = self._choose(self._terms.checksums, theirs.checksums)
            codec.stream_frame = min(theirs.frame, BULK_FRAME)
            codec.life = theirs.life
            codec.keeps = theirs.keeps
        codec.transactions = min(most_transactions(introduction.capabilities), MAX_TRANSACTIONS)

    def _choose(self, ours: Sequence[str], theirs: Sequence[Any]) -> str | None:
        """Return the algorithm for checksums of blobs."""
        raise NotImplementedError  # pragma: no cover - both sides define it

    def _admit_long(self, codec: Codec) -> None:
        """Long messages of streams are legal from now on, if both sides have said so."""
        if codec.stream_frame > STREAM_FRAME:
            self._bodies.limit = min(BULK_FRAME, self._limits.max_message_size - STREAM_HEAD)

    def take_expansion(self) -> int:
        """Return by how many bytes the messages received since the last such call were longer
        than they arrived, because they were compressed."""
        codec = self.codec
        if codec is None:
            return 0
        expanded, codec.expanded = codec.expanded, 0
        return expanded


class ServerPeer(_Peer):
    """The server's end of one connection.

    :param coding: the coding to propose; the client may choose the other one of ZEO's, or
        Zeolith's own protocol.
    :param program: our name and version, for the client's log.
    :param terms: what we ask of clients that speak Zeolith's own protocol.
    :param takes_pickle: whether the client may choose the pickle coding; if not, nothing that it
        sends in it is decoded.
    """

    __slots__ = (
        "_coding",
        "_load_size",
        "_mechanisms",
        "_must_log_in",
        "_parse_load",
        "_realm",
        "_takes_pickle",
    )

    def __init__(
        self,
        coding: Coding,
        limits: Limits = DEFAULT_LIMITS,
        program: str = "",
        terms: Terms = NO_TERMS,
        takes_pickle: bool = True,
    ) -> None:
        assert takes_pickle or coding is not Coding.PICKLE, "it would propose what it refuses"
        first_size = max(limits.max_inquiry_size, limits.max_hello_size)
        super().__init__(limits, first_size, program, terms)
        self._coding = coding
        self._takes_pickle = takes_pickle
        self._mechanisms: tuple[str, ...] = ()
        self._must_log_in = False
        self._realm = ""
        self._load_size = 0
        self._parse_load: Callable[[bytes], tuple[bytes, bytes] | None]

    def _choose(self, ours: Sequence[str], theirs: Sequence[Any]) -> str | None:
        return choose(ours, theirs)

    def know_users(self, mechanisms: tuple[str, ...], realm: str, *, must_log_in: bool) -> None:
        """Let the client log in.  Before anything is received.

        :param mechanisms: that it may use.
        :param realm: of the users, for the client.
        :param must_log_in: whether nothing else is legal before it has.
        """
        self._mechanisms = mechanisms
        self._realm = realm
        self._must_log_in = must_log_in

    def greeting(self) -> bytes:
        """Return the frame to send as soon as the connection is made."""
        return frame(serialize_greeting(self._coding))

    def welcome(self) -> bytes:
        """Return the frame that answers a hello of Zeolith's own protocol."""
        assert self._version in OWN_VERSIONS
        return self._introduce()

    def _login_terms(self) -> dict[str, Any]:
        if not self._mechanisms:
            return {}
        key = "login" if self._must_log_in else "may_login"
        return {key: self._mechanisms, "realm": self._realm}

    def login_reply(self, reply: LoginReply) -> bytes:
        """Return the frame that answers a step of a log-in.

        If that makes the client logged in, it may register now, or ask what an administrator asks.
        """
        if reply.is_done:
            self._must_log_in = False
            self._frames.max_size = self._max_register_size
        return frame(serialize_reply(reply))

    @property
    def _max_register_size(self) -> int:
        return min(self._limits.max_register_size, self._limits.max_message_size)

    def registered(self) -> None:
        """The shell has admitted the client: everything but another registration is legal now.

        Messages may be compressed now, in both directions, if both sides want it.
        """
        assert self.codec is not None
        if self._compresses:
            self.codec.takes_compressed = True
            self.codec.compress = compress
        self._frames.max_size = self._limits.max_message_size
        self._admit_long(self.codec)
        self._enter("server", Phase.OPEN)
        self._load_size = self.codec.load_before_size
        self._parse_load = self.codec.parse_load_before

    def receive_load(self, data: bytes) -> tuple[bytes, bytes] | None:
        """Return ``(oid, tid)`` if *data* is exactly one ``loadBefore`` call; it is received then.

        Otherwise return None, and nothing is received: *data* is for :meth:`receive`.  A client
        that waits for each load sends just this, and a server does little else; so it need not
        be an event among others.
        """
        if (
            len(data) != self._load_size
            or self._frames.pending
            or self._bodies.left
            or self.phase is not Phase.OPEN
        ):
            return None
        return self._parse_load(data)

    def _first_frame(self, payload: bytes) -> Event:
        if self.codec is not None:
            return self._before_messages(self.codec, payload)
        if self._must_log_in and not payload.startswith(MAGIC):
            raise LoginRequired(
                "it cannot log in, as ZEO's clients, or has not tried to",
                payload.startswith(PREFIX),
            )
        if payload == STATUS_PROBE:
            self.phase = Phase.CLOSED
            return Probe()
        if payload.startswith(PREFIX):
            self.phase = Phase.CLOSED
            return Inquired(parse_inquiry(payload))
        introduction = None
        if payload.startswith(MAGIC):
            introduction = parse_introduction(payload, self._limits)
            self._version = introduction.version
            coding = Coding.OWN
        else:
            coding = parse_hello(payload, self._takes_pickle)
        self.codec = make_codec(coding, requests_to_server(coding), self._limits)
        if introduction is not None:
            self._meet(self.codec, introduction)
        if introduction is not None and self._mechanisms:
            if not self._must_log_in:
                self._frames.max_size = self._max_register_size
            self._enter("server", Phase.LOGGING_IN)
        else:
            self._begin(self.codec)
        return Hello(coding, introduction)

    def _begin(self, codec: Codec) -> None:
        """What comes from now on are messages."""
        self._reader = codec
        self._frames.max_size = self._max_register_size
        self._enter("server", Phase.REGISTERING)

    def _before_messages(self, codec: Codec, payload: bytes) -> Event:
        """Take a frame of a client that may log in."""
        if payload.startswith(LOGIN):
            return parse_step(payload, self._limits)
        if self._must_log_in:
            raise self._too_early()
        if payload.startswith(PREFIX):
            self.phase = Phase.CLOSED
            return Inquired(parse_inquiry(payload))
        self._begin(codec)
        return self._judge(codec.decode(payload))

    def _may_follow(self, event: Event) -> bool:
        return self.phase is Phase.LOGGING_IN and not self._must_log_in and type(event) is Hello

    def _too_early(self) -> ProtocolViolation:
        if self._must_log_in:
            return LoginRequired("it has not logged in")
        return super()._too_early()


class ClientPeer(_Peer):
    """The client's end of one connection.

    :param program: our name and version, for the server's log.
    :param terms: what we ask of a server that speaks Zeolith's own protocol.
    """

    __slots__ = ("_max_payload", "_parse_loaded")

    def __init__(
        self, limits: Limits = DEFAULT_LIMITS, program: str = "", terms: Terms = NO_TERMS
    ) -> None:
        super().__init__(limits, limits.max_greeting_size, program, terms)
        self._max_payload = MAX_PAYLOAD
        self._parse_loaded: Callable[[bytes], Loaded | None]

    def _choose(self, ours: Sequence[str], theirs: Sequence[Any]) -> str | None:
        return choose(theirs, ours)

    def _first_frame(self, payload: bytes) -> Event:
        if self.phase is Phase.LOGGING_IN:
            return parse_reply(payload, self._limits)
        if self.phase is not Phase.WELCOMING:
            greeting = parse_greeting(payload)
            if greeting.is_zeolith:
                # What it accepts is configured there, and it ends the connection for more; in
                # Zeolith's own protocol it will say how much.  ZEO's server takes whatever a
                # frame can hold.
                self._max_payload = self._limits.max_message_size
            return Greeted(greeting)
        introduction = parse_answer(payload, self._version, self._limits)
        assert self.codec is not None  # hello() has made it
        self._meet(self.codec, introduction)
        # The answer to the registration may be compressed.
        self.codec.takes_compressed = self._compresses
        self._begin(self.codec)
        return Welcomed(introduction)

    def hello(self, coding: Coding, version: int = OWN_VERSIONS[-1]) -> bytes:
        """Choose *coding*; return the frame that tells the server.

        Requests may follow at once, also before the server has answered the hello of Zeolith's own
        protocol.

        :param version: of Zeolith's own protocol, one that the server speaks too.
        """
        self.codec = make_codec(coding, requests_to_client(coding), self._limits, self._max_payload)
        if coding is not Coding.OWN:
            self._begin(self.codec)
            return frame(serialize_hello(coding))
        self._version = version
        self._frames.max_size = self._limits.max_hello_size
        self._enter("client", Phase.WELCOMING)
        return self._introduce()

    def _begin(self, codec: Codec) -> None:
        """What comes from now on are messages."""
        self._reader = codec
        self._frames.max_size = self._limits.max_message_size
        self._enter("client", Phase.REGISTERING)

    def login_step(self, step: LoginStep) -> bytes:
        """Return the frame of a step to log in, whose answer is the next that may come.

        Not before the server's hello, which says whether it can be done.
        """
        self._reader = None
        self._frames.max_size = self._limits.max_hello_size
        self._enter("client", Phase.LOGGING_IN)
        return frame(serialize_step(step))

    def logged_in(self) -> None:
        """The server has let us in: we may register."""
        assert self.codec is not None
        self._begin(self.codec)

    def registered(self) -> None:
        """The server has admitted us: what we send may be compressed now, if both sides want it."""
        assert self.codec is not None
        if self._compresses:
            self.codec.compress = compress
        self._admit_long(self.codec)
        self._enter("client", Phase.OPEN)
        self._parse_loaded = self.codec.parse_loaded

    def receive_loaded(self, data: bytes | memoryview) -> Loaded | None:
        """Return the call's ``(oid, tid)`` and the answer's ``(data, start, end)`` if *data* is
        exactly one answer to ``loadBefore`` with an object in it; it is received then.

        Otherwise return None, and nothing is received: *data* is for :meth:`receive`.
        """
        size = len(data) - HEADER_SIZE
        if (
            size < 0
            or size != unpack_length(data)[0]
            or size > self._frames.max_size
            or self._frames.pending
            or self._bodies.left
            or self.phase is not Phase.OPEN
        ):
            return None
        return self._parse_loaded(bytes(data))

    def receive_wholes(self, data: bytes | memoryview) -> tuple[list[Whole], int, bool]:
        """Return the short blobs with which *data* begin, how many bytes they take, and whether
        what is behind them is the beginning of another one, which may be kept until more of it has
        come.

        They are received then; what is behind them is not, but for :meth:`receive`.
        """
        limit = self._bodies.limit
        if (
            not limit  # they are agreed upon together with checksums
            or self._frames.pending
            or self._bodies.left
            or self.phase is not Phase.OPEN
        ):
            return [], 0, False
        return cut_wholes(data, limit)
