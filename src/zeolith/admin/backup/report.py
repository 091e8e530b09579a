"""How far a long task is: told to whoever watches."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
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
