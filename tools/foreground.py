"""Run a command as the foreground job of the terminal; end with its exit status.

``make`` dies of the SIGINT that Ctrl-C sends to every process of the foreground job, whatever its
command does with it.  Here the command becomes the foreground job alone: it is the only one to be
interrupted, and when it ends with status 0 so does ``make``.

Without a terminal the command simply replaces this process.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from types import FrameType

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(command: list[str]) -> int:
    """Run *command*; return its exit status, negative if a signal ended it."""
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        os.execv(command[0], command)
    if os.tcgetpgrp(terminal) != os.getpgrp():
        # Started in the background: the terminal belongs to somebody else.
        os.execv(command[0], command)
    # Taking the terminal, and taking it back, is done from the background.
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    # The shell does not know the job and could not continue it after Ctrl-Z.
    signal.signal(signal.SIGTSTP, signal.SIG_IGN)

    def take_terminal() -> None:
        os.setpgid(0, 0)
        os.tcsetpgrp(terminal, os.getpid())
        signal.signal(signal.SIGTTOU, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)

    def forward(number: int, _frame: FrameType | None) -> None:
        child.send_signal(number)

    # A signal that comes while the child is being made waits until it can be handed on.
    signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
    child = subprocess.Popen(command, preexec_fn=take_terminal)
    for number in FORWARDED:
        signal.signal(number, forward)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
    try:
        return child.wait()
    finally:
        os.tcsetpgrp(terminal, os.getpgrp())
        os.close(terminal)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
