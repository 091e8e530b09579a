"""An upload that is cut off goes on, within its transaction, at the byte where it was cut."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Final

import pytest
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage

from zeolith.admin.asking import Target
from zeolith.admin.status import fetch_status
from zeolith.client import committer, journal, transfers
from zeolith.client.journal import Journal, Resumable
from zeolith.client.storage import ClientStorage
from zeolith.errors import BlobDamaged, ClientDisconnected, ClientStorageError
from zeolith.protocol.limits import BULK_WINDOW
from zeolith.protocol.messages import Notice, Vote
from zeolith.protocol.streamrequests import AttachBlob, OpenUpload, StreamData, StreamEnd
from zeolith.server import lobby, parking
from zeolith.server.parking import Parking
from zeolith.server.uploads import Uploads

from ..support.processes import running_server
from ..support.proxy import Action, Passing, Proxy, pass_all
from ..support.raw import oid_of
from ..support.storages import hook
from ..support.waiting import Background, wait_until
from .conftest import Open
from .test_transfers import leftovers, of_stream

MIB = 1024 * 1024
SIZE = 24 * MIB + 123
DATA = os.urandom(SIZE)

SLACK = BULK_WINDOW + MIB
"""Bytes that may be sent in vain with each connection: what the server gave credit for and had not
written when the connection ended."""


@pytest.fixture
def storage(proxy: Proxy, client: Open, tmp_path: Path) -> ClientStorage:
    return client(proxy.address, blob_dir=str(tmp_path / "client"))


def begin(storage: ClientStorage) -> TransactionMetaData:
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    return meta


def store(storage: ClientStorage, tmp_path: Path, number: int, meta: Any, data: bytes) -> None:
    path = tmp_path / f"new-{number}"
    path.write_bytes(data)
    storage.storeBlob(oid_of(number), None, b"record", str(path), "", meta)


def commit(storage: ClientStorage, tmp_path: Path, *contents: bytes, first: int = 1) -> bytes:
    """Commit a transaction with new blobs."""
    meta = begin(storage)
    for number, data in enumerate(contents, first):
        store(storage, tmp_path, number, meta, data)
    storage.tpc_vote(meta)
    return storage.tpc_finish(meta)


class Cuts:
    """Cuts the connections of a proxy after so many bytes of uploads each, and counts.

    :param after: of each connection in turn; those behind are not cut.
    :param act: called before each cut.
    :param how: what a cut is.
    """

    def __init__(
        self,
        proxy: Proxy,
        *after: int,
        act: Callable[[], object] = lambda: None,
        how: Action = Action.CUT,
    ) -> None:
        self.sent = 0
        self.cuts = 0
        self._after = list(after)
        self._act = act
        self._how = how
        self._mutex = threading.Lock()
        proxy.rule = self.judge

    def judge(self, passing: Passing) -> Action:
        data = of_stream(passing, StreamData)
        if data is None:
            return Action.PASS
        with self._mutex:
            self.sent += len(data.data)
            if self.cuts < len(self._after) and self.sent >= sum(self._after[: self.cuts + 1]):
                self.cuts += 1
                self._act()
                return self._how
        return Action.PASS


def temporaries(files: FileStorage) -> list[str]:
    return [name for name in os.listdir(files.temporaryDirectory()) if "upload" in name]


def blob_counts(server: Any) -> dict[str, Any]:
    found: dict[str, Any] = fetch_status(Target(server.address)).storages["1"]["blobs"]
    return found


@contextmanager
def count_calls(module: Any, name: str) -> Iterator[list[Any]]:
    """Yield the arguments of all calls of a function."""
    calls: list[Any] = []
    with hook(module, name, before=lambda *args: calls.append(args)):
        yield calls


def openings(proxy: Proxy) -> list[OpenUpload]:
    found = (of_stream(frame, OpenUpload) for frame in proxy.frames())
    return [each for each in found if each is not None]


@pytest.mark.parametrize("after", [[10 * MIB], [3 * MIB] * (journal.MAX_RESUMPTIONS + 3)])
def test_it_goes_on_where_it_was_cut(
    server: Any,
    proxy: Proxy,
    storage: ClientStorage,
    tmp_path: Path,
    files: FileStorage,
    after: list[int],
) -> None:
    cuts = Cuts(proxy, *after)
    tid = commit(storage, tmp_path, DATA)
    assert cuts.cuts == len(after)
    assert len(proxy.links) == len(after) + 1
    assert SIZE <= cuts.sent <= SIZE + len(after) * SLACK
    assert len({opening.identity for opening in openings(proxy)}) == 1
    assert Path(files.loadBlob(oid_of(1), tid)).read_bytes() == DATA
    counts = blob_counts(server)
    assert (counts["resumed"], counts["parked"], counts["received_bytes"]) == (len(after), 0, SIZE)
    assert temporaries(files) == []
    assert leftovers(tmp_path / "client") == []


def test_what_is_there_whole_is_not_sent_again(
    proxy: Proxy, storage: ClientStorage, tmp_path: Path, files: FileStorage
) -> None:
    """Nor is it read again at the client: its checksum is known."""
    contents = [os.urandom(4 * MIB), os.urandom(5 * MIB), os.urandom(100), os.urandom(6 * MIB)]
    cuts = Cuts(proxy, 12 * MIB)
    with count_calls(transfers, "_sum_up") as summed_up:
        tid = commit(storage, tmp_path, *contents)
    assert cuts.cuts == 1
    total = sum(map(len, contents))
    assert total <= cuts.sent <= total + SLACK
    assert len([size for _, _, size in summed_up if size]) == 1
    for number, data in enumerate(contents, 1):
        assert Path(files.loadBlob(oid_of(number), tid)).read_bytes() == data
    assert temporaries(files) == []


@pytest.mark.parametrize("cls", [StreamEnd, AttachBlob, Vote])
def test_cut_behind_the_last_byte(
    proxy: Proxy, storage: ClientStorage, tmp_path: Path, files: FileStorage, cls: type[Any]
) -> None:
    cuts = Cuts(proxy)
    seen: list[Any] = []

    def rule(passing: Passing) -> Action:
        if of_stream(passing, cls) is None or seen:
            return cuts.judge(passing)
        seen.append(passing)
        return Action.CUT

    proxy.rule = rule
    tid = commit(storage, tmp_path, DATA)
    assert SIZE <= cuts.sent <= SIZE + SLACK
    assert Path(files.loadBlob(oid_of(1), tid)).read_bytes() == DATA


class AtMessage:
    """Cuts two connections at the *nth* of their messages that have to do with a commit.

    :ivar cuts: how many were cut.
    """

    NAMES: Final = frozenset(
        {"tpc_begin", "open_upload", "stream_data", "stream_credit", "stream_end", "attach_blob"}
        | {"vote", ".reply"}
    )

    def __init__(self, proxy: Proxy, nth: int, action: Action) -> None:
        self.cuts = 0
        self._proxy, self._nth, self._action = proxy, nth, action
        self._seen: Counter[int] = Counter()
        self._mutex = threading.Lock()
        proxy.rule = self.judge

    def judge(self, passing: Passing) -> Action:
        with self._mutex:
            link = len(self._proxy.links)
            if passing.name not in self.NAMES or self.cuts == 2:
                return Action.PASS
            self._seen[link] += 1
            if self._seen[link] != self._nth:
                return Action.PASS
            self.cuts += 1
            return self._action


@pytest.mark.parametrize("action", [Action.CUT, Action.CUT_WITHIN, Action.LEAVE])
def test_two_breaks_at_any_messages(
    proxy: Proxy, storage: ClientStorage, tmp_path: Path, files: FileStorage, action: Action
) -> None:
    """From the beginning of a transaction to the answer to its vote."""
    data = DATA[: 3 * MIB]
    path = tmp_path / "new"
    for nth in count(1):
        path.write_bytes(data)
        meta = begin(storage)
        at = AtMessage(proxy, nth, action)
        storage.storeBlob(oid_of(nth), None, b"record", str(path), "", meta)
        storage.tpc_vote(meta)
        proxy.rule = pass_all
        tid = storage.tpc_finish(meta)
        assert Path(files.loadBlob(oid_of(nth), tid)).read_bytes() == data
        if not at.cuts:
            break
    assert nth > 8
    wait_until(lambda: temporaries(files) == [])
    assert leftovers(tmp_path / "client") == []


def test_an_old_connection_that_hangs(
    server: Any,
    proxy: Proxy,
    storage: ClientStorage,
    tmp_path: Path,
    files: FileStorage,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The server takes it for alive, until its client is there on another one."""
    cuts = Cuts(proxy, 5 * MIB, 7 * MIB, how=Action.LEAVE)
    tid = commit(storage, tmp_path, DATA)
    assert SIZE <= cuts.sent <= SIZE + 2 * SLACK
    assert Path(files.loadBlob(oid_of(1), tid)).read_bytes() == DATA
    assert caplog.text.count("its client goes on with an upload on another connection") == 2
    wait_until(lambda: len(server._lobby.connections) == 1)
    assert temporaries(files) == []


