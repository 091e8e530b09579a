"""Finding a server: all addresses are tried at once, the first that fits wins.

An attempt connects, greets and registers; what it yields is a channel on which the server may
already send invalidations.
"""

from __future__ import annotations

import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from enum import Enum

from ZODB.POSException import ReadOnlyError

from ..credentials import Credentials
from ..errors import (
    AccessDenied,
    AuthenticationFailed,
    ClientDisconnected,
    IncompatiblePeer,
    LoginDelayed,
    LoginRefused,
    ProtocolViolation,
    ServerFull,
    ServerRefused,
)
from ..protocol.checksums import ALGORITHMS
from ..protocol.hello import Admission, Database, Terms, parse_admission
from ..protocol.messages import Register
from .certificates import refusal_without_reason, to_refusal
from .channel import Channel
from .economy import prefers_compression
from .principal import Principal
from .receiver import Receiver
from .strangers import describe_violation, is_lasting
from .wire import Address, PlainWire, TlsClosed, TlsWire, Wire, open_socket

CONNECT_TIMEOUT = 10.0
"""Seconds for TCP and TLS to get through."""

GREETING_TIMEOUT = 10.0
"""Seconds for the server's greeting, which it sends unasked."""

CLOSURES = 3
"""A server that ends so many connections in a row between the TLS hand-shake and its greeting will
go on like that.  One that is just being stopped does it once, and then takes no connection."""

PATIENCE = 1.0
"""Seconds to wait for a writable server once a read-only one has been found."""


REFUSAL_PAUSE = 60.0
"""Seconds for which a server is not asked again that has refused who we are.  Until then whoever
asks gets the same answer; each attempt would be one more failure to the server, and somebody has to
change a password or a right first."""


