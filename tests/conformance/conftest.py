"""Fixtures of the conformance and interoperation suites."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conformance.combos import PAIRINGS
from tests.conformance.site import Pairing, Site
from tests.support.hosts import Hosts


@pytest.fixture(scope="session")
def hosts() -> Iterator[Hosts]:
    """The processes in which servers run."""
    hosts = Hosts()
    yield hosts
    hosts.close()


_PAIRINGS = [
    Pairing(client, server, is_msgpack)
    for client, server in PAIRINGS
    for is_msgpack in (False, True)
]
_CONTROL = Pairing("zeo", "zeo", False)


@pytest.fixture(
    params=[
        *(pytest.param(pairing, id=pairing.name) for pairing in _PAIRINGS),
        # What fails here too is a fault of the test.
        pytest.param(_CONTROL, id=_CONTROL.name, marks=pytest.mark.long),
    ]
)
def site(request: pytest.FixtureRequest, hosts: Hosts, tmp_path: Path) -> Iterator[Site]:
    """A client and a server, at least one of them Zeolith's, in both codings."""
    pairing: Pairing = request.param
    if pairing.client == "zeo":
        # ZEO's client leaves temporary files to the garbage collector.
        request.applymarker(pytest.mark.filterwarnings("ignore::ResourceWarning"))
    site = Site(hosts, pairing, tmp_path)
    yield site
    site.close()
    if pairing.client == "zeo":
        # What it leaves open is to be found now, not in a test that forbids it.
        gc.collect()
