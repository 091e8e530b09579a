"""Fixtures of the conformance and interoperation suites."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.support.hosts import Hosts


@pytest.fixture(scope="session")
def hosts() -> Iterator[Hosts]:
    """The processes in which servers run."""
    hosts = Hosts()
    yield hosts
    hosts.close()
