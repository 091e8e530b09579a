"""The proof that the objects in a store are those of this blob directory.

Whoever deletes what nobody names must know what the names are.  So both sides bear the same mark, a
number drawn by lot: a file in the blob directory, an object in the store.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable
from typing import Final

from .failures import StoreUnavailable
from .objects import ObjectStore
from .stubs import sync_file

FILE_NAME: Final = ".zeolith-store"


class Owner:
    """What one blob directory knows of its place in a store.  Any thread.

    :param directory: the blob directory.
    :param store: the place.
    :param begin: called before both get their mark: this place has nothing of the directory yet.
    """

    def __init__(self, directory: str, store: ObjectStore, begin: Callable[[], None]) -> None:
        self._path = os.path.join(directory, FILE_NAME)
        self._store = store
        self._begin = begin
        self._lock = threading.Lock()
        self._is_known = False

    @property
    def is_known(self) -> bool:
        """Whether the place was found to be this directory's."""
        return self._is_known

    def check(self, *, anew: bool = False) -> None:
        """Return if the place is this directory's; both get their mark if neither has one.

        :param anew: look, even if that is known.
        :raises StoreUnavailable: it is another's, or cannot be asked.
        :raises OSError: the file cannot be read or written.
        """
        with self._lock:
            if self._is_known and not anew:
                return
            self._is_known = False
            ours, theirs = self._read(), self._store.read_marker()
            if ours is None and theirs is None:
                self._begin()
                new = secrets.token_hex(16)
                # First the store: a file alone would say that the store has lost its mark.
                self._store.write_marker(new)
                # Somebody else may have been quicker.
                theirs = self._store.read_marker()
                if theirs == new:
                    self._write(new)
                    ours = new
            if ours is None:
                raise StoreUnavailable(
                    "the place in the object store belongs to another blob directory. Choose "
                    "another prefix; or, if that directory was this one before it was restored: "
                    "if this one has stubs (*.cold), copy the object zeolith-blobs behind the "
                    f"prefix to {self._path}; if not, delete that object"
                )
            if theirs is None:
                raise StoreUnavailable(
                    f"the place in the object store is not that of {self._path}, which says that "
                    "there is one. Correct bucket, prefix or endpoint-url; or, if the store is to "
                    "begin anew, remove that file"
                )
            if ours != theirs:
                raise StoreUnavailable(
                    f"the place in the object store belongs to another blob directory than that of "
                    f"{self._path}. Choose another prefix"
                )
            self._is_known = True

    def _read(self) -> str | None:
        try:
            with open(self._path, encoding="ascii", errors="replace") as file:
                return file.read().strip()
        except FileNotFoundError:
            return None

    def _write(self, text: str) -> None:
        temporary = f"{self._path}.tmp"
        with open(temporary, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self._path)
        sync_file(self._path)
