"""What callers hand in, checked before anything of it is sent.

One connection serves all threads of a process, and a server ends it when it is told something
that is no message: an argument of the wrong kind must not get that far.
"""

from __future__ import annotations

from threading import TIMEOUT_MAX
from typing import Any

from ZODB.POSException import POSKeyError

_ID_SIZE = 8


def check_oid(oid: Any) -> bytes:
    """Return *oid*, the id of an object that is to be written, as plain bytes.

    :raises TypeError: it is not bytes.
    :raises ValueError: it does not have 8 bytes.
    """
    return oid if oid.__class__ is bytes and len(oid) == _ID_SIZE else _id(oid, "an object id")


def check_wanted(oid: Any) -> bytes:
    """Return *oid*, the id of an object that is to be read, as plain bytes.

    :raises TypeError: it is not bytes.
    :raises POSKeyError: it does not have 8 bytes, so no object has it.
    """
    found = check_bytes(oid, "an object id")
    if len(found) != _ID_SIZE:
        raise POSKeyError(found)
    return found


def check_tid(tid: Any) -> bytes:
    """Return *tid* as plain bytes.

    :raises TypeError: it is not bytes.
    :raises ValueError: it does not have 8 bytes.
    """
    return tid if tid.__class__ is bytes and len(tid) == _ID_SIZE else _id(tid, "a transaction id")


def check_tid_or_none(tid: Any) -> bytes | None:
    """As :func:`check_tid`; None stays None."""
    return None if tid is None else check_tid(tid)


def check_record(data: Any) -> bytes:
    """Return *data*, an object's record, as plain bytes.

    :raises TypeError: it is not bytes.
    """
    return data if data.__class__ is bytes else check_bytes(data, "a record")


def check_bytes(value: Any, what: str) -> bytes:
    """Return *value* as plain bytes, also if its class is one made from them.

    Applications have such classes (``zodbpickle.binary`` is one), and no coding carries them.

    :param what: how to call it in the error.
    :raises TypeError: it is not bytes.
    """
    if not isinstance(value, bytes):
        raise TypeError(f"{what} is bytes, not {type(value).__name__}")
    return bytes(value)


def check_integer(value: Any, what: str) -> int:
    """Return *value* as a plain integer.

    :param what: how to call it in the error.
    :raises TypeError: it is not an integer.
    """
    if not isinstance(value, int):
        raise TypeError(f"{what} is an integer, not {type(value).__name__}")
    return int(value)


def check_timeout(value: Any) -> float:
    """Return *value*, a number of seconds to wait.

    :raises TypeError: it is no number.
    :raises ValueError: it is negative, or no time that a thread can wait.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"a timeout is a number of seconds, not {type(value).__name__}")
    if not 0 <= value <= TIMEOUT_MAX:
        raise ValueError(f"a timeout is 0 to {TIMEOUT_MAX:.0f} seconds, not {value}")
    return float(value)


def check_metadata(txn: Any) -> None:
    """Check what describes the transaction *txn*: its user, description and extension.

    :raises TypeError: one of them is of the wrong kind.
    """
    for name, value in (("user", txn.user), ("description", txn.description)):
        if not isinstance(value, (bytes, str)):
            raise TypeError(f"a transaction's {name} is bytes or text, not {type(value).__name__}")
    extension = txn.extension
    if extension is not None and not isinstance(extension, (dict, bytes)):
        raise TypeError(f"a transaction's extension is a dict, not {type(extension).__name__}")


def _id(value: Any, what: str) -> bytes:
    found = check_bytes(value, what)
    if len(found) != _ID_SIZE:
        raise ValueError(f"{what} has {_ID_SIZE} bytes, {found!r} has {len(found)}")
    return found
