"""Fixtures of the conformance and interoperation suites."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conformance.clients import FORGIVEN
from tests.conformance.combos import PAIRINGS
from tests.conformance.site import Pairing, Site
from tests.support.hosts import Hosts

from zeolith.protocol import peers
from zeolith.protocol.greeting import Greeting, parse_greeting


@pytest.fixture(scope="session")
def hosts() -> Iterator[Hosts]:
    """The processes in which servers run."""
    hosts = Hosts()
    yield hosts
    hosts.close()


@pytest.fixture(autouse=True)
def _codings_as_proposed(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Make a Zeolith client take the coding that the server proposes.

    By itself it speaks Zeolith's own protocol wherever it meets a Zeolith server, and most of what
    is tested here would not be what its name says.
    """
    if not _is_own(request):
        monkeypatch.setattr(
            peers, "parse_greeting", lambda payload: Greeting(parse_greeting(payload).coding, False)
        )


def _is_own(request: pytest.FixtureRequest) -> bool:
    """Whether the test is one of Zeolith's own protocol, as its class or a parameter says."""
    parameters = getattr(getattr(request.node, "callspec", None), "params", {})
    sources = (getattr(request.cls, "combo", None), *parameters.values())
    return any(getattr(source, "is_own", False) for source in sources)


_PAIRINGS = [
    Pairing(client, server, is_msgpack)
    for client, server in PAIRINGS
    for is_msgpack in (False, True)
]
_PAIRINGS.append(Pairing("zeolith", "zeolith", False, is_own=True))
_CONTROL = Pairing("zeo", "zeo", False)


@pytest.fixture(
    params=[
        *(
            pytest.param(pairing, id=pairing.name, marks=FORGIVEN[pairing.client])
            for pairing in _PAIRINGS
        ),
        # What fails here too is a fault of the test.
        pytest.param(_CONTROL, id=_CONTROL.name, marks=[*FORGIVEN["zeo"], pytest.mark.long]),
    ]
)
def site(request: pytest.FixtureRequest, hosts: Hosts, tmp_path: Path) -> Iterator[Site]:
    """A client and a server, at least one of them Zeolith's, in all codings they have."""
    pairing: Pairing = request.param
    site = Site(hosts, pairing, tmp_path)
    yield site
    site.close()
    if pairing.client == "zeo":
        # What it leaves open is to be found now, not in a test that forbids it.
        gc.collect()
