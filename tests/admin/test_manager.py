"""What the daemon manager notices of the ends of processes."""

from __future__ import annotations

import os
import threading
from types import SimpleNamespace

import pytest
from tests.support.waiting import Background, wait_until

from zeolith.admin.manager import ChildExits, Manager


def manager_of(pid: int) -> Manager:
    manager = Manager()
    manager.child_exits = ChildExits()
    manager.proc = SimpleNamespace(pid=pid, child_exits=manager.child_exits)
    return manager


def let_end(monkeypatch: pytest.MonkeyPatch, *ends: tuple[int, int]) -> None:
    """Have the system report these processes, of which there are no others."""
    left = list(ends)

    def waitpid(pid: int, options: int) -> tuple[int, int]:
        assert (pid, options) == (-1, os.WNOHANG)
        if not left:
            raise ChildProcessError
        return left.pop(0)

    monkeypatch.setattr("zeolith.admin.manager.os.waitpid", waitpid)


def test_one_signal_stands_for_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    manager = manager_of(7)
    let_end(monkeypatch, (6, 256), (7, 0))
    manager.sigchild(17, None)
    assert manager.waitstatus == (7, 0)
    assert manager.child_exits.fetch(6) == 256
    assert manager.child_exits.fetch(6) is None


def test_those_who_run_on_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    manager = manager_of(7)
    let_end(monkeypatch, (0, 0))
    manager.sigchild(17, None)
    assert manager.waitstatus is None


def test_a_program_that_ends_while_it_is_started_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    manager = manager_of(0)
    let_end(monkeypatch, (7, 256))
    manager.sigchild(17, None)
    assert manager.waitstatus is None
    manager.proc.pid = 7  # what the fork returned is only stored now
    assert manager.waitstatus == (7, 256)


def test_what_was_noted_does_not_end_a_later_program(monkeypatch: pytest.MonkeyPatch) -> None:
    manager = manager_of(7)
    let_end(monkeypatch, (8, 0), (7, 0))
    manager.sigchild(17, None)
    manager.waitstatus = None
    manager.proc.pid = 8
    assert manager.waitstatus is None


def test_a_status_that_is_just_being_noted_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A start-test-program that failed must not seem to have succeeded: see ChildExits.fetch."""
    manager = manager_of(7)
    exits = manager.child_exits
    asked = threading.Event()
    lock = exits.lock

    class Told:
        def __enter__(self) -> None:
            asked.set()
            lock.acquire()

        def __exit__(self, *exc_info: object) -> None:
            lock.release()

    readers: list[Background] = []

    def waitpid(pid: int, options: int) -> tuple[int, int]:
        if readers:
            raise ChildProcessError
        # From here on the process is gone, and whoever waits for it asks for the status.
        asked.clear()
        readers.append(Background(lambda: exits.fetch(6)))
        wait_until(lambda: asked.is_set() or not readers[0].is_alive())
        return 6, 256

    monkeypatch.setattr("zeolith.admin.manager.os.waitpid", waitpid)
    exits.lock = Told()  # type: ignore[assignment]
    manager.sigchild(17, None)
    assert readers[0].result() == 256
