"""A TCP proxy that misbehaves on request, and writes down what passes.

The proxy works in whole frames of the protocol, so "between two messages" and "in the middle of
this message" are exact places.  A test steers it with a *rule*: a function that sees each frame
before it is passed on and says what to do with it.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from enum import Enum
from typing import NamedTuple, TypeAlias

from tests.support.raw import Address, connect
from tests.support.waiting import DEADLINE

from zeolith.protocol.additions import NAMES
from zeolith.protocol.messages import (
    Call,
    Fault,
    Heartbeat,
    Message,
    Notice,
    Reply,
)
from zeolith.protocol.transcript import Transcript


class Direction(Enum):
    """Which way a frame goes."""

    UP = "client to server"
    DOWN = "server to client"


UP, DOWN = Direction.UP, Direction.DOWN


class Action(Enum):
    """What happens to a frame."""

    PASS = "pass it on"
    CUT = "close both sides instead of passing it on"
    CUT_AFTER = "pass it on, then close both sides"
    CUT_WITHIN = "pass the first half on, then close both sides"
    HOLD = "keep it back until Proxy.release, and pass on what comes behind it"
    LEAVE = "close the client's side, and leave the server's open: it hears nothing of that"
    SWALLOW = "pass on neither this nor any later frame of either direction; close nothing"


class Passing(NamedTuple):
    """One frame on its way.

    :ivar direction: which way.
    :ivar number: how many frames went that way on this connection before it.
    :ivar message: what it means; None for greetings, hellos and what cannot be decoded or is
        not legal.
    :ivar size: bytes, with the length.
    """

    direction: Direction
    number: int
    message: Message | None
    size: int

    @property
    def name(self) -> str:
        """The wire name of the request, ``.reply`` or ``.fault`` for an answer, or ``""``."""
        message = self.message
        if isinstance(message, (Call, Notice)):
            return NAMES[type(message[-1])]
        if isinstance(message, Reply):
            return ".reply"
        return ".fault" if isinstance(message, Fault) else ""


Rule: TypeAlias = Callable[[Passing], Action | int]
"""A number of bytes means: pass on as many of them, then close both sides."""


def pass_all(_passing: Passing) -> Action:
    """The rule of a proxy that behaves."""
    return Action.PASS


class Link:
    """One client's connection through the proxy.

    :ivar frames: what has been passed on, in order per direction.
    """

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self._client, self._server = client, server
        self.frames: list[Passing] = []
        self._transcript = Transcript()
        self._transcribing = threading.Lock()
        self._is_swallowing = False
        self._sending = {UP: threading.Lock(), DOWN: threading.Lock()}
        self.is_cut = threading.Event()
        self._pumps = [
            threading.Thread(target=self._pump, args=args, daemon=True)
            for args in ((UP, client, server), (DOWN, server, client))
        ]

    def start(self) -> None:
        for pump in self._pumps:
            pump.start()

    def _pump(self, direction: Direction, source: socket.socket, sink: socket.socket) -> None:
        buffer = bytearray()
        number = 0
        try:
            while data := source.recv(1 << 18):
                buffer += data
                while len(buffer) >= 4:
                    end = 4 + int.from_bytes(buffer[:4], "big")
                    if len(buffer) < end:
                        break
                    raw = bytes(buffer[:end])
                    del buffer[:end]
                    if not self._pass(direction, number, raw, sink):
                        return
                    number += 1
        except OSError:
            pass  # The other pump has closed the sockets, or one end is gone.
        finally:
            if not self._is_swallowing:
                self.cut()

    def _pass(self, direction: Direction, number: int, raw: bytes, sink: socket.socket) -> bool:
        """Apply the rule to one frame; return whether the pump is to go on."""
        passing = Passing(direction, number, self._decode(direction, raw), len(raw))
        self._proxy.gates[direction].wait()
        action = Action.SWALLOW if self._is_swallowing else self._proxy.rule(passing)
        # The gate may have been closed by the rule: "hold this one".
        self._proxy.gates[direction].wait()
        if action is Action.SWALLOW:
            self._is_swallowing = True
            return True
        if action is Action.LEAVE:
            self._is_swallowing = True
            _close(self._client)
            return True
        if action is Action.HOLD:
            with self._proxy.changed:
                self._proxy.held.append((self, passing, raw, sink))
                self._proxy.changed.notify_all()
            return True
        if isinstance(action, int):
            sink.sendall(raw[:action])
        elif action is not Action.CUT:
            self._send(
                passing, raw if action is not Action.CUT_WITHIN else raw[: len(raw) // 2], sink
            )
        return action is Action.PASS

    def _send(self, passing: Passing, raw: bytes, sink: socket.socket) -> None:
        with self._sending[passing.direction]:
            sink.sendall(raw)
        with self._proxy.changed:
            self.frames.append(passing)
            self._proxy.changed.notify_all()

    def release(self, passing: Passing, raw: bytes, sink: socket.socket) -> None:
        """Pass on what was held; nothing if the connection has ended."""
        try:
            self._send(passing, raw, sink)
        except OSError:
            pass  # One end is gone.

    def _decode(self, direction: Direction, raw: bytes) -> Message | None:
        with self._transcribing:
            entries = self._transcript.feed(direction is UP, raw)
        event = entries[0].event if entries else None
        return event if isinstance(event, Call | Notice | Reply | Fault | Heartbeat) else None

    def swallow(self) -> None:
        """Pass nothing from now on, and close nothing."""
        self._is_swallowing = True

    def cut(self) -> None:
        """Close both sides."""
        for sock in (self._client, self._server):
            _close(sock)
        self.is_cut.set()

    def join(self) -> None:
        for pump in self._pumps:
            pump.join(DEADLINE)


def _close(sock: socket.socket) -> None:
    try:
        # Wakes the other pump, which close alone would not do.
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # It is closed already.
    sock.close()


class Proxy:
    """Listens on a loopback port and connects each client to *target*.

    :ivar rule: what happens to each frame; may be replaced at any time, and is called in the
        thread of the connection's direction.
    :ivar gates: closed gates stall a direction; see :meth:`stall`.
    :ivar links: connections so far, in order of their arrival.
    """

    def __init__(self, target: Address, rule: Rule = pass_all) -> None:
        self.target = target
        self.rule = rule
        self.gates = {UP: threading.Event(), DOWN: threading.Event()}
        self.resume()
        self.changed = threading.Condition()
        self.links: list[Link] = []
        self.held: list[tuple[Link, Passing, bytes, socket.socket]] = []
        self.is_refusing = False
        """Close new connections at once: the server is away."""
        self._is_closed = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listener.getsockname()[:2]
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # closed
            if self.is_refusing:
                client.close()
                continue
            try:
                server = connect(self.target)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            for sock in (client, server):
                if sock.family != socket.AF_UNIX:
                    # Peers send without delay, and so does what stands between them.
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            link = Link(self, client, server)
            with self.changed:
                self.links.append(link)
                is_closed = self._is_closed
                self.changed.notify_all()
            link.start()
            if is_closed:
                link.cut()

    def stall(self, *directions: Direction) -> None:
        """Hold back all frames in these directions (default: both) until :meth:`resume`."""
        for direction in directions or (UP, DOWN):
            self.gates[direction].clear()

    def resume(self, *directions: Direction) -> None:
        """Let frames pass again."""
        for direction in directions or (UP, DOWN):
            self.gates[direction].set()

    def wait_held(self, count: int) -> None:
        """Wait until as many frames are held."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.held) >= count, DEADLINE), "none is held"

    def release(self) -> None:
        """Hold nothing any more, and pass on what was held, in order."""
        self.rule = pass_all
        with self.changed:
            held, self.held = self.held, []
        for link, passing, raw, sink in held:
            link.release(passing, raw, sink)

    def blackhole(self) -> None:
        """From now on pass nothing and close nothing: a cable pulled out."""
        self.rule = lambda passing: Action.SWALLOW

    def strand(self) -> None:
        """The present connections lead nowhere any more, as :meth:`blackhole`; later ones do."""
        for link in list(self.links):
            link.swallow()

    def cut(self) -> None:
        """Close all present connections."""
        for link in list(self.links):
            link.cut()

    def frames(self) -> list[Passing]:
        """Return what has passed on all connections."""
        with self.changed:
            return [passing for link in self.links for passing in link.frames]

    def wait_frame(self, condition: Callable[[Passing], bool]) -> Passing:
        """Wait until a frame that meets *condition* has passed, and return it."""

        def find() -> Passing | None:
            return next(
                (item for link in self.links for item in link.frames if condition(item)), None
            )

        with self.changed:
            assert self.changed.wait_for(lambda: find() is not None, DEADLINE), "no such frame"
            found = find()
        assert found is not None
        return found

    def wait_links(self, count: int) -> None:
        """Wait until there have been *count* connections."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.links) >= count, DEADLINE)

    def close(self) -> None:
        with self.changed:
            self._is_closed = True
        self.resume()
        try:
            self._listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # Not every system lets a listening socket be shut down.
        self._listener.close()
        self._acceptor.join(DEADLINE)
        self.cut()
        for link in self.links:
            link.join()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
