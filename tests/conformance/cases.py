"""Test classes made of ZODB's own suites, one per combination.

The suites are mix-ins for ``unittest.TestCase``: they expect ``self._storage``, and some expect
``self.open()``, ``self._dst`` or ``self._new_storage_client()``.
"""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Any

import pytest
import ZODB.tests.util
from tests.conformance.clients import FORGIVEN, open_client
from tests.conformance.combos import Combo
from tests.conformance.exclusions import EXCLUDED
from tests.support.hosts import Address, Hosts, Record, RunningServer
from ZODB.tests import (
    BasicStorage,
    ConflictResolution,
    HistoryStorage,
    IteratorStorage,
    MTStorage,
    PackableStorage,
    PersistentStorage,
    ReadOnlyStorage,
    RecoveryStorage,
    RevisionStorage,
    StorageTestBase,
    Synchronization,
    TransactionalUndoStorage,
)

EVERY_STORAGE: tuple[Any, ...] = (
    BasicStorage.BasicStorage,  # includes the race tests
    HistoryStorage.HistoryStorage,
    IteratorStorage.ExtendedIteratorStorage,
    IteratorStorage.IteratorStorage,
    MTStorage.MTStorage,
    PackableStorage.PackableStorageWithOptionalGC,
    PersistentStorage.PersistentStorage,
    ReadOnlyStorage.ReadOnlyStorage,
    RevisionStorage.RevisionStorage,
    Synchronization.SynchronizedStorage,
)
"""Suites that any storage passes."""

UNDOABLE_STORAGE: tuple[Any, ...] = (
    ConflictResolution.ConflictResolvingStorage,
    ConflictResolution.ConflictResolvingTransUndoStorage,
    PackableStorage.PackableUndoStorage,
    TransactionalUndoStorage.TransactionalUndoStorage,
)
"""Suites for storages that can undo and resolve conflicts."""


def _is_fault(record: Record) -> bool:
    """Whether a server should not have logged that in a suite."""
    if "its class raised an error" in record.text:
        return False  # a suite has classes that are broken on purpose
    # A suite lets 64 clients commit at once.
    return record.is_error and "the commit lock of storage" not in record.text


class ServedStorage:
    """Gives a suite a client storage in front of a server of its own.

    Mixed in before ``StorageTestBase``, which makes a temporary directory the working directory.
    """

    combo: Combo
    server_options: Mapping[str, Any] = {}
    _hosts: Hosts
    _servers: list[RunningServer]
    _addresses: dict[str, Address]
    # The suites look at these:
    _storage: Any
    use_extension_bytes: bool

    @pytest.fixture(autouse=True)
    def _take_hosts(self, hosts: Hosts) -> None:
        self._hosts = hosts

    def setUp(self) -> None:
        super().setUp()  # type: ignore[misc]
        self._servers = []
        self._address = self._start_server("source")
        self.open()

    def tearDown(self) -> None:
        try:
            self._storage.close()
            for server in self._servers:
                server.stop()
                if server.kind == "zeolith":
                    complaints = [record for record in server.records() if _is_fault(record)]
                    assert not complaints, complaints
        finally:
            # Removes the directory, which servers want to the end.
            super().tearDown()  # type: ignore[misc]
            for server in self._servers:
                server.stop()
            if self.combo.client == "zeo":
                # What it leaves open is to be found now, not in a test that forbids it.
                gc.collect()

    def _start_server(self, name: str) -> Address:
        directory = os.path.abspath(name)
        os.mkdir(directory)
        options = {"msgpack": self.combo.is_msgpack, "loop": self.combo.loop}
        config = self.combo.backend.config.format(directory=directory)
        server = self._hosts.start(
            self.combo.server, {"1": config}, **options, **self.server_options
        )
        self._servers.append(server)
        return server.address

    def _client(self, address: Address, name: str, **options: Any) -> Any:
        backend = self.combo.backend
        if backend.is_shared:
            options |= {"blob_dir": os.path.abspath(f"{name}/server-blobs")}
            options |= {"shared_blob_dir": True}
        elif backend.has_blobs:
            options |= {"blob_dir": os.path.abspath("client-blobs")}
        return open_client(self.combo.client, address, is_hex=backend.is_client_hex, **options)

    def open(self, **options: Any) -> None:
        """Connect ``self._storage``; suites call it to reopen the database, perhaps read-only."""
        self._storage = self._client(self._address, "source", **options)

    def _new_storage_client(self) -> Any:
        """Return one more client of the server of ``self._storage``."""
        return self._client(self._address, "source")

    def _do_store_in_separate_thread(self, oid: bytes, revid: bytes, voted: bool) -> Any:
        # Competition comes from another client: one client has one transaction at a time, so
        # its own second store would only wait.
        errors: list[BaseException] = []
        started = threading.Event()

        def store() -> None:
            storage = self._new_storage_client()
            try:
                transaction = ZODB.Connection.TransactionMetaData()
                storage.tpc_begin(transaction)
                storage.store(oid, revid, b"x", "", transaction)
                started.set()
                storage.tpc_vote(transaction)
                storage.tpc_finish(transaction)
            except Exception as error:  # noqa: BLE001 - handed to the test's thread
                errors.append(error)
            finally:
                started.set()
                storage.close()

        thread = threading.Thread(target=store, name="competitor", daemon=True)
        thread.start()
        started.wait(30)
        # Before the vote of the test's own transaction the competitor can finish; after it, the
        # competitor has to wait for the test.
        thread.join(0.1 if voted else 30)
        if errors:
            raise errors[0]
        return thread


