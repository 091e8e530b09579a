"""``zeopack``: packing storages of running servers."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

from ZEO._commands import run
from zeolith.cli.main import ZEOPACK


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Pack; exit with the status.

    :param args: as ``zeopack`` takes them; None: those of this process.
    """
    if args is None:
        args = sys.argv[1:]
    # As with ZEO's, which does not take the lack of all arguments for a mistake.
    run(args or ["--help"], program=ZEOPACK)


if __name__ == "__main__":
    main()
