"""A conflict, as a storage asks to have it resolved; and what makes it ask us."""

from __future__ import annotations

import pickletools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, NamedTuple

import ZODB.utils
from ZODB.ConflictResolution import ConflictResolvingStorage
from ZODB.POSException import ConflictError

_MAX_HEAD: Final = 500
"""Bytes of a record in which the name of its class is looked for; real ones take 100."""

_STRINGS: Final = frozenset(
    {"BINUNICODE", "SHORT_BINUNICODE", "UNICODE", "SHORT_BINSTRING", "BINSTRING", "STRING"}
)
_PASSED: Final = frozenset({"PROTO", "FRAME", "MARK", "BINPUT", "LONG_BINPUT", "PUT", "MEMOIZE"})


def class_of(record: bytes) -> str:
    """Return the dotted name of the class that *record* says it is of; empty if that is not plain.

    Nothing is unpickled: a record may come from anybody.
    """
    # ZODB's records begin with the class itself, or with a pair of strings.
    found: list[str] = []
    try:
        for code, argument, _ in pickletools.genops(record[:_MAX_HEAD]):
            if code.name in _STRINGS:
                found.append(str(argument))
            elif code.name == "GLOBAL" and not found:
                found = str(argument).split(" ", 1)
            elif code.name not in _PASSED:
                return ""
            if len(found) == 2:
                break
    except ValueError:
        return ""
    name = ".".join(found)
    # It is going to stand in the log, and in messages of exceptions.
    return name if len(found) == 2 and name.isprintable() else ""


def conflict_error(oid: bytes, committed: bytes, read: bytes, data: bytes = b"") -> Exception:
    """Return the error of a conflict that is not resolved.

    ZODB's own way, to hand the record to the exception, may unpickle it.

    :param committed: the tid of what is committed.
    :param read: the tid of what the client had changed.
    :param data: the client's record, for the name of its class.
    """
    error: Exception = ConflictError(oid=oid, serials=(committed, read))
    error.class_name = class_of(data) or None  # type: ignore[attr-defined]
    return error


def _metadata(record: bytes) -> tuple[str, str]:
    module, _, name = class_of(record).rpartition(".")
    return module, name


Handler = Callable[..., bytes]
"""Gets the storage that asks, its own method, and the arguments of the latter."""


class _Turn(threading.local):
    handler: Handler | None = None


_turn: Final = _Turn()
_own: Final = ConflictResolvingStorage.tryToResolveConflict


def _ask_handler(storage: Any, *arguments: bytes, **named: bytes) -> bytes:
    handler = _turn.handler
    if handler is None:
        return _own(storage, *arguments, **named)  # type: ignore[no-any-return]
    return handler(storage, partial(_own, storage), *arguments, **named)


@contextmanager
def handling(handler: Handler | None) -> Iterator[None]:
    """Have *handler* asked to resolve the conflicts that this thread comes upon, whatever part of a
    storage does; None: ZODB does it itself."""
    before, _turn.handler = _turn.handler, handler
    try:
        yield
    finally:
        _turn.handler = before


def take_over() -> None:
    """Keep ZODB from unpickling records in conflict other than as :func:`handling` says.

    Concerns the whole process, where other databases notice nothing; any number of times.

    Storages such as RelStorage resolve with an object that is not the storage, so that ZODB's class
    is the only place where all of them can be met.  And ZODB's conflict errors, of any storage,
    load the pickle of a record whose class is not plain, only to name it: whoever can write could
    have a server run code in this way, though it resolves no conflicts.
    """
    ConflictResolvingStorage.tryToResolveConflict = _ask_handler
    ZODB.utils.get_pickle_metadata = _metadata


class Records(NamedTuple):
    """The three states that a resolution is about, as ZODB pickles them.

    :ivar old: what the client had read.
    :ivar committed: what another transaction made of it.
    :ivar new: what the client made of it.
    """

    old: bytes
    committed: bytes
    new: bytes


class Conflict(NamedTuple):
    """What a storage wants to have resolved.

    :ivar storage: the storage that asks; perhaps one inside of that which is served.
    :ivar own: its own method for that, with ZODB's arguments.
    :ivar oid: the object.
    :ivar committed: the tid of what is committed.
    :ivar read: the tid of what the client had changed.
    :ivar data: the new record, as the storage keeps it: a wrapper may have compressed it.
    :ivar committed_data: what is committed, in the same form, if the storage has it at hand.
    """

    storage: Any
    own: Callable[..., bytes]
    oid: bytes
    committed: bytes
    read: bytes
    data: bytes
    committed_data: bytes

    def resolve(self) -> bytes:
        """Have the storage resolve it, in this process.

        :raises ConflictError: it cannot.
        """
        arguments = self.oid, self.committed, self.read, self.data
        with handling(None):
            return self.own(*arguments, self.committed_data)

    def records(self) -> Records:
        """Read the states, and undo what a wrapper has done to them.

        :raises POSKeyError: the old state is not there any more.
        :raises Exception: whatever the storage or the wrapper raises.
        """
        load, plain = self.storage.loadSerial, self.storage._crs_untransform_record_data
        committed = self.committed_data or load(self.oid, self.committed)
        return Records(plain(load(self.oid, self.read)), plain(committed), plain(self.data))

    def to_store(self, record: bytes) -> bytes:
        """Return *record* as the storage keeps it."""
        data: bytes = self.storage._crs_transform_record_data(record)
        return data

    def error(self, record: bytes = b"") -> Exception:
        """Return the error that the client gets if it is not resolved.

        :param record: the new state, if it has been made plain already.
        """
        return conflict_error(self.oid, self.committed, self.read, record or self.data)
