"""ZEO 6.2's own tests of its client, with a Zeolith server in the place of ZEO's."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest
from tests.conformance.cases import ServedStorage, suite_methods
from tests.conformance.clients import FORGIVEN
from tests.conformance.combos import FILE, Combo, Loop
from tests.support.hosts import Address, Hosts
from ZEO.tests import (
    Cache,
    CommitLockTests,
    ConnectionTests,
    InvalidationTests,
    IterationTests,
    ThreadTests,
    forker,
    testConnection,
)
from ZODB.tests.StorageTestBase import StorageTestBase
from ZODB.tests.TransactionalUndoStorage import TransactionalUndoStorage

EXCLUDED: Final = {
    "checkTimeout": "looks for the words of ZEO's server in its log",
}
"""Tests left out, each with its reason."""

_OPTIONS = (
    "read_only",
    "invalidation_queue_size",
    "transaction_timeout",
    "client_conflict_resolution",
)


def _absolute(config: str) -> str:
    """Return a storage's configuration with absolute paths: the host has another directory."""
    return re.sub(
        r"^(\s*(?:path|blob-dir)\s+)(\S+)",
        lambda match: match[1] + os.path.abspath(match[2]),
        config,
        flags=re.MULTILINE,
    )


def _starter(hosts: Hosts, combo: Combo) -> Callable[..., tuple[Address, Callable[[], None]]]:
    """Return what takes the place of ``ZEO.tests.forker.start_zeo_server``."""

    def start_zeo_server(
        storage_conf: str, zeo_conf: Any, *_ignored: Any, **_also_ignored: Any
    ) -> tuple[Address, Callable[[], None]]:
        host, _, port = zeo_conf.address.rpartition(":")
        given = {name: getattr(zeo_conf, name, None) for name in _OPTIONS}
        server = hosts.start(
            "zeolith",
            {"1": _absolute(storage_conf)},
            address=(host, int(port)),
            msgpack=combo.is_msgpack,
            loop=combo.loop,
            invalidation_age=0,  # ZEO's default, on which a test relies
            **{name: value for name, value in given.items() if value is not None},
        )
        return server.address, server.stop

    return start_zeo_server


class _Served:
    """Makes ZEO's tests of connecting start Zeolith servers."""

    combo: Combo

    @pytest.fixture(autouse=True)
    def _take_servers(self, hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(forker, "start_zeo_server", _starter(hosts, self.combo))
        for module in (ConnectionTests, ThreadTests):
            # A serial is bytes; these are left from Python 2.
            monkeypatch.setattr(module, "ZERO", bytes(8))


class _ServedStorage(_Served, ServedStorage):
    """The same for ZEO's tests of one storage."""


def _case(name: str, loop: Loop, is_msgpack: bool, *bases: Any) -> Any:
    combo = Combo("zeo", "zeolith", FILE, is_msgpack, loop)
    namespace: dict[str, Any] = {"combo": combo}
    for method_name, method in suite_methods(bases):
        if method_name.startswith("check") and method_name not in EXCLUDED:
            namespace[f"test_{method_name}"] = method
        elif not method_name.startswith("check"):
            # ZEO's tests say "check"; these are ZODB's, and run elsewhere.
            namespace[method_name] = None
    case = type(f"{name}_{'M5' if is_msgpack else 'Z5'}_{loop}", bases, namespace)
    case.pytestmark = list(FORGIVEN["zeo"])  # type: ignore[attr-defined]
    return case


_CONNECTIONS = {
    "Connection": (testConnection.FileStorageConfig, ConnectionTests.ConnectionTests),
    "Invalidation": (
        testConnection.FileStorageConfig,
        ConnectionTests.CommonSetupTearDown,
        InvalidationTests.InvalidationTests,
    ),
    "MappingConnection": (testConnection.MappingStorageConfig, ConnectionTests.ConnectionTests),
    "Reconnection": (testConnection.FileStorageConfig, ConnectionTests.ReconnectionTests),
    "Queue": (testConnection.FileStorageConfig, ConnectionTests.InvqTests),
    "Timeout": (testConnection.FileStorageConfig, ConnectionTests.TimeoutTests),
}

_STORAGE = (
    TransactionalUndoStorage,  # only for what the others take from it
    CommitLockTests.CommitLockVoteTests,
    ThreadTests.ThreadTests,
    IterationTests.IterationTests,
    Cache.TransUndoStorageWithCache,
)


def _cases(loop: Loop, is_msgpack: bool) -> Iterator[Any]:
    for name, bases in _CONNECTIONS.items():
        yield _case(name, loop, is_msgpack, _Served, *bases)
    yield _case("Storage", loop, is_msgpack, _ServedStorage, StorageTestBase, *_STORAGE)


for _each in _cases("uvloop", False):
    if _each.__name__.startswith("Invalidation"):
        # A minute of stress.
        _each.pytestmark.append(pytest.mark.long)
    globals()[_each.__name__] = _each
for _each in _cases("asyncio", True):
    _each.pytestmark.append(pytest.mark.long)
    globals()[_each.__name__] = _each
# Or else the last one would be collected under this name too.
del _each
