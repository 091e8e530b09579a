"""Storages whose methods stop where a test wants them to."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.support.waiting import DEADLINE


class Gate:
    """A place where a thread stops until it is let through.

    :ivar reached: set when somebody stands before the gate.
    """

    def __init__(self) -> None:
        self.reached = threading.Event()
        self._opened = threading.Event()

    def __call__(self) -> None:
        """Stand before the gate."""
        self.reached.set()
        assert self._opened.wait(DEADLINE), "the gate was never opened"

    def wait_reached(self) -> None:
        """Wait until somebody stands before the gate."""
        assert self.reached.wait(DEADLINE), "nobody came to the gate"

    def open(self) -> None:
        """Let everybody through, from now on."""
        self._opened.set()

    def __enter__(self) -> Gate:
        return self

    def __exit__(self, *exc: object) -> None:
        # A test that fails must not leave a server's thread standing here.
        self.open()


@contextmanager
def gate(
    target: Any, name: str, *, after: bool = False, when: Callable[..., bool] | None = None
) -> Iterator[Gate]:
    """Put a gate before (or after) a method of one object.

    :param after: let the method do its work first.
    :param when: called with the method's arguments; only calls for which it is true stop.
    """
    with (
        Gate() as found,
        hook(
            target,
            name,
            **{
                "after" if after else "before": lambda *a, **k: (
                    found() if not when or when(*a) else 0
                )
            },
        ),
    ):
        yield found


@contextmanager
def hook(
    target: Any,
    name: str,
    *,
    before: Callable[..., object] | None = None,
    after: Callable[..., object] | None = None,
) -> Iterator[None]:
    """Call *before* and *after* around a method of one object, with the method's arguments."""
    method = getattr(target, name)
    was_set = name in vars(target)

    @functools.wraps(method)
    def hooked(*args: Any, **kw: Any) -> Any:
        if before is not None:
            before(*args, **kw)
        result = method(*args, **kw)
        if after is not None:
            after(*args, **kw)
        return result

    setattr(target, name, hooked)
    try:
        yield
    finally:
        if was_set:
            setattr(target, name, method)
        else:
            delattr(target, name)
