"""The pickle coding: what real picklers write is read, and nothing but plain values comes out."""

from __future__ import annotations

import enum
import pickle
import pickletools
from collections import OrderedDict
from typing import Any, NamedTuple

import pytest
from ZEO.asyncio.marshal import encode, pickle_server_decode
from ZODB.POSException import POSKeyError, UndoError

from zeolith.errors import UndecodableMessage
from zeolith.protocol.globals import GLOBALS
from zeolith.protocol.limits import DEFAULT_LIMITS, Limits
from zeolith.protocol.pickles import dumps, loads
from zeolith.protocol.values import Prefix, RemoteException

VALUES: list[Any] = [
    None,
    True,
    False,
    *(
        0,
        1,
        -1,
        255,
        256,
        65_535,
        65_536,
        2**31 - 1,
        2**31,
        -(2**31),
        -(2**31) - 1,
        2**63,
        -(2**500),
    ),
    *(0.0, -1.5, 1e300, float("inf")),
    *("", "text", "k\u00fcche", "\u20ac" * 100, "\U0001f600" * 300, "\udce9"),
    *(b"", b"x", b"y" * 255, b"z" * 256, b"w" * 70_000),
    *((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), ((1,), ((2,), 3), (4, 5, (6,), 7))),
    *([], [1], [1, 2], list(range(999)), list(range(1_000)), list(range(1_001)), [[], [[]], [()]]),
    *({}, {"a": 1}, {b"a": {1: {}}}, {n: str(n) for n in range(2_001)}, {(1, "x"): None, 1.5: 2}),
    [(number.to_bytes(8, "big"), {"n": number, "l": [number]}) for number in range(1_500)],
]


def read(payload: bytes, **limits: int) -> Any:
    return loads(payload, Limits(**limits))


def refused(payload: bytes, **limits: int) -> str:
    """Return the text with which *payload* is refused."""
    with pytest.raises(UndecodableMessage) as caught:
        loads(payload, Limits(**limits))
    assert str(caught.value)
    return str(caught.value)


# -- writing -----------------------------------------------------------------------------------


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:30])
def test_bytes_are_those_of_zeo(value: Any) -> None:
    assert dumps((value,)) == encode(value)
    assert dumps((1, [value])) == encode(1, [value])


class _Dict(dict[Any, Any]):
    def items(self) -> Any:
        raise AssertionError("no code of the value's class may run")

    __iter__ = items

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise AssertionError("no code of the value's class may run")


class _Text(str):
    __slots__ = ()

    def __str__(self) -> str:
        raise AssertionError("no code of the value's class may run")


class _Number(enum.IntEnum):
    SEVEN = 7


class _Bytes(bytes):
    def __getitem__(self, index: Any) -> Any:
        raise AssertionError("no code of the value's class may run")


class _Pair(NamedTuple):
    first: int
    second: str


@pytest.mark.parametrize(
    ("value", "base"),
    [
        (_Dict(a=1), {"a": 1}),
        (OrderedDict(b=[_Dict()]), {"b": [{}]}),
        (_Text("text"), "text"),
        (_Number.SEVEN, 7),
        (_Bytes(b"bytes"), b"bytes"),
        (_Pair(1, "x"), (1, "x")),
        ({5}, [5]),
        (frozenset({5}), [5]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_subclasses_are_written_as_their_base(value: Any, base: Any) -> None:
    assert dumps((value, {"k": value})) == encode(base, {"k": base})


@pytest.mark.parametrize(
    "value",
    [object(), object, len, ValueError("x"), 1j, bytearray(b"x"), memoryview(b"x"), ..., range(3)],
    ids=lambda value: type(value).__name__,
)
def test_other_classes_are_named(value: Any) -> None:
    with pytest.raises(TypeError, match=type(value).__name__):
        dumps((1, [{"k": value}]))


def test_a_reducer_never_runs() -> None:
    class Reducing:
        def __reduce__(self) -> Any:
            raise AssertionError("ran")

    with pytest.raises(TypeError, match="Reducing"):
        dumps([Reducing()])


def test_too_deep_and_endless_values_are_refused() -> None:
    value: Any = 1
    for _ in range(DEFAULT_LIMITS.max_depth):
        value = [value]
    assert loads(dumps(value), DEFAULT_LIMITS) == value
    with pytest.raises(ValueError, match="nested"):
        dumps((value,))
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(ValueError, match="nested"):
        dumps(endless)


def test_a_pickler_that_failed_is_not_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TypeError):
        dumps((1, 2, 3, object()))
    assert dumps((1,)) == encode(1)
    assert dumps(("x" * 100_000,)) == encode("x" * 100_000)
    assert dumps((1,)) == encode(1)


# -- reading -----------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:30])
def test_what_python_writes_is_read(value: Any, protocol: int) -> None:
    """With and without a memo, by the pickler in C and the one in Python."""
    python = pickle._dumps(value, protocol)  # type: ignore[attr-defined]
    for payload in (pickle.dumps(value, protocol), python):
        found = loads(payload, DEFAULT_LIMITS)
        assert found == value
        assert repr(found) == repr(value)


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:30])
def test_what_zeo_writes_is_read(value: Any) -> None:
    payload = encode(value)
    assert loads(payload, DEFAULT_LIMITS) == (value,)
    assert pickle_server_decode(payload) == (value,)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
    "value",
    [
        set(),
        {1, "a"},
        frozenset(),
        frozenset({b"x", 2}),
        [{1}, {2}, frozenset({3}), frozenset({4})],
    ],
    # Not what they print: the order of a set differs from one process to another.
    ids=["empty", "set", "empty frozen", "frozen", "several"],
)
def test_sets_are_read(value: Any, protocol: int) -> None:
    found = loads(pickle.dumps(value, protocol), DEFAULT_LIMITS)
    assert found == value
    assert type(found) is type(value)


