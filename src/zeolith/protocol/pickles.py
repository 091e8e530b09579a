"""The pickle coding: plain values to bytes as ZEO peers write them, and a checking decoder.

Python's own unpickler calls whatever a pickle names and builds whatever it describes.  Ours
(:mod:`.unpickler`) builds plain values only, and refuses what would cost more than the message is
long: deep nesting, containers that contain one another twice, memo and length bombs.  Globals are
keys of a table (:mod:`.globals`), nothing else.

Everything here may be called from any thread.
"""

from __future__ import annotations

import pickle
import struct
from io import BytesIO
from typing import Any, Final

from ..errors import UndecodableMessage
from .limits import Limits
from .unpickler import Unpickler
from .values import Prefix, is_plain, to_plain

_PROTOCOL: Final = 3

# -- writing -----------------------------------------------------------------------------------

# Making a pickler costs more than using it.  The list is the only thing that threads share, and its
# append and pop are atomic; a pickler in use is in nobody else's hands.
_idle: list[tuple[pickle.Pickler, BytesIO]] = []
_MAX_IDLE: Final = 16


def dumps(value: Any) -> bytes:
    """Return *value* as a pickle of protocol 3 without memo, byte for byte as ZEO peers write it.

    :param value: plain, or what :func:`.values.to_plain` makes plain.
    :raises TypeError: something in *value* cannot be sent; the text names its class.
    :raises ValueError: *value* is nested too deeply.
    """
    # The C pickler runs no code of the values' classes, because all of them are exactly builtin.
    if not is_plain(value):
        value = to_plain(value)
        if not is_plain(value):
            return _dumps_with_prefix(value)
    try:
        pickler, file = _idle.pop()
    except IndexError:
        file = BytesIO()
        pickler = pickle.Pickler(file, _PROTOCOL)
        pickler.fast = True
    pickler.dump(value)
    payload = file.getvalue()
    file.seek(0)
    file.truncate()
    if len(_idle) < _MAX_IDLE:
        _idle.append((pickler, file))
    return payload


class _PrefixPickler(pickle._Pickler):
    """Writes :class:`Prefix` under the name its peers know; slow, and rarely needed."""

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if type(obj) is not Prefix:
            super().save(obj, save_persistent_id)  # type: ignore[misc]
            return
        # GLOBAL, EMPTY_TUPLE, NEWOBJ, state, BUILD: as a pickler writes an ordinary instance.
        self.write(b"cZopeUndo.Prefix\nPrefix\n)\x81")  # type: ignore[attr-defined]
        self.save({"length": len(obj.elements), "path": list(obj.elements)})
        self.write(b"b")  # type: ignore[attr-defined]


def _dumps_with_prefix(value: Any) -> bytes:
    file = BytesIO()
    pickler = _PrefixPickler(file, _PROTOCOL)
    pickler.fast = True
    pickler.dump(value)
    return file.getvalue()


# -- reading -----------------------------------------------------------------------------------


def loads(payload: bytes, limits: Limits) -> Any:
    """Return the value that *payload* describes.

    The result consists of plain values, sets, frozensets, :class:`.values.Prefix` and
    :class:`.values.RemoteException`.

    :param limits: ``max_depth`` bounds the nesting, ``max_items`` the opcodes (each value takes
        one, a list two more), ``max_containers`` the values that hold others,
        ``max_message_size`` what the message would take without its memo.
    :raises UndecodableMessage: it is cut short, damaged, too deep or too long, or it holds
        something that is not admitted.
    """
    try:
        return Unpickler(payload, limits).run()
    except IndexError:
        raise UndecodableMessage("the pickle is cut short or takes values it never made") from None
    except struct.error:
        raise UndecodableMessage("the pickle is cut short") from None
    except UnicodeDecodeError as error:
        raise UndecodableMessage(f"text is not UTF-8: {error.reason}") from None
