"""What a channel tells the client that uses it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Protocol

from ..errors import UndecodableMessage
from ..protocol.loadrequests import Record
from ..protocol.messages import Request

if TYPE_CHECKING:
    from .channel import Channel

ID_SIZE: Final = 8
"""Bytes of a transaction id."""


def to_revision(value: object) -> tuple[bytes, bytes, bytes | None]:
    """Return *value* if it is what answers a load: data, start, and end or None.

    In Zeolith's own protocol, and mostly in ZEO's, the decoder sees to it; but ZEO's servers may
    write the same answer in any way that their coding knows.

    :raises UndecodableMessage: it is something else, which must not come near a cache.
    """
    match value:
        case (bytes() as data, bytes() as start, None | bytes() as end):
            if len(start) == ID_SIZE and (end is None or len(end) == ID_SIZE):
                return data, start, end
    raise UndecodableMessage(f"the answer to a load is no revision: {value!r:.200}")


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
