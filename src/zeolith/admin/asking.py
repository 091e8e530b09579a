"""Asking a server one question: connect, ask, read the answer, done.

No thread, no retry: whoever watches a server wants to know how it is now.  A server of Zeolith is
asked an inquiry (:mod:`zeolith.protocol.inquiry`); a ZEO server knows ``ruok`` only.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from .. import __version__
from ..client.certificates import to_refusal
from ..client.login import NO_LOGIN, Conversation
from ..client.principal import Principal
from ..client.strangers import is_lasting
from ..config.address import Address, format_address
from ..credentials import Credentials, to_credentials
from ..errors import (
    IllegalMessage,
    LoginDelayed,
    LoginRefused,
    ProtocolViolation,
    ZeolithError,
)
from ..protocol.binding import end_point
from ..protocol.framing import FrameReader, frame
from ..protocol.greeting import STATUS_PROBE, Coding, Greeting, parse_greeting
from ..protocol.inquiry import Inquiry, parse_answer, serialize_inquiry
from ..protocol.limits import DEFAULT_LIMITS
from ..protocol.peers import ClientPeer, Greeted

TIMEOUT: Final = 10.0
"""Seconds for the whole exchange.  A server that is well answers within milliseconds."""

MAX_ANSWER: Final = 16 * 1024 * 1024
"""Bytes of an answer: a thousand connections take half of one MB."""

_RECEIVE_SIZE: Final = 64 * 1024


class NotAnswering(ZeolithError):
    """No server is there, or it does not answer.

    :param server: its address, as people write it.
    :param problem: what happened.
    :ivar has_connected: whether somebody accepted the connection.
    """

    def __init__(self, server: str, problem: str, has_connected: bool) -> None:
        super().__init__(server, problem, has_connected)
        self.server = server
        self.problem = problem
        self.has_connected = has_connected

    def __str__(self) -> str:
        return f"{self.server}: {self.problem}"


class NotZeolith(ZeolithError):
    """The server is one of ZEO, which cannot be asked this.

    :param server: its address, as people write it.
    """

    def __init__(self, server: str) -> None:
        super().__init__(server)
        self.server = server

    def __str__(self) -> str:
        return f"{self.server} is no Zeolith server: it can be asked for its counters only"


class Refused(ZeolithError):
    """The server will not do or tell what it was asked; the text is its own."""


@dataclass(frozen=True)
class Target:
    """A server, and how to reach it.

    :ivar address: where it listens.
    :ivar ssl: TLS of a client, or None for a plain connection.
    :ivar server_hostname: the name that its certificate must bear; None: the host's own.
    :ivar timeout: seconds for the whole exchange.
    :ivar principal: who asks; None: we do not say.
    """

    address: Address
    ssl: ssl.SSLContext | Credentials | None = None
    server_hostname: str | None = None
    timeout: float = TIMEOUT
    principal: Principal | None = None


class Answer(NamedTuple):
    """What a server said.

    :ivar is_zeolith: whether it answered the inquiry; else this is the answer to ``ruok``.
    :ivar content: the answer.
    """

    is_zeolith: bool
    content: dict[str, Any]


def ask(target: Target, inquiry: Inquiry) -> Answer:
    """Ask a server *inquiry*, or a ZEO server ``ruok``.  Blocks; any thread may call this.

    :raises NotAnswering: it cannot be reached, or does not answer.
    :raises Refused: it answers that it will not.
    """

    question = serialize_inquiry(inquiry)
    if len(question) > DEFAULT_LIMITS.max_inquiry_size:
        raise Refused("names that long are not known to any server: the question is too long")

    def choose(greeting: Greeting) -> bytes:
        return question if greeting.is_zeolith else STATUS_PROBE

    greeting, content = _exchange(target, choose)
    if greeting.is_zeolith and "error" in content:
        raise Refused(str(content["error"]))
    return Answer(greeting.is_zeolith, content)


def ask_zeolith(target: Target, inquiry: Inquiry) -> dict[str, Any]:
    """Ask a server *inquiry*; return its answer.

    :raises NotZeolith: it is a server of ZEO.
    :raises NotAnswering: it cannot be reached, or does not answer.
    :raises Refused: it answers that it will not.
    """
    answer = ask(target, inquiry)
    if not answer.is_zeolith:
        raise NotZeolith(format_address(target.address))
    return answer.content


def _exchange(
    target: Target, choose: Callable[[Greeting], bytes]
) -> tuple[Greeting, dict[str, Any]]:
    line = _Line(target)
    try:
        if target.principal is None:
            greeting = parse_greeting(line.receive(DEFAULT_LIMITS.max_greeting_size))
        else:
            greeting = _log_in(line, target.principal)
        line.send(choose(greeting))
        return greeting, parse_answer(line.receive(MAX_ANSWER))
    except (LoginRefused, LoginDelayed) as error:
        raise Refused(f"{format_address(target.address)}: {error}") from error
    except ProtocolViolation as error:
        raise line.failure(f"it does not speak ZEO's protocol: {error}") from error
    finally:
        line.close()


def _log_in(line: _Line, principal: Principal) -> Greeting:
    """Log in; return the server's greeting."""
    peer = ClientPeer(program=f"zeolith {__version__}")
    talk = Conversation(peer, line.receive_bytes, line.send_bytes)
    greeted = talk.hear()
    assert isinstance(greeted, Greeted)  # nothing else is legal
    version = greeted.greeting.version
    if version is None:
        raise LoginRefused(NO_LOGIN)
    line.send_bytes(peer.hello(Coding.OWN, version))
    talk.log_in(principal, line.binding)
    return greeted.greeting


