"""Exceptions reach the other side as what they are, or as a ServerError; nothing else is raised."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ZEO.asyncio.client import exc_factories
from ZEO.asyncio.marshal import encoder, reduce_exception
from ZODB import POSException
from ZODB.POSException import (
    BTreesConflictError,
    ConflictError,
    DanglingReferenceError,
    MultipleUndoErrors,
    POSError,
    POSKeyError,
    ReadConflictError,
    ReadOnlyError,
    StorageError,
    StorageSystemError,
    StorageTransactionError,
    TransactionTooLargeError,
    UndoError,
    Unsupported,
)

from zeolith.errors import (
    ClientDisconnected,
    FrameTooLarge,
    HistoryLost,
    IllegalMessage,
    MessageTooLarge,
    NotCommitted,
    OutcomeUnknown,
    ServerBehindCache,
    ServerError,
)
from zeolith.protocol import msgpacks, pickles
from zeolith.protocol.faults import _BUILDERS, parse_fault, serialize_fault
from zeolith.protocol.limits import DEFAULT_LIMITS
from zeolith.protocol.values import is_plain

OID, TID, TID2 = b"\0" * 7 + b"\x2a", b"\x03" * 8, b"\x04" * 8


def noted(exc: Exception) -> Exception:
    exc.add_note("said later")
    return exc


EXCEPTIONS: list[Exception] = [
    KeyError("k"),
    KeyError(),
    TypeError("takes 2", 3),
    ValueError("no such storage", "1"),
    NotImplementedError(),
    POSError("m"),
    POSKeyError(OID),
    noted(POSKeyError(OID)),
    ConflictError("m", oid=OID, serials=(TID, TID2)),
    ConflictError(),
    ReadConflictError(oid=OID, serials=(TID2, TID)),
    BTreesConflictError(1, 2, 3, 4),
    DanglingReferenceError(OID, TID),
    UndoError("later", OID),
    UndoError("later"),
    MultipleUndoErrors([(OID, "why"), (TID, "because")]),
    StorageError("s"),
    StorageTransactionError("Multiple simultaneous", "x"),
    TransactionTooLargeError("t"),
    StorageSystemError(),
    ReadOnlyError(),
    Unsupported("u"),
]
EVERY = pytest.mark.parametrize("exc", EXCEPTIONS, ids=repr)


def through_pickle(value: Any) -> Any:
    return pickles.loads(pickles.dumps(value), DEFAULT_LIMITS)


def through_msgpack(value: Any) -> Any:
    return msgpacks.loads(msgpacks.dumps(value), DEFAULT_LIMITS)


CARRIED = pytest.mark.parametrize("carry", [through_pickle, through_msgpack])


def attributes(exc: Exception) -> dict[str, Any]:
    return {key: value for key, value in exc.__dict__.items() if key != "__notes__"}


def tuples(value: Any) -> Any:
    """Return *value* with tuples for lists."""
    if isinstance(value, list | tuple):
        return tuple(map(tuples, value))
    if isinstance(value, dict):
        return {key: tuples(item) for key, item in value.items()}
    return value


@EVERY
@CARRIED
def test_from_us_to_us(exc: Exception, carry: Callable[[Any], Any]) -> None:
    name, details = carry(serialize_fault(exc))
    found = parse_fault(name, details)
    assert type(found) is type(exc)
    assert tuples(attributes(found)) == tuples(attributes(exc))
    assert str(found) == str(exc)
    if not attributes(exc):
        assert found.args == exc.args


@EVERY
@CARRIED
def test_from_us_to_zeo(exc: Exception, carry: Callable[[Any], Any]) -> None:
    """What ZEO's client has a class for, it rebuilds; the rest becomes its ServerException."""
    name, details = carry(serialize_fault(exc))
    factory = exc_factories.get(name)
    if factory is None:
        assert type(exc).__name__ in {
            "ValueError",
            "NotImplementedError",
            "POSError",
            "DanglingReferenceError",
            "UndoError",
            "StorageError",
            "TransactionTooLargeError",
            "StorageSystemError",
            "Unsupported",
        }
        return
    found = factory(name, details)
    assert type(found) is type(exc)
    assert str(found) == str(exc)


