"""The processes that ``zeolith ctl`` starts or becomes: the daemon manager, the server itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from ..errors import ConfigurationError, ZeolithError
from .privileges import become
from .supervised import Supervised


class CommandFailed(ZeolithError):
    """A command could not be carried out; its text says why."""


def become_server(supervised: Supervised, arguments: Sequence[str]) -> NoReturn:
    """Have this process become the server, as its user.

    :param arguments: further ones for the program.
    :raises ConfigurationError: a directory cannot be made or entered, or the user not be become.
    :raises CommandFailed: the program cannot be run.
    """
    runner, environment = supervised.runner, supervised.environment
    _create_directories(supervised)
    account = supervised.account
    if account is not None:
        become(account)
    if runner.directory:
        try:
            os.chdir(runner.directory)
        except OSError as error:
            raise ConfigurationError(
                "directory",
                f"{runner.directory} cannot be entered: {error.strerror}",
                "correct the path or its permissions",
            ) from error
    os.umask(runner.umask)
    _execute([*supervised.program, *arguments], environment)


def start_manager(supervised: Supervised, arguments: Sequence[str]) -> None:
    """Start the daemon manager, as the server's user; become it if it is not to be a daemon.

    :param arguments: further ones for the program.
    :raises ConfigurationError: it cannot work with these settings.
    :raises CommandFailed: it cannot be run, or has failed.
    """
    command = supervised.manager_command(tuple(arguments))
    account = supervised.account
    _create_directories(supervised)
    _check_transcript(supervised)
    if not supervised.runner.daemon:
        environment = supervised.environment
        if account is not None:
            become(account)
        _execute(command, environment)
    try:
        with _nothing_blocked():
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                env=supervised.environment,
                user=None if account is None else account.uid,
                group=None if account is None else account.gid,
                extra_groups=None if account is None else account.groups,
                umask=supervised.runner.umask,
            )
    except OSError as error:
        raise CommandFailed(f"{command[0]} cannot be run: {error.strerror}") from error
    process.wait()
    if process.returncode == 2:
        raise ConfigurationError(
            "daemon manager", "it cannot work with these settings", "it has said why above"
        )
    if process.returncode:
        raise CommandFailed(f"the daemon manager ended with status {process.returncode}")


def _execute(command: Sequence[str], environment: dict[str, str]) -> NoReturn:
    sys.stdout.flush()
    try:
        with _nothing_blocked():
            os.execvpe(command[0], list(command), environment)
    except OSError as error:
        raise CommandFailed(f"{command[0]} cannot be run: {error.strerror}") from error


def _create_directories(supervised: Supervised) -> None:
    try:
        supervised.create_directories()
    except OSError as error:
        raise ConfigurationError(
            str(error.filename), f"cannot be created: {error.strerror}", "create it yourself"
        ) from error


def _check_transcript(supervised: Supervised) -> None:
    # The manager opens it when it has left the terminal and can no longer say what is wrong.
    transcript = supervised.runner.transcript
    if transcript is None:
        return
    directory = os.path.dirname(os.path.abspath(transcript))
    if not os.path.isdir(directory):
        raise ConfigurationError(
            "transcript", f"there is no directory {directory}", "create it, or correct the path"
        )
    path = transcript if os.path.exists(transcript) else directory
    if supervised.account is None and not os.access(path, os.W_OK):
        raise ConfigurationError(
            "transcript", f"{path} cannot be written", "correct the path or its permissions"
        )


@contextmanager
def _nothing_blocked() -> Iterator[None]:
    """Have what the block starts receive all signals.

    A command takes signals in a thread of its own and blocks them in all others; what a thread
    starts inherits that, and would never hear of a SIGTERM.
    """
    before = signal.pthread_sigmask(signal.SIG_SETMASK, ())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
