"""The server's hold on the process that resolves conflicts for it."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from .resolverwire import (
    ANSWER_SIZE,
    NO_MEMORY,
    Kind,
    Request,
    parse_answer_head,
    serialize_request,
)

START_TIMEOUT: Final = 30.0
"""Seconds until the process must be ready.  It needs 0.3, and a busy machine some more; what the
application's own modules need counts as time of the first resolution."""

_PROGRAM: Final = "zeolith.server.resolverchild"
_CHUNK: Final = 1 << 20

Answer = tuple[Kind, bytes]


class WorkerLost(Exception):
    """There is no answer, and none to come: the process has ended, or has to.

    The text says why, as a part of a sentence about the process.
    """


class ResolverProcess:
    """A process that resolves one conflict at a time.

    Belongs to one thread; only :meth:`kill` may be called from another.

    :param memory: bytes of address space that it may have.
    :param max_record: the size of the largest record that is taken from it.
    :raises OSError: there can be no such process.
    """

    def __init__(self, memory: int, max_record: int) -> None:
        self._memory = memory
        self._max_record = max_record
        self._is_ready = False
        self._lock = threading.Lock()  # its end is one thread's work
        self._socket, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = subprocess.Popen(
                    # Not from the working directory, which may be anybody's (-P); and by exec,
                    # because a fork of a process with threads may have to wait for ever.
                    [sys.executable, "-P", "-m", _PROGRAM, str(theirs.fileno()), str(memory)],
                    # Nothing is ever written to it: see resolverchild.
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                    # Ctrl-C is for the server; and what the process starts ends with it.
                    process_group=0,
                )
        except BaseException:
            self._socket.close()
            raise
        # Ended while nobody asks it anything, it would stay in the process table, and what it has
        # started would go on.
        self._burial = threading.Thread(
            target=self._bury, name=f"zeolith-burial-{self._process.pid}", daemon=True
        )
        try:
            self._burial.start()
        except RuntimeError as error:
            # The system has no more threads.  Nobody has this object, who could close it.
            self.kill()
            self._let_go()
            raise OSError(str(error)) from error

    def _bury(self) -> None:
        """Wait for the end of the process.  Runs on a thread of its own."""
        with suppress(ChildProcessError):
            # Without taking its status: kill() does that, and knows that the id is still its own.
            os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        self.kill()

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    def is_usable(self) -> bool:
        """Whether it waits for a request, as far as one can see."""
        if not self._is_ready:
            return True  # it has not been asked yet
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        # Whatever it says unasked, and be it that it has ended.
        return not poll.poll(0)

    def ask(
        self, request: Request, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> tuple[Answer, float]:
        """Have a conflict resolved; return the answer, and the seconds that it took.

        :param seconds: the time for it; that until the process has started is not counted.
        :raises WorkerLost: there is no answer; the process has to be closed.
        """
        if not self._is_ready:
            kind, _ = self._receive(clock() + START_TIMEOUT, START_TIMEOUT, "start", clock)
            if kind is not Kind.READY:
                raise WorkerLost("did not say that it was ready")
            self._is_ready = True
        began = clock()
        deadline = began + seconds
        try:
            for part in serialize_request(request):
                self._socket.settimeout(max(deadline - clock(), 0.001))
                self._socket.sendall(part)
        except TimeoutError:
            raise WorkerLost(f"did not take the states within {seconds:.3g} s") from None
        except OSError:
            raise self._gone() from None
        answer = self._receive(deadline, seconds, "answer", clock)
        if answer[0] is Kind.READY:
            raise WorkerLost("gave an answer that is none")
        return answer, clock() - began

    def _receive(
        self, deadline: float, seconds: float, what: str, clock: Callable[[], float]
    ) -> Answer:
        try:
            kind, length = parse_answer_head(
                self._read(ANSWER_SIZE, deadline, clock), self._max_record
            )
            return kind, self._read(length, deadline, clock)
        except TimeoutError:
            raise WorkerLost(f"did not {what} within {seconds:.3g} s") from None
        except ValueError as error:
            raise WorkerLost(f"gave an answer that is none: {error}") from None

    def _read(self, size: int, deadline: float, clock: Callable[[], float]) -> bytes:
        data = bytearray()
        while len(data) < size:
            # Each time anew: a process that trickles gets no more time.
            left = deadline - clock()
            if left <= 0:
                raise TimeoutError
            self._socket.settimeout(left)
            try:
                chunk = self._socket.recv(min(size - len(data), _CHUNK))
            except ConnectionError:
                chunk = b""
            if not chunk:
                raise self._gone()
            data += chunk
        return bytes(data)

    def _gone(self) -> WorkerLost:
        # It has closed its end, which it does only by ending.  If not, it does now.
        status = self.kill()
        if status == NO_MEMORY:
            return WorkerLost(f"needed more than {self._memory} bytes of memory")
        if status < 0:
            return WorkerLost(f"was ended by signal {-status}")
        return WorkerLost(f"ended with status {status}")

    def kill(self) -> int:
        """End it, and what it has started; return its exit status.  Any thread.

        An :meth:`ask` under way raises :class:`WorkerLost`.
        """
        with self._lock:
            if self._process.returncode is None:
                # Before it is waited for, so that the id is still its own.
                with suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
            return self._process.wait()

    def close(self) -> None:
        """End it, and let go what we have of it."""
        self.kill()
        self._burial.join()
        self._let_go()

    def _let_go(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._socket.close()
