"""Write ``docs/configuration.md``, the reference of ``zeo.conf``, from the schema.

The first part is ``reference_head.md``, the rest comes from the schema and ``reference_words.py``.
``python -m tools.reference`` writes the file; with ``--check`` it only says, by its exit status,
whether the file is what would be written.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tools.reference_words import EXAMPLES, KEYS, LEFT_OUT, SECTIONS, TYPES

from zeolith.config.server import server_schema

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "docs" / "configuration.md"

ORDER = (
    "zeo", "ssl", "filestorage", "blobstorage", "tieredblobs", "mappingstorage", "demostorage",
    "zeoclient", "zeolith", "clientstorage", "eventlog", "logfile", "syslog", "email-notifier",
    "http-logger", "runner",
)  # fmt: skip

SAME = {"clientstorage": "zeolith"}
"""Section → the section that has the same keys."""

HEAD = (ROOT / "tools" / "reference_head.md").read_text(encoding="utf-8")


def reference() -> str:
    """Return the text of the reference."""
    schema = server_schema()
    known = {name for name, _ in documented_types(schema)}
    if known != set(ORDER):
        raise SystemExit(f"tools/reference.py: sections to add or remove: {known ^ set(ORDER)}")
    parts = [HEAD, *(section(schema.gettype(name)) for name in ORDER)]
    return "\n".join(parts)


def documented_types(schema: Any) -> Iterator[tuple[str, Any]]:
    """Yield the name and type of each section that somebody may write."""
    for name, type_ in schema.itertypes():
        if not type_.isabstract() and "." not in name and name not in LEFT_OUT:
            yield name, type_


def section(type_: Any) -> str:
    """Return the chapter about one section."""
    name = type_.name
    words = SECTIONS.get(name) or escape(one_line(type_.description))
    if not words:
        raise SystemExit(f"tools/reference.py: no description of <{name}>")
    lines = [f"## &lt;{name}&gt;", "", words, ""]
    if name in EXAMPLES:
        lines += ["```apacheconf", EXAMPLES[name].strip(), "```", ""]
    if name in SAME:
        return "\n".join([*lines, f"Its keys are those of `<{SAME[name]}>`."]) + "\n"
    lines += [f"| key in `<{name}>` | type | default | meaning |", "| --- | --- | --- | --- |"]
    rows = [row(name, key, info) for key, info in type_ if not info.issection()]
    described = KEYS.get(name, {}).keys() - {key for key, info in type_ if key}
    if described:
        raise SystemExit(f"tools/reference.py: <{name}> has no key {described}")
    lines += rows
    for _, info in type_:
        if info.issection():
            lines.append(section_row(name, info))
    return "\n".join(lines) + "\n"


def row(section_name: str, key: str, info: Any) -> str:
    """Return the line of the table about one key."""
    meaning = KEYS.get(section_name, {}).get(key) or escape(one_line(info.description))
    if not meaning:
        raise SystemExit(f"tools/reference.py: no description of {key} in <{section_name}>")
    return f"| `{key}` | {type_of(info)} | {default_of(info)} | {meaning} |"


def section_row(section_name: str, info: Any) -> str:
    """Return the line of the table about the sections within a section."""
    inner = info.sectiontype
    kinds = {
        "zodb.storage": ("one or more storages" if info.ismulti() else "a storage"),
        "zconfig.logger.handler": "`<logfile>` and the like",
        "zconfig.logger.log": "`<eventlog>`",
    }
    kind = kinds.get(inner.name.lower(), f"`<{inner.name}>`")
    default = "required" if info.minOccurs else "none"
    meaning = "" if section_name in SECTIONS else escape(one_line(info.description))
    return f"| {kind} | section | {default} | {meaning or 'see there'} |"


def type_of(info: Any) -> str:
    """Return what the key's values are, in words."""
    registry = server_schema().registry
    for name, words in TYPES.items():
        if info.datatype is registry._stock.get(name):
            return words
    name = getattr(info.datatype, "__name__", "")
    if name in TYPES:
        return TYPES[name]
    if info.datatype is registry.get("null") or info.datatype is str:
        return "text"
    raise SystemExit(f"tools/reference.py: no words for the type {info.datatype} of {info.name}")


def default_of(info: Any) -> str:
    """Return the key's default as it would be written, or in words."""
    if info.minOccurs:
        return "required"
    default = info.getdefault()
    if info.metadefault:
        return escape(one_line(info.metadefault))
    if not default or default.value == "":
        return "none"
    text: str = default.value
    return "`" + text.replace("\n", r"\n").replace("|", r"\|") + "`"


def one_line(text: str | None) -> str:
    """Return *text* without its line breaks."""
    return " ".join((text or "").split())


def escape(text: str) -> str:
    """Return *text* for a cell of a table."""
    return text.replace("|", r"\|").replace("<", "&lt;")


def main(arguments: list[str]) -> int:
    """Write or check the file; return the exit status."""
    text = reference()
    if arguments == ["--check"]:
        if TARGET.read_text(encoding="utf-8") == text:
            return 0
        print("docs/configuration.md is not what the schema says: make reference", file=sys.stderr)
        return 1
    TARGET.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
