"""Requests that iterate over transactions and records."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from ..protocol import messages as m
from ..protocol.greeting import Coding
from .iterators import Iterators
from .session import Session


def _run(session: Session, msgid: m.MsgId, method: Callable[..., Any], *args: Any) -> None:
    # In order: a client may ask for several items before it has seen the first.
    session.run_in_order(msgid, partial(method, session.iterators, *args))


def start(session: Session, msgid: m.MsgId, request: m.IteratorStart) -> None:
    _run(session, msgid, Iterators.start, request.start, request.stop)


def next_transaction(session: Session, msgid: m.MsgId, request: m.IteratorNext) -> None:
    wants_bytes = session.codec.coding is Coding.OWN
    _run(session, msgid, Iterators.next, request.iid, wants_bytes)


def start_records(session: Session, msgid: m.MsgId, request: m.IteratorRecordStart) -> None:
    _run(session, msgid, Iterators.start_records, request.iid, request.tid)


def next_record(session: Session, msgid: m.MsgId, request: m.IteratorRecordNext) -> None:
    _run(session, msgid, Iterators.next_record, request.iid)


def close(session: Session, msgid: m.MsgId, request: m.IteratorGc) -> None:
    _run(session, msgid, Iterators.close, list(request.iids))
