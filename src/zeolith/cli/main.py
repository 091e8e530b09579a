"""Entry point of the command ``zeolith``.

Exit statuses: 0 clean end, also by SIGINT and SIGTERM; 1 failure at run time, a supervisor may
try again; 2 wrong usage or configuration, trying again does not help.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import NoReturn

# Nothing slow may be imported here: a signal that comes before run() has its default effect.
from .signals import Signals

OK, FAILURE, USAGE = 0, 1, 2


def run() -> NoReturn:
    """Run the command with the arguments of this process, and exit with its status."""
    sys.exit(main(sys.argv[1:], Signals()))


def main(args: Sequence[str], signals: Signals | None = None) -> int:
    """Run the command with *args*, the name of the command not among them.

    :param signals: what takes the signals of this process; without it they keep their effect.
    :return: the exit status.
    """
    import click

    from ..errors import ConfigurationError
    from .group import zeolith

    try:
        status = zeolith.main(list(args), prog_name="zeolith", standalone_mode=False, obj=signals)
    except click.ClickException as error:
        error.show()
        return USAGE
    except ConfigurationError as error:
        print(f"zeolith: {error}", file=sys.stderr)
        return USAGE
    except Exception:
        logging.getLogger("zeolith").exception("the command failed")
        return FAILURE
    return status if isinstance(status, int) else OK
