"""How far a long task is: told to whoever watches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Report(Protocol):
    """Takes what there is to say about a task while it runs."""

    def line(self, text: str) -> None:
        """Say something that everybody should read."""

    def detail(self, text: str) -> None:
        """Say something for those who asked for more."""

    def progress(self, label: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        """Begin something that takes a while.

        :param total: its size in bytes.
        :return: while entered, a function to be told how many bytes have been done since last time.
        """


class Silence:
    """A report that nobody reads."""

    def line(self, text: str) -> None:
        """Nothing."""

    def detail(self, text: str) -> None:
        """Nothing."""

    @contextmanager
    def progress(self, label: str, total: int) -> Iterator[Callable[[int], None]]:
        """Nothing."""
        yield lambda count: None
