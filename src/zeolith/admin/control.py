"""What ``zeolith ctl`` does: starts, stops and watches a server through its daemon manager."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Final, NoReturn

from ..config.address import format_address
from ..errors import ConfigurationError
from .asking import NotAnswering
from .launching import CommandFailed, become_server, start_manager
from .liveness import Alive, check_alive
from .logtail import follow, last_lines
from .managersocket import ManagerStatus, ask_status, tell_manager
from .settingstext import show_options, show_python
from .signalnames import signal_named
from .supervised import Supervised

OK: Final = 0
NOT_RUNNING: Final = 3
NOT_ANSWERING: Final = 4
MANAGER_ONLY: Final = 5
"""Exit statuses of ``status``; 3 is zdaemon's, and what LSB's scripts say."""

_INTERVAL: Final = 0.1
_TAIL_INTERVAL: Final = 0.25
_GRACE: Final = 30.0
"""Seconds beyond stop-timeout that a killed server and its manager get for ending."""


class Control:
    """Carries out commands on one server.

    :param supervised: the server.
    :param wait: waits for so many seconds; returns whether the user wants it all to end.
    :param say: takes lines for the user.
    """

    def __init__(
        self,
        supervised: Supervised,
        wait: Callable[[float], bool],
        say: Callable[[str], None] = print,
    ) -> None:
        self._supervised = supervised
        self._wait = wait
        self._say = say

    # -- looking ---------------------------------------------------------------------------------

    def manager(self) -> ManagerStatus | None:
        """Return what the manager says; None if there is none."""
        return ask_status(self._supervised.socket)

    def answer(self, timeout: float = 5.0) -> Alive | None:
        """Return what the server answers; None if that cannot be asked.

        :raises NotAnswering: it does not answer.
        """
        address = self._supervised.address
        if not isinstance(address, str) and address[1] == 0:
            return None
        return check_alive(address, self._supervised.tls, timeout)

    def status(self, is_long: bool = False) -> int:
        """Say whether the server is up and answers; return the exit status that says so."""
        manager = self.manager()
        where = format_address(self._supervised.address)
        try:
            answer = self.answer()
            reason = ""
        except NotAnswering as error:
            answer, reason = None, error.problem
        if manager is not None and manager.pid:
            if reason:
                self._say(f"program running; pid={manager.pid}; no answer at {where}: {reason}")
                result = NOT_ANSWERING
            elif answer is None:
                self._say(f"program running; pid={manager.pid}; its port is known to its log only")
                result = OK
            else:
                note = f" ({answer.note})" if answer.note else ""
                self._say(f"program running; pid={manager.pid}; answers at {where}{note}")
                result = OK
        elif answer is not None:
            self._say(f"a server answers at {where}; it is not run by this daemon manager")
            result = OK
        elif manager is not None:
            what = ", waiting to start it again" if manager.is_waiting else ""
            self._say(f"daemon manager running; daemon process not running{what}")
            result = MANAGER_ONLY
        else:
            self._say("daemon manager not running")
            result = NOT_RUNNING
        if is_long and manager is not None:
            self._say(manager.text.rstrip("\n"))
        return result

    # -- starting --------------------------------------------------------------------------------

    def start(self, arguments: Sequence[str] = ()) -> int:
        """Start the server unless it runs; wait until it answers."""
        manager = self.manager()
        if manager is not None and manager.pid:
            self._warn_of_other_program(manager)
            self._say(f"daemon process already running; pid={manager.pid}")
            return OK
        mark = self._mark()
        if manager is not None:
            tell_manager(self._supervised.socket, "start")
        else:
            self._refuse_other_server()
            start_manager(self._supervised, arguments)
        return self._wait_until_up(0, "started", mark)

    def restart(self, arguments: Sequence[str] = ()) -> int:
        """Stop the server and start it again; start it if it is not running."""
        manager = self.manager()
        if manager is None or not manager.pid:
            return self.start(arguments)
        mark = self._mark()
        tell_manager(self._supervised.socket, "restart")
        return self._wait_until_up(manager.pid, "restarted", mark)

    def foreground(self, arguments: Sequence[str] = ()) -> NoReturn:
        """Become the server, which then runs in the foreground.

        :raises CommandFailed: it runs already, or cannot be run.
        """
        manager = self.manager()
        if manager is not None and manager.pid:
            raise CommandFailed(
                f"the server runs already, pid {manager.pid}: stop it first to run it in the "
                "foreground"
            )
        become_server(self._supervised, arguments)

    def _refuse_other_server(self) -> None:
        try:
            answer = self.answer()
        except NotAnswering:
            return
        if answer is not None:
            raise CommandFailed(
                f"a server answers at {format_address(self._supervised.address)} already, and no "
                "daemon manager runs it: stop it where it was started, or by its process id"
            )

    def _wait_until_up(self, old_pid: int, done: str, mark: dict[str, int]) -> int:
        """Wait until the server answers as another process than *old_pid*."""
        timeout = self._supervised.runner.start_timeout
        deadline = time.monotonic() + timeout
        is_told = False
        while True:
            manager = self.manager()
            if manager is None:
                self._show_growth(mark)
                raise CommandFailed("the server ended, and the daemon manager with it")
            if manager.pid not in (0, old_pid) and not manager.is_testing and self._is_up():
                self._say(f"daemon process {done}, pid={manager.pid}")
                return OK
            if manager.is_waiting and not is_told:
                is_told = True
                self._say("the server ended at once; the daemon manager starts it again")
            if time.monotonic() >= deadline:
                self._show_growth(mark)
                raise CommandFailed(
                    f"the server does not answer after {timeout} s; it goes on trying"
                )
            self._pause()

    def _is_up(self) -> bool:
        try:
            self.answer(timeout=2.0)
        except NotAnswering:
            return False
        return True

    def _mark(self) -> dict[str, int]:
        """Return the present sizes of the files that would tell why a start failed."""
        sizes = {}
        for path in (self._supervised.logfile, self._supervised.runner.transcript):
            if path and path != os.devnull:
                try:
                    sizes[path] = os.stat(path).st_size
                except OSError:
                    # Not there yet, most likely.
                    sizes[path] = 0
        return sizes

    def _show_growth(self, mark: dict[str, int]) -> None:
        """Show the ends of those files, as far as they are new."""
        for path, size in mark.items():
            try:
                text = last_lines(path, 12, size)
            except OSError:
                continue
            if text:
                self._say(f"==> {path} <==\n{text.rstrip()}")
        if not mark:
            self._say("neither <eventlog> nor the transcript of <runner> names a file: see 'fg'")

    def _warn_of_other_program(self, manager: ManagerStatus) -> None:
        program = self._supervised.program
        if manager.program[: len(program)] != program:
            self._say(f"warning: the daemon manager runs something else: {manager.program}")

    # -- stopping --------------------------------------------------------------------------------

    def stop(self) -> int:
        """Stop the server and its manager; wait for their end."""
        manager = self.manager()
        if manager is None:
            self._refuse_other_server()
            self._say("daemon manager not running")
            return OK
        tell_manager(self._supervised.socket, "stop")
        timeout = self._supervised.runner.stop_timeout
        deadline = time.monotonic() + timeout + _GRACE if timeout else float("inf")
        stays = self._supervised.runner.hang_around and manager.pid
        while (now := self.manager()) is not None and (now.pid or not stays):
            if time.monotonic() >= deadline:
                raise CommandFailed(f"the server, pid {now.pid}, does not end, though killed")
            self._pause()
        self._say("daemon process stopped" if manager.pid else "daemon manager stopped")
        return OK

    def wait(self) -> int:
        """Wait until the server process ends, be it that it is then started again."""
        manager = self.manager()
        while manager is not None and manager.pid:
            now = self.manager()
            if now is None or now.pid != manager.pid:
                break
            self._pause()
        self.status()
        return OK

    def kill(self, name: str = "TERM") -> int:
        """Send a signal to the server.

        :raises ConfigurationError: there is no such signal.
        """
        number = signal_named(name)
        manager = self.manager()
        if manager is None or not manager.pid:
            self._say("daemon process not running")
            return NOT_RUNNING
        reply = tell_manager(self._supervised.socket, f"kill {int(number)}")
        if reply is None or "sent" not in reply:
            raise CommandFailed(f"{number.name} was not sent: {reply or 'no answer'}")
        self._say(f"signal {number.name} sent to process {manager.pid}")
        return OK

    # -- logs ------------------------------------------------------------------------------------

    def reopen_transcript(self) -> int:
        """Have the manager open its transcript again."""
        if tell_manager(self._supervised.socket, "reopen_transcript") is None and (
            self.manager() is None
        ):
            self._say("daemon manager not running")
            return NOT_RUNNING
        return OK

    def logreopen(self) -> int:
        """Have manager and server open their files again."""
        return self.reopen_transcript() or self.kill("USR2")

    def logtail(self, path: str | None = None) -> int:
        """Show the end of a log file, and what is added to it, until interrupted."""
        path = path or self._supervised.logfile
        if path is None:
            raise ConfigurationError(
                "logtail", "no log file is configured", "name one: logtail FILE"
            )
        out = sys.stdout.buffer
        try:
            for piece in follow(path, lambda: self._wait(_TAIL_INTERVAL)):
                out.write(piece)
                out.flush()
        except BrokenPipeError:
            # Whoever read it has seen enough.  The interpreter would complain at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except OSError as error:
            raise CommandFailed(f"{path} cannot be read: {error.strerror}") from error
        return OK

    # -- showing ---------------------------------------------------------------------------------

    def show(self, what: str = "options") -> int:
        """Show the options, the Python or both.

        :raises ConfigurationError: *what* is none of these.
        """
        texts = {
            "options": [show_options],
            "python": [show_python],
            "all": [show_options, show_python],
        }
        if what not in texts:
            raise ConfigurationError("show", f"there is no {what!r}", "use options, python or all")
        self._say("\n\n".join(text(self._supervised) for text in texts[what]))
        return OK

    def _pause(self) -> None:
        if self._wait(_INTERVAL):
            raise CommandFailed("interrupted; what was asked for goes on")
