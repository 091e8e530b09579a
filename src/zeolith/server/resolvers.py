"""Where a server resolves conflicts: nowhere, in its own process, or in one of their own.

Resolving unpickles what clients have sent, and runs the code of their application.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final

from ZODB.POSException import ConflictError, POSKeyError

from .conflicts import Conflict, Records, class_of
from .options import ServerOptions
from .quarantine import PERIOD, Quarantine
from .resolverprocess import ResolverProcess, WorkerLost
from .resolverwire import Kind, Request

logger = logging.getLogger(__name__)

_MOST_MISSING: Final = 100
"""Classes named in the log because nobody has them; a line for each."""

_MOST_COMPLAINTS: Final = 10
"""Conflicts within a period that get a line each, and perhaps a traceback.  Whoever may write can
cause as many as he likes, and choose what the traceback says."""

_COMPLAINTS_PERIOD: Final = 60.0
"""Seconds, counted from the first of them."""

Start = Callable[[], ResolverProcess]


class Resolver(ABC):
    """Resolves the conflicts of one storage, on its commit thread; counts.

    :ivar resolved: how many were resolved.
    :ivar failed: how many were not.
    :ivar restarts: how many processes took the place of one that was lost.
    """

    def __init__(self) -> None:
        self.resolved = 0
        self.failed = 0
        self.restarts = 0

    def begin(self) -> None:
        """What follows belongs to another transaction."""
        return

    def __call__(self, conflict: Conflict) -> bytes:
        """Return the record that resolves *conflict*, as the storage keeps it.

        :raises ConflictError: there is none.
        """
        try:
            record = self.resolve(conflict)
        except ConflictError:
            self.failed += 1
            raise
        self.resolved += 1
        return record

    @abstractmethod
    def resolve(self, conflict: Conflict) -> bytes:
        """Do so."""

    def close(self) -> None:
        """Resolve nothing any more.  Any thread; what is under way ends with a ConflictError."""
        return

    def counters(self) -> dict[str, int]:
        """Return what has been counted.  Any thread may call this."""
        return {
            "resolutions": self.resolved,
            "failed_resolutions": self.failed,
            "resolver_restarts": self.restarts,
        }


class InProcess(Resolver):
    """Has the storage resolve them, as ZODB does: whatever happens then happens to the server."""

    def resolve(self, conflict: Conflict) -> bytes:
        """See the storage's method."""
        return conflict.resolve()


