"""The value classes of the wire that are not Python's own."""

from __future__ import annotations

import pytest

from zeolith.protocol.values import Prefix, is_plain, to_plain


def prefix(path: str) -> Prefix:
    return Prefix(tuple(path.split("/")))


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("/a/b", "/a/b", True),
        ("/a/b", "/a/b/c", True),
        ("/a/b", "/a/bc", False),
        ("/a/b", "/a", False),
        ("/a/b", "", False),
        ("/a/b", "/a/b user", True),
        ("/a/b", "/a/b/c user name", True),
        ("/a/b", "/a/b c/d", False),
        ("/a/b", "/a x/b", False),
        ("", "/a", True),
        ("", "a", False),
        ("/a/b", b"/a/b user", True),
        ("/a/b", b"/a/c", False),
        ("/\udcff", b"/\xff/x", True),
        ("/a", None, False),
        ("/a", 1, False),
    ],
)
def test_prefix_matches_paths(path: str, value: object, expected: bool) -> None:
    assert (prefix(path) == value) is expected
    assert (value == prefix(path)) is expected
    assert (prefix(path) != value) is not expected
    # As UndoLogCompatible.undoInfo compares.
    assert (value != prefix(path)) is not expected


def test_prefix_is_no_key_and_has_a_text() -> None:
    with pytest.raises(TypeError):
        hash(prefix("/a"))
    assert repr(prefix("/a/b")) == "Prefix('/a/b')"
    assert prefix("/a") != prefix("/a")
    same = prefix("/a")
    assert same == same


def test_plain_values_pass_as_they_are() -> None:
    value = (1, [b"x", {"k": (None, True, 1.5)}])
    assert is_plain(value)
    assert to_plain(value) == value
    assert not is_plain((1, {2}))
    assert not is_plain({"k": object()})
    assert not is_plain({(1, 2): 3})
    assert is_plain(to_plain((1, {2})))


def test_endless_values_are_not_plain() -> None:
    endless: dict[str, object] = {}
    endless["k"] = [endless]
    assert not is_plain(endless)
    with pytest.raises(ValueError, match="nested"):
        to_plain(endless)
