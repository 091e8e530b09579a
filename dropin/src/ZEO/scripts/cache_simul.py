"""What size of a cache would give which hit rate: ``zeolith cache simulate``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from ZEO._commands import run


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Print the hit rates; exit with the status.

    :param args: as ``zeolith cache simulate`` takes them; None: those of this process.
    """
    run(args, "cache", "simulate")


if __name__ == "__main__":
    main()
