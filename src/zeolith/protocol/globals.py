"""The globals that a pickled message may name, and what a call to each makes.

The names from the network are keys of :data:`GLOBALS` and nothing more: nothing is imported, looked
up as an attribute or called but the functions of this module, which build plain values.
Exceptions stay names, see :class:`.values.RemoteException`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple, TypeAlias

from ..errors import UndecodableMessage
from .values import Prefix, RemoteException

KeyCheck: TypeAlias = Callable[[Iterable[Any]], None]
"""Raises UndecodableMessage for values that must not become keys."""


class Global(NamedTuple):
    """A global of the table; a decoder's stack holds it from its naming to its call.

    :ivar name: dotted name.
    :ivar make: takes the arguments of the call and a check for those that become keys, returns
        the value; raises UndecodableMessage.
    :ivar is_exception: whether calls make a :class:`.values.RemoteException`.
    """

    name: str
    make: Callable[[tuple[Any, ...], KeyCheck], Any]
    is_exception: bool = False


def _make_dict(args: tuple[Any, ...], check_keys: KeyCheck) -> dict[Any, Any]:
    if not args:
        return {}
    if len(args) == 1:
        (pairs,) = args
        if type(pairs) is dict:
            return pairs
        if type(pairs) in (list, tuple) and all(
            type(pair) in (list, tuple) and len(pair) == 2 for pair in pairs
        ):
            check_keys(pair[0] for pair in pairs)
            return dict(pairs)
    raise UndecodableMessage("a dictionary is made of pairs")


def _make_set(args: tuple[Any, ...], check_keys: KeyCheck) -> set[Any]:
    if not args:
        return set()
    if len(args) == 1 and type(args[0]) in (list, tuple):
        check_keys(args[0])
        return set(args[0])
    raise UndecodableMessage("a set is made of a list")


def _make_frozenset(args: tuple[Any, ...], check_keys: KeyCheck) -> frozenset[Any]:
    return frozenset(_make_set(args, check_keys))


def _make_bytes(args: tuple[Any, ...], check_keys: KeyCheck) -> bytes:
    if not args:
        return b""
    if len(args) == 1 and type(args[0]) is bytes:
        return args[0]
    raise UndecodableMessage("bytes are made of bytes")


def _make_encoded(args: tuple[Any, ...], check_keys: KeyCheck) -> bytes:
    # Protocol 2 has no bytes: they are written as text and the call that turns them into bytes.
    if len(args) == 2 and type(args[0]) is str and args[1] in ("latin1", "latin-1"):
        try:
            return args[0].encode("latin-1")
        except UnicodeEncodeError:
            pass
    raise UndecodableMessage("bytes are made of latin-1 text")


def _make_prefix(args: tuple[Any, ...], check_keys: KeyCheck) -> Prefix:
    if args:
        raise UndecodableMessage("a Prefix is made of its state")
    return Prefix(())


def _make_rebuilt(args: tuple[Any, ...], check_keys: KeyCheck) -> RemoteException:
    # How exceptions of ZODB describe themselves: class and state.
    if len(args) == 2 and type(args[1]) is dict:
        cls, state = args
        if type(cls) is Global and cls.is_exception:
            return RemoteException(cls.name, state)
    raise UndecodableMessage("an exception is made of its class and state")


def _exception(name: str) -> Global:
    return Global(name, lambda args, check_keys: RemoteException(name, args), True)


_BUILTIN_EXCEPTIONS: Final = (
    "ArithmeticError",
    "AssertionError",
    "AttributeError",
    "BlockingIOError",
    "BrokenPipeError",
    "ConnectionAbortedError",
    "ConnectionError",
    "ConnectionRefusedError",
    "ConnectionResetError",
    "EOFError",
    "Exception",
    "FileExistsError",
    "FileNotFoundError",
    "ImportError",
    "IndexError",
    "InterruptedError",
    "IsADirectoryError",
    "KeyError",
    "LookupError",
    "MemoryError",
    "ModuleNotFoundError",
    "NotADirectoryError",
    "NotImplementedError",
    "OSError",
    "OverflowError",
    "PermissionError",
    "RecursionError",
    "RuntimeError",
    "StopIteration",
    "TimeoutError",
    "TypeError",
    "ValueError",
    "ZeroDivisionError",
)
_ZODB_EXCEPTIONS: Final = (
    "BTreesConflictError",
    "ConflictError",
    "DanglingReferenceError",
    "MultipleUndoErrors",
    "POSError",
    "POSKeyError",
    "ReadConflictError",
    "ReadOnlyError",
    "StorageError",
    "StorageSystemError",
    "StorageTransactionError",
    "TransactionTooLargeError",
    "UndoError",
    "Unsupported",
)

REBUILD: Final = Global("ZODB.POSException._recon", _make_rebuilt)
"""The one function whose first argument is a global that is not called."""

GLOBALS: Final[dict[tuple[str, str], Global]] = {
    ("ZopeUndo.Prefix", "Prefix"): Global("ZopeUndo.Prefix.Prefix", _make_prefix),
    ("zodbpickle", "binary"): Global("zodbpickle.binary", _make_bytes),
    ("_codecs", "encode"): Global("_codecs.encode", _make_encoded),
    ("ZODB.POSException", "_recon"): REBUILD,
}
"""Everything a pickle may name."""

# Protocol 2 says __builtin__ and exceptions, as Python 2 did.
for _module in ("builtins", "__builtin__"):
    for _name, _make in (
        ("dict", _make_dict),
        ("set", _make_set),
        ("frozenset", _make_frozenset),
        ("bytes", _make_bytes),
    ):
        GLOBALS[_module, _name] = Global(f"builtins.{_name}", _make)
for _module in ("builtins", "exceptions"):
    for _name in _BUILTIN_EXCEPTIONS:
        GLOBALS[_module, _name] = _exception(f"builtins.{_name}")
for _name in _ZODB_EXCEPTIONS:
    GLOBALS["ZODB.POSException", _name] = _exception(f"ZODB.POSException.{_name}")
