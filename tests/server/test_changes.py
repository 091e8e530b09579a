"""What changed since a transaction, as a server answers it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ZODB.blob
from hypothesis import given
from hypothesis import strategies as st
from tests.server.conftest import Connect, Serve
from tests.support.histories import Z64, Listed, commit, fill, listed
from tests.support.raw import RawClient, RemoteFault, oid_of
from tests.support.storages import Gate, gate, hook
from tests.support.waiting import Background, wait_until
from ZODB.DemoStorage import DemoStorage
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage
from ZODB.serialize import referencesf

from zeolith.client.changes import ChangePages
from zeolith.protocol.additions import ChangesSince
from zeolith.protocol.greeting import Coding
from zeolith.protocol.messages import Call, Notice, Reply, UndoLog
from zeolith.server import Server, ServerOptions, changes, past, start_in_thread
from zeolith.server.changes import PAGE_TRANSACTIONS, Question, make_page
from zeolith.server.history import History, LoggedTransaction

X = oid_of(7)


class Plain:
    """A storage that the server knows nothing about: everything goes through its methods."""

    def __init__(self, storage: Any) -> None:
        self._storage = storage

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)


class Forgetful(MappingStorage):
    """A storage that cannot list its transactions."""

    iterator = property()


def file_storage(path: Path) -> FileStorage:
    return FileStorage(str(path / "Data.fs"), pack_gc=False)


def demo_storage(path: Path) -> DemoStorage:
    base = MappingStorage()
    fill(base, 20, seed=2)
    return DemoStorage(base=base, changes=MappingStorage())


KINDS: dict[str, Callable[[Path], Any]] = {
    "file": file_storage,
    "blobs": lambda path: ZODB.blob.BlobStorage(str(path / "blobs"), file_storage(path)),
    "mapping": lambda path: MappingStorage(),
    "demo": demo_storage,
    "strange": lambda path: Plain(file_storage(path)),
}


@pytest.fixture(params=KINDS)
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """A storage of each kind with a history; who serves it closes it."""
    found = KINDS[request.param](tmp_path)
    fill(found, 60)
    return found


@pytest.fixture
def own(raw: Connect) -> Connect:
    return lambda address, **kw: raw(address, coding=Coding.OWN, **kw)


def follow(client: RawClient, since: bytes = Z64, limit: int = 1000) -> tuple[Listed, list[int]]:
    """Return all changes since a transaction, and how many came with each page."""
    pages = ChangePages(since)
    found: Listed = []
    sizes: list[int] = []
    while True:
        question = pages.question()._replace(limit=limit)
        got, pages = pages.take(client.call(question))
        found += [(change.tid, change.oids) for change in got]
        sizes.append(len(got))
        if not pages.has_more:
            return found, sizes


# -- pages -------------------------------------------------------------------------------------

HISTORIES = st.lists(st.lists(st.integers(0, 40).map(oid_of), max_size=60), min_size=0, max_size=12)


@given(HISTORIES, st.integers(1, 5), st.integers(160, 500), st.integers(0, 13))
def test_server_and_client_back_to_back(
    objects: list[list[bytes]], limit: int, size: int, since: int
) -> None:
    """Whatever the sizes of pages and transactions: all comes, in order, once."""
    transactions = [
        LoggedTransaction(oid_of(n), b"".join(oids)) for n, oids in enumerate(objects, 1)
    ]
    after, stop = oid_of(min(since, len(objects))), oid_of(len(objects))
    pages = ChangePages(after)
    found: list[Any] = []
    while not found or pages.has_more:
        tid, _, cut = pages.question()
        left = (t for t in transactions if t.tid > tid)
        cut = cut or b""
        page = make_page(History(left, tid, stop), Question(tid, limit, cut[:8], cut[8:], size))
        assert len(page.changes) <= limit
        assert sum(len(oids) + 24 for _, oids in page.changes) <= size - 128
        answer = {
            "changes": page.changes, "last": page.last, "cut": page.is_cut,
            "more": page.last < stop,
        }  # fmt: skip
        got, pages = pages.take(answer)
        found += got
        if not objects or after == stop:
            break
    assert [tuple(change) for change in found] == [
        (t.tid, tuple(sorted(set(t.oids())))) for t in transactions if t.tid > after
    ]
    assert pages.position == stop


def test_a_page_ends_when_its_time_is_over() -> None:
    """R8: one client's page does not keep a worker from the others."""
    transactions = iter([LoggedTransaction(oid_of(n), X) for n in range(1, 100)])
    history = History(transactions, Z64, oid_of(99))
    page = make_page(history, Question(Z64, 1000, b"", b"", 10_000), seconds=0.0)
    assert page == ([(oid_of(1), X)], oid_of(1), False)
    assert history.position == oid_of(1)


