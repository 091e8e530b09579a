"""Exceptions on the wire: a dotted class name, and attributes or arguments.

Both directions go through closed tables: what we send is made plain first, and what we receive is
rebuilt only if its name is in :data:`_BUILDERS`; everything else becomes a
:class:`~zeolith.errors.ServerError` that carries what was sent.

Everything here may be called from any thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any, Final

from ZODB import POSException

from ..errors import (
    AccessDenied,
    BlobDamaged,
    HistoryLost,
    MessageTooLarge,
    NotCommitted,
    OutcomeUnknown,
    ProtocolViolation,
    ServerBehindCache,
    ServerError,
)
from .values import ATOMS, RemoteException, to_plain

# -- sending -----------------------------------------------------------------------------------

_MAX_DEPTH: Final = 8
"""Nesting of an exception's details that is sent as it is; deeper values are described."""

_MAX_ITEMS: Final = 1000
"""Items of one container in the details; what comes after them is left out."""

_MAX_TEXT: Final = 2000
"""Characters of a description."""


def serialize_fault(exc: BaseException) -> tuple[str, Any]:
    """Return the dotted class of *exc* and its details, as plain values for either coding.

    The details are its attributes if it has any, else its arguments, as in ZEO 6.2: that is what
    its clients rebuild exceptions from.  Whatever is not plain in them becomes text.  Notes
    (``add_note``) are no details: they would hide the arguments.  A violation of the protocol is
    its text: what else it carries is for this side.
    """
    cls = type(exc)
    name = f"{cls.__module__}.{cls.__name__}"
    if isinstance(exc, ProtocolViolation):
        return name, _describe((str(exc),), 1)
    attributes = {key: value for key, value in exc.__dict__.items() if key != "__notes__"}
    return name, _describe(attributes or exc.args, _MAX_DEPTH)


def _describe(value: Any, depth: int) -> Any:
    if isinstance(value, str | bytes | int | float):
        value = to_plain(value)
    cls = type(value)
    if cls is str:
        # Lone surrogates (undecodable file names) have no place in msgpack's text.
        return value.encode("utf-8", "backslashreplace").decode()
    if cls is int and not -(1 << 63) <= value < 1 << 64:
        return _text_of(value)
    if cls in ATOMS:
        return value
    if depth > 0:
        if isinstance(value, tuple):
            items = islice(tuple.__iter__(value), _MAX_ITEMS)
            return tuple(_describe(item, depth - 1) for item in items)
        if isinstance(value, list):
            items = islice(list.__iter__(value), _MAX_ITEMS)
            return [_describe(item, depth - 1) for item in items]
        if isinstance(value, dict):
            return {
                # ZEO's msgpack decoder admits no other keys.
                _describe(key, 0) if isinstance(key, str | bytes) else _text_of(key): _describe(
                    item, depth - 1
                )
                for key, item in islice(dict.items(value), _MAX_ITEMS)
            }
    return _text_of(value)


def _text_of(value: Any) -> str:
    """Return a description of *value*; never fails."""
    name = type(value).__name__
    try:
        text = f"{name}: {value}" if isinstance(value, BaseException) else repr(value)
    except Exception as error:  # noqa: BLE001 - application code; the fault itself must get out
        text = f"<{name} object; its description raises {type(error).__name__}>"
    return text[:_MAX_TEXT].encode("utf-8", "backslashreplace").decode()


# -- receiving ---------------------------------------------------------------------------------


def parse_fault(name: str, details: Any) -> Exception:
    """Return the exception that a server reported.

    :param name: dotted class name.
    :param details: its arguments (tuple or list) or attributes (dictionary) as received.
    :returns: an exception of the named class if that is in the table and the details fit it, else
        a :class:`~zeolith.errors.ServerError`.  Raises nothing.
    """
    builder = _BUILDERS.get(name)
    exc = builder(_rebuild_inner(details, _MAX_DEPTH)) if builder is not None else None
    return ServerError(name, details) if exc is None else exc


