"""The few types that every part of Zeolith shares.

Object ids and transaction ids are eight bytes on the wire, in storages and in
application code.  They are declared as types of their own so that a signature
says which of the two it wants; at run time both are plain ``bytes``.
"""

from typing import NewType

Oid = NewType("Oid", bytes)
"""Object id: eight bytes, big-endian."""

Tid = NewType("Tid", bytes)
"""Transaction id: eight bytes, big-endian, ordered by time."""

NO_TID = Tid(b"\0" * 8)
"""The tid of a database without transactions (and of an object never stored)."""

MAX_TID = Tid(b"\x7f" + b"\xff" * 7)
"""Greater than every tid a storage hands out; ``loadBefore(oid, MAX_TID)`` is the current state."""

ROOT_OID = Oid(b"\0" * 8)
"""The one object whose id clients choose themselves."""
