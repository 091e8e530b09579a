"""Signals, taken by a thread that does nothing else.

SIGTERM and SIGINT stop a server and end it with status 0; SIGHUP does the same with status 1, so
that a supervisor starts it again; SIGUSR2 reopens the log files.

Handlers would run in the main thread, between any two steps of whatever it does, and the event
loop's own ones only while the loop runs: not while files are opened, nor while they are closed,
which for a large database takes long enough for an impatient second Ctrl-C.  So the signals are
blocked from the first moment, and one thread waits for them.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable
from typing import Any, Final

logger = logging.getLogger(__name__)

_STATUS: Final = {signal.SIGTERM: 0, signal.SIGINT: 0, signal.SIGHUP: 1}
_REOPEN: Final = signal.SIGUSR2


class Signals:
    """Takes the signals of this process.

    Make it in the main thread before any other thread is started: threads inherit what is
    blocked.  The methods may be called from any thread.

    :ivar status: exit status that the signals so far ask for.
    """

    def __init__(self) -> None:
        self.status = 0
        self._lock = threading.Lock()  # guards the two below
        self._stop: Callable[[], None] | None = None
        self._is_stopping = False
        self._eventlog: Any = None
        signal.pthread_sigmask(signal.SIG_BLOCK, {*_STATUS, _REOPEN})
        threading.Thread(target=self._take, name="zeolith-signals", daemon=True).start()

    def direct_to(self, stop: Callable[[], None], eventlog: Any) -> None:
        """From now on signals call *stop*; before, they end the process on the spot.

        :param stop: called once, in another thread.
        :param eventlog: its ``reopen()`` reopens the log files; None if there are none.
        """
        with self._lock:
            self._stop = stop
            self._eventlog = eventlog

    def _take(self) -> None:
        while True:
            number = signal.Signals(signal.sigwait({*_STATUS, _REOPEN}))
            try:
                if number is _REOPEN:
                    self._reopen_logs()
                else:
                    self._end(number)
            except Exception:
                # The next signal must find this thread alive.
                logger.exception("%s could not be handled", number.name)

    def _reopen_logs(self) -> None:
        if self._eventlog is None:
            logger.warning("SIGUSR2: without an <eventlog> there are no log files to reopen")
        else:
            self._eventlog.reopen()
            logger.info("SIGUSR2: log files reopened")

    def _end(self, number: signal.Signals) -> None:
        with self._lock:
            stop, was_stopping = self._stop, self._is_stopping
            self._is_stopping = stop is not None
            if not was_stopping:
                self.status = _STATUS[number]
        if stop is None:
            # Nothing is served yet, so nothing needs to be ended in order: files that are being
            # opened must survive a crash anyway.
            logger.info("%s: ending before anything is served", number.name)
            logging.shutdown()
            os._exit(_STATUS[number])
        if was_stopping:
            logger.info("%s: already stopping", number.name)
        else:
            logger.info("%s: stopping", number.name)
            stop()
