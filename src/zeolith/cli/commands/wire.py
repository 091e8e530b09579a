"""``zeolith wire``."""

from __future__ import annotations

import asyncio
import io
import json
import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from ..signals import Signals
from ..target import DEFAULT_ADDRESS

if TYPE_CHECKING:
    from ...admin.wiretap import Overheard, Remark, Tally
    from ...config.address import Address


@click.command()
@click.argument("address", required=False)
@click.option(
    "--listen",
    metavar="ADDRESS",
    default="127.0.0.1:0",
    show_default=True,
    help="Where clients are to connect.  Port 0: a free one, which the first line names.",
)
@click.option(
    "--max", "most", type=click.IntRange(min=1), metavar="N", help="End after N messages."
)
@click.option(
    "--data",
    is_flag=True,
    help="Show the beginning of records, blobs and other bytes, and not only how many they are.",
)
@click.option("--json", "as_json", is_flag=True, help="Print each message as a line of JSON.")
@click.pass_obj
def wire(
    signals: Signals | None,
    address: str | None,
    listen: str,
    most: int | None,
    data: bool,
    as_json: bool,
) -> int:
    """Show what clients and a server say to each other, for debugging.

    ADDRESS is that of the server: PORT, HOST:PORT or the path of a socket, 127.0.0.1:8100 unless
    given.  Clients connect to the address that the first line names, in its place; every message is
    passed on as it is, and shown decoded.  Connections that use TLS are passed on, but not shown.

    Ctrl-C ends it with a summary and the exit status 0.
    """
    from ...config.address import local_address, parse_address

    target = local_address(parse_address(address or DEFAULT_ADDRESS, "ADDRESS"))
    place = parse_address(listen, "--listen")
    if target == place:
        raise click.UsageError("--listen and ADDRESS are the same: clients would never arrive")
    return asyncio.run(_tap(signals, target, place, most, _Printer(data, as_json)))


async def _tap(
    signals: Signals | None,
    target: Address,
    place: Address,
    most: int | None,
    printer: _Printer,
) -> int:
    from ...admin.wiretap import CannotListen, Overheard, Wiretap
    from ...config.address import format_address

    loop = asyncio.get_running_loop()
    ended = asyncio.Event()

    def interrupt() -> None:
        loop.call_soon_threadsafe(ended.set)

    if signals is not None:
        signals.direct_to(interrupt, None)

    def report(item: Overheard | Remark) -> None:
        if ended.is_set():
            return
        is_last = isinstance(item, Overheard) and tap.tally.messages == most
        if not printer.print(item) or is_last:
            ended.set()

    tap = Wiretap(target, report)
    try:
        where = await tap.listen(place)
    except CannotListen as error:
        click.echo(f"zeolith: {error}", err=True)
        return 1
    try:
        if printer.begin(format_address(where), format_address(target)):
            await ended.wait()
    finally:
        await tap.close()
    printer.summarize(tap.tally)
    return 1 if printer.has_failed else 0


class _Printer:
    """Writes to standard output until nobody reads it any more.

    :param with_data: show bytes, too.
    :param as_json: one object of JSON per line.
    :ivar has_failed: whether it could not be written, as to a full disk; that is told then.
    """

    def __init__(self, with_data: bool, as_json: bool) -> None:
        self._with_data = with_data
        self._as_json = as_json
        self.has_failed = False
        if isinstance(sys.stdout, io.TextIOWrapper):
            # What peers say may have letters that the terminal has not.
            sys.stdout.reconfigure(errors="backslashreplace")

    def begin(self, where: str, target: str) -> bool:
        """Tell where clients are to connect; return whether anybody reads."""
        return self._write(
            lambda: {"listening": where, "server": target},
            lambda: f"{where} passes on to {target}; Ctrl-C ends it",
        )

    def print(self, item: Overheard | Remark) -> bool:
        """Write one line; return whether anybody still reads."""
        from ...admin.wirelines import item_as_json, render_item

        arguments = item, time.time(), self._with_data
        return self._write(lambda: item_as_json(*arguments), lambda: render_item(*arguments))

    def summarize(self, tally: Tally) -> None:
        """Write how many messages there were."""
        from ...admin.wirelines import render_summary, summary_as_json

        self._write(lambda: summary_as_json(tally), lambda: render_summary(tally))

    def _write(self, as_object: Callable[[], Any], as_text: Callable[[], str]) -> bool:
        try:
            print(json.dumps(as_object()) if self._as_json else as_text(), flush=True)
        except OSError as error:
            if not isinstance(error, BrokenPipeError):
                self.has_failed = True
                click.echo(f"zeolith: cannot write: {error.strerror}", err=True)
            # The interpreter would complain about what it still holds when it ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return False
        return True
