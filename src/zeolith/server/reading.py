"""Requests that change nothing (but see ``pack``)."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from ZODB.POSException import ReadOnlyError, StorageError

from ..errors import MessageTooLarge
from ..protocol import messages as m
from ..protocol.additions import CacheReport
from ..protocol.greeting import Coding
from ..protocol.hello import Admission, serialize_admission
from ..protocol.loadrequests import LoadMany
from ..rights import Right
from .iterators import Iterators
from .missed import find_missed
from .peerlog import peer_logger
from .service import StorageService
from .session import Session
from .workers import Lane

logger = peer_logger(__name__)

_MAX_LABEL = 200

_PACK_TIMES: Final = (-2_208_988_800, 253_402_300_800)
"""Seconds since the epoch: the year 1900, where transaction ids begin, and the year 10000, where
Python's calendar ends.  What is packed "to" the past is nothing, and legal."""


def load_before(session: Session, msgid: m.MsgId, request: m.LoadBefore) -> None:
    # This is what a server does nearly all the time: hence the shortcuts.
    publisher = session.publisher
    assert publisher is not None
    service = session.service
    service.stats.loads += 1
    oid, tid = request
    access = service.access
    if not access.is_fast:
        session.began()
        service.load(oid, tid, partial(_loaded, session, msgid, request))
        return
    found = access.load_before(oid, tid)
    # The load came first: had anybody published in between, draining now could not make the
    # answer wrong, because what a fast storage shows changes only while the publisher is held.
    publisher.drain()
    if found is not None and msgid.__class__ is m.LoadBefore:
        session.send_checked(session.codec.loaded(request, *found))
    else:
        session.reply(msgid, _as_bytes(found))


def _loaded(
    session: Session, msgid: m.MsgId, request: m.LoadBefore, found: Any, error: Exception | None
) -> None:
    if session.is_lost:
        return
    if error is not None:
        session.fault(msgid, error)
    else:
        try:
            if found is not None and msgid.__class__ is m.LoadBefore:
                frame = session.codec.loaded(request, *found)
            else:
                frame = session.codec.reply(msgid, _as_bytes(found))
        except MessageTooLarge as too_large:
            session.fault(msgid, too_large)
        else:
            session.send_checked(frame)
    session.ended()


def load_many(session: Session, msgid: m.MsgId, request: LoadMany) -> None:
    session.bulk.add(request)


def _as_bytes(found: Any) -> Any:
    # Storages may return zodbpickle.binary, which no coding carries.
    return None if found is None else (bytes(found[0]), found[1], found[2])


def register(session: Session, msgid: m.MsgId, request: m.Register) -> None:
    lobby = session.lobby
    service = lobby.services.get(request.storage)
    rights = session.connection.rights
    if service is None:
        names = sorted(name for name in lobby.services if Right.READ in rights.on(name))
        served = ", ".join(map(repr, names)) or "none for this user"
        logger.warning("(%s) asks for unknown storage %.80r", session.name, request.storage)
        raise ValueError(f"unknown storage: {request.storage!r}; served here: {served}")
    session.demand(Right.READ, service.name)
    _check_in_service(service)
    read_only = bool(request.read_only)
    if not read_only:
        session.demand(Right.WRITE, service.name)
    if not read_only and service.is_read_only:
        raise ReadOnlyError("the server is read-only")

    def admit() -> None:
        if session.is_lost:
            return
        if session.is_registered:
            # Two registrations that arrived at once: both were legal when they were read.
            session.close("protocol violated: Register is not legal while open")
            return
        try:
            _check_in_service(service)
        except StorageError as error:
            session.fault(msgid, error)
            return
        # In one step: what changes from now on is announced, what is before is in the answer.
        tid = session.register(service, read_only)
        session.uploads = Lane(service.pools.quick)
        session.reads = Lane(service.pools.quick)
        session.iterators = Iterators(service.access, lobby.options.max_iterators, lobby.tally)
        logger.info(
            "(%s) connected to storage %r%s",
            session.name, service.name, ", read-only" if read_only else "",
        )  # fmt: skip
        if session.codec.coding is Coding.OWN:
            session.reply(msgid, serialize_admission(Admission(tid, service.database)))
        else:
            session.reply(msgid, tid)

    service.when_settled(admit)


def _check_in_service(service: StorageService) -> None:
    if service.outage:
        # No ValueError, which clients take for the end of all hope.
        raise StorageError(service.outage)


