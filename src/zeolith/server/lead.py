"""Which client of a storage leads: at most one, until it says that it does not or has gone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ZODB.POSException import ReadOnlyError

from ..protocol.lead import GiveLead, TakeLead
from ..protocol.messages import MsgId
from .peerlog import peer_logger

if TYPE_CHECKING:
    from .session import Session

logger = peer_logger(__name__)


class Lead:
    """Who leads at one storage.  Everything here belongs to the loop's thread."""

    __slots__ = ("_leader",)

    def __init__(self) -> None:
        self._leader: Session | None = None

    def take(self, session: Session) -> bool:
        """Have *session* lead if nobody else does; return whether it leads."""
        if self._leader is None:
            logger.info("(%s) leads", session.name)
            self._leader = session
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
    session.reply(msgid, session.service.lead.take(session))


def give_lead(session: Session, msgid: MsgId, request: GiveLead) -> None:
    session.service.lead.give(session)
    session.reply(msgid, None)