def test_a_transaction_of_any_size_takes_the_memory_of_a_page() -> None:
    class Endless:
        tid = oid_of(1)

        def oids(self) -> Iterator[bytes]:
            return (oid_of(1_000_000 - n) for n in range(200_000))

    import tracemalloc

    history = History(iter([Endless()]), Z64, oid_of(1))
    tracemalloc.start()
    try:
        page = make_page(history, Question(Z64, 10, b"", b"", 8192))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert page.is_cut
    assert peak < 500_000
    ((_, oids),) = page.changes
    assert oids[:8] == oid_of(1_000_000 - 199_999)


# -- from a real server ------------------------------------------------------------------------


@pytest.mark.parametrize("remembered", [0, 10, 1000])
@pytest.mark.parametrize("limit", [1, 7, 1000])
def test_it_is_what_the_storage_s_iterator_says(
    storage: Any, serve: Serve, own: Connect, remembered: int, limit: int
) -> None:
    """From the server's memory, from the storage, and over the seam between the two."""
    expected = listed(storage)
    server = serve(storage, invalidation_queue_size=remembered)
    client = own(server.address)
    for since in (Z64, expected[0][0], expected[30][0], expected[-5][0], expected[-1][0]):
        found, sizes = follow(client, since, limit)
        assert found == [entry for entry in expected if entry[0] > since]
        assert max(sizes) <= limit
    with RawClient(server.address) as writer:
        tid = writer.commit({oid_of(99): (Z64, b"new"), oid_of(98): (Z64, b"new")})
    found, _ = follow(client, expected[-2][0], limit)
    assert found == [expected[-1], (tid, (oid_of(98), oid_of(99)))]


