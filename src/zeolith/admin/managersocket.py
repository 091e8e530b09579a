"""Talking to the daemon manager, zdaemon's ``zdrun`` or ours, over its Unix socket."""

from __future__ import annotations

import ast
import re
import socket
import time
from dataclasses import dataclass
from typing import Final

from ..errors import ZeolithError

_PATIENCE: Final = 10.0
"""Seconds: a manager answers at once unless something is badly wrong."""

_PAUSE: Final = 0.02
"""Seconds until a command is sent again that was not heard."""

_SILENT: Final = frozenset({"reopen_transcript"})
"""Commands that a manager carries out without an answer."""

_SUPERSEDED: Final = b"Command superseded"

_FIELD: Final = re.compile(r"^(\w+)=(.*)$", re.MULTILINE)


class ManagerTrouble(ZeolithError):
    """The daemon manager is there, or may be, and cannot be talked to."""


@dataclass(frozen=True)
class ManagerStatus:
    """What a daemon manager says.

    :ivar pid: process id of the program; 0 if it is not running.
    :ivar manager: process id of the manager.
    :ivar is_testing: whether the start-test-program has not succeeded yet.
    :ivar is_waiting: whether the manager waits to start the program again.
    :ivar program: command line of the program.
    :ivar text: the answer itself.
    """

    pid: int
    manager: int
    is_testing: bool
    is_waiting: bool
    program: tuple[str, ...]
    text: str


def ask_status(path: str) -> ManagerStatus | None:
    """Return the status of the manager at the socket *path*; None if there is no manager.

    :raises ManagerTrouble: it cannot be talked to.
    """
    text = tell_manager(path, "status")
    if text is None:
        return None
    found = dict(_FIELD.findall(text))
    try:
        pid = int(found["application"])
        delay = found.get("delay", "0")
        return ManagerStatus(
            pid=pid,
            manager=int(found.get("manager", "0")),
            is_testing=found.get("testing", "0") != "0",
            is_waiting=not pid and delay not in ("0", "inf"),
            program=tuple(ast.literal_eval(found.get("args", "()"))),
            text=text,
        )
    except (KeyError, ValueError, SyntaxError) as error:
        raise ManagerTrouble(f"{path}: no daemon manager answers there: {text[:80]!r}") from error


def tell_manager(path: str, command: str) -> str | None:
    """Send *command* to the manager at *path*; return its answer, or None if there is no manager.

    A manager hears one command at a time, and drops one that it has not read when the next one
    comes: that one is sent again.

    :raises ManagerTrouble: it cannot be talked to.
    """
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            answer = _try_to_tell(path, command)
        except (FileNotFoundError, ConnectionRefusedError):
            # No socket, or one that a dead manager left behind.
            return None
        except OSError as error:
            reason = error.strerror or "no answer"
            raise ManagerTrouble(f"daemon manager at {path}: {reason}") from error
        if answer is not None:
            return answer
        if time.monotonic() >= deadline:
            raise ManagerTrouble(f"daemon manager at {path}: it does not hear {command!r}")
        time.sleep(_PAUSE)


def _try_to_tell(path: str, command: str) -> str | None:
    """Return the answer to *command*; None if the manager has not taken it.

    :raises OSError: there is no manager, or none that one can talk to.
    """
    answer = b""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(_PATIENCE)
        try:
            sock.connect(path)
        except BlockingIOError:
            return None  # too many wait already
        try:
            sock.sendall(command.encode() + b"\n")
            while piece := sock.recv(4096):
                answer += piece
        except (ConnectionResetError, BrokenPipeError):
            return None
    is_heard = bool(answer) or command in _SILENT
    if not is_heard or answer.startswith(_SUPERSEDED):
        return None
    return answer.decode(errors="replace")
