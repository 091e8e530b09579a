"""``zeolith ctl``: its options, and whom they are passed to."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

import click

from ...config.runner import backoff_limit, directory, exit_codes, socket_path, umask, words
from ..signals import Signals


def _read_by(
    convert: Callable[[str], Any],
) -> Callable[[click.Context, click.Parameter, str | None], Any]:
    """Return a callback that reads an option as ``zeo.conf`` does."""

    def read(context: click.Context, parameter: click.Parameter, value: str | None) -> Any:
        if value is None:
            return None
        try:
            found = convert(value)
        except ValueError as error:
            raise click.BadParameter(
                ", ".join(filter(None, error.args)), context, parameter
            ) from None
        return tuple(found) if isinstance(found, list) else found

    return read


def _refuse(
    reason: str,
) -> Callable[[click.Context, click.Parameter, object], None]:
    """Return a callback for an option of zeoctl that has no place here."""

    def refuse(context: click.Context, parameter: click.Parameter, value: object) -> None:
        if value:
            raise click.UsageError(f"{parameter.opts[0]}: {reason}", context)

    return refuse


@click.command(context_settings={"allow_interspersed_args": False})
@click.option("-C", "--configure", metavar="FILE", help="The server's zeo.conf.  Required.")
@click.option(
    "-b",
    "--backoff-limit",
    metavar="SECONDS",
    callback=_read_by(backoff_limit),
    help="Longest delay between restarts.",
)
@click.option("-d", "--daemon", is_flag=True, help="Detach, also if the file says daemon false.")
@click.option(
    "-f", "--forever", is_flag=True, help="Go on restarting when the backoff limit is reached."
)
@click.option("-l", "--logfile", metavar="FILE", help="The file that logtail shows.")
@click.option(
    "-m", "--umask", metavar="OCTAL", callback=_read_by(umask), help="The server's umask."
)
@click.option(
    "-p",
    "--program",
    metavar="COMMAND",
    callback=_read_by(words),
    help="What to run in place of this server.",
)
@click.option(
    "-s",
    "--socket-name",
    metavar="PATH",
    callback=_read_by(socket_path),
    help="The daemon manager's socket.",
)
@click.option(
    "-T",
    "--start-timeout",
    type=click.IntRange(min=0),
    metavar="SECONDS",
    help="How long start and restart wait until the server answers.",
)
@click.option("-t", "--transcript", metavar="FILE", help="File for what the server prints.")
@click.option("-u", "--user", metavar="USER", help="Who runs the server; needs root.")
@click.option(
    "-x",
    "--exit-codes",
    metavar="LIST",
    callback=_read_by(exit_codes),
    help="Exit statuses, between commas, with which the server ends for good.",
)
@click.option(
    "-z",
    "--directory",
    metavar="DIR",
    callback=_read_by(directory),
    help="Where the server runs.",
)
@click.option(
    "-S",
    "--schema",
    hidden=True,
    expose_value=False,
    callback=_refuse("zeo.conf has one schema, which cannot be replaced"),
)
@click.option(
    "-i",
    "--interactive",
    is_flag=True,
    hidden=True,
    expose_value=False,
    callback=_refuse("there is no interactive shell: name one action"),
)
@click.option(
    "-X",
    "override",
    hidden=True,
    expose_value=False,
    callback=_refuse("values of zeo.conf cannot be overridden here: use the options, or the file"),
)
@click.argument("action", required=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def ctl(
    signals: Signals | None,
    /,
    configure: str | None,
    action: str | None,
    arguments: Sequence[str],
    **options: Any,
) -> int:
    """Run a server in the background, kept alive by a daemon manager.

    ACTION is start, stop, restart, status, fg, wait, kill, logreopen, logtail or show; `help`
    explains them.  The options override what the <runner> section of zeo.conf says.

    `status` exits with 0 if the server is up and answers, 3 if it is not running, 4 if it runs and
    does not answer, 5 if only its daemon manager runs.
    """
    from ...admin.actions import SUPERVISORD, help_text, run_action
    from ...admin.control import Control
    from ...admin.launching import CommandFailed
    from ...admin.managersocket import ManagerTrouble

    if action == "help":
        click.echo(help_text(*arguments[:1]))
        return 0
    if action is None and SUPERVISORD not in os.environ:
        raise click.UsageError("an action is missing", click.get_current_context())
    if configure is None:
        raise click.UsageError("-C is missing: name the zeo.conf", click.get_current_context())

    from ...admin.supervised import Supervised

    changes = {name: value for name, value in options.items() if value not in (None, False)}
    interrupted = threading.Event()
    if signals is not None:
        signals.direct_to(interrupted.set, None)
    control = Control(Supervised.load(configure, changes), interrupted.wait, _say)
    try:
        return run_action(control, action, arguments, os.environ)
    except (CommandFailed, ManagerTrouble) as error:
        click.echo(f"zeolith: {error}", err=True)
        return 1


def _say(line: str) -> None:
    click.echo(line)