@pytest.mark.parametrize(
    "exc",
    # ZEO sends notes instead of the arguments.
    [exc for exc in EXCEPTIONS if "__notes__" not in exc.__dict__],
    ids=repr,
)
@pytest.mark.parametrize("letter", [b"Z", b"M"])
def test_from_zeo_to_us(exc: Exception, letter: bytes) -> None:
    sent = reduce_exception(exc)
    payload = encoder(letter, True)(sent)
    loads = pickles.loads if letter == b"Z" else msgpacks.loads
    ((name, details),) = loads(payload, DEFAULT_LIMITS)
    found = parse_fault(name, details)
    assert type(found) is type(exc)
    assert str(found) == str(exc)


@EVERY
def test_names_and_details_are_those_of_zeo(exc: Exception) -> None:
    name, details = serialize_fault(exc)
    zeo_name, zeo_details = reduce_exception(exc)
    assert name == zeo_name
    if "__notes__" not in exc.__dict__:
        assert details == zeo_details
        assert type(details) is type(zeo_details)


def test_notes_do_not_hide_the_arguments() -> None:
    assert serialize_fault(noted(POSKeyError(OID)))[1] == (OID,)


@CARRIED
def test_violations_say_what_was_wrong(carry: Callable[[Any], Any]) -> None:
    """And not which call it was: the receiver knows."""
    error = IllegalMessage("getTid: oid is malformed \udcff")
    error.msgid = 17
    rebuilt = parse_fault(*carry(serialize_fault(error)))
    assert str(rebuilt) == (r"zeolith.errors.IllegalMessage: ('getTid: oid is malformed \\udcff',)")
    _, details = serialize_fault(FrameTooLarge(10, 9))
    assert details == ("a message of 10 bytes exceeds the maximum of 9",)


def test_every_class_of_zeos_table_is_in_ours() -> None:
    assert set(exc_factories) <= set(_BUILDERS)


@pytest.mark.parametrize("letter", [b"Z", b"M"])
def test_undo_errors_as_file_storage_raises_them(letter: bytes) -> None:
    """The pairs hold exceptions, which a ZEO server sends inside the details."""
    exc = MultipleUndoErrors([(OID, UndoError("later", OID))])
    payload = encoder(letter, True)(reduce_exception(exc))
    loads = pickles.loads if letter == b"Z" else msgpacks.loads
    ((name, details),) = loads(payload, DEFAULT_LIMITS)
    found = parse_fault(name, details)
    assert isinstance(found, MultipleUndoErrors)
    ((oid, reason),) = found._errs
    assert oid == OID
    assert type(reason) is UndoError
    assert str(found) == str(exc)


@CARRIED
def test_undo_errors_from_us(carry: Callable[[Any], Any]) -> None:
    exc = MultipleUndoErrors([(OID, UndoError("later", OID))])
    name, details = carry(serialize_fault(exc))
    for found in (parse_fault(name, details), exc_factories[name](name, details)):
        assert type(found) is MultipleUndoErrors
        assert "later" in str(found)


def test_conflict_keeps_data_without_reading_it() -> None:
    exc = ConflictError("m", oid=OID, serials=(TID, TID2))
    exc.class_name = "app.Thing"
    exc.data = b"no pickle at all"
    found = parse_fault(*through_pickle(serialize_fault(exc)))
    assert isinstance(found, ConflictError)
    assert (found.message, found.oid, found.serials) == ("m", OID, (TID, TID2))
    assert (found.class_name, found.data) == ("app.Thing", b"no pickle at all")


# -- what is not plain -------------------------------------------------------------------------


class _Odd:
    def __repr__(self) -> str:
        return "<odd>"


class _Broken:
    def __repr__(self) -> str:
        raise RuntimeError("no")


