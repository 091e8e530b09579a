"""Transactions that take too long from their beginning to their vote.

One timer for all: a transaction costs nothing but a look at whether it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, Protocol

from .tally import Limit, Tally
from .transactions import Stage

if TYPE_CHECKING:
    from .transport import Connection

AGAIN: Final = 5.0
"""Seconds until the next look where a transaction is late, and the server itself has it: its vote
or its end is on the way."""


class Clock(Protocol):
    """The part of an event loop that knows the time."""

    def time(self) -> float: ...

    def call_later(self, delay: float, callback: Callable[[], None]) -> Any: ...


class Overdue:
    """Ends the connections whose transactions take too long.  Belongs to the loop's thread.

    :param clock: the loop.
    :param connections: returns all connections.
    :param longest: seconds that a transaction may take; None: for ever.
    :param tally: counts those that were ended.
    """

    def __init__(
        self,
        clock: Clock,
        connections: Callable[[], Iterable[Connection]],
        longest: float | None,
        tally: Tally,
    ) -> None:
        self._clock = clock
        self._connections = connections
        self._longest = longest
        self._tally = tally
        self._timer: Any = None

    def watch(self) -> None:
        """A transaction has begun."""
        if self._timer is None and self._longest is not None:
            self._timer = self._clock.call_later(self._longest, self._look)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        longest = self._longest
        assert longest is not None
        now = self._clock.time()
        pause: float | None = None
        for connection in list(self._connections()):
            session = connection.session
            if session is None:
                continue
            for transaction in session.transactions.values():
                rest = transaction.began + longest - now
                if rest <= 0:
                    if transaction.stage in (Stage.COLLECTING, Stage.VOTED):
                        self._tally.hit(Limit.TRANSACTION_DURATION)
                        session.drop(
                            f"its transaction, which began {now - transaction.began:.0f} s ago, "
                            f"takes longer than {longest:g} s (max-transaction-duration)"
                        )
                        break
                    rest = AGAIN
                pause = rest if pause is None else min(pause, rest)
        if pause is not None:
            self._timer = self._clock.call_later(pause, self._look)