class InWorker(Resolver):
    """Resolves them in a process of their own, within limits.

    :param name: the storage's, for the log.
    :param start: starts such a process; raises OSError where that is not possible.
    :param seconds: for the conflicts of one transaction together, while it keeps the commit lock.
    :param clock: seconds, does not jump.
    """

    def __init__(
        self, name: str, start: Start, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self._name = name
        self._start = start
        self._seconds = seconds
        self._clock = clock
        self._left = seconds
        self._is_said = False  # that the time is used up: an undo tries many objects
        self._quarantine = Quarantine()
        self._missing: set[str] = set()  # classes that have been complained of
        self._complaints = 0
        self._complaints_end = -math.inf
        self._busy = threading.Lock()  # held by whoever uses the process's socket
        self._lock = threading.Lock()  # guards the two below
        self._process: ResolverProcess | None = None
        self._is_closed = False

    def begin(self) -> None:
        """The next transaction gets the full time."""
        self._left = self._seconds
        self._is_said = False

    def resolve(self, conflict: Conflict) -> bytes:
        """See :class:`Resolver`."""
        records = self._records(conflict)
        error = conflict.error(records.new)
        name = class_of(records.new)
        if self._quarantine.remaining(name, self._clock()):
            raise error
        if self._left <= 0:
            if not self._is_said:
                self._is_said = True
                self._complain(conflict, name, "its transaction has used up its time")
            raise error
        request = Request(conflict.oid, conflict.committed, conflict.read, records)
        try:
            kind, body = self._ask(request)
        except WorkerLost as lost:
            self._note_loss(conflict, name, str(lost))
            raise error from None
        if kind is Kind.RESOLVED:
            return conflict.to_store(body)
        reason = body.decode("utf-8", "backslashreplace")
        if kind is Kind.MISSING:
            self._say_missing(name)
        elif kind is Kind.FAILED:
            self._complain(conflict, name, f"its class raised an error\n{_indented(reason)}")
        else:
            logger.debug("storage %r: conflict of %s: %s", self._name, conflict.oid.hex(), reason)
        raise error

    def _say_missing(self, name: str) -> None:
        if name in self._missing or len(self._missing) == _MOST_MISSING:
            return
        self._missing.add(name)
        logger.warning(
            "storage %r: class %s cannot be imported, so its conflicts are not resolved.  Install "
            "the application beside the server, or have the clients do it "
            "(client-conflict-resolution)",
            self._name, name,
        )  # fmt: skip

    def _records(self, conflict: Conflict) -> Records:
        try:
            return conflict.records()
        except POSKeyError:
            # What the client had read is no more: a pack has removed it.
            raise conflict.error() from None
        except Exception as error:
            # A wrapper finds something else than what it has made, or the disk fails.
            self._complain(conflict, "", f"its states cannot be read: {error!r}")
            raise conflict.error() from error

    def _ask(self, request: Request) -> tuple[Kind, bytes]:
        with self._busy:
            process = self._take()
            try:
                answer, seconds = process.ask(request, self._left, self._clock)
            except BaseException:
                self._drop(process)
                raise
        self._left -= seconds
        return answer

    def _take(self) -> ResolverProcess:
        process = self._process
        if process is not None and not process.is_usable():
            logger.warning("storage %r: its idle worker for conflicts has ended", self._name)
            self._drop(process)
        with self._lock:
            if self._is_closed:
                raise WorkerLost("is not started any more: the server stops")
            if self._process is None:
                try:
                    self._process = self._start()
                except OSError as error:
                    raise WorkerLost(f"cannot be started: {error}") from error
                logger.debug("storage %r: process %d resolves", self._name, self._process.pid)
            return self._process

    def _drop(self, process: ResolverProcess) -> None:
        process.close()
        with self._lock:
            self._process = None
            self.restarts += not self._is_closed

    def _note_loss(self, conflict: Conflict, name: str, how: str) -> None:
        if self._is_closed:
            return  # nobody's fault
        now = self._clock()
        self._quarantine.add(name, now)
        # The time that it took is not known exactly, and another loss is enough.
        self._left = 0.0
        self._is_said = True
        self._complain(conflict, name, f"the worker process {how}")
        if self._quarantine.remaining("", now):
            who = "any class"
        elif self._quarantine.remaining(name, now):
            who = f"class {name}"
        else:
            return
        logger.error(
            "storage %r: workers that resolve conflicts were lost too often: no conflict of %s is "
            "tried for up to %g s.  Correct the class, or see conflict-resolution, "
            "conflict-resolution-timeout and conflict-resolution-memory",
            self._name, who, PERIOD,
        )  # fmt: skip

    def _complain(self, conflict: Conflict, name: str, why: str) -> None:
        now = self._clock()
        if now >= self._complaints_end:
            self._complaints_end = now + _COMPLAINTS_PERIOD
            self._tell_rest()
        self._complaints += 1
        if self._complaints > _MOST_COMPLAINTS:
            return
        logger.error(
            "storage %r: a conflict of object %s (class %s) is not resolved: %s",
            self._name, conflict.oid.hex(), name or "unknown", why,
        )  # fmt: skip

    def _tell_rest(self) -> None:
        """Tell how many complaints were not made."""
        left_out, self._complaints = self._complaints - _MOST_COMPLAINTS, 0
        if left_out > 0:
            logger.error(
                "storage %r: %d more conflicts of which nothing was said were not resolved",
                self._name, left_out,
            )  # fmt: skip

    def close(self) -> None:
        """See :class:`Resolver`."""
        with self._lock:
            self._is_closed = True
            process = self._process
        if process is not None:
            process.kill()
        # Whoever was using it finds out, and then nobody uses the socket.
        with self._busy:
            if process is not None:
                process.close()
            self._tell_rest()


def _indented(text: str) -> str:
    """Return *text*, which somebody else has chosen, so that no line of it looks like ours."""
    return "\n".join(f"    {line}" for line in text.splitlines())


def make_resolver(name: str, options: ServerOptions) -> Resolver | None:
    """Return what resolves the conflicts of the storage *name*; None if nothing does."""
    where = options.resolves_conflicts
    if where == "off":
        return None
    if where == "in-process":
        return InProcess()
    memory, max_record = options.resolution_memory, options.limits.max_message_size

    def start() -> ResolverProcess:
        return ResolverProcess(memory, max_record)

    return InWorker(name, start, options.resolution_timeout)
