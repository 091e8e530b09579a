"""No suite of ZODB's is forgotten, and no test of a suite in use goes missing on the way."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import unittest
from typing import Any

import ZODB.tests
from tests.conformance.cases import (
    EVERY_STORAGE,
    UNDOABLE_STORAGE,
    cases,
    on_one_clock,
    recovery_case,
    storage_case,
    suite_methods,
)
from tests.conformance.combos import DEFAULT, MAPPING, PAIRINGS, Combo, all_combos
from tests.conformance.exclusions import EXCLUDED
from ZODB.tests.PackableStorage import PackableStorage, PackableUndoStorage
from ZODB.tests.RecoveryStorage import RecoveryStorage

NOT_ABOUT_STORAGES = {
    "MonotonicallyIncreasingTimeMinimalTestLayer": "a helper with methods called testSetUp, …",
    "StorageClientThread": "a helper: a thread with a method called check",
}
"""Classes that look like a suite, and what they are."""

USED = (*EVERY_STORAGE, *UNDOABLE_STORAGE, RecoveryStorage)


def _suites() -> dict[str, Any]:
    """Return ZODB's classes with tests that leave making the storage to others."""
    found = {}
    for module_info in pkgutil.iter_modules(ZODB.tests.__path__):
        name = f"ZODB.tests.{module_info.name}"
        if module_info.name.startswith("test") or module_info.name in ("dangle", "speed"):
            continue  # ZODB's tests of itself, and scripts
        module = importlib.import_module(name)
        for cls in vars(module).values():
            if (
                inspect.isclass(cls)
                and cls.__module__ == name
                and not issubclass(cls, unittest.TestCase)
                and any(key.startswith(("test", "check")) for key in vars(cls))
            ):
                found[cls.__name__] = cls
    return found


def test_every_suite_of_zodb_is_used() -> None:
    used = {base for mixin in USED for base in mixin.__mro__}
    missing = {
        name
        for name, cls in _suites().items()
        if cls not in used and name not in NOT_ABOUT_STORAGES
    }
    assert not missing


def test_the_search_finds_suites() -> None:
    names = set(_suites())
    assert {"BasicStorage", "RaceTests", "RecoveryStorage", "MTStorage"} <= names


def test_every_test_of_a_suite_is_collected_or_excluded() -> None:
    for combo in DEFAULT:
        mixins = EVERY_STORAGE + (UNDOABLE_STORAGE if combo.backend.has_history else ())
        collected = set(unittest.defaultTestLoader.getTestCaseNames(storage_case(combo)))
        for name, _ in suite_methods(mixins):
            collected_name = name if name.startswith("test") else f"test_{name}"
            exclusion = EXCLUDED.get(name)
            is_excluded = exclusion is not None and exclusion.applies_to(combo)
            assert (collected_name in collected) is not is_excluded, (combo.name, name)
    recovery = next(combo for combo in DEFAULT if combo.backend.has_history)
    names = unittest.defaultTestLoader.getTestCaseNames(recovery_case(recovery))
    assert len(names) >= 5


def test_every_exclusion_excludes_something() -> None:
    names = {name for name, _ in suite_methods(USED)}
    assert set(EXCLUDED) <= names
    for name, exclusion in EXCLUDED.items():
        assert len(exclusion.reason) > 20, name
        assert any(exclusion.applies_to(combo) for combo in all_combos()), name


def test_the_simulated_clock_is_taken_off() -> None:
    for method in (PackableUndoStorage.testPackUndoLog, PackableStorage.testPackWhileWriting):
        assert on_one_clock(method) is method.__wrapped__
    assert on_one_clock(PackableStorage.testPackTomorrow) is PackableStorage.testPackTomorrow


def test_a_plain_run_covers_what_differs() -> None:
    """Every pairing in both codings, both loops of our server, undo and blobs and neither."""
    assert {(combo.client, combo.server) for combo in DEFAULT} == set(PAIRINGS)
    for pairing in PAIRINGS:
        mine = [combo for combo in DEFAULT if (combo.client, combo.server) == pairing]
        assert {combo.is_msgpack for combo in mine} == {False, True}, pairing
        can_be_own = pairing == ("zeolith", "zeolith")
        assert any(combo.is_own for combo in mine) is can_be_own, pairing
        assert {combo.backend.has_history for combo in DEFAULT} == {False, True}
        if pairing[1] == "zeolith":
            assert {combo.loop for combo in mine} == {"uvloop", "asyncio"}, pairing
    assert {combo.backend.has_blobs for combo in DEFAULT} == {False, True}
    assert {combo.backend.is_shared for combo in DEFAULT} == {False, True}


def test_names_of_cases_are_unique() -> None:
    combos = list(all_combos())
    assert set(combos) >= DEFAULT
    names = [case.__name__ for case in cases(combos, DEFAULT)]
    assert len(names) == len(set(names))
    assert Combo("zeo", "zeolith", MAPPING, True, "asyncio").name in names