class ResolvingClient(ServedStorage):
    """Conflicts are resolved by the client."""

    server_options: Mapping[str, Any] = {"client_conflict_resolution": True}


class Recovering(ServedStorage):
    """Adds the second storage that recovery suites copy into."""

    _dst: Any

    def setUp(self) -> None:
        super().setUp()
        self._dst = self.new_dest()

    def tearDown(self) -> None:
        try:
            self._dst.close()
        finally:
            super().tearDown()

    def new_dest(self) -> Any:
        name = f"destination-{len(self._servers)}"
        return self._client(self._start_server(name), name)


def suite_methods(mixins: tuple[Any, ...]) -> Iterator[tuple[str, Any]]:
    """Yield name and function of each test of *mixins*, whatever their prefix."""
    seen = set()
    for mixin in mixins:
        for name in dir(mixin):
            if name.startswith(("test", "check")) and name not in seen:
                seen.add(name)
                yield name, getattr(mixin, name)


def on_one_clock(method: Any) -> Any:
    """Return the test without ZODB's simulated clock, if it has one.

    The simulation replaces ``time.time`` in the test's process only; a server has its own clock,
    and a pack time that is in its future removes more than the test means.  On the real clock the
    tests make time pass with ``snooze()``.
    """
    code = getattr(method, "__code__", None)
    if code is not None and code.co_qualname.startswith(ZODB.tests.util._TimeWrapper.__name__):
        return method.__wrapped__
    return method


def _make(name: str, combo: Combo, base: Any, mixins: tuple[Any, ...]) -> Any:
    """Return a test class; names with ZODB's older prefix ``check`` are collected too."""
    namespace: dict[str, Any] = {
        "combo": combo,
        # Whether a transaction record clings to the bytes in which an extension was stored.  On
        # ZEO's wire an extension is a dictionary, so only a wrapper around the record does; in
        # Zeolith's own protocol the bytes themselves travel.
        "use_extension_bytes": combo.backend.is_client_hex or combo.is_own,
    }
    for method_name, method in suite_methods(mixins):
        exclusion = EXCLUDED.get(method_name)
        if exclusion and exclusion.applies_to(combo):
            namespace[method_name] = None
            continue
        if method_name.startswith("check"):
            namespace[f"test_{method_name}"] = method
        namespace[method_name] = on_one_clock(method)
        if getattr(method, "level", 1) > 1:
            # ZODB's own mark for tests that take minutes.

            def run(self: Any, method: Any = method) -> None:
                method(self)

            namespace[method_name] = pytest.mark.long(run)
    case = type(name, (base, StorageTestBase.StorageTestBase, *mixins), namespace)
    case.pytestmark = list(FORGIVEN[combo.client])  # type: ignore[attr-defined]
    return case


def storage_case(combo: Combo) -> Any:
    """Return the class of all suites that the combination's storage is to pass."""
    mixins = EVERY_STORAGE + (UNDOABLE_STORAGE if combo.backend.has_history else ())
    return _make(combo.name, combo, ServedStorage, mixins)


def recovery_case(combo: Combo) -> Any:
    """Return the class of the suite that copies one storage into another."""
    name = f"{combo.name}_Recovery"
    return _make(name, combo, Recovering, (RecoveryStorage.RecoveryStorage,))


def client_resolution_case(combo: Combo) -> Any:
    """Return the class of the suite in which clients resolve conflicts."""
    name = f"{combo.name}_ClientResolution"
    return _make(name, combo, ResolvingClient, (ConflictResolution.ConflictResolvingStorage,))


def cases(combos: Iterable[Combo], default: Container[Combo]) -> Iterator[Any]:
    """Yield every test class of *combos*; those not in *default* are marked ``long``."""
    for combo in combos:
        makers = [storage_case, client_resolution_case]
        if combo.backend.has_history:
            makers.append(recovery_case)
        for make in makers:
            case = make(combo)
            if combo not in default:
                case.pytestmark.append(pytest.mark.long)
            yield case