def test_equal_texts_and_globals_come_from_the_memo() -> None:
    names = [{"user_name": b"u", "id": b"i"} for _ in range(50)]
    for protocol in (2, 3, 4, 5):
        payload = pickle.dumps((names, {1}, {2}), protocol)
        assert "GET" in " ".join(op[0].name for op in pickletools.genops(payload))
        assert loads(payload, DEFAULT_LIMITS) == (names, {1}, {2})


def test_dictionary_as_its_class_and_pairs() -> None:
    """As a transaction extension arrives that is a subclass of dict with such a reducer."""

    class Extension(dict[Any, Any]):
        def __reduce__(self) -> Any:
            return dict, (tuple(self.items()),)

    class Filled(dict[Any, Any]):
        def __reduce__(self) -> Any:
            return dict, (), None, None, iter(self.items())

    class Copied(dict[Any, Any]):
        def __reduce__(self) -> Any:
            return dict, (dict(self),)

    for cls in (Extension, Filled, Copied):
        (found,) = loads(encode(cls(foo=1, bar=[2])), DEFAULT_LIMITS)
        assert found == {"foo": 1, "bar": [2]}
        assert type(found) is dict
    assert loads(b"\x80\x03cbuiltins\ndict\n)\x81X\x01\0\0\0aK\x01s.", DEFAULT_LIMITS) == {"a": 1}


def test_zodbpickle_binary_is_bytes() -> None:
    payload = b"\x80\x03czodbpickle\nbinary\nC\x03abc\x85R."
    assert loads(payload, DEFAULT_LIMITS) == b"abc"


PREFIX = (
    b"\x80\x03(K\x01\x89X\x08\x00\x00\x00undoInfoK\x00J\xec\xff\xff\xff}X\t\x00\x00\x00user_name"
    b"cZopeUndo.Prefix\nPrefix\n)\x81}(X\x06\x00\x00\x00lengthK\x03X\x04\x00\x00\x00path]"
    b"(X\x00\x00\x00\x00X\x01\x00\x00\x00aX\x01\x00\x00\x00beubs\x87t."
)
"""A call of ZEO 6.2 with ZopeUndo 6.1: ``undoInfo(0, -20, {"user_name": Prefix("/a/b")})``."""


def test_prefix_both_ways() -> None:
    message = loads(PREFIX, DEFAULT_LIMITS)
    prefix = message[3][2]["user_name"]
    assert type(prefix) is Prefix
    assert prefix.elements == ("", "a", "b")
    assert dumps(message) == PREFIX


def test_foreign_prefix_is_written_as_ours() -> None:
    class Foreign:
        def __init__(self, path: str) -> None:
            self.path = path.split("/")

    Foreign.__module__, Foreign.__name__ = "ZopeUndo.Prefix", "Prefix"
    specification = {"user_name": Foreign("/a/b")}
    assert dumps((1, False, "undoInfo", (0, -20, specification))) == PREFIX


