"""``zeo-nagios``: a check of a server for Nagios."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from ZEO._commands import run


def check(addr: str, output_metrics: bool, status: str | None, per: str) -> int | None:
    """Check a server and print the result.

    :param addr: ``host:port``, ``[IPv6]:port`` or the path of a socket.
    :param output_metrics: whether to print metrics.
    :param status: file that keeps counters until the next check, which rates need; or None.
    :param per: unit of time for rates: ``seconds``, ``minutes``, ``hours`` or ``days``.
    :return: None if all is well, 1 for a warning, 2 if it is critical.
    :raises ConfigurationError: the address or the status file cannot be used.
    """
    from zeolith.admin.nagios import Plan
    from zeolith.admin.nagios import check as look
    from zeolith.cli.target import make_target

    plan = Plan(metrics=bool(output_metrics), status_path=status or None, unit=per)
    result = look(make_target(addr if ":" in addr or "/" in addr else f"./{addr}"), plan)
    print(result.text)
    return result.status or None


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Check a server; exit with the status.

    :param args: as ``zeo-nagios`` takes them; None: those of this process.
    """
    run(args, "nagios")


if __name__ == "__main__":
    main()
