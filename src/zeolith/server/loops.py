"""Event loops."""

from __future__ import annotations

import asyncio
import importlib
import logging
from typing import Any, Literal

from ..errors import ConfigurationError

logger = logging.getLogger(__name__)


def new_event_loop(kind: Literal["auto", "uvloop", "asyncio"]) -> asyncio.AbstractEventLoop:
    """Return a new loop.

    :raises ConfigurationError: uvloop is wanted and not installed.
    """
    if kind != "asyncio":
        try:
            uvloop = importlib.import_module("uvloop")
        except ImportError:
            if kind == "uvloop":
                raise ConfigurationError(
                    "loop", "uvloop is not installed", "install zeolith[uvloop]"
                ) from None
        else:
            loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
            return loop
    return asyncio.new_event_loop()


def handle_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what a loop complains about; what a peer caused takes one line, no traceback."""
    error = context.get("exception")
    message = context.get("message", "error in the event loop")
    if isinstance(error, (ConnectionError, TimeoutError)):
        logger.warning("connection failed: %s: %s", message, error)
    else:
        logger.error("%s", message, exc_info=error)
