"""A thread that sums up what another one moves."""

from __future__ import annotations

import hashlib
import threading
from functools import partial

import pytest

from tests.support.interrupts import interrupted_at
from zeolith import aside
from zeolith.aside import Aside, is_worthwhile


@pytest.fixture
def thread() -> Aside:
    return Aside()


def test_all_is_done_in_order(thread: Aside) -> None:
    hasher = hashlib.sha256()
    pieces = [bytes([number]) * 1000 for number in range(100)]
    for piece in pieces:
        thread.do(partial(hasher.update, piece))
    thread.close()
    assert hasher.digest() == hashlib.sha256(b"".join(pieces)).digest()


def test_a_job_has_ended_when_the_next_is_taken(thread: Aside) -> None:
    """What it works on may be used again then."""
    go_on, done = threading.Event(), threading.Event()

    def wait() -> None:
        go_on.wait(30)
        done.set()

    thread.do(wait)
    assert not done.is_set()
    waiter = threading.Thread(target=lambda: thread.do(lambda: None))
    waiter.start()
    waiter.join(0.05)
    assert waiter.is_alive()
    go_on.set()
    waiter.join(30)
    assert done.is_set()
    thread.close()


def test_what_fails_is_raised_and_nothing_is_done_after_it(thread: Aside) -> None:
    done: list[int] = []

    def fail() -> None:
        raise ValueError("cannot")

    thread.do(fail)
    thread.do(lambda: done.append(1))
    with pytest.raises(ValueError, match="cannot"):
        thread.wait()
    assert done == []
    thread.close()


def test_its_thread_ends(thread: Aside) -> None:
    thread.do(lambda: None)
    thread.close()
    thread.close()
    assert not [each for each in threading.enumerate() if each.name == "zeolith-aside"]


def test_an_interrupt_at_any_step_does_not_keep_it_from_ending() -> None:
    """A time limit, or Ctrl-C; who waited for it would wait for ever, and others for him."""
    step, was_interrupted = 0, True
    while was_interrupted:
        step += 1
        thread = Aside()

        def use(thread: Aside = thread) -> None:
            thread.do(lambda: None)
            thread.do(lambda: None)
            thread.wait()

        was_interrupted = interrupted_at(step, use, (aside,))
        done: list[int] = []

        def end(thread: Aside = thread, done: list[int] = done) -> None:
            thread.do(partial(done.append, 1))
            thread.wait()
            thread.close()

        ending = threading.Thread(target=end, daemon=True)
        ending.start()
        ending.join(10)
        assert not ending.is_alive(), step
        assert done == [1]
    assert step > 5, "each step was tried"


def test_there_are_not_many_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each client may have many uploads that do not end (R8)."""
    monkeypatch.setattr(aside, "_HAS_ROOM", True)
    monkeypatch.setattr(aside, "_MOST", 2)
    assert is_worthwhile("sha256", 1 << 30)
    threads = [Aside(), Aside()]
    assert not is_worthwhile("sha256", 1 << 30)
    threads.pop().close()
    assert is_worthwhile("sha256", 1 << 30)
    threads.pop().close()


def test_what_it_is_used_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aside, "_HAS_ROOM", True)
    assert is_worthwhile("sha256", 1 << 30)
    assert not is_worthwhile("sha256", 50_000)
    assert not is_worthwhile("blake3", 1 << 30)
    assert not is_worthwhile(None, 1 << 30)
    monkeypatch.setattr(aside, "_HAS_ROOM", False)
    assert not is_worthwhile("sha256", 1 << 30)
