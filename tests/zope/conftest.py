"""Fixtures of the tests with real Zope processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.support.processes import ServerProcess
from tests.support.zopes import ZopeProcess

MakeZope = Callable[..., ZopeProcess]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """What a test starts, ended at its end in reverse order."""
    with ExitStack() as found:
        yield found


@pytest.fixture
def server(tmp_path: Path, stack: ExitStack) -> ServerProcess:
    """A running server with an empty database."""
    return stack.enter_context(ServerProcess(tmp_path / "server"))


@pytest.fixture
def make_zope(tmp_path: Path, stack: ExitStack) -> MakeZope:
    """Make a Zope that is ended with the test: ``make_zope(name of the instance, ...)``."""

    def made(name: str, database: str = "", **keywords: object) -> ZopeProcess:
        zope = ZopeProcess(tmp_path / name, database, **keywords)  # type: ignore[arg-type]
        stack.callback(zope.stop)
        return zope

    return made
