"""Zeolith's commands under the names of ZEO's."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

from zeolith.cli.main import ZEOLITH, main
from zeolith.cli.signals import Signals


def run(args: Sequence[str] | None, *words: str, program: str = ZEOLITH) -> NoReturn:
    """Run a command and exit with its status.

    :param args: its arguments; None: those of this process.
    :param words: what stands before these.
    :param program: see :func:`zeolith.cli.main.run`.
    """
    if args is None:
        args = sys.argv[1:]
    sys.exit(main([*words, *args], Signals(), program=program))
