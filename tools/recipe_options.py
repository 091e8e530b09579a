"""Write the tables of ``docs/buildout.md`` from the options of the recipe.

Each table follows the title of its group.  ``python -m tools.recipe_options`` writes the file; with
``--check`` it only says, by its exit status, whether the file is what would be written.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path

from zeolith.recipe.options import GROUPS, Option

TARGET = Path(__file__).resolve().parent.parent / "docs" / "buildout.md"

HEAD = "| option | default | meaning |\n| --- | --- | --- |\n"
TABLE = r"\n\| option \| default \| meaning \|\n(?:\|.*\n)*"


def with_tables(text: str) -> str:
    """Return *text* with its tables as the recipe has them."""
    for title, options in GROUPS.items():
        pattern = re.compile(rf"(^### {title}\n(?:(?!^#).*\n)*?){TABLE}", re.M)
        written = "\n" + HEAD + "".join(f"{line}\n" for line in rows(options))
        found = pattern.findall(text)
        if len(found) != 1:
            raise SystemExit(f"tools/recipe_options.py: {len(found)} tables below '### {title}'")
        start = text.index(found[0]) + len(found[0])
        rest = text[start:]
        (old,) = re.findall(rf"\A{TABLE}", rest)
        text = text[:start] + written + rest[len(old) :]
    return text


def rows(options: Iterable[Option]) -> list[str]:
    """Return the lines of a table."""
    return [
        f"| `{option.name}`{' †' if option.writes else ''} | {option.default or '–'} | "
        f"{option.meaning} |"
        for option in options
    ]


def main(arguments: list[str]) -> int:
    """Write or check the file; return the exit status."""
    text = TARGET.read_text(encoding="utf-8")
    expected = with_tables(text)
    if arguments == ["--check"]:
        if text == expected:
            return 0
        print("docs/buildout.md is not what the recipe says: make reference", file=sys.stderr)
        return 1
    TARGET.write_text(expected, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
