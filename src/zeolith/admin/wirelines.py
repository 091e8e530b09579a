"""What ``zeolith wire`` prints: lines of text, or objects for JSON."""

from __future__ import annotations

import time
from typing import Any

from ..protocol.descriptions import describe, kind_of, name_of
from .tables import align
from .wiretap import Overheard, Remark, Tally

_COLUMNS = ("method", "-> messages", "-> bytes", "<- messages", "<- bytes")
_KEYS = ("messages", "bytes", "answers", "answered_bytes")


def render_item(item: Overheard | Remark, now: float, with_data: bool) -> str:
    """Return the line for *item*.

    :param now: the time, in seconds since the epoch.
    :param with_data: show bytes, too.
    """
    clock = f"{time.strftime('%H:%M:%S', time.localtime(now))}.{int(now % 1 * 1e6):06}"
    head = f"{clock} {item.connection:>3}"
    if isinstance(item, Remark):
        return f"{head} -- {item.text}"
    entry = item.entry
    arrow = "->" if entry.is_from_client else "<-"
    return f"{head} {arrow} {describe(entry, with_data)} [{entry.size}]"


def item_as_json(item: Overheard | Remark, now: float, with_data: bool) -> dict[str, Any]:
    """Return the object for *item*; arguments as of :func:`render_item`."""
    parts: dict[str, Any] = {"time": round(now, 6), "connection": item.connection}
    if isinstance(item, Remark):
        return {**parts, "remark": item.text}
    entry = item.entry
    return {
        **parts,
        "from": "client" if entry.is_from_client else "server",
        "kind": kind_of(entry),
        "name": name_of(entry),
        "text": describe(entry, with_data),
        "size": entry.size,
    }


def render_summary(tally: Tally) -> str:
    """Return the lines that say how many messages there were."""
    rows = [tuple(map(str, row)) for row in tally.as_rows()]
    return "\n".join(align([_COLUMNS, *rows], frozenset({1, 2, 3, 4})))


def summary_as_json(tally: Tally) -> dict[str, Any]:
    """Return how many messages there were, by method."""
    return {"summary": {name: dict(zip(_KEYS, counts)) for name, *counts in tally.as_rows()}}
