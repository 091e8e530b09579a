"""What a channel tells the client that uses it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from ..protocol.loadrequests import Record
from ..protocol.messages import Request

if TYPE_CHECKING:
    from .channel import Channel


class Receiver(Protocol):
    """What a channel does with messages that answer no call, and with loaded objects.

    Called by the thread that leads, in the order of arrival.
    """

    def loaded(self, oid: bytes, start: bytes, end: bytes | None, data: bytes) -> None:
        """An object revision has arrived; nobody has been told yet."""

    def loaded_many(self, records: Sequence[Record]) -> None:
        """Object revisions have arrived together; nobody has been told yet."""

    def noticed(self, request: Request) -> None:
        """The server sent a notice.  An exception raised here ends the connection."""

    def broken(self, channel: Channel, cause: BaseException) -> None:
        """The connection has ended; called once, all waiting calls have failed."""