class Mode(Enum):
    """What kind of server is wanted."""

    WRITABLE = "writable"
    READ_ONLY = "read-only"
    FALLBACK = "writable, else read-only"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A server that has admitted us.

    :ivar channel: registered; nobody reads it yet.
    :ivar server_tid: the server's last transaction when it admitted us, None if it has none.
    :ivar is_read_only: how we were admitted.
    :ivar database: which one it has; None if it does not say.
    """

    channel: Channel
    server_tid: bytes | None
    is_read_only: bool
    database: Database | None = None


class Connector:
    """Knows the servers and how to reach them.

    :param addresses: tried at once; all serve the same database.
    :param storage: name of the storage.
    :param mode: what kind of server is wanted.
    :param timeout: seconds to wait for each answer once the server has greeted.
    :param silence: seconds after which a server is given up that has not been heard of; None:
        never.
    :param compression: whether to compress if the server does; None: if :func:`prefers_compression`
        says so.
    :param principal: who we are; None: we do not say.
    :param make_receiver: called for each attempt: what its channel reports to.
    """

    def __init__(
        self,
        addresses: Sequence[Address],
        storage: str,
        mode: Mode,
        timeout: float,
        credentials: Credentials | None,
        server_hostname: str | None,
        make_receiver: Callable[[], Receiver],
        silence: float | None = None,
        compression: bool | None = False,
        principal: Principal | None = None,
    ) -> None:
        self.addresses = list(addresses)
        self.mode = mode
        self._storage = storage
        self._timeout = timeout
        self._credentials = credentials
        self._server_hostname = server_hostname
        self._make_receiver = make_receiver
        self._silence = silence
        self._compression = compression
        self._principal = principal
        # Until when, and why; changed by single steps, which need no lock.
        self._refusals: dict[tuple[Address, Mode], tuple[float, AuthenticationFailed]] = {}
        self._lock = threading.Lock()
        # Sockets of attempts under way, to be shut down if the client is closed meanwhile.
        self._sockets: set[socket.socket] = set()
        # What attempts under way wait for; changed by single steps, which need no lock.
        self._awaited: dict[object, str] = {}
        self._stopped = False
        # How often in a row a server has ended the connection once TLS was agreed upon.  Each
        # address is tried by one thread at a time.
        self._closures: dict[str, int] = {}

    def set_addresses(self, addresses: Sequence[Address]) -> None:
        """Try *addresses* from the next attempt on, whatever has been refused so far."""
        self.addresses = list(addresses)
        self._refusals.clear()

    def stop(self) -> None:
        """End attempts under way; further ones fail.  Any thread."""
        with self._lock:
            self._stopped = True
            sockets = list(self._sockets)
        for sock in sockets:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def abandon(self) -> None:
        """In a child made by ``fork``: close its copies of what the parent's attempts use.

        No lock is taken: the thread that held it may not exist here.
        """
        self._stopped = True
        for sock in list(self._sockets):
            sock.close()

    def awaited(self) -> str:
        """Return what the attempts under way have reached and wait for; empty if nothing.

        For those who give up waiting before an attempt does.  Any thread.
        """
        return "; ".join(self._awaited.copy().values())

    def _made(self, sock: socket.socket) -> None:
        with self._lock:
            if self._stopped:
                raise ClientDisconnected("closed")
            self._sockets.add(sock)

    def connect(self, mode: Mode | None = None) -> Candidate:
        """Try all addresses once; return the best server found.

        :param mode: instead of the connector's own.
        :raises ServerRefused: none fits, and waiting will not mend that for any of them.
        :raises OSError, ZeolithError, ReadOnlyError or another error of the server: why one of
            them failed.
        """
        mode = mode or self.mode
        addresses = list(self.addresses)
        if self._credentials is not None:
            self._credentials.refresh()
        if self._principal is not None and self._principal.refresh():
            # It was the password before that was refused.
            self._refusals.clear()
        if not addresses:
            raise ClientDisconnected("no server address is known")
        if len(addresses) == 1:
            return self._attempt(addresses[0], mode)
        results: queue.SimpleQueue[Candidate | Exception] = queue.SimpleQueue()
        for address in addresses:
            thread = threading.Thread(
                target=self._attempt_into,
                args=(results, address, mode),
                name=f"zeolith connect {address}",
                daemon=True,
            )
            try:
                thread.start()
            except RuntimeError as error:
                # The system has no more threads; another attempt may have got one.
                results.put(error)
        return _pick(results, len(addresses), mode)

    def _attempt_into(
        self, results: queue.SimpleQueue[Candidate | Exception], address: Address, mode: Mode
    ) -> None:
        try:
            results.put(self._attempt(address, mode))
        except Exception as error:  # noqa: BLE001 - handed to the thread that asked
            results.put(error)

    def _attempt(self, address: Address, mode: Mode) -> Candidate:
        until, refusal = self._refusals.get((address, mode), (0.0, None))
        if refusal is not None and time.monotonic() < until:
            raise copy(refusal)
        sockets: list[socket.socket] = []
        name = format_address(address)
        attempt = object()

        def reached(state: str) -> None:
            self._awaited[attempt] = f"{name} {state}"

        closures = self._closures.pop(name, 0)
        try:
            wire = self._open(address, sockets, reached)
            channel = Channel(wire, self._make_receiver(), name, self._terms(wire), self._principal)
            try:
                return self._register(channel, mode, reached)
            except BaseException as error:
                channel.close(error)
                channel.release()
                raise
        except (LoginRefused, AccessDenied) as error:
            refusal = AuthenticationFailed(name, error)
            self._refusals[address, mode] = time.monotonic() + REFUSAL_PAUSE, refusal
            raise copy(refusal) from error
        except LoginDelayed as error:
            raise ClientDisconnected(f"{name}: {error}") from error
        except TlsClosed as error:
            self._closures[name] = closures + 1
            if closures + 1 < CLOSURES:
                raise
            raise refusal_without_reason(name, self._credentials) from error
        except IncompatiblePeer as error:
            raise ServerRefused(name, error) from error
        except ssl.SSLError as error:
            if is_lasting(error):
                raise to_refusal(name, error, self._credentials) from error
            raise
        finally:
            self._awaited.pop(attempt, None)
            with self._lock:
                self._sockets.difference_update(sockets)

    def _terms(self, wire: Wire) -> Terms:
        compresses = self._compression
        if compresses is None:
            compresses = prefers_compression(wire.peer_name, self._credentials is not None)
        return Terms(self._silence, compresses, ALGORITHMS)

    def _register(self, channel: Channel, mode: Mode, reached: Callable[[str], None]) -> Candidate:
        channel.wire.set_timeout(GREETING_TIMEOUT)
        hint = "does it expect TLS?" if self._credentials is None else "is it a ZEO server?"
        reached(f"is connected, but there is no greeting: {hint}")
        try:
            channel.greet()
        except TimeoutError as error:
            raise TimeoutError(
                f"{channel.server_name} accepts connections but does not greet; {hint}"
            ) from error
        except ConnectionError as error:
            if self._credentials is None:
                raise
            raise TlsClosed(str(error)) from error
        except IncompatiblePeer:
            raise
        except ServerFull as error:
            # Others leave sooner or later: no reason not to try again.
            raise ConnectionRefusedError(f"{channel.server_name}: {error}") from error
        except ProtocolViolation as error:
            raise ServerRefused(channel.server_name, describe_violation(error)) from error
        reached("has greeted, but does not admit this client")
        channel.wire.set_timeout(self._timeout)
        wire = channel.wire
        channel.log_in(wire.binding() if isinstance(wire, TlsWire) else None)
        is_read_only = mode is Mode.READ_ONLY
        try:
            admission = self._ask(channel, is_read_only)
        except ValueError as error:
            # What servers say of a storage that they do not have.
            raise ServerRefused(channel.server_name, error) from error
        except AccessDenied as error:
            if error.right != "write" or mode is not Mode.FALLBACK:
                raise
            is_read_only = True
            admission = self._ask(channel, True)
        except ReadOnlyError:
            if mode is not Mode.FALLBACK:
                raise ReadOnlyError(
                    f"{channel.server_name} or its storage is read-only; to read from it, "
                    "connect with read_only or read_only_fallback"
                ) from None
            is_read_only = True
            admission = self._ask(channel, True)
        channel.registered()
        timeout = self._timeout
        if self._silence is not None and channel.speaks_own:
            # From here on it sends heartbeats, however long an answer takes.
            timeout = min(timeout, self._silence)
        channel.wait_patiently(timeout)
        channel.database = admission.database
        return Candidate(channel, admission.tid, is_read_only, admission.database)

    def _ask(self, channel: Channel, is_read_only: bool) -> Admission:
        try:
            return parse_admission(channel.call(Register(self._storage, is_read_only)))
        except ClientDisconnected as error:
            if isinstance(error.__cause__, IncompatiblePeer):
                # It came in place of the server's hello.
                raise error.__cause__ from None
            raise

    def _open(
        self, address: Address, sockets: list[socket.socket], reached: Callable[[str], None]
    ) -> Wire:
        """Connect; put every socket that is tried into *sockets*, too.

        :param reached: called with what has been reached and is waited for.
        :raises ServerRefused: the address cannot be used with these settings.
        """

        def note(sock: socket.socket) -> None:
            self._made(sock)
            sockets.append(sock)

        try:
            sock = open_socket(address, CONNECT_TIMEOUT, note, self._silence)
            try:
                if self._credentials is None:
                    return PlainWire(sock)
                hostname = self._server_hostname
                if hostname is None and not isinstance(address, str):
                    hostname = address[0] or "127.0.0.1"
                hint = "does it speak plain text?"
                reached(f"is connected, but there is no answer to the TLS hand-shake: {hint}")
                try:
                    return TlsWire(sock, self._credentials.context, hostname)
                except TimeoutError as error:
                    raise TimeoutError(
                        f"{format_address(address)} accepts connections but does not answer the "
                        f"TLS hand-shake; {hint}"
                    ) from error
            except BaseException:
                sock.close()
                raise
        except ssl.SSLError:
            raise
        except ValueError as error:
            # No host name, or none to check a certificate against.
            raise ServerRefused(format_address(address), error) from error


def _pick(results: queue.SimpleQueue[Candidate | Exception], count: int, mode: Mode) -> Candidate:
    """Return the first candidate that fits; drop the others, also those still to come."""
    fallback: Candidate | None = None
    failure: Exception | None = None
    left = count
    while left:
        try:
            result = results.get(timeout=None if fallback is None else PATIENCE)
        except queue.Empty:
            break
        left -= 1
        if isinstance(result, Exception):
            # One that refuses is the reason only if there is nothing to wait for.
            if failure is None or isinstance(failure, ServerRefused):
                failure = result
        elif mode is Mode.FALLBACK and result.is_read_only:
            if fallback is None:
                fallback = result
            else:
                _drop(result)
        else:
            if fallback is not None:
                _drop(fallback)
            _drop_later(results, left)
            return result
    if fallback is not None:
        _drop_later(results, left)
        return fallback
    assert failure is not None  # each of at least one attempt gave one or the other
    raise failure


def _drop_later(results: queue.SimpleQueue[Candidate | Exception], count: int) -> None:
    if count:
        threading.Thread(
            target=_drop_rest, args=(results, count), name="zeolith drop", daemon=True
        ).start()


def _drop(candidate: Candidate) -> None:
    candidate.channel.close(ClientDisconnected("another server was chosen"))
    candidate.channel.release()


def _drop_rest(results: queue.SimpleQueue[Candidate | Exception], count: int) -> None:
    for _ in range(count):
        result = results.get()
        if isinstance(result, Candidate):
            _drop(result)


def format_address(address: Address) -> str:
    """Return *address* as users write it."""
    if isinstance(address, str):
        return address
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
