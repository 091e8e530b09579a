"""What the commands that read traces of caches have in common."""

from __future__ import annotations

from collections.abc import Iterator

import click

from ..cache.traces import Event, TraceDamaged, TraceReader
from .main import FAILURE, OK
from .numbers import NumberRange

trace_argument = click.argument("trace")

interval_option = click.option(
    "-i",
    "--interval",
    type=NumberRange(min=0.01, max=60),
    metavar="MINUTES",
    default=15.0,
    show_default=True,
    help="Length of the intervals; at most 60.",
)


class Events:
    """Iterates over a trace to its end, or to where it cannot be read on; says so.

    :param reader: of the trace.
    :param name: of the trace.
    :ivar status: exit status of a command: a trace that ends within a record, as one does that is
        still being written, is as good as another.
    """

    def __init__(self, reader: TraceReader, name: str) -> None:
        self._reader = reader
        self._name = "standard input" if name == "-" else name
        self.status = OK

    def __iter__(self) -> Iterator[Event]:
        reader = self._reader
        try:
            yield from reader
        except TraceDamaged as error:
            if reader.count:
                self._say(f"{error}; this is about the {reader.count:,} records before")
                if not error.is_cut:
                    self._say("with --check, zeolith cache stats looks for records behind it")
                    self.status = FAILURE
            else:
                self._say(f"{error}: it is no trace of a client's cache")
        except OSError as error:
            self._say(f"cannot be read on: {error}")
            self.status = FAILURE
        if reader.skipped:
            self._say(f"{reader.skipped:,} bytes that are no records were passed over")
        if not reader.count:
            self._say("there are no records")
            self.status = FAILURE

    def interrupted(self) -> None:
        """Say that somebody has ended the reading."""
        self._say(f"interrupted; this is about the {self._reader.count:,} records before")
        self.status = FAILURE

    def _say(self, text: str) -> None:
        click.echo(f"zeolith: {self._name}: {text}", err=True)
