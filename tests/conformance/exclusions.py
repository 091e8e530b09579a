"""Tests of ZODB's suites that are left out, each with its reason.

``docs/conformance.md`` shows the same table.

A reason speaks about what is being tested, never about how the test turned out.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from tests.conformance.combos import MAPPING, Backend, Combo
from tests.support.hosts import Kind


class Exclusion(NamedTuple):
    """Why one test is left out.

    :ivar reason: for people.
    :ivar backend: left out only in front of this storage, or everywhere.
    :ivar server: left out only with this server, or with every.
    """

    reason: str
    backend: Backend | None = None
    server: Kind | None = None

    def applies_to(self, combo: Combo) -> bool:
        return self.backend in (None, combo.backend) and self.server in (None, combo.server)


EXCLUDED: Final[dict[str, Exclusion]] = {
    "testPackAllRevisionsNoGC": Exclusion(
        "calls pack(..., gc=False); the wire's pack has no such argument, garbage collection is "
        "a setting of the server's storage"
    ),
    "testLoadBeforeUndo": Exclusion(
        "undoes a transaction, which this storage cannot; ZODB leaves it out for it too", MAPPING
    ),
    "testUndoZombie": Exclusion(
        "undoes a transaction, which this storage cannot; ZODB leaves it out for it too", MAPPING
    ),
    "testLoadBeforeConsecutiveTids": Exclusion(
        "ZEO's server passes the storage a status for a transaction with a given tid, which this "
        "storage does not take",
        MAPPING,
        "zeo",
    ),
}
"""By the name of the test method."""
