"""The fuzzer runs, holds for a while, and finds what it is there to find."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from zeolith.protocol import msgpacks, pickles


@pytest.fixture(scope="module")
def fuzzer() -> ModuleType:
    path = Path(__file__).parents[2] / "fuzz" / "fuzz_decoders.py"
    spec = importlib.util.spec_from_file_location("fuzz_decoders", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_invariant_holds_for_a_while(fuzzer: ModuleType) -> None:
    assert fuzzer.fuzz(1.5, seed=1) > 0
    assert fuzzer.main(["fuzz", "0.1", "2"]) == 0


@pytest.mark.parametrize("error", [KeyError("x"), RecursionError(), MemoryError()])
def test_other_errors_are_found(
    fuzzer: ModuleType, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def broken(payload: bytes, limits: object) -> object:
        raise error

    monkeypatch.setattr(pickles, "loads", broken)
    assert fuzzer.main(["fuzz", "0.1", "3"]) == 1


def test_hunger_is_found(fuzzer: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(msgpacks, "loads", lambda payload, limits: bytes(10**6))
    with pytest.raises(AssertionError, match="bytes of memory"):
        fuzzer.check_memory(b"x")
