"""Cases of each message: what it is, and the tuple that ZEO 6.2 writes for it.

``CASES`` are those of ZEO's protocol, ``OWN_CASES`` what only Zeolith's own has.
``tests/protocol/test_samples.py`` sees to it that no request and no kind is without one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from zeolith.protocol.additions import CacheReport, ChangesSince, VerifyMany
from zeolith.protocol.codec import Codec
from zeolith.protocol.lead import GiveLead, TakeLead
from zeolith.protocol.limits import FIRST_UPLOAD, STREAM_FRAME
from zeolith.protocol.loadrequests import LoadedMany, LoadMany, SyncTo
from zeolith.protocol.messages import (
    Call,
    CheckCurrentSerial,
    Committed,
    DeleteObject,
    Fault,
    GetInfo,
    GetInvalidations,
    GetTid,
    Heartbeat,
    History,
    Info,
    InvalidateTransaction,
    IteratorGc,
    IteratorNext,
    IteratorRecordNext,
    IteratorRecordStart,
    IteratorStart,
    LastTransaction,
    LoadBefore,
    LoadSerial,
    Message,
    NewOids,
    Notice,
    Pack,
    Ping,
    ReceiveBlobChunk,
    ReceiveBlobStart,
    ReceiveBlobStop,
    RecordIternext,
    Register,
    Reply,
    Request,
    Restore,
    SendBlob,
    ServerStatus,
    SetClientLabel,
    Store,
    StoreBlobChunk,
    StoreBlobEnd,
    StoreBlobShared,
    StoreBlobStart,
    TpcAbort,
    TpcBegin,
    TpcFinish,
    Undo,
    UndoInfo,
    UndoLog,
    Vote,
)
from zeolith.protocol.outcome import Outcome
from zeolith.protocol.streamrequests import (
    AttachBlob,
    ForgetUpload,
    OpenBlob,
    OpenIteration,
    OpenUpload,
    StreamCancel,
    StreamCredit,
    StreamData,
    StreamEnd,
    StreamFault,
)
from zeolith.types import MAX_TID

OID, TID, TID2 = b"\0" * 7 + b"\x2a", b"\x03" * 8, b"\x04" * 8
TXN = 0x7F54_4A44_C000


class Case(NamedTuple):
    """A message, and the arguments of ZEO's encoder for it.

    :ivar receiver: role of the side that may receive it.
    """

    receiver: str
    message: Message
    wire: tuple[Any, Any, str, Any]


def serialize(codec: Codec, message: Message) -> bytes:
    """Return the frame of *message*."""
    match message:
        case Call(msgid, request):
            return codec.call(msgid, request)
        case Notice(request):
            return codec.notice(request)
        case Reply(msgid, value):
            return codec.reply(msgid, value)
        case Fault(msgid, name, details):
            return codec.fault(msgid, name, details)
        case Heartbeat():
            return codec.heartbeat()


_CALLS: tuple[tuple[str, Request], ...] = (
    ("register", Register("1", False)),
    ("get_info", GetInfo()),
    ("lastTransaction", LastTransaction()),
    ("ping", Ping()),
    ("server_status", ServerStatus()),
    ("getInvalidations", GetInvalidations(TID)),
    ("loadBefore", LoadBefore(OID, TID)),
    ("loadSerial", LoadSerial(OID, TID)),
    ("getTid", GetTid(OID)),
    ("history", History(OID, 20)),
    ("record_iternext", RecordIternext(None)),
    ("record_iternext", RecordIternext(OID)),
    ("new_oids", NewOids(100)),
    ("vote", Vote(TXN)),
    ("tpc_finish", TpcFinish(TXN)),
    ("tpc_abort", TpcAbort(TXN)),
    ("pack", Pack(1795219200.25, True)),
    ("undoLog", UndoLog(0, -20)),
    ("undoInfo", UndoInfo(0, -20, None)),
    ("undoInfo", UndoInfo(0, -20, {"user_name": b"/ admin"})),
    ("sendBlob", SendBlob(OID, TID)),
    ("iterator_start", IteratorStart(None, TID)),
    ("iterator_next", IteratorNext(1)),
    ("iterator_record_start", IteratorRecordStart(1, TID)),
    ("iterator_record_next", IteratorRecordNext(300)),
    ("set_client_label", SetClientLabel("küche")),
)

_NOTICES: tuple[tuple[str, Request], ...] = (
    ("tpc_begin", TpcBegin(TXN, b"user", b"description", {"key": [1, "two"]}, None, " ")),
    ("storea", Store(OID, None, b"data", TXN)),
    ("storea", Store(OID, TID, b"x" * 300, TXN)),
    ("storea", Store(OID, TID, b"y" * 70_000, 70_000)),
    ("checkCurrentSerialInTransaction", CheckCurrentSerial(OID, TID, TXN)),
    ("deleteObject", DeleteObject(OID, TID, TXN)),
    ("restorea", Restore(OID, TID, None, None, TXN)),
    ("restorea", Restore(OID, TID, b"data", TID2, TXN)),
    ("undoa", Undo(TID, TXN)),
    ("storeBlobStart", StoreBlobStart()),
    ("storeBlobChunk", StoreBlobChunk(b"c" * 59_000)),
    ("storeBlobEnd", StoreBlobEnd(OID, TID, b"", TXN)),
    ("storeBlobShared", StoreBlobShared(OID, TID, b"data", "0x2a.tmp", TXN)),
    ("tpc_abort", TpcAbort(-TXN)),
    ("iterator_gc", IteratorGc([1, 255, 256, 65_535, 65_536, 2**31])),
    ("set_client_label", SetClientLabel("label")),
)

_TO_CLIENT: tuple[tuple[str, Request], ...] = (
    ("invalidateTransaction", InvalidateTransaction(TID, [])),
    ("invalidateTransaction", InvalidateTransaction(TID, [OID])),
    (
        "invalidateTransaction",
        InvalidateTransaction(TID, [n.to_bytes(8, "big") for n in range(2_500)]),
    ),
    ("info", Info({"length": 12, "size": 3_000_000_000})),
    ("receiveBlobStart", ReceiveBlobStart(OID, TID)),
    ("receiveBlobChunk", ReceiveBlobChunk(OID, TID, b"chunk")),
    ("receiveBlobStop", ReceiveBlobStop(OID, TID)),
)

_REPLIES: tuple[tuple[Any, Any], ...] = (
    (1, None),
    (2, True),
    (255, TID),
    (256, (TID, [OID])),
    (65_535, ([], {}, ())),
    (65_536, [{"oid": OID, "serials": (TID, TID2), "data": b"data"}]),
    (2**31, {"interfaces": (("ZODB.interfaces", "IStorage"),), "name": "x", "length": 1.5}),
    ((OID, TID), None),
    ((OID, TID), (b"", TID, None)),
    ((OID, TID), (b"d" * 255, TID, None)),
    ((OID, TID), (b"d" * 256, TID, TID2)),
    ((OID, TID), (b"d" * 65_535, TID, TID2)),
    ((OID, TID), (b"d" * 65_536, TID, None)),
)

_FAULTS: tuple[tuple[Any, str, Any], ...] = (
    (3, "builtins.KeyError", ("x",)),
    ((OID, TID), "ZODB.POSException.POSKeyError", (OID,)),
    (4, "ZODB.POSException.ReadOnlyError", ()),
    (
        5,
        "ZODB.POSException.ConflictError",
        {"message": "m", "oid": OID, "class_name": None, "serials": (TID, TID2)},
    ),
)


def _cases() -> list[Case]:
    cases = []
    for number, (name, request) in enumerate(_CALLS):
        msgid = tuple(request) if isinstance(request, LoadBefore) else number + 250
        wire = (msgid, False, name, tuple(request))
        cases.append(Case("server", Call(msgid, request), wire))
    for name, request in _NOTICES:
        # ZEO's codings leave out the last field of this one.
        fields = request[:-1] if isinstance(request, TpcBegin) else tuple(request)
        cases.append(Case("server", Notice(request), (0, True, name, fields)))
    for name, request in _TO_CLIENT:
        cases.append(Case("client", Notice(request), (0, True, name, tuple(request))))
    for msgid, value in _REPLIES:
        cases.append(Case("client", Reply(msgid, value), (msgid, 0, ".reply", value)))
    for msgid, name, details in _FAULTS:
        fault = (msgid, 2, ".reply", (name, details))
        cases.append(Case("client", Fault(msgid, name, details), fault))
    cases.append(Case("server", Heartbeat(), (-1, 0, ".reply", None)))
    return cases


CASES = _cases()


UID = bytes(range(16))
UPLOAD = FIRST_UPLOAD + 7

_OWN: tuple[tuple[str, str, Message], ...] = (
    ("client", ".reply", Heartbeat()),
    ("server", "outcome", Call(300, Outcome(UID, TID))),
    ("server", "tpc_begin", Notice(TpcBegin(TXN, b"u", b"d", b"pickle", None, " ", UID))),
    ("server", "tpc_begin", Notice(TpcBegin(TXN, b"u", b"d", b"", TID, "p", UID))),
    ("server", "tpc_begin", Call(301, TpcBegin(TXN, b"u", b"d", b"", TID, "p", UID))),
    ("server", "verify_many", Call(302, VerifyMany(b""))),
    ("server", "verify_many", Call(303, VerifyMany((OID + TID) * 3))),
    ("server", "changes_since", Call(304, ChangesSince(TID, 100))),
    ("server", "changes_since", Call(305, ChangesSince(TID, 100, TID2 + OID))),
    ("client", ".reply", Reply(306, (TID, TID2))),
    ("client", ".reply", Reply(311, Committed(TID, 0, (1 << 64) - 1))),
    ("server", "cache_report", Notice(CacheReport(0, (1 << 64) - 1, 3, 4, 5))),
    ("server", "sync_to", Call(307, SyncTo(TID, 1.5))),
    ("server", "take_lead", Call(308, TakeLead())),
    ("server", "give_lead", Call(309, GiveLead())),
    ("server", "load_many", Notice(LoadMany(MAX_TID, [OID]))),
    ("server", "load_many", Notice(LoadMany(TID, [OID, TID, TID2] * 50))),
    ("client", "loaded_many", Notice(LoadedMany(MAX_TID, [(OID, TID, None, b"data")]))),
    (
        "client",
        "loaded_many",
        Notice(LoadedMany(TID, [(OID, TID, TID2, b""), (TID, TID, None, b"x" * 3_000)] * 5)),
    ),
    ("server", "open_blob", Call(308, OpenBlob(5, OID, TID, 70_000, 1 << 20))),
    ("server", "open_upload", Notice(OpenUpload(UPLOAD, bytes(range(16))))),
    ("server", "open_upload", Call(311, OpenUpload(UPLOAD, bytes(range(16))))),
    ("server", "forget_upload", Notice(ForgetUpload(UPLOAD))),
    ("server", "attach_blob", Notice(AttachBlob(UPLOAD, OID, None, b"data", TXN, 5))),
    ("server", "attach_blob", Call(309, AttachBlob(UPLOAD, OID, TID, b"", TXN, 0))),
    ("server", "open_iteration", Call(310, OpenIteration(6, None, TID, 0))),
    *(
        (receiver, name, Notice(request))
        for receiver in ("server", "client")
        for name, request in (
            ("stream_data", StreamData(5, b"x")),
            ("stream_data", StreamData(UPLOAD, b"y" * STREAM_FRAME)),
            ("stream_end", StreamEnd(5)),
            ("stream_fault", StreamFault(5, "builtins.KeyError", ("x",))),
            ("stream_credit", StreamCredit(5, 70_000)),
            ("stream_cancel", StreamCancel(UPLOAD)),
        )
    ),
)

OWN_CASES = [Case(receiver, message, (0, 0, name, ())) for receiver, name, message in _OWN]
"""Messages that only Zeolith's own protocol has; of their wire forms only the name counts."""