def get_info(session: Session, msgid: m.MsgId, request: m.GetInfo) -> None:
    # On a worker, because some storages count everything to know their size.
    session.run(msgid, session.service.pools.quick, session.service.access.info)


def last_transaction(session: Session, msgid: m.MsgId, request: m.LastTransaction) -> None:
    # Not the storage's: what is told here must have been announced before (R1).
    session.service.publisher.drain()
    session.reply(msgid, session.service.log.last_tid)


def ping(session: Session, msgid: m.MsgId, request: m.Ping) -> None:
    session.reply(msgid, None)


def server_status(session: Session, msgid: m.MsgId, request: m.ServerStatus) -> None:
    session.reply(msgid, session.service.status())


def set_client_label(session: Session, msgid: m.MsgId, request: m.SetClientLabel) -> None:
    label: str | bytes = request.label
    if isinstance(label, bytes):
        label = label.decode("utf-8", "replace")
    # It ends up in the log, where it must not be able to feign lines of its own.
    session.label = "".join(c if c.isprintable() else "?" for c in label[:_MAX_LABEL])
    session.reply(msgid, None)


def cache_report(session: Session, msgid: m.MsgId, request: CacheReport) -> None:
    session.cache_report = request


def get_invalidations(session: Session, msgid: m.MsgId, request: m.GetInvalidations) -> None:
    def found(known: tuple[bytes, list[bytes]] | None, error: Exception | None) -> None:
        if known is None and error is None:
            logger.info("(%s) has to verify: unknown what changed since %s",
                        session.name, request.tid.hex())  # fmt: skip
        elif known is not None:
            logger.info("(%s) is told of %d objects changed since %s",
                        session.name, len(known[1]), request.tid.hex())  # fmt: skip
        service.verifying -= 1
        session.answer(msgid, known, error)
        session.ended()

    session.began()
    service = session.service
    service.verifying += 1
    find_missed(session, request.tid, found)


def load_serial(session: Session, msgid: m.MsgId, request: m.LoadSerial) -> None:
    method = session.service.access.method("loadSerial")
    session.run(msgid, session.service.pools.quick, lambda: bytes(method(*request)))


def get_tid(session: Session, msgid: m.MsgId, request: m.GetTid) -> None:
    method = session.service.access.method("getTid")
    session.run(msgid, session.service.pools.quick, lambda: method(*request))


def history(session: Session, msgid: m.MsgId, request: m.History) -> None:
    method = session.service.access.method("history")
    oid, size = request
    if type(oid) is not bytes or type(size) is not int:
        # Storages have various ways to fail at this, most of which look like defects.
        raise TypeError(f"no object id and number: {oid!r:.40}, {size!r:.40}")
    session.run(msgid, session.service.pools.quick, lambda: list(method(oid, size=size)))


def record_iternext(session: Session, msgid: m.MsgId, request: m.RecordIternext) -> None:
    method = session.service.access.method("record_iternext")

    def job() -> tuple[bytes, bytes, bytes, bytes | None]:
        oid, tid, data, following = method(request.next)
        return oid, tid, bytes(data), following

    session.run(msgid, session.service.pools.quick, job)


def undo_log(session: Session, msgid: m.MsgId, request: m.UndoLog) -> None:
    _undo_list(session, msgid, "undoLog", *request)


def undo_info(session: Session, msgid: m.MsgId, request: m.UndoInfo) -> None:
    specification = request.specification
    if specification is not None and type(specification) is not dict:
        # As with history: a mistake of the application, which does not cost it the connection.
        raise TypeError(f"no dictionary of what to look for: {specification!r:.40}")
    _undo_list(session, msgid, "undoInfo", *request)


def _undo_list(session: Session, msgid: m.MsgId, name: str, *args: Any) -> None:
    access = session.service.access
    if not access.has_undo:
        session.reply(msgid, ())
        return
    method = access.method(name)
    session.run(msgid, session.service.pools.slow, lambda: list(method(*args)))


def pack(session: Session, msgid: m.MsgId, request: m.Pack) -> None:
    session.demand(Right.PACK, session.service.name)
    # Legal for readers and on read-only servers, as in ZEO: it changes no object.
    first, end = _PACK_TIMES
    if not first <= request.time < end:  # nor is "not a number"
        given = request.time if isinstance(request.time, float) else "the number given"
        raise ValueError(f"cannot pack to a time outside of the years 1900 to 9999: {given}")

    def packed(result: None, error: Exception | None) -> None:
        if request.wait:
            session.answer(msgid, None, error)

    session.service.pack(request.time, session.name, packed)
    if not request.wait:
        session.reply(msgid, None)
