"""What ``zeolith blob get`` and ``put`` have in common: their words, errors, and the bar."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import click

from .console import Console
from .main import FAILURE

if TYPE_CHECKING:
    from ..admin.blobtransfer import Progress


def split_words(words: tuple[str, ...], count: int, usage: str) -> tuple[str | None, list[str]]:
    """Return the address, None if there is none, and the *count* words after it.

    :raises click.UsageError: there are more or fewer.
    """
    if len(words) not in (count, count + 1):
        raise click.UsageError(f"give {usage}")
    return (words[0] if len(words) > count else None), list(words[-count:])


class BlobDisplay:
    """A bar that begins when it is known how long it is; a context manager."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._console = Console()
        self._stack = ExitStack()
        self._advance: Progress | None = None

    def progress(self, done: int, total: int | None) -> None:
        """So many bytes have passed."""
        if total is None:
            return
        if self._advance is None:
            advance = self._stack.enter_context(self._console.progress(self._label, total))
            shown = 0

            def show(done: int, total: int | None) -> None:
                nonlocal shown
                # A transfer that begins anew after a break goes back; the bar waits for it.
                advance(max(done - shown, 0))
                shown = max(done, shown)

            self._advance = show
        self._advance(done, total)

    def __enter__(self) -> BlobDisplay:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()


@contextmanager
def told_of_failures(context: click.Context) -> Iterator[None]:
    """Have what can go wrong with a server or a file end the command with a line, not a trace."""
    from ZODB.POSException import POSError

    from ..admin.blobtransfer import BlobNotMoved

    try:
        yield
    except BlobNotMoved as error:
        click.echo(f"zeolith: {error}", err=True)
    except OSError as error:
        where = f"{error.filename}: " if isinstance(error.filename, str) else ""
        click.echo(f"zeolith: {where}{error.strerror or error}", err=True)
    except POSError as error:
        click.echo(f"zeolith: {error or type(error).__name__}", err=True)
    else:
        return
    context.exit(FAILURE)
