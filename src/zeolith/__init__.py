"""A storage server and client for ZODB that speak ZEO's wire protocol.

Importing this package does nothing else: each name below brings what it needs when it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .client.feed import changes
    from .client.storage import ClientStorage
    from .config.credentials import tls
    from .shortcuts import DB, client, connection
    from .standalone import server

__all__ = ["DB", "ClientStorage", "__version__", "changes", "client", "connection", "server", "tls"]

__version__ = "0.1.0.dev0"

_HOMES = {
    "ClientStorage": "zeolith.client.storage",
    "DB": "zeolith.shortcuts",
    "changes": "zeolith.client.feed",
    "connection": "zeolith.shortcuts",
    "tls": "zeolith.config.credentials",
}

# These two are packages that can also be called; see zeolith._callable.
_CALLABLE_PACKAGES = frozenset({"client", "server"})


def __getattr__(name: str) -> Any:
    if name in _CALLABLE_PACKAGES:
        return import_module(f"{__name__}.{name}")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
