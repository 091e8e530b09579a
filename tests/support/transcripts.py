"""Recorded transcripts of Zeolith's own protocol: what was sent, byte for byte, and what it means.

A file has one step for each frame: a line with the sender, ``C`` or ``S``, and the frame in
hexadecimal, with blanks anywhere; and below it a line ``=`` with what the receiver makes of it.
Other lines beginning with ``#`` are remarks.  A file that has been recorded is not changed any
more: it stands for programs that are out there.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

VECTORS = Path(__file__).parents[1] / "protocol" / "vectors"


class Step(NamedTuple):
    """One frame.

    :ivar is_from_client: who sent it.
    :ivar meaning: the representation of the event that it is to the receiver.
    """

    is_from_client: bool
    frame: bytes
    meaning: str


def read_transcript(name: str) -> list[Step]:
    """Return the steps of the transcript of that name."""
    steps = []
    sender, frame = "", b""
    for line in (VECTORS / f"{name}.hex").read_text(encoding="ascii").splitlines():
        mark, _, rest = line.partition(" ")
        if mark in ("C", "S"):
            sender, frame = mark, bytes.fromhex(rest)
        elif mark == "=":
            steps.append(Step(sender == "C", frame, rest.strip()))
        else:
            assert mark in ("#", ""), line
    return steps
