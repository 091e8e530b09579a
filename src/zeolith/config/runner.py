"""The ``<runner>`` section: how ``zeolith ctl`` keeps the server running in the background."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass, fields
from typing import Any, Final

from .datatypes import Refused

_MOST_PERMISSIONS: Final = 0o777

LONGEST_SOCKET_PATH: Final = 107 - len(".4194304")
"""Bytes: what fits into the system's structure, less what the manager appends while it binds the
socket, the greatest process id."""


def words(text: str) -> list[str]:
    """A command line: words between blanks; quotes and backslashes mean what they do in a shell."""
    try:
        found = shlex.split(text)
    except ValueError as error:
        raise Refused(f"{text!r} is not a command: {error}", "close the quote") from error
    if not found:
        raise Refused("is empty", "name a program, or remove the line")
    return found


def exit_codes(text: str) -> list[int]:
    """Exit statuses between commas; none is allowed."""
    codes = []
    for part in text.split(","):
        part = part.strip()
        if part:
            if not (part.isascii() and part.isdecimal() and int(part) < 256):
                raise Refused(f"{part!r} is not an exit status", "use numbers from 0 to 255: 0,2")
            codes.append(int(part))
    return codes


def umask(text: str) -> int:
    """Permissions to withhold, as an octal number."""
    try:
        value = int(text, 8)
    except ValueError:
        value = -1
    if not 0 <= value <= _MOST_PERMISSIONS:
        raise Refused(f"{text!r} is not a umask", "use an octal number such as 027")
    return value


def backoff_limit(text: str) -> int:
    """Seconds, at least 1."""
    if not (text.isascii() and text.isdecimal() and int(text)):
        raise Refused(f"{text!r} is not a number of seconds", "give a whole number, 1 or greater")
    return int(text)


def executable(text: str) -> str:
    """A path of something that can be run."""
    path = os.path.expanduser(text)
    if not os.path.isfile(path):
        raise Refused(f"{path} is no file", "correct the path, or remove the line")
    return path


def socket_path(text: str) -> str:
    """The path of a Unix socket; its directory may be missing, the one above may not."""
    path = os.path.expanduser(text)
    parent = os.path.dirname(os.path.dirname(path))
    if parent and not os.path.isdir(parent):
        raise Refused(f"there is no directory {parent}", "create it, or correct the path")
    return path


def directory(text: str) -> str:
    """A directory that is there, or can be created in one that is."""
    path = os.path.expanduser(text)
    parent = os.path.dirname(path)
    if not os.path.isdir(path) and parent and not os.path.isdir(parent):
        raise Refused(f"there is no directory {parent}", "create it, or correct the path")
    return path


@dataclass(frozen=True, kw_only=True)
class Runner:
    """What ``<runner>`` says, or what holds without one.

    :ivar program: what to run in place of this server, or None.
    :ivar python: interpreter for the daemon manager; None: the one that runs this.
    :ivar zdrun: script to run as the daemon manager in place of ours, or None.
    :ivar socket_name: where the manager listens; None: beside the pid file, or
        else the configuration.
    :ivar daemon: whether the manager detaches itself from the terminal.
    :ivar directory: where the server runs, or None.
    :ivar backoff_limit: longest delay between restarts, in seconds; a server that stayed up for
        longer is started again at once.
    :ivar forever: whether to go on restarting when the delay has reached its limit.
    :ivar exit_codes: statuses with which the server ends for good.
    :ivar start_test_program: command that succeeds when the server has started, or None.
    :ivar start_timeout: seconds until the server must have started.
    :ivar stop_timeout: seconds after which a server that does not stop is killed.
    :ivar user: name or number of the user who runs the server, or None.
    :ivar umask: permissions that the files of the server do not get.
    :ivar hang_around: whether the manager stays when the server has ended.
    :ivar logfile: what ``logtail`` shows, or None.
    :ivar transcript: file for what the server prints, or None.
    """

    program: tuple[str, ...] | None = None
    python: str | None = None
    zdrun: str | None = None
    socket_name: str | None = None
    daemon: bool = True
    directory: str | None = None
    backoff_limit: int = 10
    forever: bool = False
    exit_codes: tuple[int, ...] = (0, 2)
    start_test_program: tuple[str, ...] | None = None
    start_timeout: int = 300
    stop_timeout: int = 300
    user: str | None = None
    umask: int = 0o22
    hang_around: bool = False
    logfile: str | None = None
    transcript: str | None = None

    @classmethod
    def from_section(cls, section: Any) -> Runner:
        """Return what *section*, as ZConfig has read it, says; None stands for a missing one."""
        if section is None:
            return cls()
        values = {field.name: getattr(section, field.name) for field in fields(cls)}
        lists = {name: tuple(v) for name, v in values.items() if isinstance(v, list)}
        return cls(**{**values, **lists})
