"""Going first while others wait: asking the server who leads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ZODB.POSException import Unsupported

from ..protocol.lead import GiveLead, TakeLead

if TYPE_CHECKING:
    from .channel import Channel
    from .link import Link


def take_lead(link: Link) -> bool:
    """Ask to lead; return whether this client does now.

    :raises Unsupported: the server is none of Zeolith's.
    :raises ReadOnlyError: this client may not write.
    :raises ClientDisconnected: no server in time.
    """

    def ask(channel: Channel) -> bool:
        if not channel.speaks_own:
            raise Unsupported(
                f"the server {channel.server_name} is none of Zeolith's: it does not know who leads"
            )
        leads: bool = channel.call(TakeLead())
        return leads

    # What was taken on a connection that broke has ended with it.
    answer: bool = link.repeat(ask, lambda: 0)
    return answer


def give_lead(link: Link) -> None:
    """Do not lead any more, if this client does.

    :raises ClientDisconnected: the connection was lost, and so was the lead.
    """
    channel = link.wait()
    if channel.speaks_own:
        channel.call(GiveLead())
