"""The client storage, as software for ZEO calls it.

It is Zeolith's, which takes the same arguments.  Where Zeolith refuses what would have no effect,
ZEO takes it silently; here it is left out, and the log says so.

A package and no module: see :mod:`ZEO._beside`.
"""

from __future__ import annotations

import inspect
import logging
from typing import Any, Final

from zeolith.client.ineffective import leave_out
from zeolith.client.storage import ClientStorage as Original

from ..Exceptions import ClientDisconnected, ClientStorageError, UnrecognizedResult

__all__ = ["ClientDisconnected", "ClientStorage", "ClientStorageError", "UnrecognizedResult"]

logger = logging.getLogger(__name__)

_SIGNATURE: Final = inspect.signature(Original)

_UNASKED: Final = {"min_disconnect_poll": 5, "max_disconnect_poll": 300}
"""What ZODB's ``<zeoclient>`` passes where the configuration says nothing.  These are of a client
that is long gone: one whose server was restarted would be away for minutes."""


class _AnyClientStorage(type):
    """Has ``isinstance(storage, ClientStorage)`` hold for storages opened by Zeolith itself, too:
    by ``<clientstorage>``, ``<zeolith>`` and a URI."""

    def __instancecheck__(cls, instance: object) -> bool:
        if cls is ClientStorage:
            return isinstance(instance, Original)
        return super().__instancecheck__(instance)


class ClientStorage(Original, metaclass=_AnyClientStorage):
    """A storage at a server: :class:`zeolith.ClientStorage`, with the arguments of ZEO 6.2's.

    :raises ConfigurationError: an argument cannot be used; it names it and the way out.
    :raises ClientDisconnected: with *wait*: no server within *wait_timeout*.
    """

    def __init__(self, *args: Any, **kw: Any) -> None:
        given = _SIGNATURE.bind(*args, **kw).arguments
        for name, value in _UNASKED.items():
            if given.get(name) == value:
                del given[name]
        keywords, reasons = leave_out(given)
        for reason in reasons:
            logger.warning("%s", reason)
        super().__init__(**keywords)


# So that help() and tools that look at signatures say more than *args.
ClientStorage.__signature__ = _SIGNATURE