def _rebuild_inner(value: Any, depth: int) -> Any:
    """Return *value* with the exceptions inside it rebuilt."""
    cls = type(value)
    if depth > 0:
        if cls is RemoteException:
            return parse_fault(value.name, value.details)
        if cls is tuple:
            if len(value) == 2 and type(value[0]) is str and value[0] in _BUILDERS:
                # In msgpack, which has no exceptions, a ZEO server writes them in this way.
                return parse_fault(*value)
            return tuple(_rebuild_inner(item, depth - 1) for item in value)
        if cls is list:
            return [_rebuild_inner(item, depth - 1) for item in value]
        if cls is dict:
            return {key: _rebuild_inner(item, depth - 1) for key, item in value.items()}
    return value


_Builder = Callable[[Any], Exception | None]
"""Takes the details; returns None if they do not fit."""


def _arguments_of(details: Any) -> tuple[Any, ...] | None:
    if type(details) is dict:
        # Exceptions inside details carry their arguments as one more attribute.
        details = details.get("args")
    return tuple(details) if type(details) in (tuple, list) else None


def _plain(cls: type[Exception], at_least: int = 0) -> _Builder:
    """Build an exception that is made of its arguments."""

    def build(details: Any) -> Exception | None:
        args = _arguments_of(details)
        return cls(*args) if args is not None and len(args) >= at_least else None

    return build


def _is_id_or_none(value: Any) -> bool:
    return value is None or (type(value) is bytes and len(value) == 8)


def _conflict(cls: type[Any]) -> _Builder:
    def build(details: Any) -> Exception | None:
        if type(details) is not dict:
            return None
        message, oid = details.get("message"), details.get("oid")
        serials, class_name = details.get("serials"), details.get("class_name")
        if type(serials) is list:
            serials = tuple(serials)
        if not (
            (message is None or type(message) is str)
            and (class_name is None or type(class_name) is str)
            and _is_id_or_none(oid)
            and (serials is None or (type(serials) is tuple and len(serials) == 2))
            and (serials is None or all(map(_is_id_or_none, serials)))
        ):
            return None
        # data is set, not passed: the constructor would read the pickle in it.
        exc: Exception = cls(message=message, oid=oid, serials=serials)
        exc.class_name = class_name  # type: ignore[attr-defined]
        if type(details.get("data")) is bytes:
            exc.data = details["data"]  # type: ignore[attr-defined]
        return exc

    return build


def _btrees_conflict(details: Any) -> Exception | None:
    if type(details) is not dict:
        return None
    numbers: list[Any] = [details.get(key) for key in ("p1", "p2", "p3", "reason")]
    if any(type(number) is not int for number in numbers):
        return None
    cls = POSException.BTreesConflictError
    # Its text is looked up by reason.
    exc: Exception = cls(*numbers)
    return exc if 0 <= numbers[3] < len(cls.msgs) else None


def _undo(details: Any) -> Exception | None:
    if type(details) is not dict or type(details.get("_reason")) is not str:
        return None
    oid = details.get("_oid")
    return POSException.UndoError(details["_reason"], oid) if _is_id_or_none(oid) else None


def _multiple_undo(details: Any) -> Exception | None:
    errors = details.get("_errs") if type(details) is dict else None
    if type(errors) not in (tuple, list) or not errors:
        return None
    pairs = [tuple(pair) for pair in errors if type(pair) in (tuple, list) and len(pair) == 2]
    if len(pairs) != len(errors) or not all(
        (oid is None or type(oid) in (bytes, str))
        and (reason is None or type(reason) is str or isinstance(reason, Exception))
        for oid, reason in pairs
    ):
        return None
    exc: Exception = POSException.MultipleUndoErrors(pairs)
    return exc


def _dangling(details: Any) -> Exception | None:
    if type(details) is not dict:
        return None
    referer, missing = details.get("referer"), details.get("missing")
    if type(referer) is not bytes or type(missing) is not bytes:
        return None
    exc: Exception = POSException.DanglingReferenceError(referer, missing)
    return exc


