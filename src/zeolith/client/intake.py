"""Where the messages of one channel go that answer no call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..errors import ProtocolViolation
from ..protocol.loadrequests import Record
from ..protocol.messages import InvalidateTransaction, Request
from .channel import Channel

if TYPE_CHECKING:
    from .link import Link

MAX_HELD = 1_000_000
"""Objects named by invalidations that may arrive before the cache is verified.  Verification takes
moments; a server that sends more than this meanwhile is given up, not collected (rule R8)."""


@dataclass(slots=True)
class Intake:
    """Takes what arrives on one channel to where it belongs; the channel's ``Receiver``.

    Until the cache is verified invalidations wait in *held*.  Called by the thread that reads.

    :ivar link: whose channel it is.
    :ivar loaded: takes object revisions: the cache's ``store``.
    :ivar loaded_many: takes several at once: the cache's ``store_many``.
    :ivar is_verified: whether invalidations are applied as they come.
    :ivar held: those that wait, in the order of arrival.
    """

    link: Link
    loaded: Callable[[bytes, bytes, bytes | None, bytes], None]
    loaded_many: Callable[[Sequence[Record]], None]
    is_verified: bool = False
    held: list[InvalidateTransaction] = field(default_factory=list)
    held_objects: int = 0

    def noticed(self, request: Request) -> None:
        """The server sent a notice.

        :raises ProtocolViolation: too many invalidations wait.
        """
        if not isinstance(request, InvalidateTransaction):
            self.link.owner.noticed(request)
        elif self.is_verified:
            self.link.apply(request)
        else:
            self.held_objects += len(request.oids) + 1
            if self.held_objects > MAX_HELD:
                raise ProtocolViolation("too many invalidations before the cache is verified")
            self.held.append(request)

    def broken(self, channel: Channel, cause: BaseException) -> None:
        """The channel has ended."""
        self.link.lost(channel, cause)