class _Key(str):
    __slots__ = ()


def _endless() -> list[Any]:
    items: list[Any] = []
    items.append(items)
    return items


@CARRIED
@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        (_Odd(), "<odd>"),
        (KeyError("inner"), "KeyError: 'inner'"),
        ({1, 2}.__class__, "<class 'set'>"),
        (2**70, str(2**70)),
        ("caf\udce9", "caf\\udce9"),
        (bytearray(b"x"), "bytearray(b'x')"),
        (_Key("subclass"), "subclass"),
        ({_Key("k"): _Key("v")}, {"k": "v"}),
        ({_Odd(): _Odd(), b"k": 1, 2: 3}, {"<odd>": "<odd>", b"k": 1, "2": 3}),
        ((1, (2.5, None, True)), (1, (2.5, None, True))),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_not_plain_becomes_text(
    argument: Any, expected: Any, carry: Callable[[Any], Any]
) -> None:
    name, details = carry(serialize_fault(ValueError(argument)))
    assert name == "builtins.ValueError"
    assert details == (expected,)


def test_descriptions_are_bounded_and_cannot_fail() -> None:
    for argument in (_Broken(), _endless(), _Odd, "x" * 10, [_Odd()] * 5_000):
        details = serialize_fault(ValueError(argument))[1]
        assert is_plain(details)
        assert len(repr(details)) < 20_000
    assert "RuntimeError" in serialize_fault(ValueError(_Broken()))[1][0]
    assert "RuntimeError" in next(iter(serialize_fault(ValueError({_Broken(): 1}))[1][0]))
    # Python refuses to write integers that long.
    assert "int object" in serialize_fault(ValueError(1 << 99_999))[1][0]
    assert len(serialize_fault(ValueError(tuple(range(10**5)), 2**9999))[1][1]) <= 2_000


@CARRIED
def test_what_became_of_a_commit(carry: Callable[[Any], Any]) -> None:
    """A server may serve a storage that is a client itself, and lost its server."""
    cause = ClientDisconnected("gone")
    refused = parse_fault(*carry(serialize_fault(NotCommitted(cause))))
    assert isinstance(refused, NotCommitted)
    assert "ClientDisconnected: gone" in str(refused)
    for uid in (None, bytes(range(16))):
        unknown = parse_fault(*carry(serialize_fault(OutcomeUnknown(cause, "nobody knows", uid))))
        assert isinstance(unknown, OutcomeUnknown)
        assert unknown.uid == uid
        assert "ClientDisconnected: gone; nobody knows" in str(unknown)


def test_classes_outside_the_table_become_server_errors() -> None:
    class ApplicationError(Exception):
        pass

    name, details = through_pickle(serialize_fault(ApplicationError("a", 1)))
    found = parse_fault(name, details)
    assert isinstance(found, ServerError)
    assert isinstance(found, StorageError)
    assert found.name.endswith(".ApplicationError")
    assert found.details == ("a", 1)
    assert "ApplicationError" in str(found)


