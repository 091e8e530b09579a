"""A checking decoder of pickles, for one message at a time.

It knows the opcodes that Python 3 writes for plain values in protocols 2 to 5 and refuses all
others.  It never holds more than the message itself could, give or take the size of Python's
objects, and takes time in proportion to its length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from struct import Struct
from typing import Any, Final

from ..errors import UndecodableMessage
from .globals import GLOBALS, REBUILD, Global
from .limits import Limits
from .values import ATOMS, Prefix, RemoteException

_unpack_int = Struct("<i").unpack_from
_unpack_short = Struct("<H").unpack_from
_unpack_length = Struct("<I").unpack_from
_unpack_long_length = Struct("<Q").unpack_from
_unpack_float = Struct(">d").unpack_from

_MAX_INT_SIZE: Final = 64
"""Bytes of an integer.  Real ones have eight; a message id may be a little larger."""

_MAX_NAME_SIZE: Final = 100
"""Bytes of the module or name of a global.  Longer than any in the table."""

_CONTAINERS: Final = frozenset({tuple, list, dict, set, frozenset, RemoteException})
_MEMOIZED: Final = ATOMS | {Global}

_MAX_ODD_KEYS: Final = 1000
"""Keys in one message that are neither text, bytes nor small integers."""

# Integers below the modulus of Python's hash are their own hash, and spread well enough.
_SAFE_INT: Final = 1 << 60

# Opcodes of one kind: TUPLE1 to 3 with their counts; those that end at a MARK (TUPLE, APPENDS,
# SETITEMS, ADDITEMS, FROZENSET); EMPTY_TUPLE, -LIST, -DICT, -SET with what they make; those that
# add one item (APPEND, SETITEM); and REDUCE, NEWOBJ and BUILD.
_TUPLES: Final = {0x85: 1, 0x86: 2, 0x87: 3}
_ENDS: Final = frozenset(b"teu\x90\x91")
_EMPTY: Final[dict[int, Callable[[], Any]]] = {0x29: tuple, 0x5D: list, 0x7D: dict, 0x8F: set}
_ADDS: Final = frozenset(b"as")
_CALLS: Final = frozenset(b"R\x81b")

_UNSHARED: Final = object()
"""Stands in the memo for a container, which may not be fetched again: a few bytes could nest the
same list in itself forty times over, and walking it would take until the end of days."""


class Unpickler:
    """The decoding of one message.

    Values are pushed on a stack; MARK starts a new stack, and the opcode that ends it makes a
    container of all that is on it.  The height of a container is 1 more than that of its highest
    item.  It is kept for each stack, and by identity for containers higher than 1; those that
    a call consumes are therefore kept until the end, lest another object gets their identity.

    :param payload: the message.
    :param limits: see :func:`.pickles.loads`.
    """

    __slots__ = (
        "_borrowed",
        "_dropped",
        "_heights",
        "_limits",
        "_memo",
        "_odd_keys",
        "_payload",
        "_uncalled",
    )

    def __init__(self, payload: bytes, limits: Limits) -> None:
        self._payload = payload
        self._limits = limits
        self._heights: dict[int, int] = {}
        self._memo: list[Any] = []
        # Bytes fetched from the memo, and globals that still have to be called.
        self._borrowed = 0
        self._uncalled = 0
        self._odd_keys = 0
        self._dropped: list[Any] = []

    def run(self) -> Any:
        """Return the value; may be called once.

        :raises UndecodableMessage: something is not admitted.
        :raises IndexError, struct.error, UnicodeDecodeError: the pickle is damaged.
        """
        payload = self._payload
        if payload[:1] != b"\x80" or not 2 <= payload[1] <= 5:
            raise UndecodableMessage("not a pickle of protocol 2 to 5")
        max_depth = self._limits.max_depth
        room = self._limits.max_containers
        stack: list[Any] = []
        height = 0
        outer: list[tuple[list[Any], int]] = []
        position = 2
        # An announced length may point beyond the end: the slice then is what is there, and
        # fetching the next opcode fails.
        for _ in range(self._limits.max_items + 1):
            opcode = payload[position]
            position += 1
            if opcode == 0x43:  # SHORT_BINBYTES
                end = position + 1 + payload[position]
                stack.append(payload[position + 1 : end])
                position = end
            elif opcode == 0x58:  # BINUNICODE
                start = position + 4
                position = start + _unpack_length(payload, position)[0]
                stack.append(payload[start:position].decode("utf-8", "surrogatepass"))
            elif opcode == 0x4B:  # BININT1
                stack.append(payload[position])
                position += 1
            elif opcode == 0x28:  # MARK
                # Whatever ends it makes a container around all that is inside.
                if len(outer) >= max_depth:
                    raise self._too_deep()
                outer.append((stack, height))
                stack = []
                height = 0
            elif opcode == 0x42:  # BINBYTES
                start = position + 4
                position = start + _unpack_length(payload, position)[0]
                stack.append(payload[start:position])
            elif opcode == 0x4E:  # NONE
                stack.append(None)
            elif opcode == 0x4A:  # BININT
                stack.append(_unpack_int(payload, position)[0])
                position += 4
            elif opcode == 0x89:  # NEWFALSE
                stack.append(False)
            elif opcode == 0x88:  # NEWTRUE
                stack.append(True)
            elif opcode == 0x8A:  # LONG1
                length = payload[position]
                if length > _MAX_INT_SIZE:
                    raise UndecodableMessage(f"an integer of {length} bytes")
                start = position + 1
                position = start + length
                stack.append(int.from_bytes(payload[start:position], "little", signed=True))
            elif opcode in _TUPLES:
                count = _TUPLES[opcode]
                if len(stack) < count:
                    raise IndexError
                items = stack[-count:]
                value = tuple(items)
                above = 1 + max(map(self._height, items)) if height else 1
                if above > 1:
                    if above > max_depth:
                        raise self._too_deep()
                    self._heights[id(value)] = above
                stack[-count:] = (value,)
                if above > height:
                    height = above
                room -= 1
                if room < 0:
                    raise self._too_many()
            elif opcode in _ENDS:
                items = stack
                above = height + 1
                stack, height = outer.pop()
                above = self._end(opcode, items, above, stack)
                if above > height:
                    height = above
                room -= 1
                if room < 0:
                    raise self._too_many()
            elif opcode == 0x2E:  # STOP
                if position != len(payload):
                    raise UndecodableMessage("bytes after the end of the pickle")
                if outer or len(stack) != 1 or self._uncalled:
                    raise UndecodableMessage("the pickle ends with loose values")
                return stack[0]
            elif opcode in _EMPTY:
                stack.append(_EMPTY[opcode]())
                if not height:
                    height = 1
                room -= 1
                if room < 0:
                    raise self._too_many()
            elif opcode in _ADDS:
                height = max(height, self._add(opcode, stack))
            elif opcode in _CALLS:
                height = max(height, self._call(opcode, stack))
                room -= 1
                if room < 0:
                    raise self._too_many()
            else:
                position = self._rare(opcode, position, stack)
        raise UndecodableMessage(f"more than {self._limits.max_items} items in one message")

    def _too_deep(self) -> UndecodableMessage:
        return UndecodableMessage(f"values are nested more than {self._limits.max_depth} deep")

    def _too_many(self) -> UndecodableMessage:
        limit = self._limits.max_containers
        return UndecodableMessage(f"more than {limit} containers in one message")

    def _height(self, value: object) -> int:
        if type(value) not in _CONTAINERS:
            return 0
        return self._heights.get(id(value), 1)

    def _raise_to(self, value: Any, at_least: int) -> int:
        """Record that the container *value* is at least that high; return its height."""
        height = max(at_least, self._height(value))
        if height > 1:
            if height > self._limits.max_depth:
                raise self._too_deep()
            self._heights[id(value)] = height
        return height

    def _check_keys(self, keys: Iterable[Any]) -> None:
        """Refuse keys that cannot be hashed, or can be chosen so that they all collide.

        The hashes of text and bytes are seeded, those of numbers and tuples are not; a few of
        these are harmless whatever they are.
        """
        for key in keys:
            cls = type(key)
            if cls is str or cls is bytes or (cls is int and -_SAFE_INT < key < _SAFE_INT):
                continue
            self._odd_keys += 1
            if self._odd_keys > _MAX_ODD_KEYS:
                raise UndecodableMessage(f"more than {_MAX_ODD_KEYS} keys are no text or bytes")
            try:
                hash(key)
            except TypeError:
                raise UndecodableMessage(f"a {cls.__name__} cannot be a key") from None

    def _end(self, opcode: int, items: list[Any], above: int, stack: list[Any]) -> int:
        """Make a container of the *items* after a MARK; return its height."""
        value: Any
        if opcode == 0x74:  # TUPLE
            value = tuple(items)
            stack.append(value)
        elif opcode == 0x91:  # FROZENSET
            self._check_keys(items)
            value = frozenset(items)
            stack.append(value)
        else:
            value = stack[-1]
            if opcode == 0x65 and type(value) is list:  # APPENDS
                value.extend(items)
            elif opcode == 0x75 and type(value) is dict and not len(items) % 2:  # SETITEMS
                keys = items[::2]
                self._check_keys(keys)
                value.update(zip(keys, items[1::2]))
            elif opcode == 0x90 and type(value) is set:  # ADDITEMS
                self._check_keys(items)
                value.update(items)
            else:
                raise UndecodableMessage(f"items cannot be added to a {type(value).__name__}")
        return self._raise_to(value, above)

    def _add(self, opcode: int, stack: list[Any]) -> int:
        """Add one item to a container; return the container's height."""
        item = stack.pop()
        above = self._height(item)
        if opcode == 0x61 and type(stack[-1]) is list:  # APPEND
            stack[-1].append(item)
        elif opcode == 0x73 and type(stack[-2]) is dict:  # SETITEM
            key = stack.pop()
            self._check_keys((key,))
            above = max(above, self._height(key))
            stack[-1][key] = item
        else:
            raise UndecodableMessage("an item is added to what is no container")
        return self._raise_to(stack[-1], above + 1)

    def _call(self, opcode: int, stack: list[Any]) -> int:
        """Make the value that a call to a global describes; return its height."""
        args = stack.pop()
        target = stack.pop()
        above = self._height(args)
        self._dropped.append((target, args))
        if opcode == 0x62:  # BUILD
            value = _build(target, args)
            above = max(above, self._height(target)) + 1
        elif type(target) is Global and type(args) is tuple:
            value = target.make(args, self._check_keys)
            self._uncalled -= 2 if target is REBUILD else 1
        else:
            raise UndecodableMessage("a call to what is no global")
        stack.append(value)
        if type(value) in _CONTAINERS:
            return self._raise_to(value, above + 1 if type(value) is RemoteException else above)
        return 0

    def _rare(self, opcode: int, position: int, stack: list[Any]) -> int:
        """Push an atom of a kind that is rare in messages; return the new position."""
        payload = self._payload
        if opcode == 0x4D:  # BININT2
            stack.append(_unpack_short(payload, position)[0])
            return position + 2
        if opcode == 0x47:  # BINFLOAT
            stack.append(_unpack_float(payload, position)[0])
            return position + 8
        end: int
        if opcode == 0x8C:  # SHORT_BINUNICODE
            end = position + 1 + payload[position]
            stack.append(payload[position + 1 : end].decode("utf-8", "surrogatepass"))
            return end
        if opcode in (0x8D, 0x8E):  # BINUNICODE8, BINBYTES8
            end = position + 8 + _unpack_long_length(payload, position)[0]
            data = payload[position + 8 : end]
            stack.append(data.decode("utf-8", "surrogatepass") if opcode == 0x8D else data)
            return end
        if opcode == 0x95:  # FRAME: only a hint to readers of files
            return position + 8
        return self._name(opcode, position, stack)

    def _name(self, opcode: int, position: int, stack: list[Any]) -> int:
        """Push a global, or put a value into the memo or fetch it; return the new position."""
        payload = self._payload
        if opcode == 0x94:  # MEMOIZE
            self._put(len(self._memo), stack)
            return position
        if opcode == 0x71:  # BINPUT
            self._put(payload[position], stack)
            return position + 1
        if opcode == 0x72:  # LONG_BINPUT
            self._put(_unpack_length(payload, position)[0], stack)
            return position + 4
        if opcode == 0x68:  # BINGET
            stack.append(self._get(payload[position]))
            return position + 1
        if opcode == 0x6A:  # LONG_BINGET
            stack.append(self._get(_unpack_length(payload, position)[0]))
            return position + 4
        if opcode == 0x63:  # GLOBAL
            middle = payload.find(b"\n", position, position + _MAX_NAME_SIZE)
            end = payload.find(b"\n", middle + 1, middle + 1 + _MAX_NAME_SIZE)
            if middle < 0 or end < 0:
                raise UndecodableMessage("the name of a global does not end")
            module, name = payload[position:middle].decode(), payload[middle + 1 : end].decode()
            self._push_global(module, name, stack)
            return end + 1
        if opcode == 0x93:  # STACK_GLOBAL
            name, module = stack.pop(), stack.pop()
            if type(name) is not str or type(module) is not str:
                raise UndecodableMessage("the name of a global is text")
            self._push_global(module, name, stack)
            return position
        raise UndecodableMessage(f"opcode {opcode:#04x} is not admitted")

    def _push_global(self, module: str, name: str, stack: list[Any]) -> None:
        found = GLOBALS.get((module, name))
        if found is None:
            shown = f"{module[:_MAX_NAME_SIZE]}.{name[:_MAX_NAME_SIZE]}"
            raise UndecodableMessage(f"the global {shown!r} is not admitted")
        stack.append(found)
        self._uncalled += 1

    def _put(self, index: int, stack: list[Any]) -> None:
        # Picklers count their puts; any other index could only make the memo large.
        if index != len(self._memo):
            raise UndecodableMessage(f"memo index {index} is out of order")
        self._memo.append(stack[-1] if type(stack[-1]) in _MEMOIZED else _UNSHARED)

    def _get(self, index: int) -> Any:
        value = self._memo[index]
        if value is _UNSHARED:
            raise UndecodableMessage("containers may not be shared within a message")
        if type(value) is Global:
            self._uncalled += 1
        elif type(value) is str or type(value) is bytes:
            # Fetching counts as sending: the message could be longer than its limit otherwise
            # where it is written again.
            self._borrowed += len(value)
            if self._borrowed > self._limits.max_message_size:
                raise UndecodableMessage("too much is fetched from the memo")
        return value


def _build(target: Any, state: Any) -> Any:
    """Return *target* with the attributes that *state* lists."""
    if type(state) is dict:
        if type(target) is Prefix:
            path: Any = state.get("path")
            if type(path) in (list, tuple) and all(type(element) is str for element in path):
                return Prefix(tuple(path))
        elif type(target) is RemoteException and type(target.details) is tuple:
            return RemoteException(target.name, {"args": target.details, **state})
    raise UndecodableMessage(f"the state of a {type(target).__name__} is malformed")
