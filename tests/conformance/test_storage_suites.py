"""ZODB's storage suites and race tests over real sockets, for every combination."""

from __future__ import annotations

from tests.conformance.cases import cases
from tests.conformance.combos import CONTROL, DEFAULT, all_combos

# pytest collects what a module's namespace holds.
globals().update((case.__name__, case) for case in cases((*all_combos(), CONTROL), DEFAULT))