def test_exceptions_stay_names() -> None:
    exceptions = (KeyError("k", 1), FileNotFoundError(2, "x"), POSKeyError(b"12345678"))
    noted = ValueError("v")
    noted.extra = [1]  # type: ignore[attr-defined]
    found = loads(encode(*exceptions, noted, UndoError("r", b"o")), DEFAULT_LIMITS)
    assert found == (
        RemoteException("builtins.KeyError", ("k", 1)),
        RemoteException("builtins.FileNotFoundError", (2, "x")),
        RemoteException("ZODB.POSException.POSKeyError", {"args": (b"12345678",)}),
        RemoteException("builtins.ValueError", {"args": ("v",), "extra": [1]}),
        RemoteException(
            "ZODB.POSException.UndoError", {"_reason": "r", "_oid": b"o", "args": ("r", b"o")}
        ),
    )
    assert {type(item) for item in found} == {RemoteException}


# -- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize("value", VALUES[:-1], ids=lambda value: repr(value)[:30])
@pytest.mark.parametrize("protocol", [3, 5])
def test_every_cut_is_refused(value: Any, protocol: int) -> None:
    payload = pickle.dumps((value, 1, [value]), protocol)
    sizes = range(len(payload)) if len(payload) < 2_000 else range(0, len(payload), 997)
    for size in sizes:
        refused(payload[:size])


def test_bytes_after_the_end() -> None:
    assert "after the end" in refused(dumps(1) + b"N")
    assert "after the end" in refused(dumps(1) + dumps(2))


@pytest.mark.parametrize(
    "head", [b"", b"\x80", b"\x80\x01K\x01.", b"\x80\x06K\x01.", b"K\x01.", b"N."]
)
def test_other_protocols(head: bytes) -> None:
    refused(head)


def _opcodes_not_admitted() -> list[int]:
    admitted = b"CXK(BNJ\x89\x88\x8a\x85\x86\x87teu\x90\x91.)]}\x8fasR\x81bMG\x8c\x8d\x8e\x95"
    return sorted(set(range(256)) - set(admitted + b"\x94qrhjc\x93"))


@pytest.mark.parametrize("opcode", _opcodes_not_admitted(), ids=hex)
def test_every_other_opcode(opcode: int) -> None:
    assert f"{opcode:#04x}" in refused(b"\x80\x03NN" + bytes([opcode]) + b"\0" * 12 + b".")


