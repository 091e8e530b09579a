"""ZODB's suites that are text (doctests), and the blob suites, as cases that pytest can run.

They ask for a storage by calling a factory and close it when they are done, so the factory's
storages own the server behind them.
"""

from __future__ import annotations

import doctest
import os
import unittest
from collections.abc import Iterator
from typing import Any

import ZODB.tests.testblob
import ZODB.tests.util
from tests.conformance.clients import client_class
from tests.conformance.combos import Combo
from tests.support.hosts import Hosts, RunningServer
from ZODB.tests.PackableStorage import IExternalGC_suite

_CONFIG = """
<blobstorage>
  blob-dir {directory}/{blobs}
  <filestorage>
    path {directory}/{name}.fs
    {settings}
  </filestorage>
</blobstorage>
"""


class OwnedServers:
    """Makes client storages with a server of their own, and stops what was left running."""

    def __init__(self, hosts: Hosts, combo: Combo, settings: str = "") -> None:
        self._hosts = hosts
        self._combo = combo
        self._settings = settings
        self._servers: list[RunningServer] = []

    def create_storage(self, name: str = "data", blob_dir: str = "blobs") -> Any:
        """Return a client storage; its ``close`` stops its server."""
        combo = self._combo
        # One text shows the server's paths: it knows them to begin with "server-".
        blobs = blob_dir if combo.backend.is_shared else f"server-{blob_dir}"
        config = _CONFIG.format(
            directory=os.getcwd(),
            blobs=blobs,
            name=name,
            settings=self._settings,
        )
        server = self._hosts.start(
            combo.server, {"1": config}, msgpack=combo.is_msgpack, loop=combo.loop
        )
        self._servers.append(server)

        class Owner(client_class(combo.client)):  # type: ignore[misc]
            def close(self) -> None:
                super().close()
                server.stop()

            def pack(self, t: Any = None, referencesf: Any = None, *args: Any) -> None:
                super().pack(t, referencesf, True)
                if settings:
                    # Clients may go on to answer from their caches what a pack removed.
                    self._cache.clear()
                    if not combo.backend.is_shared:
                        drop_cached_blobs(blob_dir)

        settings = self._settings
        return Owner(
            server.address,
            blob_dir=blob_dir,
            shared_blob_dir=combo.backend.is_shared,
            blob_cache_size=combo.backend.blob_cache_size,
            wait_timeout=30,
        )

    def close(self) -> None:
        for server in self._servers:
            server.stop()


def drop_cached_blobs(directory: str) -> None:
    """Remove the blob files that a client has fetched."""
    for path, _, names in os.walk(directory):
        for name in names:
            if name.endswith(".blob"):
                os.remove(os.path.join(path, name))


def _flatten(suite: unittest.TestSuite) -> Iterator[unittest.TestCase]:
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from _flatten(test)
        else:
            yield test


def _adapt(test: unittest.TestCase) -> None:
    """Change the lines of a text that cannot hold here; ``docs/conformance.md`` lists them."""
    if not isinstance(test, doctest.DocTestCase):
        return
    examples: list[doctest.Example] = test._dt_test.examples  # type: ignore[attr-defined]
    for example in examples:
        # A serial is bytes.  The text has kept a string here from Python 2, which storages that
        # look at no serial of a new object do not notice; a typed wire does.
        example.source = example.source.replace("new_oid, '\\0'*8,", "new_oid, b'\\0'*8,")
        if os.geteuid() == 0 and "except PermissionError" in example.source:
            # Nothing is refused to root.
            example.options[doctest.SKIP] = True


def blob_tests(servers: OwnedServers) -> list[unittest.TestCase]:
    """Return ZODB's tests that any blob storage passes."""
    suite = ZODB.tests.testblob.storage_reusable_suite("Client", servers.create_storage)
    tests = list(_flatten(suite))
    for test in tests:
        _adapt(test)
    return tests


def external_gc_tests(servers: OwnedServers) -> list[unittest.TestCase]:
    """Return ZODB's test of a storage from which an external collector deletes objects."""
    return list(_flatten(IExternalGC_suite(servers.create_storage)))


def run(test: unittest.TestCase) -> None:
    """Run one of the tests.

    :raises AssertionError: it failed; the message holds its report.
    """
    result = unittest.TestResult()
    # The clock of ZODB's own layer for these tests: one second per look.
    with ZODB.tests.util._TimeWrapper():
        test.run(result)
    ZODB.tests.util.reset_monotonic_time()
    reports = [text for _, text in result.errors + result.failures]
    assert not reports, "\n".join(reports)
    assert result.testsRun == 1
    assert not result.skipped
