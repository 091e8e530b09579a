"""Class B of the known failures: the connection breaks in the middle of a commit."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import transaction
import ZODB
from persistent.mapping import PersistentMapping
from tests.rules.commits import RECORD, blob
from tests.rules.conftest import Open, Serve
from tests.support.processes import ServerProcess
from tests.support.proxy import DOWN, UP, Action, Direction, Passing, Proxy
from tests.support.raw import (
    Z64,
    RawClient,
)
from tests.support.waiting import promptly, wait_until
from transaction.interfaces import TransientError
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage

from zeolith import ClientStorage
from zeolith.client import committer
from zeolith.errors import ClientDisconnected, NotCommitted, OutcomeUnknown
from zeolith.protocol.greeting import Greeting


def commit_with_blob(storage: Any, directory: Path) -> tuple[bytes, bytes]:
    """Commit one new object and one new blob; return their oids."""
    plain, with_blob = storage.new_oid(), storage.new_oid()
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    try:
        storage.store(plain, Z64, with_blob, "", meta)
        source = directory.parent / "source"
        source.write_bytes(b"blob" * 20000)
        storage.storeBlob(with_blob, Z64, RECORD, str(source), "", meta)
        storage.tpc_vote(meta)
        storage.tpc_finish(meta)
    except BaseException:
        with promptly(5):
            storage.tpc_abort(meta)
        raise
    return plain, with_blob


@pytest.fixture(params=["own", "M5"])
def is_own(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether clients and servers speak Zeolith's own protocol, not ZEO's."""
    if request.param == "M5":
        monkeypatch.setattr(Greeting, "version", None)
    return bool(request.param == "own")


