"""Stopping quietly while nothing can be stopped yet.

A server that listens takes its signals in its event loop.  Before that, while files are opened and
an index is perhaps rebuilt, SIGINT and SIGTERM end the work with an exception of our own: one that
neither prints a traceback nor is caught by code that handles errors.
"""

from __future__ import annotations

import signal
from types import FrameType


class StopRequested(BaseException):
    """Somebody asked the process to stop."""


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise StopRequested


def raise_on_stop() -> None:
    """Let SIGINT and SIGTERM raise :class:`StopRequested` in the main thread.

    Only for a process that is ours; call it in the main thread.
    """
    signal.signal(signal.SIGINT, _stop)
    signal.signal(signal.SIGTERM, _stop)
