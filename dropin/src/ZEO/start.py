"""``start.py``: a server that is started again when it ends unexpectedly, as ZEO 2.0 had it.

``python -m ZEO.start -p PORT``, or ``python lib/python/ZEO/start.py -p PORT`` where this package
was copied into an application's directory.  The options are those of ``python -m zeolith.start``;
``-s`` and ``-D`` stay in the foreground and start nothing again.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn


def _is_a_path() -> bool:
    """Whether this file is run by its path: then it is this directory that modules come from."""
    return __name__ == "__main__" and not __package__


if _is_a_path():
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Start a server; exit with 0 when it listens, 2 if it cannot with these arguments.

    :param args: as ``start.py`` takes them; None: those of this process.
    """
    from ZEO._supervised import start

    sys.exit(start(sys.argv[1:] if args is None else list(args)))


if __name__ == "__main__":
    main()
