"""``runzeo``: a server in the foreground.

A package and no module: see :mod:`ZEO._beside`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from zeolith.cli.main import RUNZEO

from .. import _beside
from .._commands import run

_beside.refuse()


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Serve until a signal comes; exit with the status.

    :param args: as ``runzeo`` takes them; None: those of this process.
    """
    run(args, program=RUNZEO)
