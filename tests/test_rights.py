"""Rights: what they include, and how they are written."""

from __future__ import annotations

import itertools

import pytest

from zeolith.errors import ConfigurationError
from zeolith.rights import (
    DEFAULT,
    NONE,
    NOTHING,
    UNLIMITED,
    Right,
    Rights,
    format_rights,
    parse_rights,
)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("none", NONE),
        ("read", Right.READ),
        ("write", Right.READ | Right.WRITE),
        ("undo", Right.READ | Right.WRITE | Right.UNDO),
        ("pack", Right.READ | Right.PACK),
        ("administer", Right.ADMINISTER),
        ("pack, undo", DEFAULT),
        ("all", ~NONE),
    ],
)
def test_what_includes_what(text: str, found: Right) -> None:
    assert parse_rights(text, "access") == found


@pytest.mark.parametrize("text", ["", "READ", "read,", "read write", "root"])
def test_what_is_no_right(text: str) -> None:
    with pytest.raises(ConfigurationError, match="is no right"):
        parse_rights(text, "access")


def test_what_is_written_is_read() -> None:
    for count in range(6):
        for words in itertools.combinations(("read", "write", "undo", "pack", "administer"), count):
            rights = parse_rights(",".join(words or ("none",)), "access")
            assert parse_rights(format_rights(rights), "access") == rights


def test_to_end_connections_of_others_has_to_be_granted() -> None:
    assert Right.ADMINISTER not in Rights().everywhere


def test_a_storage_of_which_something_is_said() -> None:
    rights = Rights(DEFAULT, {"2": Right.READ})
    assert rights.on("1") == DEFAULT
    assert rights.on("2") == Right.READ
    assert rights.on_all(["1", "2"]) == Right.READ
    assert rights.on_all(["1"]) == DEFAULT
    assert Right.ADMINISTER in UNLIMITED.on("1")
    assert NOTHING.on("1") == NONE
