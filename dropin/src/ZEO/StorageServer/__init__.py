"""What is inside ZEO's server, which Zeolith's does not have: importing it says what to do instead.

A package and no module: see :mod:`ZEO._beside`.
"""

from __future__ import annotations

from .. import _beside

_beside.refuse()

raise ImportError(
    "ZEO.StorageServer is the inside of ZEO's server, and zeolith-zeo has none of it. Start a "
    "server with ZEO.server(), runzeo or zeolith serve; for more, install ZEO in its place",
    name=__name__,
)
