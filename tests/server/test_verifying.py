"""Which of a client's objects are out of date, as a server answers it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ZODB.blob
from tests.server.conftest import Connect, Serve
from tests.server.test_changes import Plain, demo_storage, file_storage
from tests.support.histories import Z64, commit, fill
from tests.support.raw import RawClient, RemoteFault, oid_of
from tests.support.storages import gate
from tests.support.waiting import Background, wait_until
from ZODB.Connection import TransactionMetaData
from ZODB.MappingStorage import MappingStorage
from ZODB.serialize import referencesf
from ZODB.utils import load_current

from zeolith.protocol.additions import MAX_PAIRS, VerifyMany
from zeolith.protocol.greeting import Coding
from zeolith.protocol.messages import Notice, Reply
from zeolith.server import verifying

X = oid_of(7)

KINDS: dict[str, Callable[[Path], Any]] = {
    "file": file_storage,
    "blobs": lambda path: ZODB.blob.BlobStorage(str(path / "blobs"), file_storage(path)),
    "mapping": lambda path: MappingStorage(),
    "demo": demo_storage,
    "strange": lambda path: Plain(file_storage(path)),
}


@pytest.fixture
def own(raw: Connect) -> Connect:
    return lambda address, **kw: raw(address, coding=Coding.OWN, **kw)


def ask(client: RawClient, pairs: dict[bytes, bytes]) -> tuple[bytes, list[bytes]]:
    """Return the transaction and the objects that are out of date."""
    question = b"".join(oid + tid for oid, tid in pairs.items())
    tid, stale = client.call(VerifyMany(question))
    return tid, [stale[at : at + 8] for at in range(0, len(stale), 8)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("slice_pairs", [1, 7, 2048])
def test_exactly_what_is_out_of_date_is_reported(
    serve: Serve,
    own: Connect,
    tmp_path: Path,
    kind: str,
    slice_pairs: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(verifying, "SLICE_PAIRS", slice_pairs)
    storage = KINDS[kind](tmp_path)
    tids = fill(storage, 60, objects=20)
    current = {}
    for number in range(20):
        oid = oid_of(number)
        current[oid] = load_current(storage, oid)[1]
    client = own(serve(storage).address)
    assert ask(client, current) == (tids[-1], [])
    assert ask(client, {}) == (tids[-1], [])
    pairs = dict(current)
    for number in range(0, 20, 3):
        pairs[oid_of(number)] = tids[0] if number % 2 else tids[-1][:-1] + b"\xff"
    pairs[oid_of(1000)] = tids[3]
    expected = [oid for oid, tid in pairs.items() if current.get(oid) != tid]
    assert ask(client, pairs) == (tids[-1], expected)
    assert len(expected) > 5


def test_objects_that_an_undo_changed(serve: Serve, own: Connect, tmp_path: Path) -> None:
    """Their records have no data, but point to earlier ones; or to none, and are no objects."""
    storage = file_storage(tmp_path)
    first = commit(storage, X)
    commit(storage, X, data=b"more")
    client = own(serve(storage).address)
    serials = [first]
    for _ in range(2):
        meta = TransactionMetaData()
        storage.tpc_begin(meta)
        storage.undo(storage.undoLog(0, 9)[len(serials) * 2 - 2]["id"], meta)
        storage.tpc_vote(meta)
        serials.append(storage.tpc_finish(meta))
        history = storage.history(X, 9)
        assert history[0]["tid"] == serials[-1]
        is_there = len(serials) == 2
        assert ask(client, {X: serials[-1]})[1] == ([] if is_there else [X])
        assert ask(client, {X: first})[1] == [X]


def test_a_pack_in_the_middle(
    serve: Serve, own: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verifying, "SLICE_PAIRS", 10)
    storage = file_storage(tmp_path)
    fill(storage, 60, objects=30)
    current = {oid_of(number): load_current(storage, oid_of(number))[1] for number in range(30)}
    client = own(serve(storage).address)
    with gate(verifying, "find_stale", after=True) as stop:
        asked = client.ask(VerifyMany(b"".join(oid + tid for oid, tid in current.items())))
        stop.wait_reached()
        storage.pack(time.time(), referencesf)
        stop.open()
        _, stale = client.answer(asked)
    assert stale == b""


def test_as_many_as_are_allowed(serve: Serve, own: Connect, tmp_path: Path) -> None:
    storage = file_storage(tmp_path)
    tid = commit(storage, *map(oid_of, range(MAX_PAIRS)))
    client = own(serve(storage).address)
    pairs = dict.fromkeys(map(oid_of, range(MAX_PAIRS)), tid)
    assert ask(client, pairs) == (tid, [])
    pairs = dict.fromkeys(pairs, Z64)
    assert ask(client, pairs) == (tid, list(pairs))


def test_a_storage_that_cannot_tell(serve: Serve, own: Connect) -> None:
    class Mute(MappingStorage):
        getTid = property()  # noqa: N815 - ZODB's name

    storage = Mute()
    tid = commit(storage, X)
    server = serve(storage)
    client = own(server.address)
    with pytest.raises(RemoteFault) as caught:
        ask(client, {X: tid})
    assert caught.value.name == "ZODB.POSException.Unsupported"
    (service,) = server._services.values()
    assert service.verifying == 0
    client.ping()


def test_r1_a_report_comes_after_the_invalidation(
    serve: Serve, own: Connect, tmp_path: Path, loop: str
) -> None:
    """A commit that is just being finished shows in the file: it may be told when it may be."""
    storage = file_storage(tmp_path)
    first = commit(storage, X)
    client = own((server := serve(storage, loop=loop)).address)
    with (
        gate(verifying, "find_stale") as checking,
        gate(storage, "tpc_finish", after=True) as finishing,
        RawClient(server.address) as writer,
    ):
        asked = client.ask(VerifyMany(X + first))
        checking.wait_reached()
        committing = Background(lambda: writer.commit({X: (first, b"new")}))
        finishing.wait_reached()
        checking.open()
        wait_until(lambda: server._services["1"].publisher.is_held)
        finishing.open()
        assert client.answer(asked) == (first, X)
        tid = committing.result()
    assert client.invalidations() == [(tid, [X])]
    assert [type(message) for message in client.inbox[-2:]] == [Notice, Reply]


@pytest.mark.parametrize("kind", ["file", "mapping"])
def test_what_is_not_reported_was_current_whatever_is_committed_meanwhile(
    serve: Serve,
    own: Connect,
    tmp_path: Path,
    loop: str,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The promise itself, with writers at work: by what each transaction is known to have done."""
    monkeypatch.setattr(verifying, "SLICE_PAIRS", 10)
    storage = KINDS[kind](tmp_path)
    server = serve(storage, loop=loop)
    oids = [oid_of(number) for number in range(60)]
    done = threading.Event()
    written: list[tuple[bytes, list[bytes]]] = []

    with RawClient(server.address) as writer:
        first = writer.commit(dict.fromkeys(oids, (Z64, b"x")))
    written.append((first, oids))
    written_by = Background(lambda: rewrite(server.address, oids, first, written, done))
    client = own(server.address)
    answers = []
    known = dict.fromkeys(oids, first)
    while not done.is_set():
        answers.append((dict(known), ask(client, known)))
        # What a client knows: what it has been told of.
        for tid, changed in client.invalidations():
            known.update(dict.fromkeys(changed, tid))
    written_by.result()
    assert len(answers) > 5
    assert any(stale for _, (_, stale) in answers)
    for asked, (tid, stale) in answers:
        current: dict[bytes, bytes] = {}
        for committed, changed in written:
            if committed <= tid:
                current.update(dict.fromkeys(changed, committed))
        for oid, named in asked.items():
            if oid not in stale:
                assert current[oid] == named


