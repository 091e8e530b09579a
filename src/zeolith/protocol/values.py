"""What a message may be made of, whatever its coding.

*Plain* values are ``None``, ``bool``, ``int``, ``float``, ``str``, ``bytes``, and tuples, lists and
dictionaries of them, all of exactly these classes.  Two more classes occur in pickled messages:

- :class:`Prefix`, which Zope puts into the specification of an ``undoInfo`` call,
- :class:`RemoteException`, an exception that a server sent inside the details of another one.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from .limits import DEFAULT_LIMITS

ATOMS: Final = frozenset({type(None), bool, int, float, str, bytes})
"""Classes of plain values that contain no others."""

# Deeper values would only be refused by the peer, at the price of the connection; and a list that
# contains itself must end somewhere.
_MAX_DEPTH: Final = DEFAULT_LIMITS.max_depth


class Prefix:
    """Equals every path whose first elements are those of this path.

    Compares like ``ZopeUndo.Prefix.Prefix``, which a server needs not have installed: elements are
    separated by slashes, and what follows the last space of the last element (the name of the
    user who was logged in) does not count.  Other than the original it also compares with bytes,
    because that is what storages report since ZODB 5, and never raises.

    :param elements: the elements of the path.
    """

    __slots__ = ("elements",)
    __hash__ = None  # type: ignore[assignment]  # equal to many values that differ

    def __init__(self, elements: tuple[str, ...]) -> None:
        self.elements = elements

    def __eq__(self, other: object) -> bool:
        if isinstance(other, bytes):
            other = other.decode("utf-8", "surrogateescape")
        if not isinstance(other, str):
            return self is other
        path = other.split("/")
        head, space, _ = path[-1].rpartition(" ")
        if space:
            path[-1] = head
        return tuple(path[: len(self.elements)]) == self.elements

    def __repr__(self) -> str:
        return f"Prefix({'/'.join(self.elements)!r})"


class RemoteException(NamedTuple):
    """An exception inside a message: a name, never a class that decoding would have to call.

    :ivar name: dotted name of its class.
    :ivar details: its arguments (a tuple) or its attributes (a dictionary).
    """

    name: str
    details: tuple[Any, ...] | dict[Any, Any]


def is_plain(value: Any, depth: int = _MAX_DEPTH) -> bool:
    """Tell whether *value* is plain and nested at most *depth* deep."""
    cls = type(value)
    if cls in ATOMS:
        return True
    if depth <= 0:
        return False
    depth -= 1
    if cls is tuple or cls is list:
        # Sets of classes are made at the speed of C: a list of 100,000 oids takes 2 ms.
        return set(map(type, value)) <= ATOMS or all(
            type(item) in ATOMS or is_plain(item, depth) for item in value
        )
    if cls is dict:
        return set(map(type, value)) <= ATOMS and all(
            type(item) in ATOMS or is_plain(item, depth) for item in value.values()
        )
    return False


def to_plain(value: Any, depth: int = _MAX_DEPTH) -> Any:
    """Return *value* as a plain value, or with :class:`Prefix` as the only other class in it.

    Instances of subclasses become instances of their base, sets become lists.

    :param depth: how deep *value* may be nested.
    :raises TypeError: something in *value* is none of these; the text names its class.
    :raises ValueError: *value* is nested too deeply.
    """
    if type(value) in ATOMS:
        return value
    # The methods of the base classes are called by name: those of a subclass may do anything.
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, bytes):
        return bytes.__getitem__(value, slice(None))
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if depth <= 0:
        raise ValueError(f"the value is nested more than {_MAX_DEPTH} deep")
    depth -= 1
    if isinstance(value, tuple):
        return tuple(to_plain(item, depth) for item in tuple.__iter__(value))
    if isinstance(value, list):
        return [to_plain(item, depth) for item in list.__iter__(value)]
    if isinstance(value, dict):
        return {to_plain(k, depth): to_plain(v, depth) for k, v in dict.items(value)}
    if isinstance(value, (set, frozenset)):
        # A stock client refuses pickled sets and msgpack has none; both take a list instead.
        return [to_plain(item, depth) for item in value]
    if isinstance(value, Prefix):
        return value
    cls = type(value)
    if cls.__module__ == "ZopeUndo.Prefix" and cls.__name__ == "Prefix":
        return Prefix(tuple(map(str, value.path)))
    raise TypeError(f"{cls.__module__}.{cls.__qualname__} objects cannot be sent")
