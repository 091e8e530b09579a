"""An environment in which ``zeolith-zeo`` is installed, and a server to talk to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.support.sites import Site

import zeolith


@pytest.fixture(scope="session")
def dropin(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """The environment; nobody changes it."""
    site = Site(tmp_path_factory.mktemp("dropin"))
    site.install_dropin()
    return site


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """The port of a server with blobs."""
    address, stop = zeolith.server(str(tmp_path / "Data.fs"), str(tmp_path / "server-blobs"))
    yield int(address[1])
    stop()


@pytest.fixture
def python(dropin: Site, tmp_path: Path) -> Callable[[str], str]:
    """Run a program in the environment; return what it prints."""

    def run(program: str) -> str:
        return dropin.run("-c", program, cwd=tmp_path).stdout

    return run
