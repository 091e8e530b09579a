"""ZODB's blob suites and its external garbage collection test, for every combination with blobs."""

from __future__ import annotations

from collections.abc import Iterator
from unittest import TestCase

import pytest
from tests.conformance import doctests
from tests.conformance.clients import FORGIVEN
from tests.conformance.combos import (
    BLOBS,
    BOUNDED,
    CONTROL,
    PAIRINGS,
    SHARED,
    Combo,
    all_combos,
    blob_combos,
)
from tests.support.hosts import Hosts

# Enough to name the tests at collection; no server is started for it.
_UNSERVED = doctests.OwnedServers(Hosts(), next(all_combos()))
_BLOB_TESTS = [test.id() for test in doctests.blob_tests(_UNSERVED)]

_COMBOS = [*blob_combos(), CONTROL]
_DEFAULT = {
    Combo("zeolith", "zeolith", BLOBS, False, "uvloop"),
    Combo("zeolith", "zeolith", BLOBS, False, "asyncio", is_own=True),
    Combo("zeolith", "zeolith", SHARED, True, "asyncio"),
    Combo("zeo", "zeolith", BLOBS, True, "uvloop"),
    Combo("zeo", "zeolith", SHARED, False, "asyncio"),
    Combo("zeolith", "zeo", BLOBS, True, "uvloop"),
    Combo("zeolith", "zeo", SHARED, False, "uvloop"),
    Combo("zeolith", "zeolith", BOUNDED, False, "uvloop", is_own=True),
}


@pytest.fixture(
    params=[
        pytest.param(
            combo,
            id=combo.name,
            marks=[*FORGIVEN[combo.client], *([] if combo in _DEFAULT else [pytest.mark.long])],
        )
        for combo in _COMBOS
    ]
)
def combo(request: pytest.FixtureRequest) -> Combo:
    combo: Combo = request.param
    return combo


@pytest.fixture
def servers(hosts: Hosts, combo: Combo) -> Iterator[doctests.OwnedServers]:
    servers = doctests.OwnedServers(hosts, combo)
    yield servers
    servers.close()


def _named(tests: list[TestCase], name: str) -> TestCase:
    return next(test for test in tests if test.id() == name)


@pytest.mark.parametrize("name", _BLOB_TESTS)
def test_blobs(servers: doctests.OwnedServers, name: str) -> None:
    doctests.run(_named(doctests.blob_tests(servers), name))


def test_external_gc(hosts: Hosts, combo: Combo) -> None:
    servers = doctests.OwnedServers(hosts, combo, settings="pack-gc false")
    try:
        [test] = doctests.external_gc_tests(servers)
        doctests.run(test)
    finally:
        servers.close()


def test_a_plain_run_has_all_modes() -> None:
    """Shared and not shared for each pairing, and a limit of what is kept for ours; the limit
    between the others is in ``test_blob_caches_between.py``."""
    for pairing in PAIRINGS:
        mine = {combo.backend for combo in _DEFAULT if (combo.client, combo.server) == pairing}
        assert mine >= {BLOBS, SHARED}, pairing
    assert BOUNDED in {combo.backend for combo in _DEFAULT if combo.is_own}
    assert set(_COMBOS) >= _DEFAULT
    long = {(combo.client, combo.server) for combo in _COMBOS if combo.backend is BOUNDED}
    assert long == set(PAIRINGS)
