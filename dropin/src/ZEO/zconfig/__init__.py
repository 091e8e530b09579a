"""What ``<clientstorage>`` opens, for schemas of one's own that name this datatype.

A package and no module: see :mod:`ZEO._beside`.
"""

from __future__ import annotations

from zeolith.config.client import ZeoClient as ClientStorageConfig

from .. import _beside

__all__ = ["ClientStorageConfig"]

_beside.refuse()