def test_short_ones_have_no_identity(
    proxy: Proxy, storage: ClientStorage, tmp_path: Path, files: FileStorage
) -> None:
    Cuts(proxy, 600_000)
    data = os.urandom(transfers.RESUMABLE_SIZE)
    tid = commit(storage, tmp_path, data)
    assert openings(proxy) == []
    assert Path(files.loadBlob(oid_of(1), tid)).read_bytes() == data
    commit(storage, tmp_path, b"", data + b"x", first=5)
    assert len(openings(proxy)) == 1


def test_an_upload_that_breaks_nowhere_waits_for_no_answer(
    proxy: Proxy, storage: ClientStorage, tmp_path: Path
) -> None:
    commit(storage, tmp_path, DATA)
    opened = [frame for frame in proxy.frames() if of_stream(frame, OpenUpload)]
    assert [isinstance(frame.message, Notice) for frame in opened] == [True]


def test_a_server_that_keeps_nothing_gets_it_again(
    files: FileStorage, client: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stack: Any
) -> None:
    """One of an earlier version."""
    monkeypatch.setattr(lobby, "PARK_TIME", 0)
    server = stack.enter_context(running_server(files))
    proxy = stack.enter_context(Proxy(server.address))
    storage = client(proxy.address, blob_dir=str(tmp_path / "client"))
    cuts = Cuts(proxy, 10 * MIB)
    tid = commit(storage, tmp_path, DATA)
    assert cuts.sent >= SIZE + 10 * MIB - MIB
    assert openings(proxy) == []
    assert Path(files.loadBlob(oid_of(1), tid)).read_bytes() == DATA


