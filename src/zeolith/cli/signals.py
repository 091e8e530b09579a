"""Signals, taken by a thread that does nothing else.

SIGTERM and SIGINT stop a server and end it with status 0; SIGHUP does the same with status 1, so
that a supervisor starts it again; SIGUSR2 reopens the log files
and looks for renewed certificates.  SIGXFSZ is ignored: a file
that grows beyond its limit gives an error, which the one commit reports that caused it.

Handlers would run in the main thread, between any two steps of whatever it does, and the event
loop's own ones only while the loop runs: not while files are opened, nor while they are closed,
which for a large database takes long enough for an impatient second Ctrl-C.  So the signals are
blocked from the first moment, and one thread waits for them.  That also makes them count for
process 1 of a container, to which the system delivers no signal that has its default effect.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from .reaping import Reaper

logger = logging.getLogger(__name__)

_STATUS: Final = {signal.SIGTERM: 0, signal.SIGINT: 0, signal.SIGHUP: 1}
_REOPEN: Final = signal.SIGUSR2

_BURY_INTERVAL: Final = 2.0
"""Seconds between two looks at ended processes that nobody has waited for."""


class Signals:
    """Takes the signals of this process.

    Make it in the main thread before any other thread is started: threads inherit what is
    blocked.  The methods may be called from any thread.

    :ivar status: exit status that the signals so far ask for.
    """

    def __init__(self) -> None:
        self.status = 0
        self._lock = threading.Lock()  # guards the three below
        self._stop: Callable[[], None] | None = None
        self._clean_up: Callable[[], None] | None = None
        self._is_stopping = False
        self._eventlog: Any = None
        self._refresh: Callable[[], None] | None = None
        self._taken = {*_STATUS, _REOPEN}
        if os.getpid() == 1:
            self._taken.add(signal.SIGCHLD)
        signal.pthread_sigmask(signal.SIG_BLOCK, self._taken)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        threading.Thread(target=self._take, name="zeolith-signals", daemon=True).start()

    def clean_up_by(self, clean_up: Callable[[], None]) -> None:
        """From now on call *clean_up* before a signal ends the process on the spot.

        :param clean_up: takes no time; called in another thread.
        """
        with self._lock:
            self._clean_up = clean_up

    def direct_to(
        self,
        stop: Callable[[], None],
        eventlog: Any,
        refresh: Callable[[], None] | None = None,
    ) -> None:
        """From now on signals call *stop*; before, they end the process on the spot.

        :param stop: called once, in another thread.
        :param eventlog: its ``reopen()`` reopens the log files; None if there are none.
        :param refresh: looks for renewed certificates; None if there are none.
        """
        with self._lock:
            self._stop = stop
            self._eventlog = eventlog
            self._refresh = refresh

    def _take(self) -> None:
        take_next = self._next
        if signal.SIGCHLD in self._taken:
            from .reaping import Reaper

            take_next = partial(self._next_or_bury, Reaper())
        while True:
            number = take_next()
            try:
                if number is _REOPEN:
                    self._reopen_logs()
                else:
                    self._end(number)
            except Exception:
                # The next signal must find this thread alive.
                logger.exception("%s could not be handled", number.name)

    def _next(self) -> signal.Signals:
        return signal.Signals(signal.sigwait(self._taken))

    def _next_or_bury(self, reaper: Reaper) -> signal.Signals:
        """Return the next signal of those that are about us; see to ended processes meanwhile."""
        are_waiting = True  # some may have ended before we came
        while True:
            if are_waiting:
                info = signal.sigtimedwait(self._taken, _BURY_INTERVAL)
                number = None if info is None else signal.Signals(info.si_signo)
            else:
                number = self._next()
            if number is not None and number is not signal.SIGCHLD:
                return number
            are_waiting = reaper.look(time.monotonic())

    def _reopen_logs(self) -> None:
        if self._refresh is not None:
            self._refresh()
        if self._eventlog is None:
            if self._refresh is not None:
                logger.info("SIGUSR2: looked for renewed certificates")
                return
            logger.warning("SIGUSR2: without an <eventlog> there are no log files to reopen")
        else:
            self._eventlog.reopen()
            logger.info("SIGUSR2: log files reopened")

    def _end(self, number: signal.Signals) -> None:
        with self._lock:
            stop, was_stopping = self._stop, self._is_stopping
            clean_up = self._clean_up
            self._is_stopping = stop is not None
            if not was_stopping:
                self.status = _STATUS[number]
        if stop is None:
            # Nothing is served yet, so nothing needs to be ended in order: files that are being
            # opened must survive a crash anyway.
            logger.info("%s: ending before anything is served", number.name)
            if clean_up is not None:
                clean_up()
            logging.shutdown()
            os._exit(_STATUS[number])
        if was_stopping:
            logger.info("%s: already stopping", number.name)
        else:
            logger.info("%s: stopping", number.name)
            stop()
