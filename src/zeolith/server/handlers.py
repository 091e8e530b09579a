"""What is done for each request: the table from its class to a function.

A function takes the session, the message id (:data:`~.session.NOTICE` if none) and the request.
It answers through the session, now or later, or raises what the answer is to say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from ..protocol import additions as a
from ..protocol import messages as m
from ..protocol import streamrequests as s
from ..protocol.lead import GiveLead, TakeLead
from ..protocol.loadrequests import LoadMany, SyncTo
from ..protocol.outcome import Outcome
from . import blobs, changes, committing, iteration, lead, reading, streaming, syncing, verifying

Handler = Callable[[Any, m.MsgId, Any], None]

HANDLERS: Final[Mapping[type[Any], Handler]] = {
    m.LoadBefore: reading.load_before,
    LoadMany: reading.load_many,
    SyncTo: syncing.sync_to,
    TakeLead: lead.take_lead,
    GiveLead: lead.give_lead,
    m.Register: reading.register,
    m.GetInfo: reading.get_info,
    m.LastTransaction: reading.last_transaction,
    m.Ping: reading.ping,
    m.ServerStatus: reading.server_status,
    m.SetClientLabel: reading.set_client_label,
    m.GetInvalidations: reading.get_invalidations,
    m.LoadSerial: reading.load_serial,
    m.GetTid: reading.get_tid,
    m.History: reading.history,
    m.RecordIternext: reading.record_iternext,
    m.UndoLog: reading.undo_log,
    m.UndoInfo: reading.undo_info,
    m.Pack: reading.pack,
    m.NewOids: committing.new_oids,
    m.TpcBegin: committing.tpc_begin,
    m.Store: committing.store,
    m.Restore: committing.store,
    m.DeleteObject: committing.store,
    m.CheckCurrentSerial: committing.check_current,
    m.Undo: committing.undo,
    m.Vote: committing.vote,
    m.TpcFinish: committing.tpc_finish,
    m.TpcAbort: committing.tpc_abort,
    Outcome: committing.outcome,
    m.StoreBlobStart: blobs.store_blob_start,
    m.StoreBlobChunk: blobs.store_blob_chunk,
    m.StoreBlobEnd: blobs.store_blob_end,
    m.StoreBlobShared: blobs.store_blob_shared,
    m.SendBlob: blobs.send_blob,
    m.IteratorStart: iteration.start,
    m.IteratorNext: iteration.next_transaction,
    m.IteratorRecordStart: iteration.start_records,
    m.IteratorRecordNext: iteration.next_record,
    m.IteratorGc: iteration.close,
    s.OpenBlob: streaming.open_blob,
    s.OpenUpload: streaming.open_upload,
    s.ForgetUpload: streaming.forget_upload,
    s.AttachBlob: streaming.attach_blob,
    s.OpenIteration: streaming.open_iteration,
    s.StreamData: streaming.data,
    s.StreamEnd: streaming.end,
    s.StreamFault: streaming.fault,
    s.StreamCredit: streaming.credit,
    s.StreamCancel: streaming.cancel,
    a.VerifyMany: verifying.verify_many,
    a.ChangesSince: changes.changes_since,
    a.CacheReport: reading.cache_report,
}
"""Every request of a client; ``Register`` is told apart by the peer, which admits nothing else
before and nothing like it afterwards."""
