"""Filtering the undo log, which a server cannot do with a client's function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

PAGE = 100
"""Entries asked of the server at once."""


def filtered_undo_log(
    fetch: Callable[[int, int], list[dict[str, Any]]],
    first: int,
    last: int,
    accept: Callable[[dict[str, Any]], bool],
) -> list[dict[str, Any]]:
    """Return entries *first* to *last* of those that *accept* accepts, newest first.

    :param fetch: returns entries from one position up to before another.
    :param last: position after the last entry; negative: that many entries from *first* on.
    """
    if last < 0:
        last = first - last
    accepted: list[dict[str, Any]] = []
    position = 0
    while len(accepted) < last:
        page = fetch(position, position + PAGE)
        accepted.extend(entry for entry in page if accept(entry))
        if len(page) < PAGE:
            break
        position += PAGE
    return accepted[first:last]
