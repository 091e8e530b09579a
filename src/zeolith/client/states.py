"""The states of a client's connection, and which may follow which."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final


class State(Enum):
    """Where a client is with respect to its servers."""

    CONNECTING = "connecting"
    """No server has been reached yet, or none since the last one was lost."""

    VERIFYING = "verifying"
    """A server has admitted us; the cache is being brought up to date."""

    READY = "ready"
    """Connected as asked for."""

    FALLBACK = "read-only fallback"
    """Connected to a read-only server; a writable one is being looked for."""

    CLOSED = "closed"
    """For good."""


TRANSITIONS: Final[Mapping[State, frozenset[State]]] = {
    State.CONNECTING: frozenset({State.VERIFYING, State.CLOSED}),
    State.VERIFYING: frozenset({State.READY, State.FALLBACK, State.CONNECTING, State.CLOSED}),
    State.READY: frozenset({State.CONNECTING, State.CLOSED}),
    State.FALLBACK: frozenset({State.CONNECTING, State.VERIFYING, State.CLOSED}),
    State.CLOSED: frozenset(),
}
"""State → the states that may follow it.  A lost connection leads to CONNECTING; an upgrade from
a fallback goes straight to VERIFYING the better server."""
