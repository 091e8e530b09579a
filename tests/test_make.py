"""``make run`` in a terminal: Ctrl-C ends the command, and ``make`` with status 0."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

FOREGROUND = Path(__file__).resolve().parent.parent / "tools" / "foreground.py"

# Ends with status 0 when it is interrupted, as the server does, and says who is in its job.
COMMAND = """
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
print("ready", os.getpid() == os.getpgrp(), flush=True)
print("got", signal.Signals(signal.sigwait({signal.SIGINT, signal.SIGTERM})).name, flush=True)
sys.exit(int(sys.argv[1]))
"""

# Makes the terminal on standard input the controlling one of this new session.
IN_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execvp(sys.argv[1], sys.argv[1:])
"""


class Terminal:
    """``make run`` with a Makefile like ours, in a terminal of its own."""

    def __init__(self, directory: Path, status: int) -> None:
        (directory / "command.py").write_text(COMMAND)
        (directory / "Makefile").write_text(
            f"run:\n\t@exec {sys.executable} {FOREGROUND} {sys.executable} command.py {status}\n"
        )
        self._ours, theirs = pty.openpty()
        self.make = subprocess.Popen(
            [sys.executable, "-c", IN_TERMINAL, "make", "run"],
            cwd=directory,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self.output = ""

    def read_until(self, text: str) -> None:
        while text not in self.output:
            self.output += os.read(self._ours, 1024).decode()

    def type(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def close(self) -> None:
        self.make.kill()
        self.make.wait()
        os.close(self._ours)


@pytest.fixture(params=[0, 3])
def status(request: pytest.FixtureRequest) -> int:
    value: int = request.param
    return value


@pytest.fixture
def terminal(tmp_path: Path, status: int) -> Iterator[Terminal]:
    terminal = Terminal(tmp_path, status)
    yield terminal
    terminal.close()


def test_ctrl_c_reaches_the_command_alone(terminal: Terminal, status: int) -> None:
    terminal.read_until("ready True")
    terminal.type(b"\x03")
    terminal.read_until("got SIGINT")
    assert terminal.make.wait(30) == (2 if status else 0)  # make's own status for a failure


def test_ctrl_z_does_not_leave_a_job_that_nobody_continues(terminal: Terminal) -> None:
    terminal.read_until("ready True")
    terminal.type(b"\x1a\x03")
    terminal.read_until("got SIGINT")
    terminal.make.wait(30)


def test_the_end_of_make_is_the_end_of_the_command(terminal: Terminal) -> None:
    terminal.read_until("ready True")
    terminal.make.send_signal(signal.SIGTERM)
    terminal.read_until("got SIGTERM")
    terminal.make.wait(30)


def test_without_a_terminal_the_command_takes_the_place_of_the_wrapper(tmp_path: Path) -> None:
    (tmp_path / "command.py").write_text(COMMAND)
    with subprocess.Popen(
        [sys.executable, str(FOREGROUND), sys.executable, str(tmp_path / "command.py"), "5"],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready True\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 5
