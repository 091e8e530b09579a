"""The exceptions of the client, under the names that ZEO has for them.

They are Zeolith's own classes, so that either name catches both.  A package and no module: see
:mod:`ZEO._beside`.
"""

from __future__ import annotations

from zeolith.errors import ClientDisconnected, ClientStorageError
from zeolith.errors import ServerError as ServerException
from zeolith.errors import ServerRefused as ProtocolError

from .. import _beside

__all__ = [
    "ClientDisconnected",
    "ClientStorageError",
    "ProtocolError",
    "ServerException",
    "UnrecognizedResult",
]

_beside.refuse()


class UnrecognizedResult(ClientStorageError):
    """Raised by nobody, as in ZEO; here because it is imported."""
