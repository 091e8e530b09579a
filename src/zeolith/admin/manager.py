"""The daemon manager: the process that starts a server, restarts it and stops it.

zdaemon's, with what a database needs beside: it never rotates the log that it shares with the
server, takes the server with it when it is told to end, and misses the end of no process.
``python -m zeolith.admin.manager`` takes the arguments of zdaemon's ``zdrun``; ``zeolith ctl
start`` gives them.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import sys
import threading
import time
from typing import Any, NoReturn

from zdaemon.zdrun import Daemonizer, ZDRunOptions, signame

from ..config.logs import share_log
from ..config.runner import Runner


class Options(ZDRunOptions):
    """The arguments of the manager, and what the configuration file adds."""

    def __init__(self) -> None:
        super().__init__()
        # zdaemon knows this one by a misspelt name, and has no default without a <runner>.
        self.default_map["stoptimeut"] = Runner.stop_timeout
        self.add("hangaround", "runner.hang_around")

    def usage(self, msg: object) -> NoReturn:
        """Say what is wrong and end with status 2; zdaemon would point to its own help."""
        print(f"zeolith: daemon manager: {msg}", file=sys.stderr)
        sys.exit(2)

    def load_logconf(self, sectname: str) -> None:
        """Log to ``<runner>``'s own eventlog, or to the server's; else to standard error.

        There is no configuration at all where a server is started by options alone.
        """
        root = self.configroot
        runner = getattr(root, "runner", None)
        sections = (getattr(runner, "eventlog", None), getattr(root, "eventlog", None))
        eventlog = next((section for section in sections if section is not None), None)
        self.config_logger = lambda: self._start_logging(eventlog)

    def _start_logging(self, eventlog: Any) -> logging.Logger:
        if eventlog is None:
            logging.basicConfig(
                level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s"
            )
        else:
            try:
                share_log(eventlog, logging.getLogger())
            except OSError as error:
                self.usage(f"the log file cannot be opened: {error}")
        return logging.getLogger("zeolith.manager")


class ChildExits(dict[int, int]):
    """Wait status of each process that has ended, by its id.

    :ivar lock: held from a process's end until it is noted here.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.RLock()  # a signal handler may interrupt another one

    def fetch(self, pid: int) -> int | None:
        """Return the status of *pid* and forget it; None if somebody else has waited for it.

        Called by the thread that runs the start-test-program.  When it finds that program gone, the
        main thread may still be about to note its status; without waiting for that, a test that
        has failed would be taken for one that has succeeded.
        """
        with self.lock:
            return self.pop(pid, None)


class Manager(Daemonizer):
    """Runs one program.  The main thread does all, but for the start-test-program and the copying
    of the transcript, which have threads of their own."""

    def main(self, args: list[str] | None = None) -> None:
        """Take the arguments and run until the program has ended for good.

        :raises SystemExit: with the manager's exit status.
        """
        self.options = Options()
        self.options.realize(args)
        self.logger = self.options.logger
        self.run()

    def setsignals(self) -> None:
        """Take signals from now on."""
        self.child_exits = self.proc.child_exits = ChildExits()
        super().setsignals()

    def sigchild(self, sig: int, frame: object) -> None:
        """Note who has ended: one signal may stand for several.  Runs as a signal handler."""
        with self.child_exits.lock:
            while True:
                try:
                    pid, status = os.waitpid(-1, os.WNOHANG)
                except ChildProcessError:
                    return
                if not pid:
                    return
                self.child_exits[pid] = status

    @property
    def waitstatus(self) -> tuple[int, int] | None:
        """Process id and status of the program if it has ended, be it while it was started."""
        pid = self.proc.pid
        return (pid, self.child_exits[pid]) if pid in self.child_exits else None

    @waitstatus.setter
    def waitstatus(self, value: None) -> None:
        # What is left are processes that are nobody's, and one of them may have the number that
        # the program is given when it is started again.
        self.child_exits.clear()

    def sigexit(self, sig: int, frame: object) -> None:
        """Stop the program, then end: a server without its manager could only be killed by hand.

        Runs as a signal handler: :meth:`runforever` is woken and does the rest.
        """
        self.logger.warning("daemon manager received %s: stopping", signame(sig))
        self.should_be_up = False
        self.delay: float = 0
        if self.proc.pid:
            self.proc.kill(signal.SIGTERM)
            self.killing = 1
            if self.options.stoptimeut:
                self.delay = time.time() + self.options.stoptimeut

    def reportstatus(self) -> None:
        """Take note of the program's end; stay if ``hang-around`` says so."""
        try:
            super().reportstatus()
        except SystemExit:
            if not self.options.hangaround:
                raise
            self.proc.setstatus(0)
            self._rest()
        else:
            if self.options.hangaround and not self.should_be_up and not self.proc.pid:
                self._rest()

    def _rest(self) -> None:
        # To zdaemon's loop this is a program that will be started again, never.  A "start" or
        # "restart" takes the delay away; so does a "stop", which then ends the manager.
        self.should_be_up = True
        self.delay = math.inf


if __name__ == "__main__":
    Manager().main(sys.argv[1:])