@pytest.mark.parametrize(
    "name",
    [
        "builtins.eval",
        "builtins.exec",
        "builtins.getattr",
        "builtins.object",
        "builtins.list",
        "builtins.__import__",
        "builtins.bytearray",
        "builtins.BaseException",
        "builtins.SystemExit",
        "__builtin__.eval",
        "os.system",
        "posix.system",
        "subprocess.Popen",
        "copyreg._reconstructor",
        "copyreg.__newobj__",
        "copy_reg._reconstructor",
        "zodbpickle.pickle",
        "zodbpickle.binary.join",
        "collections.OrderedDict",
        "ZODB.POSException.__builtins__",
        "ZODB.utils.p64",
        "persistent.TimeStamp.TimeStamp",
    ],
)
def test_other_globals(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    by_name = f"c{module}\n{attribute}\n".encode()
    by_stack = b"".join(b"\x8c%c" % len(word) + word.encode() for word in (module, attribute))
    for payload in (
        b"\x80\x03" + by_name + b"X\x01\0\0\0x\x85R.",
        b"\x80\x04" + by_stack + b"\x93X\x01\0\0\0x\x85R.",
    ):
        text = refused(payload)
        assert "not admitted" in text
        assert attribute in text


def test_the_table_of_globals_is_closed() -> None:
    """Whoever adds a name to the table has to think of it here, too."""
    functions = {key for key, value in GLOBALS.items() if not value.is_exception}
    assert functions == {
        *((module, name) for module in ("builtins", "__builtin__") for name in ("dict", "set")),
        *(
            (module, name)
            for module in ("builtins", "__builtin__")
            for name in ("bytes", "frozenset")
        ),
        ("_codecs", "encode"),
        ("zodbpickle", "binary"),
        ("ZopeUndo.Prefix", "Prefix"),
        ("ZODB.POSException", "_recon"),
    }
    exceptions = GLOBALS.keys() - functions
    assert {module for module, _ in exceptions} == {"builtins", "exceptions", "ZODB.POSException"}
    result = GLOBALS["builtins", "KeyError"].make(("x",), lambda keys: None)
    assert result == RemoteException("builtins.KeyError", ("x",))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"cbuiltins\ndict\n.", "loose"),
        (b"cbuiltins\ndict\n\x85.", "loose"),
        (b"cbuiltins\nKeyError\n.", "loose"),
        (b"cbuiltins\nKeyError\ncbuiltins\nValueError\n\x85R.", "loose"),
        (b"cbuiltins\ndict.", "does not end"),
        (b"cbuiltins.", "does not end"),
        (b"cbuiltins\ndict\nq\x00h\x00)R\x86.", "loose"),
        (b"cbuiltins\ndict\n]R.", "no global"),
        (b"NN)R\x86.", "no global"),
        (b"cbuiltins\ndict\nK\x01\x85R.", "pairs"),
        (b"cbuiltins\ndict\n]K\x01a\x85R.", "pairs"),
        (b"cbuiltins\ndict\nNN\x86R.", "pairs"),
        (b"cbuiltins\ndict\n]N\x85a\x85R.", "pairs"),
        (b"cbuiltins\nset\nN\x85R.", "list"),
        (b"cbuiltins\nset\n]]a\x85R.", "key"),
        (b"cbuiltins\nset\n}\x85R.", "list"),
        (b"cbuiltins\nbytes\nX\x01\0\0\0a\x85R.", "bytes"),
        (b"cbuiltins\nbytes\nM\xff\xff\x85R.", "bytes"),
        (b"c_codecs\nencode\nX\x01\0\0\0aX\x05\0\0\0utf-8\x86R.", "latin-1"),
        (b"c_codecs\nencode\nX\x03\0\0\0\xe2\x82\xacX\x06\0\0\0latin1\x86R.", "latin-1"),
        (b"c_codecs\nencode\nX\x01\0\0\0a\x85R.", "latin-1"),
        (b"czodbpickle\nbinary\nN\x85R.", "bytes"),
        (b"cZopeUndo.Prefix\nPrefix\nX\x01\0\0\0a\x85R.", "state"),
        (b"cZopeUndo.Prefix\nPrefix\n)\x81}b.", "state of a Prefix"),
        (b"cZopeUndo.Prefix\nPrefix\n)\x81}X\x04\0\0\0path]K\x01asb.", "state of a Prefix"),
        (b"cZopeUndo.Prefix\nPrefix\n)\x81Nb.", "state of a Prefix"),
        (b"}}b.", "state of a dict"),
        (b"cZODB.POSException\n_recon\n)R.", "class and state"),
        (b"cZODB.POSException\n_recon\ncbuiltins\ndict\n}\x86R.", "class and state"),
        (b"cZODB.POSException\n_recon\ncbuiltins\nKeyError\nN\x86R.", "class and state"),
        (b"cbuiltins\nKeyError\n)RK\x01b.", "state of a RemoteException"),
        (b"c" + b"x" * 200 + b"\nname\n.", "does not end"),
        (b"cname\n" + b"x" * 200 + b"\n.", "does not end"),
        (b"c\xff\n\xff\n.", "UTF-8"),
        (b"K\x01K\x02\x93.", "text"),
        (b"]]s.", "cut short"),
        (b"]NNs.", "no container"),
        (b"}Na.", "no container"),
        (b"}]Ns.", "key"),
        (b"}(NNNu.", "dict"),
        (b"}(]Nu.", "key"),
        (b"}(Ne.", "dict"),
        (b"](NNu.", "list"),
        (b"(e.", "cut short"),
        (b"\x8f(]\x90.", "key"),
        (b"](N\x90.", "list"),
        (b"(]\x91.", "key"),
        (b"\x85.", "cut short"),
        (b"K\x01\x86.", "cut short"),
        (b"t.", "cut short"),
        (b"a.", "cut short"),
        (b".", "loose"),
        (b"NN.", "loose"),
        (b"(N.", "loose"),
        (b"N(.", "loose"),
        (b"X\x01\0\0\0\xff.", "UTF-8"),
        (b"X\xff\xff\xff\xff.", "cut short"),
        (b"B\xff\xff\xff\x7f.", "cut short"),
        (b"C\x09abc.", "cut short"),
        (b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffx.", "cut short"),
        (b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7fx.", "cut short"),
        (b"\x8a\x41" + b"\1" * 65 + b".", "65 bytes"),
        (b"h\x00.", "cut short"),
        (b"Nq\x01h\x01.", "out of order"),
        (b"Nr\xff\xff\xff\xff.", "out of order"),
        (b"\x94.", "cut short"),
        (b"]\x94h\x00\x86.", "shared"),
        (b")\x94h\x00\x86.", "shared"),
        (b"N)R.", "no global"),
    ],
    ids=repr,
)
def test_malformed(body: bytes, reason: str) -> None:
    assert reason in refused(b"\x80\x04" + body)


