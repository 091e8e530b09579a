"""One spelling of names and passwords."""

from __future__ import annotations

from unicodedata import ucd_3_2_0

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scramp.utils import saslprep as reference

from zeolith.errors import ConfigurationError
from zeolith.protocol.saslprep import MAX_LENGTH, saslprep


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("I\xadX", "IX"),
        ("user", "user"),
        ("USER", "USER"),
        ("\xaa", "a"),
        ("\u2168", "IX"),
        ("a\xa0b", "a b"),
        ("e\u0301", "\xe9"),
        ("\U0001f511", "\U0001f511"),  # newer than Unicode 3.2
    ],
)
def test_examples(text: str, found: str) -> None:
    """The first five are those of RFC 4013."""
    assert saslprep(text, "password") == found


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("\x07", "control"),
        ("\u0627\x31", "right to left"),
        ("\u0627a\u0627", "right to left"),
        ("", "empty"),
        ("\xad", "empty"),
        ("x" * (MAX_LENGTH + 1), "longer"),
        ("\ud800", "control"),
    ],
)
def test_what_cannot_be_used_is_not_shown(text: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem) as caught:
        saslprep(text, "password")
    assert not text or text not in str(caught.value)


@given(st.text(alphabet=st.characters(max_codepoint=0x33FF), min_size=1, max_size=6))
def test_as_another_implementation_has_it(text: str) -> None:
    try:
        found: str | None = reference(text)
    except Exception:  # noqa: BLE001 - it has several
        found = None
    try:
        ours: str | None = saslprep(text, "x")
    except ConfigurationError:
        ours = None
    if found is None:
        # It refuses what Unicode 3.2 did not have; we do not.
        from stringprep import in_table_a1

        assert ours is None or any(map(in_table_a1, text))
    else:
        assert ours == (found or None)
        assert ours is None or saslprep(ours, "x") == ours


def test_r8_what_is_long_only_when_written_out_is_too_long() -> None:
    """One letter may stand for eighteen."""
    assert len(saslprep("\ufdfa" * 50, "user")) == 50 * 18
    with pytest.raises(ConfigurationError, match="longer than 1024 characters"):
        saslprep("\ufdfa" * 60, "user")


@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1))
def test_what_can_be_typed_everywhere_stays_as_it_is(text: str) -> None:
    assert saslprep(text, "user") == text == ucd_3_2_0.normalize("NFKC", text)
