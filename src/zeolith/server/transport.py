"""Glue between the event loop and a session: bytes in, bytes out, and when to stop either."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from time import monotonic
from typing import Any, Final

from .. import __version__
from ..errors import (
    FrameTooLarge,
    LoginRequired,
    PickleRefused,
    ProtocolViolation,
    UnknownVersion,
)
from ..protocol.faults import serialize_fault
from ..protocol.framing import frame as make_frame
from ..protocol.greeting import FULL, Coding
from ..protocol.hello import serialize_refusal
from ..protocol.inquiry import serialize_answer
from ..protocol.liveness import Liveness
from ..protocol.login import LoginStep
from ..protocol.messages import Call, Heartbeat, LoadBefore, Notice, make_tuple
from ..protocol.peers import Event, Hello, Inquired, Probe, ServerPeer, Violated
from ..rights import NOTHING, UNLIMITED, Rights
from .crowd import Entry
from .door import Login
from .filesending import FileSender, make_sender
from .handlers import HANDLERS
from .inquiries import answer_inquiry
from .lobby import Lobby
from .origins import origin
from .overview import describe_counters
from .peerlog import PeerName, peer_logger
from .publisher import Publisher
from .reading import load_before
from .session import NOTICE, Session
from .siphon import BEGIN_TIME, LEAST, Siphon, make_source
from .tally import Limit
from .users import User

logger = peer_logger(__name__)

_PROGRAM: Final = f"zeolith {__version__}"

_FLUSH_SIZE: Final = 64 * 1024
"""Bytes of replies collected before they are handed to the transport."""

_INET: Final = (socket.AF_INET, socket.AF_INET6)
_RESET: Final = struct.pack("ii", 1, 0)

_LINGER: Final = 5.0
"""Seconds that a connection which we close gets to take what it was sent."""


class _OpenGate:
    """Stands for the publisher of a client that has not chosen a storage."""

    is_held = False


_OPEN_GATE: Final = _OpenGate()


class Connection(asyncio.Protocol):
    """One connection from its first byte to its last.  Belongs to the loop's thread.

    Requests are handled in the order of their arrival.  While a connection is *stalled*, for
    whatever reason, what arrives waits, and reading stops as soon as something waits.

    :param lobby: the server.
    :param entry: its place in the crowd, if it has got one before; else it asks for one.
    :ivar address: of the peer, for messages.
    :ivar number: of the connection, counted since the server started.
    :ivar since: when it was made (``time.monotonic``).
    :ivar active: when the peer last said something besides heartbeats (``time.monotonic``).
    :ivar is_paused: whether the peer reads slower than it is sent to.
    :ivar liveness: how long either side may be silent; None in ZEO's protocol.
    """

    __slots__ = (
        "_backlog",
        "_compress",
        "_demand",
        "_entry",
        "_files",
        "_gate",
        "_held",
        "_incoming",
        "_is_closing",
        "_is_gathering",
        "_is_hushed",
        "_is_pumping",
        "_lobby",
        "_login",
        "_out",
        "_out_size",
        "_peer",
        "_session",
        "_siphon",
        "_spoke",
        "_stalls",
        "_timer",
        "_transport",
        "_uploading",
        "_was_heard",
        "active",
        "address",
        "is_paused",
        "liveness",
        "number",
        "since",
    )

    def __init__(self, lobby: Lobby, entry: Entry | None = None) -> None:
        self._lobby = lobby
        self._entry = entry
        options = lobby.options
        coding = Coding.MSGPACK if options.msgpack or not options.pickle else Coding.PICKLE
        self._peer = ServerPeer(coding, options.limits, _PROGRAM, lobby.terms, options.pickle)
        self._compress: Callable[[bytes], bytes] | None = None
        self._was_heard = self._spoke = False
        self._login: Login | None = None
        # Of the client's hello: after how many seconds of silence it gives us up.
        self._demand: float | None = None
        self.liveness: Liveness | None = None
        self._transport: asyncio.Transport
        self._files: FileSender | None = None
        self._siphon: Siphon | None = None
        self._session: Session | None = None
        self._gate: Publisher | _OpenGate = _OPEN_GATE
        self._timer: asyncio.TimerHandle | None = None
        self._backlog: list[Event] = []
        self._stalls: set[str] = set()
        self._out: list[bytes] = []
        self._out_size = 0
        # What the peer makes us keep in memory (R8): the sum, as counted by the lobby, of what the
        # backlog arrived as, what waits for the disk, and messages that are not complete.
        self._incoming = 0
        self._held = 0
        self._uploading = 0
        self._is_pumping = self._is_gathering = False
        self._is_closing = False
        self._is_hushed = False  # reading is paused
        self.is_paused = False
        self.address: str = "?"
        self.number = 0
        self.since = self.active = 0.0

    # -- called by the event loop ----------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        # uvloop's transports are no subclass of asyncio's, whose methods they have.
        lobby = self._lobby
        self._transport = transport
        lobby.peers += 1
        self.number = lobby.peers
        self.since = self.active = monotonic()
        peername = transport.get_extra_info("peername")
        source = origin(peername)
        label = _peer_label(peername, lobby.peers)
        self.address = PeerName(label, lobby.lines, source)
        lobby.connections[self] = None
        if self._entry is None:
            self._entry = lobby.crowd.enter(source, label, self.abort)
        else:
            self._entry.evict = self.abort
        if self._entry is None:
            transport.write(make_frame(FULL))
            transport.close()
            self._is_closing = True
            return
        transport.set_write_buffer_limits(high=lobby.options.output_mark)
        _tune(transport.get_extra_info("socket"), lobby.options.dead_peer_timeout)
        if lobby.is_closing:
            transport.abort()
            return
        if lobby.door is not None:
            login = self._login = lobby.door.meet(transport.get_extra_info, self.address)
            self._peer.know_users(
                login.mechanisms, lobby.door.users.realm, must_log_in=login.user is None
            )
        self._timer = lobby.loop.call_later(lobby.options.register_timeout, self._is_late)
        transport.write(self._peer.greeting())

    def data_received(self, data: bytes) -> None:
        self._was_heard = True
        if not (self._stalls or self._backlog or self._gate.is_held or self._is_closing):
            load = self._peer.receive_load(data)
            if load is not None:
                self.active = monotonic()
                self._load(make_tuple(LoadBefore, load))
                return
        peer = self._peer
        arrived = peer.pending + len(data)
        events = peer.receive(data)
        arrived -= peer.pending
        expanded = 0 if self._compress is None else peer.take_expansion()
        if events and events[-1].__class__ is not Heartbeat:
            self.active = monotonic()
        if self._stalls or self._backlog:
            self._backlog.extend(events)
            self._held += arrived + expanded
            self._hush()
        else:
            self._pump(events)
            if self._backlog:
                # What came before these data belongs to the first message.
                is_all = self._backlog[0] is events[0]
                self._held = arrived + expanded if is_all else min(arrived, len(data))
                if expanded and not is_all:
                    self._held = max(self._held, sum(map(_weight, self._backlog)))
        if peer.pending + self._held + self._uploading != self._incoming:
            self._recount()
        if peer.body_left >= LEAST and len(data) >= LEAST:
            self._siphon_off()

    def pause_writing(self) -> None:
        self.is_paused = True
        self.stall("output")

    def resume_writing(self) -> None:
        self.is_paused = False
        self.unstall("output")
        if self._session is not None:
            self._session.resumed()

    def connection_lost(self, exc: Exception | None) -> None:
        is_cut = not self._is_closing and not self._lobby.is_closing
        if self._siphon is not None:
            self._siphon.stop()
        self._is_closing = True
        self._count_incoming(0)
        self._backlog.clear()
        self._out.clear()
        self._end_files()
        if self._timer is not None:
            self._timer.cancel()
        del self._lobby.connections[self]
        if self._entry is not None:
            self._entry.leave()
        session = self._session
        if session is not None:
            if exc is not None:
                logger.info("(%s) connection broke: %s", session.name, exc)
            session.lost(is_cut=is_cut)
        else:
            logger.debug("(%s) left before it said anything", self.address)

    # -- requests --------------------------------------------------------------------------------

    def _load(self, request: LoadBefore) -> None:
        """Handle a load that came alone: nothing is waiting, before it or behind it."""
        session = self._session
        assert session is not None
        try:
            load_before(session, request, request)
        except Exception as error:  # noqa: BLE001 - becomes the answer
            session.fault(request, error)

    def _pump(self, events: list[Event]) -> None:
        """Handle *events* and the backlog that forms meanwhile, until stalled."""
        self._is_pumping = True
        try:
            while True:
                done = self._handle(events)
                if done < len(events):
                    self._backlog[:0] = events[done:]
                if not self._backlog or self._stalls or self._is_closing:
                    break
                events, self._backlog = self._backlog, []
        finally:
            self._is_pumping = False
            self.flush()

    def _handle(self, events: list[Event]) -> int:
        """Handle *events* until stalled; return how many were handled."""
        done = 0
        for event in events:
            if self._stalls or self._is_closing:
                break
            if event.__class__ is Call:
                if self._gate.is_held:
                    self._wait_for_finish()
                    break
                msgid, request = event
                session = self._session
                try:
                    HANDLERS[request.__class__](session, msgid, request)
                except Exception as error:  # noqa: BLE001 - becomes the answer
                    assert session is not None
                    session.fault(msgid, error)
            else:
                self._handle_other(event)
            done += 1
        return done

    def _handle_other(self, event: Event) -> None:
        session = self._session
        if isinstance(event, Notice):
            assert session is not None
            try:
                HANDLERS[event.request.__class__](session, NOTICE, event.request)
            except Exception as error:  # noqa: BLE001 - the connection's end
                session.fault(NOTICE, error)
        elif isinstance(event, Hello):
            assert self._peer.codec is not None
            self._session = Session(self, self._peer.codec, self._lobby)
            program = ""
            if event.introduction is not None:
                self.write(self._peer.welcome())
                program = event.introduction.program
                self._demand = event.introduction.silence
                if self._login is None:
                    self._lobby.pulse.join(self, self._demand)
                # Else when it has registered: a heartbeat has no place in a log-in.
            logger.debug("(%s) said hello, coding %s %s", self.address, event.coding.name, program)
        elif isinstance(event, LoginStep):
            assert self._login is not None  # or the peer would not have let it pass
            reply = self._login.take(event)
            self.write(self._peer.login_reply(reply))
            if reply.error:
                self.close()
        elif isinstance(event, Probe):
            logger.debug("(%s) asks for the status", self.address)
            self.write(make_frame(json.dumps(describe_counters(self._lobby, self)).encode("ascii")))
            self.close()
        elif isinstance(event, Inquired):
            logger.debug("(%s) asks: %s", self.address, event.inquiry)
            answer = answer_inquiry(self._lobby, self, event.inquiry)
            self.write(make_frame(serialize_answer(answer)))
            self.close()
        elif isinstance(event, Violated):
            self._refuse(event.error)
        # else a heartbeat: it has served its purpose by arriving

    def _refuse(self, error: ProtocolViolation) -> None:
        if isinstance(error, FrameTooLarge):
            self._lobby.tally.hit(Limit.MESSAGE_SIZE)
        elif isinstance(error, PickleRefused):
            self._lobby.tally.hit(Limit.PICKLE)
        if isinstance(error, LoginRequired) and self._lobby.door is not None:
            self._lobby.door.warn("(%s) not let in: %s", self.address, error)
            if error.is_inquiry:
                answer = {"error": "this server knows its users: log in with --username"}
                self.write(make_frame(serialize_answer(answer)))
            self.close()
            return
        logger.warning("(%s) connection closed, protocol violated: %s", self.name, error)
        msgid = getattr(error, "msgid", None)
        if msgid is not None and self._peer.codec is not None and self._session is not None:
            fault_name, details = serialize_fault(error)
            self._session.send(self._peer.codec.fault(msgid, fault_name, details))
        elif isinstance(error, UnknownVersion):
            self.write(make_frame(serialize_refusal(error)))
        self.close()

    def registered(self, publisher: Publisher) -> None:
        """The session has chosen a storage."""
        self._peer.registered()
        assert self._peer.codec is not None
        self._compress = self._peer.codec.compress
        self._gate = publisher
        assert self._entry is not None
        self._entry.settle()
        if self._login is not None and self._peer.codec.coding is Coding.OWN:
            self._lobby.pulse.join(self, self._demand)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _is_late(self) -> None:
        self._timer = None
        self._lobby.tally.hit(Limit.REGISTER_TIMEOUT)
        logger.warning(
            "(%s) connection closed: not registered within %g s",
            self.address,
            self._lobby.options.register_timeout,
        )
        self.abort()

    # -- flow of input ---------------------------------------------------------------------------

    def stall(self, reason: str) -> None:
        """Handle nothing more until :meth:`unstall` with the same reason."""
        self._stalls.add(reason)

    def unstall(self, reason: str) -> None:
        """Take back a stall, if there is one; go on if it was the last."""
        if not self._stalls:
            return
        self._stalls.discard(reason)
        if self._stalls or self._is_pumping or self._is_closing:
            return
        if self._backlog:
            events, self._backlog = self._backlog, []
            self._pump(events)
            handled = events[: len(events) - len(self._backlog)]
            self._held = self._held - sum(map(_weight, handled)) if self._backlog else 0
            self._recount()
        if self._is_hushed and not self._stalls and not self._is_closing:
            self._is_hushed = False
            self._transport.resume_reading()

    def _siphon_off(self) -> None:
        """Have a thread read what comes fast and is long."""
        session, peer = self._session, self._peer
        if session is None or self._stalls or self._backlog or self._is_closing:
            return
        try:
            siphon = self._siphon = session.incoming.siphon(
                peer.body_number,
                peer.body_left,
                peer.body_limit,
                partial(make_source, self._transport),
                self._siphoned,
            )
        except OSError as error:
            # No descriptor is left.  It goes through the loop, and is tried again for each part.
            logger.debug("(%s) no thread can read its upload: %s", self.name, error)
            return
        if siphon is not None:
            self.stall("siphon")
            self._hush()
            self._lobby.loop.call_later(BEGIN_TIME, self._read_on, siphon)

    def _read_on(self, siphon: Siphon) -> None:
        if siphon.withdraw():
            self._siphoned()

    def _siphoned(self) -> None:
        siphon, self._siphon = self._siphon, None
        if siphon is not None:  # else we have gone on reading before
            self._peer.took_body(siphon.left)
            self.unstall("siphon")

    def heard(self) -> None:
        """The peer has sent something that was not read here."""
        self._was_heard = True
        self.active = monotonic()

    def _wait_for_finish(self) -> None:
        assert self._session is not None
        self.stall("finish")
        self._session.service.when_settled(lambda: self.unstall("finish"))

    def count_uploads(self, size: int) -> None:
        """*size* bytes of the client wait for the disk (R8)."""
        if size != self._uploading:
            self._uploading = size
            if not self._is_pumping:  # else it is not yet clear what of the backlog is left
                self._recount()

    def _recount(self) -> None:
        if not self._is_closing:
            self._count_incoming(self._peer.pending + self._held + self._uploading)

    def _count_incoming(self, size: int) -> None:
        """*size* bytes have arrived that are not done with (R8)."""
        lobby = self._lobby
        lobby.incoming += size - self._incoming
        self._incoming = size
        limit = lobby.options.incoming_limit
        while lobby.incoming > limit:
            largest = max(lobby.connections, key=lambda connection: connection._incoming)
            lobby.tally.hit(Limit.INCOMING)
            logger.warning(
                "(%s) connection dropped: messages that are not complete, or wait for their turn "
                "or for the disk, take %d bytes over all connections, the limit is %d, and this "
                "one's share is the largest with %d",
                largest.name,
                lobby.incoming,
                limit,
                largest._incoming,
            )
            lobby.incoming -= largest._incoming
            largest._incoming = 0
            largest._backlog.clear()
            largest._peer.forget()
            largest.abort()

    def _hush(self) -> None:
        # Only once something waits: most stalls end before more arrives, and then pausing would
        # only have cost system calls.
        if not self._is_hushed and not self._is_closing:
            self._is_hushed = True
            self._transport.pause_reading()

    # -- output ----------------------------------------------------------------------------------

    def write(self, frame: bytes) -> None:
        """Send *frame*.  Only sessions call this, which see to the order (R1)."""
        self._spoke = True
        if self._compress is not None:
            frame = self._compress(frame)
        if self._is_pumping or self._is_gathering:
            self._out.append(frame)
            self._out_size += len(frame)
            if self._out_size > _FLUSH_SIZE:
                self.flush()
        elif not self._is_closing:
            self._transport.write(frame)

    @contextmanager
    def gathering(self) -> Iterator[None]:
        """Have what is written in a ``with`` statement leave together."""
        self._is_gathering = True
        try:
            yield
        finally:
            self._is_gathering = False
            if not self._is_pumping:
                self.flush()

    def flush(self) -> None:
        """Have leave at once what was written while requests are handled."""
        out = self._out
        if not out:
            return
        self._out = []
        self._out_size = 0
        if not self._is_closing:
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))

    def limit_output(self, mark: int | None) -> None:
        """Have the peer count as slow when *mark* bytes wait for it, not only at ``output_mark``.

        :param mark: None: as before, and no more files are sent.
        """
        high = self._lobby.options.output_mark
        if mark is not None:
            high = min(high, mark - 1)  # asyncio asks for more than that
        else:
            self._end_files()
        self._transport.set_write_buffer_limits(high=high)

    @property
    def sends_files(self) -> bool:
        """Whether :meth:`send_file` may be tried: nothing is encrypted or compressed.  Until the
        next ``limit_output(None)``."""
        if self._files is None and self._compress is None and not self._is_closing:
            try:
                self._files = make_sender(self._transport)
            except OSError as error:
                logger.warning("(%s) files are sent as other data: %s", self.name, error)
        return self._files is not None

    def send_file(self, head: bytes, descriptor: int, offset: int, size: int) -> int:
        """Send *head* and *size* bytes of an open file, past the transport; only sessions call it.

        :returns: how many of the bytes the system took at once, 0 if it is not possible now: other
            data wait, and nothing was sent.  What it did not take is sent as other data are.
        """
        self.flush()
        if self._files is None or self._is_closing or self._transport.get_write_buffer_size():
            return 0
        try:
            sent = self._files.send(head, descriptor, offset, size)
            rest = len(head) + size - sent
            if sent and rest:
                start = max(sent - len(head), 0)
                data = os.pread(descriptor, size - start, offset + start)
                if len(data) != size - start:
                    raise OSError("a file has become shorter while it was sent")
                self._transport.write(head[sent:] + data)
        except OSError as error:
            # In the middle of a message; and if it is the connection, its end is to be reported.
            logger.warning("(%s) connection dropped: %s", self.name, error)
            self.abort()
            return len(head) + size
        if sent:
            self._spoke = True
        return sent

    def _end_files(self) -> None:
        if self._files is not None:
            self._files.close()
            self._files = None

    def check_output(self) -> None:
        """Drop the connection if it has not taken too much of what it did not ask for (R8)."""
        if not self.is_paused or self._is_closing:
            return
        size = self._transport.get_write_buffer_size()
        limit = self._lobby.options.output_limit
        if size > limit:
            session = self._session
            assert session is not None
            session.stats.slow_clients += 1
            session.drop(f"it does not read: {size} bytes wait for it, the limit is {limit}")

    # -- silence (see Pulse) ---------------------------------------------------------------------

    def take_signs(self) -> tuple[bool, bool]:
        """Return whether the peer was heard and spoken to since the last such call, or could not
        have been: while we do not read we cannot hear, and who does not read has enough to."""
        signs = self._was_heard or self._is_hushed, self._spoke or self.is_paused
        self._was_heard = self._spoke = False
        return signs

    def beat(self) -> None:
        """Send a heartbeat, which reveals nothing (R1)."""
        assert self._peer.codec is not None
        self.write(self._peer.codec.heartbeat())

    def fall_silent(self, seconds: float) -> None:
        """The peer has been silent for *seconds*: drop it."""
        session = self._session
        if session is None or self._is_closing:
            return
        if session.publisher is not None:
            session.stats.silent_clients += 1
        session.leave(f"nothing has been heard of it for {seconds:g} s (dead-peer-timeout)")

    # -- the end ---------------------------------------------------------------------------------

    @property
    def user(self) -> User | None:
        """Who the peer is; None if nobody knows, or cares."""
        return None if self._login is None else self._login.user

    @property
    def rights(self) -> Rights:
        """What it may do."""
        if self._login is None:
            return UNLIMITED
        return NOTHING if self._login.user is None else self._login.user.rights

    @property
    def name(self) -> str:
        """Of the client, for messages."""
        return self.address if self._session is None else self._session.name

    @property
    def unsent(self) -> int:
        """Bytes that the peer has not taken yet."""
        return self._out_size + self._transport.get_write_buffer_size()

    @property
    def is_closing(self) -> bool:
        """Whether nothing more is taken from the peer."""
        return self._is_closing

    def extra_info(self, name: str) -> Any:
        """Return what the transport knows of the peer under that name, or None."""
        return self._transport.get_extra_info(name)

    @property
    def session(self) -> Session | None:
        """The client, once it has said hello."""
        return self._session

    def close(self) -> None:
        """Close after what was written so far, which the peer gets a moment to take."""
        if self._is_closing:
            return
        self.flush()
        self._is_closing = True
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._lobby.loop.call_later(_LINGER, self._transport.abort)
        self._transport.close()

    def abort(self) -> None:
        """Close at once; what the peer has not taken is lost."""
        self._is_closing = True
        if self._siphon is not None:
            self._siphon.stop()
        sock = self._transport.get_extra_info("socket")
        if sock is not None and sock.family in _INET:
            # A reset, so that the system forgets what the peer does not read, too.  Unless the
            # socket is closed, and only its end is still to be reported.
            with suppress(OSError, ValueError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._transport.abort()


def _weight(event: Event) -> int:
    """Return how many bytes *event* took on the wire at least."""
    if event.__class__ is not Call and event.__class__ is not Notice:
        return 0
    request = event[-1]
    return sum(len(field) for field in request if field.__class__ in (bytes, memoryview))


def _peer_label(peername: Any, number: int) -> str:
    if isinstance(peername, tuple) and len(peername) >= 2:
        host, port = peername[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    # Clients of a Unix socket have no address of their own.
    return f"unix client {number}"


def _tune(sock: Any, dead_peer_timeout: float) -> None:
    """Have small messages sent at once, and dead peers noticed."""
    if sock is None or sock.family not in _INET:
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sys.platform == "linux":
        # Half of the time to notice that nothing comes, half to be sure.
        idle = max(int(dead_peer_timeout / 2), 1)
        interval = max(int(dead_peer_timeout / 8), 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, interval)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)
        # Unacknowledged data hides a dead peer from keep-alive.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(dead_peer_timeout * 1000))
