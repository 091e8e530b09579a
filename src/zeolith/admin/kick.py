"""Ending the connections of clients."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..protocol.inquiry import KickInquiry
from .asking import Target, ask_zeolith


class Kicked(NamedTuple):
    """The connections that were ended, or would have been.

    :ivar connections: as a status describes them.
    :ivar left_out: how many more there are.
    """

    connections: list[dict[str, Any]]
    left_out: int

    @property
    def total(self) -> int:
        """How many there are."""
        return len(self.connections) + self.left_out


def kick_clients(
    target: Target, client: str | None, storage: str | None = None, dry_run: bool = False
) -> Kicked:
    """End the connections of a client.

    :param client: label, address or number of the connections; None: all.
    :param storage: only those to that storage; None: to any.
    :param dry_run: end nothing.
    :raises NotZeolith: the server cannot be asked for this.
    :raises NotAnswering: it cannot be reached, or does not answer.
    :raises Refused: it is read-only, or does not serve that storage.
    """
    answer = ask_zeolith(target, KickInquiry(client, storage, dry_run))
    return Kicked(answer["connections"], answer["left_out"])
