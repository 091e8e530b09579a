"""Objects that nobody names: left by a crash or by an abort, or their blobs were packed away."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from .localblobs import stubs_of
from .objects import Listed
from .stubs import read_stub

ORPHAN_AGE: Final = 3600.0
"""Seconds for which an object is left alone that nobody names: somebody may be about to do so, such
as ``zeolith blob upload`` in another process."""

_NAME: Final = re.compile(r"[0-9a-f]{16}/[0-9a-f]{16}-[0-9a-f]{12}")


def find_orphans(
    listed: Iterable[Listed], helper: Any, is_in_flight: Callable[[str], bool], age: float
) -> Iterator[str]:
    """Yield the names of objects that can be deleted.

    :param listed: what the store has.
    :param helper: ZODB's ``FilesystemHelper`` of the blob directory.
    :param is_in_flight: whether an object is about to be named; its stub is written before that
        becomes false, so it is asked first.
    :param age: see :data:`ORPHAN_AGE`.
    :raises OSError: a stub cannot be read: nobody knows what it names.
    """
    for name, seconds in listed:
        # What does not look like ours is not ours.
        if seconds < age or not _NAME.fullmatch(name) or is_in_flight(name):
            continue
        stubs = [read_stub(path) for path in stubs_of(helper, bytes.fromhex(name[:16]))]
        if not any(stub is None or stub.name == name for stub in stubs):
            yield name