@pytest.mark.parametrize("comes_back", [True, False])
@pytest.mark.parametrize("action", [Action.CUT, Action.CUT_WITHIN, Action.CUT_AFTER])
def test_b_a_break_at_every_message_of_a_commit(
    files: FileStorage,
    tmp_path: Path,
    serve: Serve,
    action: Action,
    comes_back: bool,
    is_own: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """F: commit() and abort() return at once, whether or not the server comes back, and what was
    committed is whole.

    In Zeolith's own protocol a commit of which tpc_finish was sent waits for a server that knows
    what became of it.
    """
    if not comes_back:
        monkeypatch.setattr(committer, "RESUMPTION_TIME", 0.2)
    server = serve(files)
    if is_own:
        upload = [("stream_data", 0), ("stream_data", 1), ("stream_end", 0), ("attach_blob", 0)]
    else:
        upload = [("Start", 0), ("Chunk", 0), ("Chunk", 1), ("End", 0)]
        upload = [("storeBlob" + name, nth) for name, nth in upload]
        upload.insert(0, ("storea", 1))  # in our own protocol the blob brings its record
    steps = [("tpc_begin", 0), ("storea", 0), *upload, ("vote", 0)]
    places = [(UP, name, nth) for name, nth in steps]
    voted = (DOWN, ".reply", 0)
    # In ZEO's protocol the size of the storage is said before the answer.
    told = [] if is_own else [(DOWN, "info", 0)]
    finishing = [(UP, "tpc_finish", 0), *told, (DOWN, ".reply", 1)]
    # After it the client may have sent tpc_finish before it saw the cut.
    (finishing if action is Action.CUT_AFTER else places).append(voted)
    if comes_back or not is_own:
        places += finishing
    blobs = tmp_path / "client"
    with Proxy(server.address) as proxy, ExitStack() as stack:
        storage = ClientStorage(proxy.address, blob_dir=str(blobs), wait_timeout=20)
        stack.callback(storage.close)
        commit_with_blob(storage, blobs)
        for direction, name, nth in places:
            # Oids are asked for in batches: that call shall not be one of those counted.
            storage.new_oid(), storage.new_oid()
            link = proxy.links[-1]
            rule = Breaker(direction, name, nth, action, proxy, comes_back)
            proxy.rule = rule
            is_acknowledged = False
            caught: type[BaseException] | None = None
            with promptly(6):
                try:
                    written = commit_with_blob(storage, blobs)
                    is_acknowledged = True
                except (ClientDisconnected, OutcomeUnknown) as error:
                    caught = type(error)
            assert rule.is_done, f"no {name} passed"
            assert link.is_cut.wait(10)
            is_finishing = (direction, name, nth) in finishing
            if is_finishing and (direction, name, nth) == voted:
                pass
            elif is_finishing and is_own:
                is_whole = name != "tpc_finish" or action is Action.CUT_AFTER
                assert caught is (None if is_whole else NotCommitted), name
            elif is_finishing:
                # An acknowledgement needs the last reply to have come through.
                is_last = name == ".reply" and action is Action.CUT_AFTER
                assert caught is (None if is_last else OutcomeUnknown), name
            elif is_own and comes_back:
                # All of it was said again, see client/journal.
                assert caught is None, name
            else:
                assert caught is not None
                assert issubclass(caught, ClientDisconnected)
                assert caught is not NotCommitted
            proxy.is_refusing = False
            proxy.rule = lambda passing: Action.PASS
            # Answered on a new connection: the old one is cut.
            storage.ping()
            if is_acknowledged:
                assert storage.load(written[0])[0] == written[1]
        check_whole(server.address)
        # Nothing is held any more.
        with promptly(5):
            commit_with_blob(storage, blobs)
        assert not list(blobs.rglob("*.tmp-"))


class Breaker:
    """The rule that cuts at the nth frame of a name."""

    def __init__(
        self,
        direction: Direction,
        name: str,
        nth: int,
        action: Action,
        proxy: Proxy,
        comes_back: bool,
    ) -> None:
        self._what = direction, name
        self._left = nth
        self._action = action
        self._proxy = proxy
        self._comes_back = comes_back
        self.is_done = False

    def __call__(self, passing: Passing) -> Action:
        if self.is_done or (passing.direction, passing.name) != self._what:
            return Action.PASS
        if self._left:
            self._left -= 1
            return Action.PASS
        self.is_done = True
        self._proxy.is_refusing = not self._comes_back
        return self._action


def check_whole(address: Any) -> None:
    """Every object that names a blob is there with its blob."""
    from zeolith.protocol.messages import RecordIternext

    with RawClient(address) as client:
        following: Any = None
        while True:
            _oid, _tid, data, following = client.call(RecordIternext(following))
            if data != RECORD:
                _, tid, _ = client.load(data)
                assert blob(client, data, tid) == b"blob" * 20000
            if following is None:
                return


def test_b_transaction_commit_returns_at_once_when_the_server_goes(
    tmp_path: Path, client: Open, is_own: bool
) -> None:
    """F: with ZODB on top: commit() raises, abort() works, and later commits succeed.

    In Zeolith's own protocol as soon as the server is back and can be asked.
    """
    with ServerProcess(tmp_path / "server") as server, Proxy(server.address) as proxy:
        db = ZODB.DB(client(proxy.address, wait_timeout=25))
        try:
            manager = transaction.TransactionManager()
            connection = db.open(manager)
            for name in ("vote", "tpc_finish"):
                connection.root()[name] = PersistentMapping()
                comes_back = is_own and name == "tpc_finish"
                proxy.rule = Breaker(UP, name, 0, Action.CUT, proxy, comes_back)
                with promptly(6):
                    with pytest.raises((ClientDisconnected, OutcomeUnknown)) as caught:
                        manager.commit()
                    manager.abort()
                assert isinstance(caught.value, NotCommitted) is comes_back
                assert isinstance(caught.value, TransientError) is (is_own or name == "vote")
                proxy.is_refusing = False
                proxy.rule = lambda passing: Action.PASS
                wait_until(db.storage.is_connected)
                manager.begin()
                connection.root()["again " + name] = 1
                manager.commit()
            assert sorted(connection.root()) == ["again tpc_finish", "again vote"]
            connection.close()
        finally:
            db.close()
