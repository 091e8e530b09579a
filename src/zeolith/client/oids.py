"""Ids for new objects, asked of the server some at a time.

A server gives them out in ascending order.  One that was started anew begins behind the last id
that is in the database: it gives ids out again that objects have which nobody has committed yet.
"""

from __future__ import annotations

from ..protocol.messages import NewOids
from .link import Link


class Oids:
    """Ids that nobody uses.  Any thread may call any method.

    :param link: asks the server.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._unused: list[bytes] = []

    def take(self) -> bytes:
        """Return one.

        :raises ClientDisconnected: there is no server to ask.
        """
        while True:
            try:
                return self._unused.pop()
            except IndexError:
                self._unused[:0] = reversed(self._link.ask(NewOids()))

    def forget(self) -> None:
        """There is another connection: the server may give out again what is not used here."""
        self._unused.clear()
