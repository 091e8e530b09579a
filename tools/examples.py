"""Write the examples of ``docs/protocol.md`` from the recorded transcripts.

A fence ``vectors NAME`` has the whole transcript of that name; ``vectors NAME: words`` has the part
that begins with the remark of which these are the first words, up to the next remark.
``python -m tools.examples`` writes the file; with ``--check`` it only says, by its exit status,
whether the file is what would be written.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "docs" / "protocol.md"
VECTORS = ROOT / "tests" / "protocol" / "vectors"

_FENCE = re.compile(r"^```vectors (?P<name>[\w-]+)(?:: (?P<words>[^\n]+))?\n.*?^```$", re.M | re.S)


def with_examples(text: str) -> str:
    """Return *text* with its examples as the transcripts have them."""
    return _FENCE.sub(_fence, text)


def _fence(found: re.Match[str]) -> str:
    name, words = found["name"], found["words"]
    head = f"```vectors {name}" + (f": {words}" if words else "")
    return f"{head}\n{excerpt(name, words)}```"


def excerpt(name: str, words: str | None) -> str:
    """Return the transcript *name*, or the part of it of which the remark begins with *words*.

    :raises SystemExit: there is none, or more than one.
    """
    text = (VECTORS / f"{name}.hex").read_text(encoding="ascii")
    if words is None:
        return text
    parts = [part for part in re.split(r"^(?=# )", text, flags=re.M) if part[2:].startswith(words)]
    if len(parts) != 1:
        raise SystemExit(f"tools/examples.py: {len(parts)} parts of {name} begin with {words!r}")
    return parts[0]


def main() -> int:
    """Write the document, or check it; return the exit status."""
    text = TARGET.read_text(encoding="utf-8")
    expected = with_examples(text)
    if sys.argv[1:] == ["--check"]:
        if text == expected:
            return 0
        print("docs/protocol.md is not what was recorded: make reference", file=sys.stderr)
        return 1
    TARGET.write_text(expected, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
