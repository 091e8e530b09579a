"""What is shown while a pack runs: a bar on a terminal, lines in a log."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, Final, Self

import click

_STEPS: Final = 1000
_LINE_EVERY: Final = 10.0
"""Seconds between two lines about progress where there is no terminal."""

_NAMES: Final = {
    "scan": "reading the database",
    "trace": "following references",
    "look-ahead": "reading what is newer",
    "copy": "copying",
    "follow": "copying what is newer",
    "blobs": "removing blobs",
}


class PackDisplay:
    """A context manager; used by one thread."""

    def __init__(self) -> None:
        self._is_terminal = sys.stdout.isatty()
        self._bar: Any = None
        self._shown = 0
        self._told_at = time.monotonic()

    def say(self, text: str) -> None:
        """Show a line."""
        self._end_bar()
        prefix = "" if self._is_terminal else time.strftime("%Y-%m-%d %H:%M:%S ")
        click.echo(prefix + text)

    def complain(self, text: str) -> None:
        """Show a line about what went wrong."""
        self._end_bar()
        click.echo(f"zeolith: {text}", err=True)

    def progress(self, fraction: float, phase: str) -> None:
        """So much is done: 0 to 1."""
        name = _NAMES.get(phase, "starting")
        if not self._is_terminal:
            if time.monotonic() - self._told_at >= _LINE_EVERY:
                self._told_at = time.monotonic()
                self.say(f"{fraction:.0%} done, {name}")
            return
        if self._bar is None:
            self._shown = 0
            self._bar = click.progressbar(
                length=_STEPS, show_eta=False, item_show_func=lambda item: item or ""
            )
            self._bar.__enter__()
        step = max(0, int(fraction * _STEPS) - self._shown)
        self._shown += step
        self._bar.update(step, name)

    def _end_bar(self) -> None:
        if self._bar is not None:
            bar, self._bar = self._bar, None
            bar.__exit__(None, None, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end_bar()
