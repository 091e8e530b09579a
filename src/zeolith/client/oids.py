"""Ids for new objects, asked of the server some at a time.

A server gives them out in ascending order.  One that was started anew begins behind the last id
that is in the database: it gives ids out again that objects have which nobody has committed yet.
"""

from __future__ import annotations

from ..protocol.messages import NewOids
from ..types import NO_TID
from .channel import Channel
from .link import Link


class Oids:
    """Ids that nobody uses.  Any thread may call any method.

    :param link: asks the server.
    :ivar repeats: how often a server has begun to give out again what another one had given out.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._unused: list[bytes] = []
        self._highest: bytes = NO_TID
        self._before: bytes = NO_TID  # the highest of earlier connections
        self.repeats = 0

    def take(self) -> bytes:
        """Return one.

        :raises ClientDisconnected: there is no server to ask.
        """
        while True:
            try:
                return self._unused.pop()
            except IndexError:
                self._keep(self._link.ask(NewOids()))

    def _keep(self, oids: list[bytes]) -> None:
        if min(oids) <= self._before:
            self.repeats += 1
        self._highest = max(self._highest, *oids)
        self._unused[:0] = reversed(oids)

    def forget(self) -> None:
        """There is another connection: the server may give out again what is not used here."""
        self._before = self._highest
        self._unused.clear()

    def are_known_by(self, channel: Channel, repeats: int) -> bool:
        """Ask whether the server gives out none again that has been given out here, and none has
        done so since :attr:`repeats` was *repeats*.

        :param channel: the present connection.
        :raises ClientDisconnected: it has broken.
        """
        self._keep(channel.call(NewOids()))
        return self.repeats == repeats
