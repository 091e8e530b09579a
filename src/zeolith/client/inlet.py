"""Where the bytes of a plain connection arrive while blobs flow: memory that is used again.

As much is read at once as there is, and a short blob stays until all of it is there: so it is taken
in one step, whatever pieces it comes in.
"""

from __future__ import annotations

from typing import Final, TypeGuard

from ..protocol.wholes import MOST_RECEIVED
from .wire import PlainWire

INLET_SIZE: Final = 256 * 1024
"""Bytes read at once: some small blobs, and several times the longest one that is kept.  Only a
connection that has fetched blobs has this memory; more of it would leave the processor's cache."""


assert INLET_SIZE >= 2 * MOST_RECEIVED, "there has to be room behind what is kept"


class Inlet:
    """The memory of one connection.  Only whoever holds the reading role.

    :ivar kept: bytes of a blob that are there already.
    """

    __slots__ = ("_memory", "kept")

    def __init__(self) -> None:
        self._memory = memoryview(b"")
        self.kept = 0

    def receive(self, wire: PlainWire) -> memoryview:
        """Wait for bytes; return what is kept and them, or nothing at the end of the stream.

        What is returned is good until the next call.
        """
        if not self._memory:
            self._memory = memoryview(bytearray(INLET_SIZE))
        size = wire.fill(self._memory[self.kept :])
        if not size:
            return self._memory[:0]
        size, self.kept = self.kept + size, 0
        return self._memory[:size]

    def holds(self, received: bytes | memoryview) -> TypeGuard[memoryview]:
        """Whether *received* is in this memory."""
        return type(received) is memoryview and received.obj is self._memory.obj

    def keep(self, received: memoryview, start: int) -> None:
        """Keep what was received from *start* on; it has to leave room for more."""
        size = len(received) - start
        if start:
            self._memory[:size] = received[start:]
        self.kept = size
