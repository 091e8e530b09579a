"""How transactions get their turn in a storage: the seam for strategies.

Sessions and services know nothing but :class:`CommitCoordinator`.  The strategy that every ZODB
storage can do is in :mod:`.exclusive`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeAlias

from transaction.interfaces import TransientError

from ..errors import OutcomeUnknown
from .publisher import Subscriber
from .replay import Vote
from .transactions import Transaction


class Finished(NamedTuple):
    """A transaction is committed.

    :ivar tid: its id.
    :ivar info: what the storage's size is now; None if the storage cannot say.
    """

    tid: bytes
    info: dict[str, Any] | None


VoteDone: TypeAlias = Callable[[Vote | None, Exception | None], None]
FinishDone: TypeAlias = Callable[[Finished | None, Exception | None], None]
EndDone: TypeAlias = Callable[[], None]


class Owner(Subscriber, Protocol):
    """What a coordinator needs of the session that makes a transaction."""

    @property
    def name(self) -> str:
        """Label and address, for messages."""


class Turn(NamedTuple):
    """A transaction between its vote and its end, for whoever looks at the queue.

    :ivar owner: the session that makes it.
    :ivar phase: how far it has come, in one word; ``waiting`` if another one has its turn.
    :ivar since: when it got its turn or, while it waits, when it asked for it; the loop's time.
    """

    owner: Owner
    phase: str
    since: float


def is_survived(error: Exception) -> bool:
    """Return whether a storage that raises *error* when it is to commit can still be trusted.

    Only one that is itself a client of another server, and lost that: it has nothing on disk, and
    will verify.
    """
    return isinstance(error, TransientError | OutcomeUnknown)


class CommitCoordinator(ABC):
    """Brings transactions into a storage.  Everything is called on, and calls back on, the loop.

    Callbacks may come before the method returns.
    """

    @abstractmethod
    def vote(self, owner: Owner, transaction: Transaction, done: VoteDone) -> None:
        """Ask the storage whether *transaction* can be committed.

        :param done: gets the vote, or the error.  Unless the vote has conflicts or failed, the
            transaction is to be finished or aborted within the time limit.
        :raises StorageTransactionError: it has voted already.
        """

    @abstractmethod
    def finish(self, transaction: Transaction, done: FinishDone) -> None:
        """Commit *transaction*.

        :raises StorageTransactionError: there was no successful vote.
        """

    @abstractmethod
    def abort(self, transaction: Transaction, done: EndDone) -> None:
        """Give up *transaction*, unless it is being committed.

        :param done: called when the storage no longer needs anything of it.
        """

    @property
    @abstractmethod
    def waiting(self) -> int:
        """How many votes wait for their turn."""

    @abstractmethod
    def is_untouched(self, transaction: Transaction) -> bool:
        """Whether the storage has not been asked about *transaction* yet: it has not voted, or its
        vote waits for its turn.  Its files are in nobody else's hands then."""

    @abstractmethod
    def turns(self, most: int) -> list[Turn]:
        """Return up to *most* of the transactions between vote and end; those that wait are last,
        in the order of their turns."""

    @property
    @abstractmethod
    def is_idle(self) -> bool:
        """Whether no transaction is between its vote and its end."""

    @abstractmethod
    def close(self, timeout: float) -> bool:
        """Stop; return whether the storage is in nobody's hands any more."""
