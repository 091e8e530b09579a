"""Checks of ``<runner>``, the process id file and the logs."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

from ...errors import ConfigurationError
from ..accounts import Account, find_account
from ..outline import Section
from ..runner import LONGEST_SOCKET_PATH
from .findings import Findings

_USAGE: Final = 2
_STREAMS: Final = frozenset({"STDOUT", "STDERR"})


def account_of(outline: Section) -> Account | None:
    """Return who will run the server, if ``<runner>`` says so and we could become them."""
    for runner in outline.find("runner"):
        user = runner.value_of("user")
        if user and os.geteuid() == 0:
            try:
                return find_account(user, "user")
            except ConfigurationError:
                return None  # check_runner says it
    return None


def check_runner(findings: Findings) -> None:
    """Check ``<runner>``."""
    for runner in findings.outline.find("runner"):
        _check_user(findings, runner)
        _check_program(findings, runner)
        codes = runner.value_of("exit-codes")
        if codes is not None and _USAGE not in codes:
            findings.warning(
                runner,
                "exit-codes",
                "without 2 the server is started again and again when its configuration is wrong",
                "add 2",
            )
        if codes is not None and 0 not in codes:
            findings.warning(
                runner, "exit-codes", "without 0 a server that was stopped comes back", "add 0"
            )
        for key in ("default-to-interactive", "prompt"):
            setting = runner.setting(key)
            if setting is not None and not setting.is_default and setting.value not in (False, ""):
                findings.warning(
                    runner, key, "has no effect: there is no interactive shell", "remove the line"
                )
        path = runner.value_of("socket-name")
        if path is not None and len(os.fsencode(path)) > LONGEST_SOCKET_PATH:
            findings.error(
                runner,
                "socket-name",
                f"the path is longer than the {LONGEST_SOCKET_PATH} bytes that systems allow here",
                "use a shorter one",
            )
        for key in ("logfile", "transcript"):
            path = runner.value_of(key)
            if path is not None:
                findings.check_file(runner, key, path)
                findings.check_absolute(runner, key, path)


def _check_user(findings: Findings, runner: Section) -> None:
    user = runner.value_of("user")
    if not user:
        return
    try:
        account = find_account(user, "user")
    except ConfigurationError as error:
        findings.error(runner, "user", error.problem, error.remedy)
        return
    if os.geteuid() not in (0, account.uid):
        findings.warning(
            runner,
            "user",
            f"only root and {account.name} can start the server like this",
            "start it as one of them, or remove the line",
        )


def _check_program(findings: Findings, runner: Section) -> None:
    program = runner.value_of("program")
    if not program:
        return
    if shutil.which(program[0]) is None:
        findings.error(
            runner,
            "program",
            f"{program[0]} cannot be run: there is no such program, or it is not executable",
            "correct it, or remove the line: zeolith serve is run then",
        )
    elif Path(program[0]).name == "runzeo" or "ZEO.runzeo" in program:
        findings.warning(
            runner, "program", "starts ZEO's server rather than this one", "remove the line"
        )


def check_pid_file(findings: Findings) -> None:
    """Check that the process id can be written."""
    for zeo in findings.outline.find("zeo"):
        path = zeo.value_of("pid-filename")
        if path is not None:
            findings.check_entry(zeo, "pid-filename", path)
            findings.check_absolute(zeo, "pid-filename", path)
        timeout = zeo.value_of("transaction-timeout")
        if timeout == 0:
            findings.warning(
                zeo,
                "transaction-timeout",
                "a client that stops in the middle of a commit stops the commits of all others",
                "give a number of seconds",
            )


def check_logs(findings: Findings) -> None:
    """Check that what is to be logged gets somewhere."""
    for eventlog in findings.outline.find("eventlog"):
        if not eventlog.sections:
            findings.warning(
                eventlog, "", "nothing is logged: it has no <logfile>", "add one, or remove it"
            )
    for logfile in findings.outline.find("logfile"):
        path = logfile.value_of("path")
        if path is not None and path not in _STREAMS:
            findings.check_file(logfile, "path", path)
            findings.check_absolute(logfile, "path", path)