# -- what a server may send --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "details"),
    [
        ("builtins.KeyError", None),
        ("builtins.KeyError", {"a": 1}),
        ("builtins.eval", ("1",)),
        ("os.system", ("true",)),
        ("ZODB.POSException.POSKeyError", ()),
        ("ZODB.POSException.ConflictError", ("m",)),
        ("ZODB.POSException.ConflictError", {"message": 1}),
        ("ZODB.POSException.ConflictError", {"serials": (TID,)}),
        ("ZODB.POSException.ConflictError", {"serials": (TID, b"")}),
        ("ZODB.POSException.ConflictError", {"oid": "text"}),
        ("ZODB.POSException.ConflictError", {"class_name": 1}),
        ("ZODB.POSException.BTreesConflictError", {"p1": 1, "p2": 1, "p3": 1}),
        ("ZODB.POSException.BTreesConflictError", {"p1": 1, "p2": 1, "p3": 1, "reason": 99}),
        ("ZODB.POSException.BTreesConflictError", ()),
        ("ZODB.POSException.MultipleUndoErrors", {"_errs": []}),
        ("ZODB.POSException.MultipleUndoErrors", {"_errs": [(1,)]}),
        ("ZODB.POSException.MultipleUndoErrors", {"_errs": [1]}),
        ("ZODB.POSException.MultipleUndoErrors", {"_errs": [(OID, (1, 2))]}),
        ("ZODB.POSException.MultipleUndoErrors", ()),
        ("ZODB.POSException.UndoError", {"_reason": 3}),
        ("ZODB.POSException.UndoError", {"_reason": "x", "_oid": "x"}),
        ("ZODB.POSException.UndoError", ("x",)),
        ("ZODB.POSException.DanglingReferenceError", {"referer": OID}),
        ("ZODB.POSException.DanglingReferenceError", ()),
        ("zeolith.errors.NotCommitted", ("gone",)),
        ("zeolith.errors.NotCommitted", {"cause": 1}),
        ("zeolith.errors.OutcomeUnknown", ("gone", "why", None)),
        ("zeolith.errors.OutcomeUnknown", {"cause": "gone", "reason": None, "uid": None}),
        ("zeolith.errors.OutcomeUnknown", {"cause": "gone", "reason": "why", "uid": "text"}),
    ],
)
def test_malformed_details_become_server_errors(name: str, details: Any) -> None:
    found = parse_fault(name, details)
    assert type(found) is ServerError
    assert (found.name, found.details) == (name, details)
    assert name in str(found)


_atoms = st.one_of(
    st.none(),
    st.integers(),
    st.text(max_size=9),
    st.binary(max_size=9),
    st.sampled_from([OID, TID]),
)
_CONFLICT_KEYS = ("message", "oid", "serials", "class_name", "data", "p1", "p2", "p3", "reason")
_OTHER_KEYS = ("_errs", "_reason", "_oid", "referer", "missing", "args")
_keys = st.sampled_from((*_CONFLICT_KEYS, *_OTHER_KEYS))
_values = st.recursive(
    _atoms,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.lists(inner, max_size=3).map(tuple)),
    max_leaves=6,
)


@given(
    st.sampled_from(sorted(_BUILDERS)) | st.text(max_size=9),
    _values | st.dictionaries(_keys, _values) | st.fixed_dictionaries({"_errs": _values}),
)
def test_nothing_a_server_sends_raises(name: str, details: Any) -> None:
    found = parse_fault(name, details)
    assert isinstance(found, Exception)
    assert str(found) is not None
    assert repr(found)
    assert type(found).__module__ in ("builtins", POSException.__name__, "zeolith.errors")


@given(st.binary(min_size=8, max_size=8), st.binary(min_size=8, max_size=8))
def test_text_of_any_conflict(first: bytes, second: bytes) -> None:
    details = {"message": "m", "oid": first, "serials": (first, second), "class_name": None}
    found = parse_fault("ZODB.POSException.ConflictError", details)
    assert isinstance(found, ConflictError)
    assert "m" in str(found)


OWN = [HistoryLost(TID, TID2), ServerBehindCache(TID, TID2), MessageTooLarge(7, 5)]


@pytest.mark.parametrize("exc", OWN, ids=lambda exc: type(exc).__name__)
def test_our_own_are_rebuilt(exc: Exception) -> None:
    name, details = msgpacks.loads(msgpacks.dumps(serialize_fault(exc)), DEFAULT_LIMITS)
    found = parse_fault(name, details)
    assert type(found) is type(exc)
    assert found.args == exc.args
    assert str(found) == str(exc)
    for key in details:
        odds: list[Any] = [None, "x", b"short", 1.5, ()]
        for odd in odds:
            changed = parse_fault(name, {**details, key: odd})
            assert type(changed) is ServerError
    for odd in [None, (), (TID, TID2), {}]:
        assert type(parse_fault(name, odd)) is ServerError