class _Line:
    """A connection with a deadline.

    :raises NotAnswering: it cannot be made.
    """

    def __init__(self, target: Target) -> None:
        self._server = format_address(target.address)
        self._timeout = target.timeout
        self._deadline = time.monotonic() + target.timeout
        self._credentials = to_credentials(target.ssl)
        self._frames = FrameReader(0)
        try:
            self._socket: socket.socket = self._connect(target.address)
        except (OSError, UnicodeError) as error:
            problem = self._explain(error)
            raise NotAnswering(self._server, f"cannot connect: {problem}", False) from error
        if self._credentials is not None:
            self._encrypt(self._credentials.context, self._hostname(target))

    def _connect(self, address: Address) -> socket.socket:
        if not isinstance(address, str):
            host, port = address
            return socket.create_connection((host or "127.0.0.1", port), self._left())
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(self._left())
            sock.connect(address)
        except BaseException:
            sock.close()
            raise
        return sock

    def _hostname(self, target: Target) -> str | None:
        if target.server_hostname is not None or isinstance(target.address, str):
            return target.server_hostname
        return target.address[0] or "127.0.0.1"

    def _encrypt(self, context: ssl.SSLContext, hostname: str | None) -> None:
        plain = self._socket
        try:
            plain.settimeout(self._left())
            self._socket = context.wrap_socket(plain, server_hostname=hostname)
        except (OSError, ValueError) as error:
            # ValueError: there is no host name to check the certificate against.
            plain.close()
            raise self.failure(f"TLS: {self._explain(error)}") from error

    @property
    def binding(self) -> bytes | None:
        """What ties a log-in to the TLS connection; None without TLS."""
        if not isinstance(self._socket, ssl.SSLSocket):
            return None
        certificate = self._socket.getpeercert(True)
        return None if certificate is None else end_point(certificate)

    def send(self, payload: bytes) -> None:
        self.send_bytes(frame(payload))

    def send_bytes(self, data: bytes) -> None:
        try:
            self._socket.settimeout(self._left())
            self._socket.sendall(data)
        except OSError as error:
            raise self.failure(self._explain(error)) from error

    def receive_bytes(self) -> bytes:
        """Return what comes next.

        :raises NotAnswering: nothing does.
        """
        try:
            self._socket.settimeout(self._left())
            data = self._socket.recv(_RECEIVE_SIZE)
        except OSError as error:
            raise self.failure(self._explain(error)) from error
        if not data:
            raise self.failure("it closed the connection without an answer")
        return data

    def receive(self, max_size: int) -> bytes:
        """Return the payload of the next frame, which must come alone.

        :raises ProtocolViolation: it is too long, or more comes with it.
        """
        self._frames.max_size = max_size
        while True:
            frames = self._frames.feed(self.receive_bytes())
            if frames:
                if len(frames) > 1 or self._frames.pending:
                    raise IllegalMessage("bytes after the first message")
                return frames[0]

    def close(self) -> None:
        self._socket.close()

    def failure(self, problem: str) -> NotAnswering:
        return NotAnswering(self._server, problem, True)

    def _left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def _explain(self, error: Exception) -> str:
        if isinstance(error, TimeoutError):
            hint = (
                "" if self._credentials is not None else "; if it demands TLS, name a certificate"
            )
            return f"no answer within {self._timeout:g} s{hint}"
        if isinstance(error, ssl.SSLError):
            if error.reason == "WRONG_VERSION_NUMBER":
                return "the server does not use TLS"
            if is_lasting(error):
                return str(to_refusal(self._server, error, self._credentials))
        return str(error)