def rewrite(
    address: Any,
    oids: list[bytes],
    first: bytes,
    written: list[tuple[bytes, list[bytes]]],
    done: threading.Event,
) -> None:
    """Commit many transactions; note each with what it changed."""
    try:
        with RawClient(address) as writer:
            serials = dict.fromkeys(oids, first)
            for turn in range(150):
                chosen = oids[turn % 7 :: 7]
                tid = writer.commit({oid: (serials[oid], b"x") for oid in chosen})
                serials.update(dict.fromkeys(chosen, tid))
                written.append((tid, chosen))
    finally:
        done.set()


def test_a_client_that_leaves_is_not_worked_for(
    serve: Serve, own: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verifying, "SLICE_PAIRS", 1)
    storage = file_storage(tmp_path)
    tid = commit(storage, X)
    server = serve(storage)
    client = own(server.address)
    service = server._services["1"]
    with gate(verifying, "find_stale") as stop:
        client.send((client.next_id(), VerifyMany((X + tid) * 1000)))
        stop.wait_reached()
        assert service.verifying == 1
        client.close()
        wait_until(lambda: not len(service.publisher))
        stop.open()
        wait_until(lambda: service.verifying == 0)
    wait_until(lambda: service.pools.slow.is_idle)


def test_a_file_that_was_moved_away_is_not_read(serve: Serve, own: Connect, tmp_path: Path) -> None:
    """The storage itself still has it open."""
    storage = file_storage(tmp_path)
    tid = commit(storage, X)
    client = own(serve(storage).address)
    (tmp_path / "Data.fs").rename(tmp_path / "away.fs")
    assert ask(client, {X: tid, oid_of(8): tid}) == (tid, [oid_of(8)])
    (tmp_path / "Data.fs").write_bytes(b"FS30")
    assert ask(client, {X: tid, oid_of(8): tid}) == (tid, [oid_of(8)])
    (tmp_path / "Data.fs").unlink()
    (tmp_path / "away.fs").rename(tmp_path / "Data.fs")
    assert ask(client, {X: tid}) == (tid, [])