ALL_CASES = [*CASES, *OWN_CASES]


def as_sent(message: Message, coding_letter: bytes) -> Message:
    """Return *message*, or one like it that the coding can carry.

    :param coding_letter: ``b"Z"``, ``b"M"`` or ``b"O"``.
    """
    if coding_letter == b"O" and isinstance(message, Notice):
        request = message.request
        if isinstance(request, TpcBegin) and type(request.extension) is dict:
            # Zeolith's own protocol knows this data as bytes only.
            return Notice(request._replace(extension=b"a pickle"))
    return message


def name_of(case: Case) -> str:
    """Return an id for a test that runs this case."""
    return f"{case.wire[2]}-{type(case.message).__name__}"


def as_received(value: Any, coding_letter: bytes) -> Any:
    """Return *value* as the coding hands it back: in msgpack, lists arrive as tuples.

    :param coding_letter: ``b"Z"`` or ``b"M"``.
    """
    if coding_letter == b"Z" or isinstance(value, LoadedMany):
        return value
    if type(value) in (list, tuple):
        return tuple(as_received(item, coding_letter) for item in value)
    if type(value) is dict:
        return {key: as_received(item, coding_letter) for key, item in value.items()}
    if isinstance(value, tuple):  # one of the message classes
        return type(value)(*(as_received(item, coding_letter) for item in value))
    return value
