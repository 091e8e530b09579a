"""One connection to a server: requests out, answers and notices in, without a thread of its own.

**The reading role.**  Threads that call the server write their request to the socket themselves.
Then one of them *leads*: it holds the reading role, reads the socket and handles every message in
the order of arrival until its own answer is there.  The others *follow*: each waits on a lock of
its own until its answer has been put into its slot, or until it is asked to lead because the
leader left.  The idle watcher (:mod:`.watcher`) takes the role only when it is free.

**Interrupts.**  A signal handler may raise between any two steps of the main thread.  The role is
a lock that knows its owner, so whoever is interrupted around taking it can tell whether it has to
be given up.  The owner matters for another thing, too: a finalizer that the garbage collector runs
in the middle of all this is refused, where it would wait for itself.

**Who may see what.**  Messages are handled by the leader, completely, before the next one is
looked at, and before the thread waiting for it learns of it (rule R2).

**Two handshakes between threads** keep this correct without a lock around it; each is the classic
"write mine, then read yours" on both sides, so at least one side sees the other:

- answer: the leader sets ``slot.done``, then looks for waiters' locks; a follower publishes its
  lock, then looks at ``done``.
- role: the leader releases the role, then looks for followers; a follower enlists, then tries the
  role.
"""

from __future__ import annotations

import itertools
import logging
import threading
from _thread import LockType, allocate_lock
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from ZODB.POSException import POSKeyError

from .. import __version__
from ..errors import ClientDisconnected, ClientStorageError, LoginRefused, ProtocolViolation
from ..protocol.codec import Codec
from ..protocol.faults import parse_fault
from ..protocol.greeting import Coding, Greeting
from ..protocol.hello import NO_TERMS, Database, Terms
from ..protocol.loadrequests import LoadedMany, Record
from ..protocol.messages import Call, Fault, MsgId, Notice, Reply, Request
from ..protocol.peers import ClientPeer, Greeted, Violated, Welcomed
from ..protocol.streamlayouts import DATA_HEAD_SIZE, STREAM_HEAD, data_head
from ..protocol.streamrequests import STREAM_MESSAGES
from .arguments import check_tid, check_wanted
from .inlet import Inlet
from .login import NO_LOGIN, Conversation, refuse_login
from .patience import Patience
from .principal import Principal
from .receiver import Receiver, to_revision
from .slots import Slot, release
from .streams import Streams
from .wire import RECEIVE_SIZE, PlainWire, Wire

logger = logging.getLogger(__name__)

PROGRAM = f"zeolith {__version__}"
"""What this client calls itself in a hello of Zeolith's own protocol."""

SEND_MARK = 64 * 1024
"""Notices are collected up to this many bytes before they are sent: a commit of small objects costs
one system call per some two hundred of them, and the server starts on them early."""


class NotSent(ClientDisconnected):
    """The connection had ended before anything of a request was sent."""


