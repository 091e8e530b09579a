"""What ``zeolith ctl show`` shows: the settings in effect, and the Python that runs."""

from __future__ import annotations

import os
import sys

from ..config.address import format_address
from .supervised import Supervised


def show_options(supervised: Supervised) -> str:
    """Return the settings by which *supervised* is run, a line each."""
    runner = supervised.runner
    values: dict[str, object] = {
        "configuration": supervised.configuration,
        "address": format_address(supervised.address),
        "program": " ".join(supervised.program),
        "socket-name": supervised.socket,
        "logfile": supervised.logfile,
        "transcript": runner.transcript,
        "python": runner.python or sys.executable,
        "zdrun": runner.zdrun,
        "daemon": runner.daemon,
        "directory": runner.directory,
        "backoff-limit": runner.backoff_limit,
        "forever": runner.forever,
        "exit-codes": ",".join(map(str, runner.exit_codes)),
        "start-test-program": runner.start_test_program,
        "start-timeout": runner.start_timeout,
        "stop-timeout": runner.stop_timeout,
        "user": runner.user,
        "umask": f"{runner.umask:03o}",
        "hang-around": runner.hang_around,
    }
    return "\n".join(_line(name, "-" if value is None else value) for name, value in values.items())


def show_python(supervised: Supervised) -> str:
    """Return what the Python is that runs this command, and where it finds modules."""
    return "\n".join(
        [
            _line("version", " ".join(sys.version.split())),
            _line("platform", sys.platform),
            _line("executable", sys.executable),
            _line("directory", os.getcwd()),
            "path:",
            *(f"    {entry}" for entry in sys.path),
        ]
    )


def _line(name: str, value: object) -> str:
    return f"{name + ':':20}{value}"
