"""Entry point of the command ``zeolith``.

Exit statuses: 0 clean end, also by SIGINT and SIGTERM; 1 failure at run time, a supervisor may
try again; 2 wrong usage or configuration, trying again does not help.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NoReturn

# Nothing slow may be imported here: a signal that comes before run() has its default effect.
from .signals import Signals

if TYPE_CHECKING:
    import click

OK, FAILURE, USAGE = 0, 1, 2

ZEOLITH: Final = "zeolith"
START: Final = "python -m zeolith.start"
RUNZEO: Final = "python -m zeolith.runzeo"
ZEOPACK: Final = "python -m zeolith.zeopack"


def run(program: str = ZEOLITH) -> NoReturn:
    """Run a program with the arguments of this process, and exit with its status.

    :param program: one of :data:`ZEOLITH`, :data:`START`, :data:`RUNZEO` and :data:`ZEOPACK`.
    """
    sys.exit(main(sys.argv[1:], Signals(), program=program))


def main(
    args: Sequence[str],
    signals: Signals | None = None,
    *,
    program: str = ZEOLITH,
    defaults: Mapping[str, Any] | None = None,
) -> int:
    """Run a program with *args*, its own name not among them.

    :param signals: what takes the signals of this process; without it they keep their effect.
    :param program: see :func:`run`.
    :param defaults: values of options that *args* does not give, by the names of their parameters;
        for ``zeolith`` such mappings by the names of its commands.
    :return: the exit status.
    """
    import click

    from ..errors import ClientDisconnected, ConfigurationError

    try:
        status = _command(program).main(
            list(args),
            prog_name=program,
            standalone_mode=False,
            obj=signals,
            default_map=defaults,
        )
    except click.ClickException as error:
        error.show()
        return USAGE
    except ConfigurationError as error:
        print(f"zeolith: {error}", file=sys.stderr)
        for note in getattr(error, "__notes__", ()):
            print(f"zeolith: {note}", file=sys.stderr)
        return USAGE
    except ClientDisconnected as error:
        print(f"zeolith: {error}", file=sys.stderr)
        return FAILURE
    except Exception:
        logging.getLogger("zeolith").exception("the command failed")
        return FAILURE
    return status if isinstance(status, int) else OK


def _command(program: str) -> click.Command:
    if program == START:
        from .start import start

        return start
    if program == RUNZEO:
        from .commands.serve import serve

        return serve
    if program == ZEOPACK:
        from .commands.pack import pack

        return pack
    from .group import zeolith

    return zeolith
