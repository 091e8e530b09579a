"""The msgpack coding: nothing reaches the C decoder before it is proven to be all there."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import msgpack
import pytest
from ZEO.asyncio.marshal import encoder

from zeolith.errors import UndecodableMessage
from zeolith.protocol.limits import DEFAULT_LIMITS, Limits
from zeolith.protocol.msgpacks import dumps, loads
from zeolith.protocol.values import Prefix

VALUES: list[Any] = [
    None,
    True,
    False,
    *(0, 1, 127, 128, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, 2**64 - 1),
    *(-1, -32, -33, -128, -129, -32_768, -32_769, -(2**31), -(2**31) - 1, -(2**63)),
    *(0.0, -1.5, 1e300, float("inf")),
    *("", "t", "x" * 31, "x" * 32, "y" * 255, "y" * 256, "\u20ac" * 30_000),
    *(b"", b"x", b"y" * 255, b"z" * 256, b"w" * 65_535, b"w" * 65_536),
    *((), (1,), tuple(range(15)), tuple(range(16)), tuple(range(65_535)), tuple(range(65_536))),
    *({}, {"a": 1}, {b"b": {"c": (1, {})}}, {str(n): n for n in range(15)}),
    {str(n): n for n in range(16)},
    {str(n): (n,) for n in range(65_536)},
    ((((),),), ({}, ({"x": ()},))),
]


def refused(payload: bytes, **limits: int) -> str:
    """Return the text with which *payload* is refused."""
    with pytest.raises(UndecodableMessage) as caught:
        loads(payload, Limits(**limits))
    return str(caught.value)


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:30])
def test_round_trip_beside_zeo(value: Any) -> None:
    payload = dumps((value,))
    assert payload == encoder(b"M")(value)
    found = loads(payload, DEFAULT_LIMITS)
    assert found == (value,)
    assert repr(found) == repr((value,))


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:30])
def test_every_cut_is_refused(value: Any) -> None:
    payload = dumps((value, 1))
    sizes = range(len(payload)) if len(payload) < 2_000 else range(0, len(payload), 9_973)
    for size in sizes:
        refused(payload[:size])
    assert "after the message" in refused(payload + b"\0")


def test_floats_of_both_sizes() -> None:
    assert loads(b"\x92\xca\x3f\xc0\0\0\xcb\x3f\xf8\0\0\0\0\0\0", DEFAULT_LIMITS) == (1.5, 1.5)


def test_integer_keys() -> None:
    value = {1: "a", -1: "b", 300: "c", -(2**40): "d"}
    assert loads(dumps(value), DEFAULT_LIMITS) == value


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([1, [2]], (1, (2,))),
        ({1}, (1,)),
        (OrderedDict(a={2}), {"a": (2,)}),
        ((True, frozenset("x")), (True, ("x",))),
    ],
)
def test_lists_and_sets_arrive_as_tuples(value: Any, expected: Any) -> None:
    assert loads(dumps(value), DEFAULT_LIMITS) == expected


@pytest.mark.parametrize(
    "value",
    [object(), ValueError("x"), 1j, Prefix(("a",)), msgpack.Timestamp(1), memoryview(b"x")],
    ids=lambda value: type(value).__name__,
)
def test_other_classes_are_named(value: Any) -> None:
    with pytest.raises(TypeError, match=type(value).__name__):
        dumps((1, [{"k": value}]))


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1, "\udce9"], ids=repr)
def test_what_msgpack_cannot_carry(value: Any) -> None:
    with pytest.raises(ValueError, match=r"64 bits|surrogates"):
        dumps((value,))


def test_too_deep_values_are_refused_by_the_sender() -> None:
    value: Any = 1
    for _ in range(DEFAULT_LIMITS.max_depth):
        value = (value,)
    assert loads(dumps(value), DEFAULT_LIMITS) == value
    with pytest.raises(ValueError, match="nested"):
        dumps((value,))


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "cut short"),
        (b"\xc1", "0xc1"),
        (b"\x91\xc1", "0xc1"),
        (b"\xd4\x01\x00", "0xd4"),
        (b"\xd5\x01\0\0", "0xd5"),
        (b"\xd6\xff\0\0\0\0", "0xd6"),  # a timestamp
        (b"\xd7\xff" + b"\0" * 8, "0xd7"),
        (b"\xd8\x01" + b"\0" * 16, "0xd8"),
        (b"\xc7\x00\x01", "0xc7"),
        (b"\xc8\x00\x00\x01", "0xc8"),
        (b"\xc9\x00\x00\x00\x00\x01", "0xc9"),
        (b"\xa1\xff", "UTF-8"),
        (b"\xd9\x03\xed\xa0\x80", "UTF-8"),
        (b"\x81\xc0\x01", "key"),
        (b"\x81\xc2\x01", "key"),
        (b"\x81\x90\x01", "key"),
        (b"\x81\x80\x01", "key"),
        (b"\x81\xcb" + b"\0" * 8 + b"\x01", "key"),
        (b"\x82\xa1a\x01\x90\x01", "key"),
        (b"\xde\x00\x01\x90\x01", "key"),
        (b"\x92\x01", "announced"),
        (b"\xdc\xff\xff\x01", "announced"),
        (b"\xdd\xff\xff\xff\xff\x01", "announced"),
        (b"\xdf\xff\xff\xff\xff\x01", "announced"),
        (b"\xdd\x00\x00", "announced"),
        (b"\x93\x92\x01\x01\x01", "announced"),
        (b"\xc4", "cut short"),
        (b"\xc6\xff\xff\xff\xffx", "cut short"),
        (b"\xdb\xff\xff\xff\xffx", "cut short"),
        (b"\xcf\x00", "cut short"),
    ],
    ids=repr,
)
def test_malformed(payload: bytes, reason: str) -> None:
    assert reason in refused(payload)


@pytest.mark.parametrize("head", range(256), ids=hex)
def test_walk_measures_every_first_byte_as_msgpack_does(head: int) -> None:
    """What the walk lets pass is decoded, and what it refuses msgpack refuses or makes no value."""
    body = bytes([head]) + b"\0\0\0\0\0\0\0\0\x01" * 40
    unpacker = msgpack.Unpacker(raw=False, use_list=False, strict_map_key=False)
    unpacker.feed(body)
    try:
        expected = unpacker.unpack()
    except ValueError:
        with pytest.raises(UndecodableMessage):
            loads(body, DEFAULT_LIMITS)
        return
    payload = body[: unpacker.tell()]
    if isinstance(expected, msgpack.ExtType | msgpack.Timestamp):
        assert "not admitted" in refused(payload)
    else:
        assert repr(loads(payload, DEFAULT_LIMITS)) == repr(expected)
        assert "after the message" in refused(payload + b"\0")


@pytest.mark.parametrize("depth", [1, 2, 5, 12])
def test_depth_is_exact(depth: int) -> None:
    for shell in (
        (lambda value: (value,)),
        (lambda value: {"k": value}),
        (lambda value: (value, 2)),
    ):
        value: Any = 1
        for _ in range(depth):
            value = shell(value)
        payload = dumps(value)
        assert loads(payload, Limits(max_depth=depth)) == value
        if depth > 1:
            assert "deep" in refused(payload, max_depth=depth - 1)


def test_items_and_containers_are_counted() -> None:
    payload = dumps(tuple((n,) for n in range(100)))
    assert loads(payload, Limits(max_items=201, max_containers=101))
    assert "200 items" in refused(payload, max_items=200)
    assert "100 containers" in refused(payload, max_containers=100)
    assert "201 items" in refused(dumps({n: n for n in range(101)}), max_items=201)