def _too_large(details: Any) -> Exception | None:
    if type(details) is not dict:
        return None
    size, limit = details.get("size"), details.get("limit")
    return MessageTooLarge(size, limit) if type(size) is type(limit) is int else None


def _not_committed(details: Any) -> Exception | None:
    cause = details.get("cause") if type(details) is dict else None
    return NotCommitted(cause) if type(cause) is str else None


def _outcome_unknown(details: Any) -> Exception | None:
    if type(details) is not dict:
        return None
    cause, reason, uid = details.get("cause"), details.get("reason"), details.get("uid")
    if type(cause) is not str or type(reason) is not str or type(uid) not in (bytes, type(None)):
        return None
    return OutcomeUnknown(cause, reason, uid)


def _access_denied(details: Any) -> Exception | None:
    if type(details) is not dict:
        return None
    user, right, storage = (details.get(key) for key in ("user", "right", "storage"))
    if type(user) is not str or type(right) is not str or type(storage) is not str:
        return None
    return AccessDenied(user, right, storage)


def _blob_damaged(details: Any) -> Exception | None:
    if type(details) is not dict:
        return None
    oid, where = details.get("oid"), details.get("where")
    if type(oid) is not bytes or len(oid) != 8 or type(where) is not str:
        return None
    return BlobDamaged(oid, where)


def _two_tids(cls: type[Exception], first: str, second: str) -> _Builder:
    """Build an exception that is made of two transaction ids."""

    def build(details: Any) -> Exception | None:
        if type(details) is not dict:
            return None
        tids = details.get(first), details.get(second)
        if any(type(tid) is not bytes or len(tid) != 8 for tid in tids):
            return None
        return cls(*tids)

    return build


_BUILDERS: Final[Mapping[str, _Builder]] = {
    "builtins.KeyError": _plain(KeyError),
    "builtins.TypeError": _plain(TypeError),
    "builtins.ValueError": _plain(ValueError),
    "builtins.NotImplementedError": _plain(NotImplementedError),
    # As servers on Python 2 named them.
    "exceptions.KeyError": _plain(KeyError),
    "exceptions.TypeError": _plain(TypeError),
    "exceptions.ValueError": _plain(ValueError),
    "ZODB.POSException.POSError": _plain(POSException.POSError),
    # Its text is that of its first argument.
    "ZODB.POSException.POSKeyError": _plain(POSException.POSKeyError, at_least=1),
    "ZODB.POSException.ConflictError": _conflict(POSException.ConflictError),
    "ZODB.POSException.ReadConflictError": _conflict(POSException.ReadConflictError),
    "ZODB.POSException.BTreesConflictError": _btrees_conflict,
    "ZODB.POSException.DanglingReferenceError": _dangling,
    "ZODB.POSException.UndoError": _undo,
    "ZODB.POSException.MultipleUndoErrors": _multiple_undo,
    "ZODB.POSException.StorageError": _plain(POSException.StorageError),
    "ZODB.POSException.StorageTransactionError": _plain(POSException.StorageTransactionError),
    "ZODB.POSException.TransactionTooLargeError": _plain(POSException.TransactionTooLargeError),
    "ZODB.POSException.StorageSystemError": _plain(POSException.StorageSystemError),
    "ZODB.POSException.ReadOnlyError": _plain(POSException.ReadOnlyError),
    "ZODB.POSException.Unsupported": _plain(POSException.Unsupported),
    "zeolith.errors.MessageTooLarge": _too_large,
    "zeolith.errors.AccessDenied": _access_denied,
    "zeolith.errors.BlobDamaged": _blob_damaged,
    "zeolith.errors.NotCommitted": _not_committed,
    "zeolith.errors.OutcomeUnknown": _outcome_unknown,
    "zeolith.errors.HistoryLost": _two_tids(HistoryLost, "since", "floor"),
    "zeolith.errors.ServerBehindCache": _two_tids(ServerBehindCache, "server_tid", "cache_tid"),
}