def test_what_was_not_asked_for_in_time_is_sent_again(
    server: Any,
    proxy: Proxy,
    storage: ClientStorage,
    tmp_path: Path,
    files: FileStorage,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(parking, "PARK_TIME", 0.01)
    cuts = Cuts(proxy, 10 * MIB, act=lambda: refuse_all(proxy))
    committing = Background(lambda: commit(storage, tmp_path, DATA))
    wait_until(lambda: cuts.cuts == 1)
    wait_until(lambda: not server._lobby.connections)
    wait_until(lambda: temporaries(files) == [])
    proxy.is_refusing = False
    tid = committing.result()
    assert cuts.sent >= SIZE + 10 * MIB - MIB
    assert Path(files.loadBlob(oid_of(1), tid)).read_bytes() == DATA
    assert blob_counts(server)["resumed"] == 0


def test_nothing_is_left_of_what_was_given_up(
    server: Any,
    proxy: Proxy,
    storage: ClientStorage,
    tmp_path: Path,
    files: FileStorage,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(committer, "RESUMPTION_TIME", 0.1)
    monkeypatch.setattr(parking, "PARK_TIME", 0.3)
    Cuts(proxy, 10 * MIB, act=lambda: refuse_all(proxy))
    meta = begin(storage)
    with pytest.raises(ClientDisconnected):
        store(storage, tmp_path, 1, meta, DATA)
    storage.tpc_abort(meta)
    assert leftovers(tmp_path / "client") == []
    wait_until(lambda: temporaries(files) == [])
    # The next one is another one.
    proxy.is_refusing = False
    wait_until(storage.is_connected)
    commit(storage, tmp_path, DATA)


def test_nothing_is_left_of_what_was_aborted_when_it_had_gone_on(
    proxy: Proxy, storage: ClientStorage, tmp_path: Path, files: FileStorage
) -> None:
    Cuts(proxy, 10 * MIB)
    meta = begin(storage)
    store(storage, tmp_path, 1, meta, DATA)
    storage.tpc_abort(meta)
    wait_until(lambda: temporaries(files) == [])
    assert leftovers(tmp_path / "client") == []


def refuse_all(proxy: Proxy) -> None:
    proxy.is_refusing = True


def client_file(tmp_path: Path) -> Path:
    (found,) = (tmp_path / "client").rglob("*.tmp-")
    return found


def test_a_file_that_was_changed_is_found_out(
    server: Any, proxy: Proxy, storage: ClientStorage, tmp_path: Path, files: FileStorage
) -> None:
    """What the server has is not what the client sums up."""

    def change() -> None:
        with client_file(tmp_path).open("r+b") as file:
            file.write(b"changed")

    Cuts(proxy, 10 * MIB, act=change)
    meta = begin(storage)
    store(storage, tmp_path, 1, meta, DATA)
    with pytest.raises(BlobDamaged):
        storage.tpc_vote(meta)
    storage.tpc_abort(meta)
    assert blob_counts(server)["resumed"] == 1
    wait_until(lambda: temporaries(files) == [])
    assert leftovers(tmp_path / "client") == []
    assert len(files) == 0


def test_a_file_that_has_become_shorter_is_an_error(
    proxy: Proxy, storage: ClientStorage, tmp_path: Path, files: FileStorage
) -> None:
    Cuts(proxy, 10 * MIB, act=lambda: os.truncate(client_file(tmp_path), 2 * MIB))
    with pytest.raises(ClientStorageError, match="more of a blob than its file has"):
        commit(storage, tmp_path, DATA)
    storage.tpc_abort(storage.tpc_transaction())
    # The server is told, and keeps nothing.
    wait_until(lambda: temporaries(files) == [])


@pytest.mark.parametrize("answer", [None, 5, {}, {"offset": "5"}, {"offset": -1}])
def test_a_server_that_does_not_say_how_much_it_has(
    proxy: Proxy,
    storage: ClientStorage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    files: FileStorage,
    answer: Any,
) -> None:
    def reply(self: Any, msgid: Any, number: int, identity: bytes) -> None:
        self._claim(number)
        self._begin(number, None)
        self._session.reply(msgid, answer)

    monkeypatch.setattr(Uploads, "open", reply)
    Cuts(proxy, 10 * MIB)
    meta = begin(storage)
    with pytest.raises(ClientStorageError, match="how much it has"):
        store(storage, tmp_path, 1, meta, DATA)
    storage.tpc_abort(meta)


def test_a_server_that_refuses_it_goes_on_with_others(
    proxy: Proxy, storage: ClientStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no stream then, and its number is used up."""

    def refuse(self: Any, *args: Any) -> None:
        raise ValueError("not this one")

    Cuts(proxy, 10 * MIB)
    with monkeypatch.context() as patched:
        patched.setattr(Parking, "take", refuse)
        meta = begin(storage)
        with pytest.raises(ValueError, match="not this one"):
            store(storage, tmp_path, 1, meta, DATA)
        storage.tpc_abort(meta)
    commit(storage, tmp_path, DATA[: 2 * MIB])
    assert len(proxy.links) == 2


def test_what_counts_as_progress() -> None:
    kept = Journal(None, " ", lambda: kept.size)
    upload = Resumable(kept)
    assert upload.identity != Resumable(kept).identity
    assert len(upload.identity) == 16
    for offset, expected in ((0, 3), (100, 0), (100, 3), (50, 3), (101, 0)):
        kept.resumptions = 3
        upload.reached(offset)
        assert kept.resumptions == expected
