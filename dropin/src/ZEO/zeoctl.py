"""``zeoctl``: a server in the background."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from ZEO._commands import run


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Carry out one action; exit with its status.

    :param args: as ``zeolith ctl`` takes them; None: those of this process.
    """
    run(args, "ctl")


if __name__ == "__main__":
    main()
