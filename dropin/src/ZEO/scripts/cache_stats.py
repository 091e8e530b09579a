"""What a trace of a client's cache holds: ``zeolith cache stats``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from ZEO._commands import run


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Print the statistics; exit with the status.

    :param args: as ``zeolith cache stats`` takes them; None: those of this process.
    """
    run(args, "cache", "stats")


if __name__ == "__main__":
    main()
