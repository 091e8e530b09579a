"""SASLprep (RFC 4013): one spelling for names and passwords that people take for the same.

Code points that Unicode 3.2 did not have are left as they are.  The profile would refuse them where
something is stored; but then nobody could use a newer letter in a password, and because both sides
treat them alike, nothing is lost.
"""

from __future__ import annotations

import stringprep
from typing import Final
from unicodedata import ucd_3_2_0

from ..errors import ConfigurationError

MAX_LENGTH: Final = 1024
"""Characters of a name or password: more than anybody types, and little work for whoever gets it
from a stranger."""

_PROHIBITED: Final = (
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)


def saslprep(text: str, what: str) -> str:
    """Return *text* in the one spelling that is compared and hashed.

    :param what: of whom or what it is, for the error, which never shows *text* itself.
    :raises ConfigurationError: it is empty or too long, or has characters that cannot be used.
    """
    if len(text) > MAX_LENGTH:
        raise ConfigurationError(what, f"is longer than {MAX_LENGTH} characters")
    if text and text.isascii() and text.isprintable():
        # Is its own normal form.  Said here because a server that reads its users again does so
        # for each of them.
        return text
    mapped = "".join(
        " " if stringprep.in_table_c12(c) else c for c in text if not stringprep.in_table_b1(c)
    )
    found = ucd_3_2_0.normalize("NFKC", mapped)
    if not found:
        raise ConfigurationError(what, "is empty")
    if len(found) > MAX_LENGTH:
        # One character may stand for eighteen.
        raise ConfigurationError(what, f"is longer than {MAX_LENGTH} characters, written out")
    if any(is_prohibited(c) for c in found for is_prohibited in _PROHIBITED):
        raise ConfigurationError(
            what, "has a control character or another one that cannot be typed", "leave it out"
        )
    if any(map(stringprep.in_table_d1, found)) and (
        any(map(stringprep.in_table_d2, found))
        or not stringprep.in_table_d1(found[0])
        or not stringprep.in_table_d1(found[-1])
    ):
        raise ConfigurationError(
            what,
            "mixes letters that are written from right to left with others",
            "use letters of one direction, at the beginning and at the end too",
        )
    return found