class Channel:
    """A connection to a server, after the greeting.

    Any thread may call any method, except where stated.

    :param wire: connected; the channel owns it from now on.
    :param receiver: gets loaded objects and notices.
    :param server_name: how the server is called in errors.
    :param terms: what we ask of a server that speaks Zeolith's own protocol.
    :param principal: who we are; None: we do not say.
    """

    def __init__(
        self,
        wire: Wire,
        receiver: Receiver,
        server_name: str,
        terms: Terms = NO_TERMS,
        principal: Principal | None = None,
    ) -> None:
        self.wire = wire
        # Without TLS, long data need not be copied together, or into pieces.
        self._plain = wire if isinstance(wire, PlainWire) else None
        self._ended_body = False  # by what was read last
        self._inlet = Inlet()
        self.server_name = server_name
        self.server_program = ""
        """What the server calls itself; empty until it has said so."""
        self.database: Database | None = None
        """Which database it is that the server has admitted us to; None if it does not say."""
        self.receiver = receiver
        self.terms = terms
        self.demand: float | None = None
        """Seconds of silence after which the server gives us up; None: never, or it does not say.
        """
        self._principal = principal
        self._peer = ClientPeer(program=PROGRAM, terms=terms)
        # By the id of the call, or by what somebody waits for: see wait_until.
        self._slots: dict[Any, Slot] = {}
        self._role = threading.RLock()
        self._is_leader = _owned(self._role)
        # What wakes those who follow.
        self._followers: dict[LockType, None] = {}
        self._numbers = itertools.count(1)
        # Guards the socket's sending side, _waiting and _waiting_size.
        self._sending = threading.RLock()
        self._is_sender = _owned(self._sending)
        self._waiting: list[bytes] = []
        self._waiting_size = 0
        self._cause: BaseException | None = None
        # Held while the connection is ended: see _break.
        self._breaking = threading.RLock()
        self._codec: Codec
        self._encode_load: Callable[[bytes, bytes], bytes]
        # Of what is sent, except loads, which are short.
        self._compress: Callable[[bytes], bytes] | None = None
        self.reads = 0
        """Number of times the socket was read; the watcher tells from it whether calls are made."""
        self._patience: Patience | None = None
        self.has_spoken = False
        """Whether anything was sent; for the watcher, who sets it back."""
        self.streams = Streams(self)
        """What flows beside the calls, in Zeolith's own protocol."""

    # -- opening -----------------------------------------------------------------------------------

    def greet(self) -> None:
        """Wait for the server's greeting and choose how to speak.  First call of all, once.

        In Zeolith's own protocol the server's hello is still to come, like any message; calls need
        not wait for it.

        :raises OSError: the connection ended.
        :raises ProtocolViolation: no server that speaks our protocol.
        """
        while True:
            data = self.wire.receive()
            if not data:
                raise ConnectionResetError("the server closed the connection without a greeting")
            events = self._peer.receive(data)
            # Nothing may follow a greeting: what a server sends behind it makes it no server.
            if events and isinstance(events[-1], Violated):
                raise events[-1].error
            for event in events:
                if isinstance(event, Greeted):
                    self.wire.send(self._answer(event.greeting))
                    codec = self._peer.codec
                    assert codec is not None  # hello() has made it
                    self._codec = codec
                    self._encode_load = codec.load_before
                    return

    def _answer(self, greeting: Greeting) -> bytes:
        """Return the frame that answers *greeting*."""
        version = greeting.version
        if version is not None:
            return self._peer.hello(Coding.OWN, version)
        if self._principal is not None:
            raise LoginRefused(NO_LOGIN)
        # Between Zeolith peers no pickle travels; a ZEO server gets what it proposes.
        return self._peer.hello(Coding.MSGPACK if greeting.is_zeolith else greeting.coding)

    def log_in(self, binding: bytes | None) -> None:
        """Log in, if there is somebody to log in as.  After the greeting, before any call.

        :param binding: what ties the log-in to the TLS connection; None without TLS.
        :raises OSError: the connection ended.
        :raises LoginRefused: we cannot, or must not go on.
        :raises LoginDelayed: not now.
        """
        if self._principal is not None:
            wire = self.wire
            line = Conversation(self._peer, wire.receive, wire.send)
            self._met(line.log_in(self._principal, binding))

    def _met(self, event: Welcomed) -> None:
        self.server_program = event.introduction.program
        self.demand = event.introduction.silence

    @property
    def speaks_own(self) -> bool:
        """Whether Zeolith's own protocol is spoken."""
        return self._codec.coding is Coding.OWN

    @property
    def compresses(self) -> bool:
        """Whether large messages are compressed, both ways."""
        return self._compress is not None

    @property
    def checksum(self) -> str | None:
        """Name of the algorithm by which both sides verify blobs; None if they do not."""
        return self._codec.checksum

    @property
    def life(self) -> str:
        """What tells a server from the same one after another start; empty if it does not say."""
        return self._codec.life

    @property
    def transactions(self) -> int:
        """How many transactions may be in progress on this connection at once."""
        return self._codec.transactions

    @property
    def keeps_uploads(self) -> bool:
        """Whether the server keeps for a while what it has of an upload that is cut off."""
        return self._codec.keeps > 0 and self._codec.checksum is not None

    @property
    def stream_frame(self) -> int:
        """Bytes of data that the server takes in one message of a stream."""
        return min(self._codec.data_frame, self._codec.max_payload - STREAM_HEAD)

    @property
    def max_payload(self) -> int:
        """Bytes of the longest message that the server takes, as far as is known."""
        return self._codec.max_payload

    def registered(self) -> None:
        """The server has admitted us: further messages are legal."""
        self._peer.registered()
        self._compress = self._codec.compress

    # -- calling -----------------------------------------------------------------------------------

    @property
    def is_broken(self) -> bool:
        """Whether the connection has ended."""
        return self._cause is not None

    @property
    def is_being_read(self) -> bool:
        """Whether another thread holds the reading role at this moment."""
        if self._role.acquire(False):
            self._step_down()
            return False
        return True

    @property
    def follower_count(self) -> int:
        """Number of threads that wait while another one reads."""
        return len(self._followers)

    def load_before(self, oid: bytes, tid: bytes) -> tuple[bytes, bytes, bytes | None] | None:
        """Ask the server for the revision of *oid* before *tid*; wait for the answer.

        Threads that ask for the same at the same time share one request: the answer of the first
        is as good for the second, because whatever the second knew when it asked arrived on this
        connection before that answer.

        :raises ClientDisconnected: the connection ended before the answer came.
        :raises POSKeyError: there is no such object.
        :raises TypeError, ValueError: *oid* or *tid* is none.
        """
        self._refuse_nested()
        key = (oid, tid)
        slots = self._slots
        slot = slots.get(key)
        if slot is None:
            if len(oid) != 8 or len(tid) != 8:
                raise _no_id(oid, tid)
            # Before the slot is there for others to share: this may fail.
            frame = self._encode_load(oid, tid)
            mine = Slot()
            try:
                slot = slots.setdefault(key, mine)
                if slot is mine:
                    self._send(frame, slot, key)
            except BaseException as error:
                if slots.get(key) is mine:
                    # Interrupted in between: nobody else would ever send what others share.
                    self._break(error)
                raise
        if not slot.done:
            self._await(slot)
        if slot.error is not None:
            raise slot.error
        answer: tuple[bytes, bytes, bytes | None] | None = slot.value
        return answer

    def request_loads(self, oids: Sequence[bytes], tid: bytes) -> None:
        """Ask for the revisions of several objects before *tid* in one write; wait for nothing.

        Answers go to the receiver; threads that ask for one of them meanwhile wait for it.

        :raises ClientDisconnected: the connection has ended.
        :raises POSKeyError, TypeError, ValueError: one of the ids is none.
        """
        self._refuse_nested()
        # Before any slot is there for others to share: this may fail.
        tid = check_tid(tid)
        plain = [
            oid if oid.__class__ is bytes and len(oid) == 8 else check_wanted(oid) for oid in oids
        ]
        slots = self._slots
        wanted = []
        try:
            for oid in plain:
                key = (oid, tid)
                if key not in slots:
                    slot = Slot()
                    if slots.setdefault(key, slot) is slot:
                        wanted.append(oid)
            if wanted:
                self._send(self._codec.load_many(wanted, tid), None, None)
        except BaseException as error:
            # Interrupted in between: nobody else would ever send what others may wait for.
            self._break(error)
            raise

    def call(self, request: Request, on_reply: Callable[[Any], None] | None = None) -> Any:
        """Send *request*; wait for the answer and return its value.

        Notices posted before are sent first.

        :param on_reply: called with the value by whichever thread reads it, before any later
            message is handled.
        :raises ClientDisconnected: the connection ended before the answer came.
        """
        return self.result(self.start(request, on_reply))

    def result(self, slot: Slot) -> Any:
        """Wait until *slot* is answered; return the value, or raise the error that is in it."""
        if not slot.done:
            self._await(slot)
        if slot.error is not None:
            raise slot.error
        return slot.value

    def start(self, request: Request, on_reply: Callable[[Any], None] | None) -> Slot:
        """Send *request* as :meth:`call` does; return where its answer will be put."""
        self._refuse_nested()
        number = next(self._numbers)
        slot = Slot()
        slot.on_reply = on_reply
        frame = self._codec.call(number, request)
        if self._compress is not None:
            frame = self._compress(frame)
        self._slots[number] = slot
        self._send(frame, slot, number)
        return slot

    def start_all(self, calls: Iterable[tuple[Request, Slot]]) -> None:
        """Send several short requests in one write; each is answered in its slot.

        :raises ClientDisconnected: the connection has ended.
        """
        self._refuse_nested()
        frames = []
        try:
            for request, slot in calls:
                number = next(self._numbers)
                frames.append(self._codec.call(number, request))
                self._slots[number] = slot
            self._send(b"".join(frames), None, None)
        except BaseException as error:
            # Interrupted in between: what was not sent is never answered.
            self._break(error)
            raise

    def wait_answer(self, slot: Slot, timeout: float) -> None:
        """Wait until *slot* is answered, at most *timeout* seconds.

        The calling thread reads nothing, because it could not be stopped in time; the watcher or
        another caller does.
        """
        lock = allocate_lock()
        lock.acquire()
        slot.locks.append(lock)
        if not slot.done:
            lock.acquire(timeout=max(0.0, timeout))

    def wait_until(self, key: object, is_ready: Callable[[], bool]) -> None:
        """Wait until *is_ready* returns true; read meanwhile if nobody else does.

        Whoever handles the message that makes it so calls :meth:`wake` after that.

        :param key: whom :meth:`wake` is to wake; one thread at a time waits with it.
        :raises ClientDisconnected: the connection ended before.
        """
        self._refuse_nested()
        while not is_ready():
            slot = self._slots[key] = Slot()
            try:
                # Looked at after the slot is there: what comes first is seen here, what comes
                # later sees the slot.
                if self._cause is not None:
                    raise self._disconnected()
                if is_ready():
                    return
                self._await(slot)
            finally:
                self._slots.pop(key, None)
            if slot.error is not None:
                raise slot.error

    def wake(self, key: object) -> None:
        """Let the thread that waits with *key*, if one does, look again."""
        slot = self._slots.pop(key, None)
        if slot is not None:
            slot.settle(None)

    def encode(self, request: Request) -> bytes:
        """Return *request*, which has no answer, as it is sent.

        :raises MessageTooLarge: the server does not take that much at once.
        """
        frame = self._codec.notice(request)
        return frame if self._compress is None else self._compress(frame)

    def post(self, request: Request) -> None:
        """Send *request*, which has no answer, soon: with the next call or when enough wait.

        :raises ClientDisconnected: the connection has ended.
        :raises MessageTooLarge: the server does not take that much at once.
        """
        frame = self.encode(request)
        if self._is_sender():
            raise _nested()
        with self._sending:
            if self._cause is not None:
                raise self._disconnected()
            self._waiting.append(frame)
            self._waiting_size += len(frame)
            if self._waiting_size < SEND_MARK:
                return
            failure = self._write(b"")
        if failure is not None:
            self._end(failure)
            raise self._disconnected()

    def send_data(self, number: int, data: bytes | memoryview, tail: bytes = b"") -> None:
        """Send *data* as one message of the stream to the server with that number, now.

        :param data: not more than :attr:`stream_frame`.
        :param tail: what is sent behind it.
        :raises ClientDisconnected: the connection has ended.
        """
        if self._is_sender():
            raise _nested()
        head = data_head(number, len(data))
        with self._sending:
            if self._cause is not None:
                raise self._disconnected()
            failure = self._write(head, data, tail)
        if failure is not None:
            self._end(failure)
            raise self._disconnected()

    def add(self, request: Request) -> bool:
        """Have *request*, which has no answer and may be lost, sent with whatever is sent next.

        Never waits: while somebody is sending it is left out, and the answer is false.
        """
        frame = self._codec.notice(request)
        if not self._sending.acquire(blocking=False):
            return False
        try:
            if self._cause is None:
                self._waiting.append(frame)
                self._waiting_size += len(frame)
            return True
        finally:
            self._sending.release()

    def flush(self) -> None:
        """Send what ``post`` has collected."""
        if self._is_sender():
            raise _nested()
        self._send(b"", None, None)

    def _refuse_nested(self) -> None:
        """See to it that a thread does not wait for itself.

        :raises ClientStorageError: it is in the middle of sending or handling a message.
        """
        if self._is_leader() or self._is_sender():
            raise _nested()

    def heartbeat(self) -> None:
        """Tell the server that we are alive, unless somebody is sending anyway.

        Without room for it nothing is sent: the server has enough to read, and whoever sends
        heartbeats must not wait for one that reads no more, which he is to notice.
        """
        if not self._sending.acquire(blocking=False):
            return
        try:
            if self._cause is not None or not self.wire.is_writable():
                return
            failure = self._write(self._codec.heartbeat())
        finally:
            self._sending.release()
        if failure is not None:
            self._end(failure)

    def _send(self, frame: bytes, slot: Slot | None, key: MsgId) -> None:
        """Send; on failure the channel is broken, and *slot* with it.

        :raises ClientDisconnected: only without a slot.
        """
        failure: BaseException | None = None
        try:
            with self._sending:
                if self._cause is None:
                    failure = self._write(frame)
                    if failure is None:
                        return
        except BaseException as error:  # noqa: BLE001 - raised again by _end
            # Interrupted while waiting for the turn.  Nothing was sent, but others may share the
            # slot, and one of them may wait for the network, where only its end can be noticed.
            failure = error
        # A slot entered after the break would never be answered: settle it here.
        if slot is not None:
            self._slots.pop(key, None)
        try:
            if failure is not None:
                self._end(failure)
        finally:
            if slot is not None and failure is None:
                # Also if the break has settled it already: its caller may rely on the difference.
                slot.settle(self._disconnected(NotSent))
            elif slot is not None and not slot.done:
                slot.settle(self._disconnected())
        if slot is None:
            raise self._disconnected()

    def _write(
        self, frame: bytes, data: bytes | memoryview | None = None, tail: bytes = b""
    ) -> BaseException | None:
        """Send what waits and all of this; return what went wrong.  ``_sending`` is held."""
        try:
            if self._waiting:
                frame = b"".join((*self._waiting, frame))
                self._waiting.clear()
                self._waiting_size = 0
            self.has_spoken = True
            if data is None:
                self.wire.send(frame)
            elif self._plain is not None:
                self._plain.send_parts(frame, data, tail)
            else:
                self.wire.send(b"".join((frame, data, tail)))
        except BaseException as error:  # noqa: BLE001 - also KeyboardInterrupt: see _end
            return error
        return None

    def _end(self, failure: BaseException) -> None:
        """Break the connection; go on raising what was no fault of the connection.

        An interrupt in the middle of sending or handling leaves a part of a message behind, so
        it ends the connection like any error, and then interrupts the caller as it was meant to.
        """
        self._break(failure)
        if not isinstance(failure, Exception):
            raise failure

    # -- reading -----------------------------------------------------------------------------------

    def _await(self, slot: Slot) -> None:
        """Wait until *slot* is answered: lead if nobody does, otherwise follow."""
        lock = None
        try:
            if self._role.acquire(False):
                self._lead(slot)
            else:
                lock = allocate_lock()
                lock.acquire()
                self._follow(slot, lock)
        except BaseException:
            # Interrupted, at whatever step.
            if lock is not None:
                self._followers.pop(lock, None)
            self._step_down()
            raise

    def _lead(self, slot: Slot) -> None:
        """Read until *slot* is answered.  The role is held, and released here."""
        try:
            while not slot.done:
                if self._cause is None:
                    self._read()
                else:
                    self._break(self._cause)
                    if not slot.done:
                        # Taken out by a reader who was interrupted then: nobody else knows of it.
                        slot.settle(self._disconnected())
        finally:
            self._step_down()

    def _follow(self, slot: Slot, lock: LockType) -> None:
        """Wait until *slot* is answered, or lead if asked to.

        :param lock: of this thread alone, and held; to release it wakes the thread.
        """
        slot.locks.append(lock)
        self._followers[lock] = None
        while not slot.done:
            if self._role.acquire(False):
                del self._followers[lock]
                self._lead(slot)
                return
            lock.acquire()
        del self._followers[lock]
        # We may have been asked to lead at the moment our own answer came.
        if self._followers and self._role.acquire(False):
            self._step_down()

    def _step_down(self) -> None:
        """Give up the role if this thread has it, and see to it that somebody else takes it."""
        if self._is_leader():
            self._role.release()
        if self._followers:
            self._ask_to_lead()

    def _ask_to_lead(self) -> None:
        with suppress(RuntimeError, StopIteration):
            # RuntimeError: changed while we looked, so somebody is awake and sees to it.
            release(next(iter(self._followers)))

    def read_if_ready(self) -> bool:
        """Handle what has arrived, if anything has and nobody leads.  Return whether it had.

        For the idle watcher.
        """
        try:
            if not self._role.acquire(False):
                return False
            if self._cause is not None or not self.wire.is_readable(0):
                return False
            self._read()
            return True
        finally:
            self._step_down()

    @contextmanager
    def hold_reading(self) -> Iterator[None]:
        """Keep everybody from reading for the length of a ``with`` statement."""
        try:
            with self._role:
                yield
        finally:
            if self._followers:
                self._ask_to_lead()

    def _read(self) -> None:
        """Read once and handle what came.  The role is held."""
        slot = None
        try:
            try:
                data = self._receive()
            except TimeoutError:
                if self._goes_on_waiting():
                    return
                raise
            self.reads += 1
            if not data:
                raise ConnectionResetError("the server closed the connection")
            # One thread that waits for one object at a time is what connections mostly see.
            found = self._peer.receive_loaded(data)
            if found is not None:
                key, answer = found
                slot = self._slots.pop(key, None)
                if slot is None:
                    raise ProtocolViolation(f"an answer to no call: {key!r}")
                self.receiver.loaded(key[0], answer[1], answer[2], answer[0])
                slot.value = answer
                slot.done = True
                if slot.locks:
                    slot.wake()
                return
            if self.streams.is_receiving or self._inlet.kept:
                # The same for small blobs.
                wholes, taken, is_begun = self._peer.receive_wholes(data)
                for whole in wholes:
                    slot = self._slots.pop(whole.msgid, None)
                    if slot is None:
                        raise ProtocolViolation(f"an answer to no call: {whole.msgid!r}")
                    slot.answer(whole.answer)
                    self.streams.handle_whole(whole)
                if taken == len(data):
                    return
                if self._inlet.holds(data):
                    if is_begun:
                        self._inlet.keep(data, taken)
                        return
                    data = bytes(data[taken:])
                elif taken:
                    data = data[taken:]
            for event in self._peer.receive(data):
                if isinstance(event, Reply):
                    msgid, value = event
                    slot = self._slots.pop(msgid, None)
                    if slot is None:
                        raise ProtocolViolation(f"an answer to no call: {msgid!r}")
                    if msgid.__class__ is tuple and value is not None:
                        record, start, end = to_revision(value)
                        self.receiver.loaded(msgid[0], start, end, record)
                    slot.answer(value)
                else:
                    self._handle(event)
        except BaseException as error:  # noqa: BLE001 - whatever it is, it ends this connection
            try:
                self._end(error)
            finally:
                if slot is not None and not slot.done:
                    # The answer came but could not be taken in: its caller learns why.
                    cause = error if isinstance(error, Exception) else self._disconnected()
                    slot.settle(cause)

    def _receive(self) -> bytes | memoryview:
        """Read as :attr:`wire` does; what long messages of streams have, where it is to be used."""
        wire, left = self._plain, self._peer.body_left
        if wire is None:
            return self.wire.receive()
        if left:
            view = self.streams.buffer(self._peer.body_number, left)
            view = view[: wire.fill(view)]
            # The parts of short ones come through one memory.
            self._ended_body = RECEIVE_SIZE < len(view) == left
            return view
        if self._ended_body:
            # Likely to be followed by another one, which should not come through other memory.
            self._ended_body = False
            return wire.receive(DATA_HEAD_SIZE)
        if self.streams.is_receiving or self._inlet.kept:
            return self._inlet.receive(wire)
        return wire.receive()

    def wait_patiently(self, timeout: float) -> None:
        """Give the server up if it says nothing for *timeout* seconds while it is waited for, and
        send heartbeats meanwhile if it asks for them.  For as long as nobody watches."""
        self._patience = Patience(timeout, self.demand)
        self.wire.set_timeout(self._patience.part)

    def _goes_on_waiting(self) -> bool:
        if self._patience is None or not self._patience.goes_on(self.reads):
            return False
        self.heartbeat()
        return True

    def _handle(self, event: Any) -> None:
        if isinstance(event, Notice):
            if event.request.__class__ in STREAM_MESSAGES:
                self.streams.handle(event.request)
            elif isinstance(event.request, LoadedMany):
                self._take_many(*event.request)
            else:
                self.receiver.noticed(event.request)
        elif isinstance(event, Fault):
            slot = self._slots.pop(event.msgid, None)
            if slot is None:
                raise ProtocolViolation(f"an error for no call: {event.name}")
            slot.settle(parse_fault(event.name, event.details))
        elif isinstance(event, Welcomed):
            refuse_login(event.introduction)
            self._met(event)
        elif isinstance(event, Violated):
            raise event.error
        elif isinstance(event, Call):
            raise ProtocolViolation("servers do not call clients")

    def _take_many(self, tid: bytes, records: Sequence[Record]) -> None:
        slots = self._slots
        keys = [(record[0], tid) for record in records]
        for key in keys:
            if key not in slots:
                raise ProtocolViolation(f"an answer to no call: {key!r}")
        self.receiver.loaded_many(records)
        for key, (_, start, end, data) in zip(keys, records):
            slot = slots.get(key)
            if slot is None:
                raise ProtocolViolation(f"two answers to one call: {key!r}")
            # Taken out last: whoever interrupts this leaves nobody waiting, see _break.
            slot.value = data, start, end
            slot.done = True
            if slot.locks:
                slot.wake()
            del slots[key]

    # -- ending ------------------------------------------------------------------------------------

    def close(self, cause: BaseException) -> None:
        """End the connection: every waiting call fails with *cause* as its reason."""
        self._break(cause)

    def release(self) -> None:
        """Give the socket back to the system, after the connection has ended.

        Waits until no thread uses it any more, which ``close`` has seen to.
        """
        with self._role, self._sending:
            self.wire.close()

    def _disconnected(
        self, cls: type[ClientDisconnected] = ClientDisconnected
    ) -> ClientDisconnected:
        error = cls(f"connection to {self.server_name} lost: {self._cause}")
        error.__cause__ = self._cause
        return error

    def _break(self, cause: BaseException) -> None:
        """End the connection, unless that has been done; return when it has.

        Whoever comes second waits, above all the reader: it must not go on to messages behind
        one that it could not handle (rule R2).
        """
        with self._breaking:
            if self._cause is None:
                self._cause = cause
                self.wire.abort()
                # First nobody gets this channel any more, then the waiting ones learn that it
                # ended: they come back for a new one at once.
                try:
                    self.receiver.broken(self, cause)
                except Exception:
                    # Nobody who could be told calls us; those who wait must not wait for ever.
                    logger.exception("%s: the end of the connection went wrong", self.server_name)
            # Also for the second: an interrupt may have kept the first from it.
            while self._slots:
                with suppress(KeyError):
                    slot = self._slots.popitem()[1]
                    if not slot.done:
                        slot.settle(self._disconnected())
                    elif slot.locks:
                        slot.wake()


def _owned(lock: Any) -> Callable[[], bool]:
    """Return what tells whether the calling thread holds *lock*, as ``Condition`` asks it."""
    owned: Callable[[], bool] = lock._is_owned
    return owned


def _nested() -> ClientStorageError:
    return ClientStorageError(
        "called in the middle of another call of the same thread and connection: a finalizer, a "
        "signal handler or a callback must not use the storage there"
    )


def _no_id(oid: bytes, tid: bytes) -> Exception:
    if len(oid) == 8:
        return ValueError(f"{tid!r} is not a transaction id")
    error: Exception = POSKeyError(oid)
    return error
