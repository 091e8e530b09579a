"""Clients that want to be sure to see a certain transaction."""

from __future__ import annotations

from ..protocol.loadrequests import SyncTo
from ..protocol.messages import MsgId
from .session import Session


def sync_to(session: Session, msgid: MsgId, request: SyncTo) -> None:
    # Counted as work of other threads is: each takes memory until it is answered (R8).
    publisher = session.service.publisher
    publisher.drain()
    tid, seconds = request
    last_tid = publisher.log.last_tid
    if last_tid >= tid:
        session.reply(msgid, last_tid)
        return
    if not seconds:
        session.reply(msgid, None)
        return

    def passed() -> None:
        session.reply(msgid, publisher.log.last_tid)
        session.ended()

    def is_late() -> None:
        if publisher.waiters.remove(waiter):
            session.reply(msgid, None)
            session.ended()

    session.began()
    waiter = publisher.waiters.add(tid, session, passed)
    waiter.timer = session.lobby.loop.call_later(seconds, is_late)
