"""Short turns of a processor for the loop."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.processes import ServerProcess

from zeolith.server import turns
from zeolith.server.turns import TURN, ask_for_short_turns

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has them")


def attributes(thread: int = 0) -> tuple[Any, ...]:
    """Return policy, nice, and the length of a turn in nanoseconds of a thread."""
    numbers = turns._NUMBERS.get(platform.machine())
    if numbers is None:
        pytest.skip("the number of sched_getattr is not known for this machine")
    buffer = ctypes.create_string_buffer(48)
    assert ctypes.CDLL(None).syscall(numbers[1], thread, buffer, 48, 0) == 0
    _, policy, _, nice, _, turn, _, _ = turns._ATTRIBUTES.unpack(buffer.raw)
    return policy, nice, turn


def in_thread(work: Callable[[], Any]) -> Any:
    """Return what *work* returns in a thread of its own, which has its own attributes."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]


def test_nothing_else_changes_and_other_threads_have_turns_as_usual() -> None:
    def work() -> Any:
        before = attributes()
        is_taken = ask_for_short_turns()
        return before, is_taken, attributes(), in_thread(attributes)

    before, is_taken, after, child = in_thread(work)
    assert after == ((*before[:2], TURN) if is_taken else before)
    assert child == before


def test_whoever_has_a_lower_priority_keeps_it() -> None:
    def work() -> Any:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 5)
        ask_for_short_turns()
        return attributes()[1]

    assert in_thread(work) == 5


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give another policy or precedence")
@pytest.mark.parametrize("what", ["policy", "nice"])
def test_what_an_administrator_has_set_stays(what: str) -> None:
    def work() -> Any:
        if what == "nice":
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), -5)
        else:
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        before = attributes()
        return before, ask_for_short_turns(), attributes()

    before, is_taken, after = in_thread(work)
    assert (is_taken, after) == (False, before)


def test_a_machine_that_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "_NUMBERS", {})
    assert ask_for_short_turns() is False


def test_a_system_that_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container whose filter does not know these calls."""
    monkeypatch.setattr(turns, "_NUMBERS", {platform.machine(): (10_000, 10_001)})
    assert ask_for_short_turns() is False


def test_the_loop_of_a_server_has_them(tmp_path: Path) -> None:
    is_offered = in_thread(ask_for_short_turns)
    with ServerProcess(tmp_path) as server:
        assert server.process is not None
        assert (attributes(server.process.pid)[2] == TURN) is is_offered
