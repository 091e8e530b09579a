"""``zeolith nagios``."""

from __future__ import annotations

from typing import Any

import click

from ..login import login_options
from ..target import make_target, timeout_option, tls_options


def _limits(
    context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> dict[str, float]:
    from ...admin.nagios import LEVELS, RATES

    limits = {}
    for value in values:
        name, _, number = value.partition("=")
        if name not in LEVELS + RATES:
            raise click.BadParameter(
                f"{name!r} is none of {', '.join(LEVELS + RATES)}", context, parameter
            )
        try:
            limits[name] = float(number)
        except ValueError:
            raise click.BadParameter(f"{value!r}: write NAME=NUMBER", context, parameter) from None
    return limits


@click.command()
@click.argument("address")
@click.option("-m", "--output-metrics", is_flag=True, help="Print metrics, too.")
@click.option(
    "-s",
    "--status-path",
    metavar="FILE",
    help="Keep the counters here until the next check, which is what rates need.",
)
@click.option(
    "-u",
    "--time-units",
    type=click.Choice(["seconds", "minutes", "hours", "days"]),
    default="minutes",
    show_default=True,
    help="Rates are per one of these.",
)
@click.option(
    "-w",
    "--warning",
    metavar="NAME=NUMBER",
    multiple=True,
    callback=_limits,
    help="Warn if a metric is greater, as in waiting=5; rates need -s.",
)
@click.option(
    "-k",
    "--critical",
    metavar="NAME=NUMBER",
    multiple=True,
    callback=_limits,
    help="Critical if a metric is greater.",
)
@timeout_option
@tls_options
@login_options
def nagios(
    address: str,
    output_metrics: bool,
    status_path: str | None,
    time_units: str,
    warning: dict[str, float],
    critical: dict[str, float],
    **options: Any,
) -> int:
    """Check a server for Nagios, as zeo-nagios does.

    ADDRESS is HOST:PORT, [IPv6]:PORT or the path of a socket.  The exit status is 0 if all is well,
    1 for a warning (an empty storage, none at all, a limit passed), 2 if it is critical (no answer,
    a storage out of service, a limit passed) or the options are wrong.
    """
    from ...admin.nagios import RATES, Plan, check

    if status_path is None and (set(warning) | set(critical)) & set(RATES):
        raise click.UsageError("limits of rates have no effect without --status-path")
    if status_path is not None and not (output_metrics or warning or critical):
        raise click.UsageError("--status-path has no effect without -m, --warning or --critical")
    if not (address.isdecimal() or ":" in address or "/" in address):
        address = f"./{address}"  # the name of a socket in this directory, for zeo-nagios
    plan = Plan(
        metrics=output_metrics,
        status_path=status_path,
        unit=time_units,
        warning=warning,
        critical=critical,
    )
    result = check(make_target(address, **options), plan)
    click.echo(result.text)
    return result.status
