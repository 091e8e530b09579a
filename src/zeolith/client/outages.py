"""What is said, by whoever looks for a server, while there is none."""

from __future__ import annotations

import logging
from copy import copy

from ..errors import ClientDisconnected
from .connector import Connector, format_address

logger = logging.getLogger(__name__)


def not_connected(
    what: str, connector: Connector, failure: Exception | None, awaited: str = ""
) -> ClientDisconnected:
    """Return the error of a call that found no server.

    :param what: what went wrong, as in "timed out waiting for connection".
    :param failure: of the last attempt, if there was one.
    :param awaited: what has been reached and is waited for.
    """
    reasons = [awaited] if awaited else []
    if failure is not None:
        reasons.append(f"last failure: {failure}")
    why = f" ({'; '.join(reasons)})" if reasons else ""
    error = ClientDisconnected(f"{what} to {_where(connector)}{why}")
    error.__cause__ = failure
    return error


def anew(failure: Exception) -> Exception:
    """Return an exception like *failure*, which many threads may be about to raise.

    Each time an exception is raised it collects another traceback, and all that hangs on it.
    """
    error = copy(failure)
    error.__cause__ = failure.__cause__
    return error


def log_failure(
    name: str, connector: Connector, failure: Exception, before: Exception | None
) -> None:
    """Log that an attempt to connect has failed: once, for a server may be away for hours.

    :param name: whose attempt it was.
    :param before: the failure of the attempt before, if that failed.
    """
    logger.log(
        logging.DEBUG if str(failure) == str(before) else logging.WARNING,
        "%s: no connection to %s: %s",
        name,
        _where(connector),
        failure,
    )


def _where(connector: Connector) -> str:
    return ", ".join(map(format_address, connector.addresses))
