"""A wire whose server answers at once."""

from __future__ import annotations

from typing import ClassVar

from zeolith.client.wire import Address
from zeolith.protocol.greeting import Coding
from zeolith.protocol.peers import Event, ServerPeer


class PromptWire:
    """Waiting for anything but what has been answered would be for ever, and fails.

    Who inherits defines :meth:`handle`, which appends to ``arriving``.
    """

    peer_name: ClassVar[Address] = ("memory", 1)

    def __init__(self, greeting: bytes = b"") -> None:
        self.peer = ServerPeer(Coding.MSGPACK)
        self.arriving = [greeting or self.peer.greeting()]
        self.is_over = False

    def handle(self, event: Event) -> None:
        """The client has sent this."""
        raise NotImplementedError

    def send(self, data: bytes) -> None:
        if self.is_over:
            raise BrokenPipeError("aborted")
        for event in self.peer.receive(data):
            self.handle(event)

    def receive(self) -> bytes:
        if self.is_over:
            return b""
        assert self.arriving, "nobody will ever answer"
        return self.arriving.pop(0)

    def is_writable(self) -> bool:
        return True

    def is_readable(self, timeout: float | None) -> bool:
        return self.is_over or bool(self.arriving)

    def set_timeout(self, timeout: float | None) -> None:
        pass

    def abort(self) -> None:
        self.is_over = True

    def close(self) -> None:
        self.is_over = True
