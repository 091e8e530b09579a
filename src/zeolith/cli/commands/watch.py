"""``zeolith watch``."""

from __future__ import annotations

import json
import logging
import os
import sys
from typing import TYPE_CHECKING, Any, Final

import click

from ..login import login_options
from ..target import make_target, timeout_option, tls_options

if TYPE_CHECKING:
    from ...admin.asking import Target
    from ...client.changes import Change
    from ...client.feed import ChangeFeed

SHOWN_OBJECTS: Final = 8
"""Objects named in a line of text; the others are counted."""


@click.command()
@click.argument("address", required=False)
@click.option("-C", "--configure", metavar="FILE", help="A zeo.conf that names the address.")
@click.option("--storage", default="1", show_default=True, metavar="NAME", help="The storage.")
@click.option(
    "--since",
    default="now",
    show_default=True,
    metavar="TID|now|start",
    help="Begin behind this transaction, 16 hexadecimal digits; or with all that there is.",
)
@click.option("--json", "as_json", is_flag=True, help="Print an object of JSON on each line.")
@timeout_option
@tls_options
@login_options
def watch(
    address: str | None, storage: str, since: str, as_json: bool, timeout: float, **options: Any
) -> int:
    """Show the transactions of a storage as they come.

    ADDRESS is PORT, HOST:PORT or the path of a socket, 127.0.0.1:8100 unless given.  Each line has
    the time of a transaction, its id, and which objects it created or changed.

    After a break it goes on where it was.  The exit status is 0 if it is ended by Ctrl-C, or
    because nobody reads its output any more; 1 if there is no server, or what was asked for is not
    known there.
    """
    from ...errors import ClientStorageError, ProtocolViolation

    position = parse_since(since)
    # What its warnings would say is said here, in words for who looks at a terminal.
    logging.getLogger("zeolith.client").addHandler(logging.NullHandler())
    target = make_target(address, timeout=timeout, **options)
    try:
        with open_feed(target, storage, position) as feed:
            show(feed, as_json)
    except KeyboardInterrupt:
        pass
    except BrokenPipeError:
        # Or the interpreter complains when it flushes what nobody will read.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ClientStorageError, ProtocolViolation) as error:
        click.echo(f"zeolith: {error}", err=True)
        return 1
    return 0


def parse_since(text: str) -> bytes | None:
    """Return the transaction id that *text* means; None for now.

    :raises click.UsageError: it means none.
    """
    if text in ("now", "start"):
        return None if text == "now" else bytes(8)
    digits = text.removeprefix("0x")
    try:
        tid = bytes.fromhex(digits)
    except ValueError:
        tid = b""
    if len(tid) != 8 or len(digits) != 16:
        raise click.UsageError(
            f"--since {text}: give the 16 hexadecimal digits of a transaction id, now or start"
        )
    return tid


def open_feed(target: Target, storage: str, since: bytes | None) -> ChangeFeed:
    """Connect to *target*.

    :raises ClientStorageError: that does not succeed.
    """
    from ...client.feed import changes

    return changes(
        target.address,
        since,
        storage=storage,
        wait_timeout=target.timeout,
        client_label="zeolith watch",
        ssl=target.ssl,
        ssl_server_hostname=target.server_hostname,
        credentials=target.principal,
    )


def show(feed: ChangeFeed, as_json: bool) -> None:
    """Print what *feed* yields, until it ends.

    :raises ClientStorageError: it cannot go on.
    """
    from ...errors import ClientDisconnected, ServerRefused

    render = render_json if as_json else render_text
    is_lost = False
    while True:
        try:
            change = next(feed, None)
        except ServerRefused:
            raise
        except ClientDisconnected as error:
            # A server that was there once is waited for.
            if not is_lost:
                click.echo(f"zeolith: {error}; going on looking for it", err=True)
            is_lost = True
            continue
        if change is None:
            return
        is_lost = False
        click.echo(render(change))


def render_text(change: Change) -> str:
    """Return a line for people."""
    count = len(change.oids)
    shown = [f"0x{int.from_bytes(oid, 'big'):x}" for oid in change.oids[:SHOWN_OBJECTS]]
    if count > SHOWN_OBJECTS:
        shown.append(f"and {count - SHOWN_OBJECTS} more")
    objects = f"{count} object{'' if count == 1 else 's'}"
    return f"{time_of(change.tid)} {change.tid.hex()} {objects}: {' '.join(shown)}".rstrip(": ")


def render_json(change: Change) -> str:
    """Return a line for programs."""
    return json.dumps(
        {
            "time": time_of(change.tid),
            "tid": change.tid.hex(),
            "oids": [oid.hex() for oid in change.oids],
        }
    )


def time_of(tid: bytes) -> str:
    """Return when a transaction was made, in UTC."""
    from datetime import UTC, datetime, timedelta

    from persistent.TimeStamp import TimeStamp

    # Any eight bytes are a time, between the years 1900 and 9917.
    seconds = TimeStamp(tid).timeTime()
    then = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    return then.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
