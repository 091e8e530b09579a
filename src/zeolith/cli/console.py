"""Telling on the terminal how far a long task is, and letting it be interrupted."""

from __future__ import annotations

import _thread
import logging
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Final

import click

from .main import FAILURE
from .signals import Signals

LINE_INTERVAL: Final = 10.0
"""Seconds between two lines about something that takes long, where there is no terminal."""


class Console:
    """A report on standard error, for results on standard output.

    :param verbose: tell details too, and let ZODB tell what it has to.
    """

    def __init__(self, verbose: bool = False) -> None:
        self._verbose = verbose
        self._is_terminal = sys.stderr.isatty()
        if not verbose:
            silence_zodb()

    def line(self, text: str) -> None:
        """Say something that everybody should read."""
        click.echo(text, err=True)

    def detail(self, text: str) -> None:
        """Say something for those who asked for more."""
        if self._verbose:
            self.line(text)

    def progress(self, label: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        """Show a bar on a terminal, lines now and then elsewhere."""
        return self._bar(label, total) if self._is_terminal else self._lines(label, total)

    @contextmanager
    def _bar(self, label: str, total: int) -> Iterator[Callable[[int], None]]:
        step = max(total // 500, 1)
        with click.progressbar(
            length=total, label=label, file=sys.stderr, update_min_steps=step
        ) as bar:
            yield bar.update

    @contextmanager
    def _lines(self, label: str, total: int) -> Iterator[Callable[[int], None]]:
        done = 0
        due = time.monotonic() + LINE_INTERVAL

        def advance(count: int) -> None:
            nonlocal done, due
            done += count
            if time.monotonic() >= due:
                due = time.monotonic() + LINE_INTERVAL
                self.line(f"{label}: {done * 100 // max(total, 1)} % of {total} bytes")

        self.detail(f"{label}: {total} bytes")
        yield advance


def silence_zodb() -> None:
    """Keep ZODB from writing to standard error what it tells whoever runs a database.

    It finds many a thing worth a warning that an administrator need not act on, such as an index
    that is older than its file.
    """
    logging.getLogger("ZODB").addHandler(logging.NullHandler())


@contextmanager
def interruptible(context: click.Context) -> Iterator[None]:
    """Have the signals that end a process end the block in order, by KeyboardInterrupt.

    An interrupted task has not done what it should: the command then ends with status 1.
    """
    if not isinstance(context.obj, Signals):
        yield
        return
    # Ctrl-C is ignored in a process that a shell has put into the background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    context.obj.direct_to(_thread.interrupt_main, None)
    try:
        yield
    except KeyboardInterrupt:
        click.echo("zeolith: interrupted", err=True)
        context.exit(FAILURE)
