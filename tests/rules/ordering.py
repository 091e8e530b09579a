"""What R1 means for the messages of one connection, and eight writers to try it."""

from __future__ import annotations

from typing import Any

from tests.rules.conftest import Connect
from tests.support.raw import Z64, RawClient, oid_of
from tests.support.waiting import Background

from zeolith.protocol.messages import (
    InvalidateTransaction,
    LastTransaction,
    LoadBefore,
    Notice,
    Reply,
    TpcFinish,
    Vote,
)
from zeolith.types import MAX_TID


def violations(client: RawClient, kinds: dict[Any, str]) -> list[str]:
    """Return what a client's inbox reveals too early, and what it calls current too late.

    :param kinds: message id → kind of the call: ``finish``, ``last`` or ``load``.
    """
    found = []
    known = client.tid
    changed: dict[bytes, bytes] = {}
    for message in client.inbox:
        if isinstance(message, Notice) and isinstance(message.request, InvalidateTransaction):
            tid, oids = message.request
            if tid <= known:
                found.append(f"invalidation {tid.hex()} after {known.hex()}")
            known = max(known, tid)
            changed.update(dict.fromkeys(oids, tid))
        elif isinstance(message, Reply):
            kind = kinds.get(message.msgid)
            if kind == "finish":
                if message.value <= known:
                    found.append(f"own {message.value.hex()} after {known.hex()}")
                known = max(known, message.value)
            elif kind == "last" and message.value > known:
                found.append(f"lastTransaction {message.value.hex()} before its invalidation")
            elif kind == "load" and message.value is not None:
                _data, start, end = message.value
                if max(start, end or Z64) > known:
                    found.append(f"load of {(end or start).hex()} before its invalidation")
                if end is None and start < changed.get(message.msgid[0], Z64):
                    found.append(f"load of {start.hex()} as current after it was replaced")
    return found


COMMITS = 40


def write_from(client: RawClient, number: int, serial: bytes, kinds: dict[Any, str]) -> None:
    """Commit revisions of one object, and keep asking what the server knows."""
    for turn in range(COMMITS):
        client.begin()
        client.store(oid_of(number), b"%d" % turn, serial)
        vote = client.ask(Vote(1))
        last = client.ask(LastTransaction())
        load = client.ask(LoadBefore(oid_of(number % 8 + 1), MAX_TID))
        client.answer(vote)
        finish = client.ask(TpcFinish(1))
        later = client.ask(LastTransaction())
        # The same key twice at one time is one slot of a real client; ask for another tid.
        again = client.ask(LoadBefore(oid_of((number + 1) % 8 + 1), b"\x7e" + turn.to_bytes(7)))
        kinds.update({last: "last", later: "last", finish: "finish", load: "load", again: "load"})
        serial = client.answer(finish)
        for question in (last, load, later, again):
            client.answer(question)


def eight_writers(server: Any, raw: Connect) -> None:
    """Let eight clients commit and look around; check what each was told, and when."""
    first = raw(server.address)
    first.commit({oid_of(number): (Z64, b"first") for number in range(1, 9)})
    serials = {number: first.load(oid_of(number))[1] for number in range(1, 9)}
    clients = [raw(server.address) for _ in range(8)]
    kinds: list[dict[Any, str]] = [{} for _ in clients]

    def run(index: int) -> None:
        client, number = clients[index], index + 1
        serial = serials[number]
        client.begin()
        client.store(oid_of(number), b"start", serial)
        client.vote()
        finish = client.ask(TpcFinish(1))
        kinds[index][finish] = "finish"
        write_from(client, number, client.answer(finish), kinds[index])

    threads = [Background(lambda index=index: run(index)) for index in range(8)]  # type: ignore[misc]
    for thread in threads:
        thread.result(90)
    for client in clients:
        client.ping()
    for client, kind in zip(clients, kinds):
        assert violations(client, kind) == []
    # Nothing is missing either: everybody knows of all transactions.
    seen = []
    for client, kind in zip(clients, kinds):
        tids = {tid for tid, _oids in client.invalidations()}
        tids |= {
            message.value
            for message in client.inbox
            if isinstance(message, Reply) and kind.get(message.msgid) == "finish"
        }
        seen.append(tids)
    assert all(tids == seen[0] for tids in seen)
    assert len(seen[0]) == 8 * (COMMITS + 1)
