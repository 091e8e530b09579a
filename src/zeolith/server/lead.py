"""Which client of a storage leads: at most one, until it says that it does not or has gone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ZODB.POSException import ReadOnlyError

from ..protocol.lead import GiveLead, TakeLead
from ..protocol.messages import MsgId
from .peerlog import peer_logger

if TYPE_CHECKING:
    from .session import Session

logger = peer_logger(__name__)


LONGEST_LEAD: Final = 600.0
"""Seconds after which another client may lead although the leader is there: one that hangs must not
keep others from starting for ever (R7), and to create a database takes seconds."""


class Lead:
    """Who leads at one storage.  Everything here belongs to the loop's thread."""

    __slots__ = ("_leader", "_since")

    def __init__(self) -> None:
        self._leader: Session | None = None
        self._since = 0.0

    def take(self, session: Session, now: float) -> bool:
        """Have *session* lead if nobody else does; return whether it leads.

        :param now: seconds on a clock that never goes back.
        """
        leader = self._leader
        if leader is not None and leader is not session and now - self._since > LONGEST_LEAD:
            logger.warning("(%s) has led for %.0f s: another one may", leader.name, LONGEST_LEAD)
            leader = None
        if leader is None:
            logger.info("(%s) leads", session.name)
            self._leader, self._since = session, now
        return self._leader is session

    def give(self, session: Session) -> None:
        """*session* does not lead any more, if it did."""
        if self._leader is session:
            logger.info("(%s) does not lead any more", session.name)
            self._leader = None


def take_lead(session: Session, msgid: MsgId, request: TakeLead) -> None:
    if session.read_only:
        raise ReadOnlyError("who may not write cannot lead")
    # The answer comes after the invalidations of all that the last leader has committed (R1).
    session.reply(msgid, session.service.lead.take(session, session.lobby.loop.time()))


def give_lead(session: Session, msgid: MsgId, request: GiveLead) -> None:
    session.service.lead.give(session)
    session.reply(msgid, None)