def test_messages_no_longer_than_the_client_accepts(
    serve: Serve, raw: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transaction that is longer than a message gets through, in parts."""
    storage = file_storage(tmp_path)
    big = commit(storage, *map(oid_of, range(500)))
    small = commit(storage, X)
    for remembered in (0, 100):
        server = serve(file_storage_again(storage, tmp_path), invalidation_queue_size=remembered)
        client = raw(server.address, coding=Coding.OWN)
        (session,) = server_sessions(server)
        session.codec.max_payload = 1024
        found, sizes = follow(client)
        assert found == [(big, tuple(map(oid_of, range(500)))), (small, (X,))]
        assert len(sizes) == 5
        assert all(
            len(repr(message)) < 12_000 for message in client.inbox if isinstance(message, Reply)
        )
        client.close()
        storage = server_storage(server)


def server_sessions(server: Any) -> list[Any]:
    found = [connection.session for connection in server._lobby.connections]
    return [session for session in found if session is not None]


def file_storage_again(storage: Any, path: Path) -> Any:
    storage.close()
    return file_storage(path)


def server_storage(server: Any) -> Any:
    (service,) = server._services.values()
    return service.access.storage


@pytest.mark.parametrize("remembered", [0, 2])
def test_a_transaction_of_100_000_objects(
    serve: Serve, own: Connect, tmp_path: Path, remembered: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "PAGE_BYTES", 256 * 1024)
    storage = file_storage(tmp_path)
    oids = tuple(map(oid_of, range(100_000)))
    first = commit(storage, X)
    tid = commit(storage, *oids)
    last = commit(storage, X)
    client = own(serve(storage, invalidation_queue_size=remembered).address)
    found, sizes = follow(client)
    assert [change[0] for change in found] == [first, tid, last]
    assert found[1][1] == oids
    assert len(sizes) >= 4


def test_pages_are_bounded_whatever_is_asked_for(
    serve: Serve, own: Connect, mapping: MappingStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "PAGE_TRANSACTIONS", 5)
    assert PAGE_TRANSACTIONS == 10_000
    fill(mapping, 12)
    client = own(serve(mapping).address)
    _, sizes = follow(client, limit=1 << 60)
    assert sizes == [5, 5, 2]


def test_after_a_pack(serve: Serve, own: Connect, tmp_path: Path) -> None:
    """What is left of the past comes; nothing since is missing."""
    storage = file_storage(tmp_path)
    tids = fill(storage, 40, objects=5)
    before = listed(storage)
    client = own(serve(storage, invalidation_queue_size=0).address)
    found, _ = follow(client)
    assert found == before
    storage.pack(time.time(), referencesf)
    later = fill(storage, 10, objects=5, seed=3)
    with RawClient(client.socket.getpeername()) as writer:
        later.append(writer.commit({oid_of(77): (Z64, b"x")}))
    expected = listed(storage)
    assert 0 < len(expected) - 11 < 40
    found, sizes = follow(client, limit=3)
    assert found == expected
    assert len(sizes) > 3
    assert {oid for _, oids in found for oid in oids} == {
        oid for _, oids in before for oid in oids
    } | {oid_of(77)}
    found, _ = follow(client, tids[-1])
    assert [tid for tid, _ in found] == later


def test_a_pack_between_two_pages(serve: Serve, own: Connect, tmp_path: Path) -> None:
    storage = file_storage(tmp_path)
    fill(storage, 40, objects=5)
    client = own(serve(storage, invalidation_queue_size=0).address)
    pages = ChangePages(Z64)
    first, pages = pages.take(client.call(pages.question()._replace(limit=10)))
    storage.pack(time.time(), referencesf)
    rest, _ = follow(client, pages.position)
    assert len(first) == 10
    assert rest == listed(storage, first[-1].tid)


def test_a_storage_that_cannot_list_its_transactions(serve: Serve, own: Connect) -> None:
    storage = Forgetful()
    tids = []
    server = serve(storage, invalidation_queue_size=3)
    client = own(server.address)
    with RawClient(server.address) as writer:
        serial = Z64
        for _ in range(5):
            serial = writer.commit({X: (serial, b"x")})
            tids.append(serial)
    found, _ = follow(client, tids[1])
    assert found == [(tid, (X,)) for tid in tids[2:]]
    with pytest.raises(RemoteFault) as caught:
        client.call(ChangesSince(tids[0], 10))
    assert caught.value.name == "zeolith.errors.HistoryLost"
    assert caught.value.details == {"since": tids[0], "floor": tids[1]}


def test_a_client_that_has_seen_more_than_there_is(
    serve: Serve, own: Connect, mapping: MappingStorage
) -> None:
    tid = commit(mapping, X)
    client = own(serve(mapping).address)
    with pytest.raises(RemoteFault) as caught:
        client.call(ChangesSince(b"\x7f" * 8, 10))
    assert caught.value.name == "zeolith.errors.ServerBehindCache"
    assert caught.value.details == {"server_tid": tid, "cache_tid": b"\x7f" * 8}


def test_an_empty_database(serve: Serve, own: Connect, tmp_path: Path) -> None:
    client = own(serve(file_storage(tmp_path)).address)
    assert follow(client) == ([], [0])


def test_r1_nothing_is_told_before_it_is_announced(
    serve: Serve, own: Connect, tmp_path: Path, loop: str
) -> None:
    """While a transaction is being finished its records are in the file, but nobody may know."""
    storage = file_storage(tmp_path)
    first = commit(storage, X)
    server = serve(storage, invalidation_queue_size=0, loop=loop)
    client = own(server.address)
    with (
        gate(changes, "open_history") as reading,
        gate(storage, "tpc_finish", after=True) as finishing,
        RawClient(server.address) as writer,
    ):
        asked = client.ask(ChangesSince(Z64, 10))
        reading.wait_reached()
        committing = Background(lambda: writer.commit({oid_of(99): (Z64, b"new")}))
        finishing.wait_reached()
        assert len(listed(storage)) == 2
        with hook(changes, "_answer", after=lambda *_: finishing.open()):
            reading.open()
            answer = client.answer(asked)
        tid = committing.result()
    assert [tid for tid, _ in answer["changes"]] == [first]
    assert answer["last"] == first
    # The answer is sent when it is known how the commit ended, and after what it announces.
    assert client.invalidations() == [(tid, [oid_of(99)])]
    assert [type(message) for message in client.inbox[-2:]] == [Notice, Reply]
    found, _ = follow(client, first)
    assert found == [(tid, (oid_of(99),))]


@pytest.mark.parametrize("remembered", [0, 100])
def test_r1_what_is_told_was_announced_before(
    serve: Serve, own: Connect, tmp_path: Path, loop: str, remembered: int
) -> None:
    """Many pages while others commit: each names transactions only behind their invalidations."""
    server = serve(file_storage(tmp_path), invalidation_queue_size=remembered, loop=loop)
    client = own(server.address)
    written: list[bytes] = []

    def write() -> None:
        with RawClient(server.address) as writer:
            serial = Z64
            for _ in range(60):
                serial = writer.commit({X: (serial, b"x")})
                written.append(serial)

    writing = Background(write)
    position = Z64
    while writing.is_alive() or position < written[-1]:
        answer = client.call(ChangesSince(position, 1000))
        announced = [tid for tid, _ in client.invalidations()]
        assert answer["last"] <= max(announced, default=Z64)
        assert all(tid in announced for tid, _ in answer["changes"])
        position = answer["last"]
    writing.result()


def test_a_history_is_let_go_with_its_client(
    serve: Serve, own: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[History] = []
    close = History.close

    def note(history: History) -> None:
        closed.append(history)
        close(history)

    monkeypatch.setattr(History, "close", note)
    storage = Plain(file_storage(tmp_path))
    fill(storage, 20)
    client = own(serve(storage, invalidation_queue_size=0).address)
    assert client.call(ChangesSince(Z64, 5))["more"]
    assert not closed
    client.close()
    wait_until(lambda: len(closed) == 1)


def test_a_history_is_let_go_when_it_is_not_asked_for(
    serve: Serve, own: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R8: a consumer that takes its time holds no file; it finds its place again."""
    monkeypatch.setattr(past, "HOLD", 0.01)
    closed: list[History] = []
    close = History.close

    def note(history: History) -> None:
        close(history)
        closed.append(history)

    monkeypatch.setattr(History, "close", note)
    storage = Plain(file_storage(tmp_path))
    tids = fill(storage, 20)
    client = own(serve(storage, invalidation_queue_size=0).address)
    found: list[bytes] = []
    for turn in range(1, 4):
        answer = client.call(ChangesSince(found[-1] if found else Z64, 5))
        found += [tid for tid, _ in answer["changes"]]
        wait_until(lambda turn=turn: len(closed) == turn)  # type: ignore[misc]
    assert found == tids[:15]


def test_two_questions_at_once(serve: Serve, own: Connect, storage: Any) -> None:
    expected = listed(storage)
    client = own(serve(storage, invalidation_queue_size=0).address)
    for _ in range(3):
        asked = [client.ask(ChangesSince(since, 10)) for since in (Z64, expected[20][0], Z64)]
        first, second, third = map(client.answer, asked)
        assert [tid for tid, _ in first["changes"]] == [tid for tid, _ in expected[:10]]
        assert third["changes"] == first["changes"]
        assert [tid for tid, _ in second["changes"]] == [tid for tid, _ in expected[21:31]]


def test_what_changes_under_an_iterator_is_read_again(
    serve: Serve, own: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ZODB's iterators raise one or the other error then."""
    monkeypatch.setattr(changes, "_PAUSE", 0.0)
    inner = file_storage(tmp_path)
    fill(inner, 5)
    storage = Plain(inner)
    failures = [ValueError("no beginning"), RuntimeError("changed size")] * 2

    def iterator(*arguments: Any) -> Any:
        if failures:
            raise failures.pop()
        return inner.iterator(*arguments)

    storage.iterator = iterator  # type: ignore[attr-defined]
    client = own(serve(storage, invalidation_queue_size=0).address)
    found, _ = follow(client)
    assert found == listed(inner)
    failures += [ValueError("for good")] * changes._ATTEMPTS
    with pytest.raises(RemoteFault) as caught:
        follow(client)
    assert caught.value.name == "builtins.ValueError"
    assert not failures


def test_transactions_out_of_order_are_an_error(serve: Serve, own: Connect) -> None:
    class Confused(MappingStorage):
        def iterator(self, start: Any = None, end: Any = None) -> Any:
            return iter(sorted(super().iterator(start, end), key=lambda t: t.tid, reverse=True))

    storage = Confused()
    fill(storage, 5)
    client = own(serve(storage, invalidation_queue_size=0).address)
    with pytest.raises(RemoteFault) as caught:
        follow(client)
    assert caught.value.name == "ZODB.POSException.StorageError"


def test_calls_that_others_make_get_their_turn(serve: Serve, own: Connect, tmp_path: Path) -> None:
    """A page is read beside the event loop."""
    storage = Plain(file_storage(tmp_path))
    fill(storage, 5)
    with gate(storage, "iterator") as stop:
        server = serve(storage, invalidation_queue_size=0)
        client, other = own(server.address), own(server.address)
        stop.open()
        follow(client)
    with gate(storage, "iterator") as stop:
        asked = client.ask(ChangesSince(Z64, 100))
        stop.wait_reached()
        other.ping()
        client.ping()
        assert not [m for m in client.inbox if isinstance(m, Reply) and m.msgid == asked]
        stop.open()
        assert len(client.answer(asked)["changes"]) == 5
    assert not [m for m in client.inbox if isinstance(m, Call)]


def test_one_client_does_not_take_all_threads(
    serve: Serve, own: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R8: of the few threads for what takes long each client gets one, however much it asks."""
    storage = file_storage(tmp_path)
    expected = fill(storage, 5)
    server = serve(storage, invalidation_queue_size=0, slow_workers=2)
    greedy, other = own(server.address), own(server.address)
    held: list[Any] = []
    attempt = changes._attempt

    with Gate() as stop:

        def slow(access: Any, history: Any, question: Question, announced: bytes) -> Any:
            if question.limit == 77:
                held.append(threading.current_thread())
                stop()
            return attempt(access, history, question, announced)

        monkeypatch.setattr(changes, "_attempt", slow)
        asked = [greedy.ask(ChangesSince(Z64, 77)) for _ in range(10)]
        stop.wait_reached()
        found, _ = follow(other)
        assert [tid for tid, _ in found] == expected
        assert len(held) == 1
        stop.open()
        answers = [greedy.answer(msgid) for msgid in asked]
    assert [len(answer["changes"]) for answer in answers] == [5] * 10


def test_what_is_held_for_a_client_is_let_go_of_when_the_server_stops(
    tmp_path: Path, raw: Connect
) -> None:
    """Also if a thread has to end something else before."""
    storage = Plain(file_storage(tmp_path))
    fill(storage, 30)
    server = Server({"1": storage}, ServerOptions(address=("127.0.0.1", 0), slow_workers=1))
    stop = start_in_thread(server)
    assert server.address is not None
    client, other = (raw(server.address, coding=Coding.OWN) for _ in range(2))
    client.call(ChangesSince(Z64, 10))
    waiting: list[bool] = []
    pools = server._pools
    parking = server._services["1"].parking
    with gate(storage._storage, "undoLog") as busy:
        other.ask(UndoLog(0, 20))
        busy.wait_reached()
        with (
            hook(parking, "close", before=busy.open),
            hook(pools, "close", before=lambda: waiting.append(pools.slow.has_waiting)),
        ):
            stop()
    assert waiting == [False]
