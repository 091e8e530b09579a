"""How often each limit was reached, for the status."""

from __future__ import annotations

import threading
from enum import Enum


class Limit(Enum):
    """The limits that are counted, by their names in the status; docs/security.md describes each.

    Those that end a client's connection to one storage are counted there; see
    :class:`~.statistics.Statistics`.
    """

    CONNECTIONS = "connections"
    CONNECTIONS_PER_ADDRESS = "connections_per_address"
    REGISTER_TIMEOUT = "register_timeout"
    LOGINS = "logins"
    PICKLE = "pickle"
    MESSAGE_SIZE = "message_size"
    INCOMING = "incoming"
    TRANSACTION_SIZE = "transaction_size"
    TRANSACTION_DURATION = "transaction_duration"
    BLOB_SIZE = "blob_size"
    ITERATORS = "iterators"
    OUTSTANDING_CALLS = "outstanding_calls"
    LOG_LINES = "log_lines"


class Tally:
    """Counts since the server started.  Any thread may use it."""

    __slots__ = ("_counts", "_lock")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(Limit, 0)

    def hit(self, limit: Limit, times: int = 1) -> None:
        """*limit* was reached."""
        with self._lock:
            self._counts[limit] += times

    def __getitem__(self, limit: Limit) -> int:
        return self._counts[limit]

    def as_dict(self) -> dict[str, int]:
        """Return all counts by the limits' names."""
        return {limit.value: count for limit, count in self._counts.items()}