def test_largest_integer() -> None:
    for value in (2**511 - 1, -(2**511)):
        assert loads(dumps(value), DEFAULT_LIMITS) == value
    assert "65 bytes" in refused(dumps(2**511))


# -- limits ------------------------------------------------------------------------------------


def _nested(depth: int, shell: str) -> Any:
    value: Any = 1
    for number in range(depth):
        if shell == "tuple":
            value = (value,) * (number % 4 + 1) if number < 8 else (value,)
        elif shell == "long":
            value = (0, 1, value, 2)
        elif shell == "list":
            value = [value]
        elif shell == "lists":
            value = [b"x", value]
        elif shell == "dict":
            value = {"k": value}
        elif shell == "dicts":
            value = {"j": 1, "k": value}
        else:
            value = [(value, {"k": 1})] if number % 2 else {"k": value}
    return value


@pytest.mark.parametrize("shell", ["tuple", "long", "list", "lists", "dict", "dicts"])
@pytest.mark.parametrize("depth", [1, 2, 5, 12])
@pytest.mark.parametrize("protocol", [3, 4])
def test_depth_is_exact(shell: str, depth: int, protocol: int) -> None:
    value = _nested(depth, shell)
    file_of = pickle.dumps(value, protocol) if shell != "tuple" else dumps(value)
    assert read(file_of, max_depth=depth) == value
    if depth > 1:
        assert "deep" in refused(file_of, max_depth=depth - 1)


def test_siblings_do_not_add_up_to_depth() -> None:
    value = [((n,), [n], {"k": (n, [n])}, {"a": {"b": [n]}, "c": 1}) for n in range(500)]
    assert read(dumps(value), max_depth=5) == value
    assert "deep" in refused(dumps(value), max_depth=4)


def test_depth_of_consumed_arguments_is_not_taken_for_that_of_others() -> None:
    """The same identity comes back again and again when arguments are thrown away."""

    class Extension(dict[Any, Any]):
        def __reduce__(self) -> Any:
            return dict, (tuple(self.items()),)

    value = [Extension(a=[n], b=(n, (n,))) for n in range(3_000)]
    assert read(encode(value), max_depth=8) == (value,)


def test_items_are_counted() -> None:
    payload = dumps(list(range(100)))
    # EMPTY_LIST, MARK, the items, APPENDS
    assert read(payload, max_items=103) == list(range(100))
    assert "102 items" in refused(payload, max_items=102)


@pytest.mark.parametrize(
    "value",
    [[()] * 50, [[]] * 50, [{}] * 50, [(1,)] * 50, [(1, 2, 3, 4)] * 50, [frozenset({1})] * 50],
)
def test_containers_are_counted(value: Any) -> None:
    # Made one by one: a memo would share them.
    payload = (
        dumps(value)
        if type(value[0]) is not frozenset
        else b"\x80\x04](" + b"(K\x01\x91" * 50 + b"e."
    )
    assert read(payload, max_containers=52) == value
    assert "containers" in refused(payload, max_containers=49)


def test_what_the_memo_repeats_counts_as_sent() -> None:
    payload = b"\x80\x03](C\xff" + b"x" * 255 + b"q\x00" + b"h\x00" * 99 + b"e."
    assert read(payload, max_message_size=99 * 255) == [b"x" * 255] * 100
    assert "memo" in refused(payload, max_message_size=99 * 255 - 1)


def test_odd_keys_are_few() -> None:
    modulus = 2**61 - 1
    many = {modulus * n: None for n in range(1_000)}
    assert loads(dumps(many), DEFAULT_LIMITS) == many
    many[modulus * 1_000] = None
    many[modulus * 1_001] = None
    assert "keys" in refused(dumps(many))
    for payload in (
        pickle.dumps(set(map(float, range(1_001))), 4),
        pickle.dumps(frozenset((n,) for n in range(1_001)), 4),
        dumps([{(n,): 1} for n in range(1_001)]),
        pickle.dumps([{(n,)} for n in range(1_001)], 3),
    ):
        assert "keys" in refused(payload)
    ordinary = {n: str(n) for n in range(5_000)}
    assert loads(dumps(ordinary), DEFAULT_LIMITS) == ordinary
