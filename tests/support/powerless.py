"""Processes to which file permissions apply, although root runs the tests."""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess
import sys
from pathlib import Path

_VERSION_3 = 0x20080522


def give_up_capabilities() -> None:
    """Let this process do only what the permissions of files allow.  For good.

    :raises OSError: the system refuses.
    """
    if os.geteuid() != 0:
        return  # it has none
    library = ctypes.CDLL(None, use_errno=True)
    header = struct.pack("Ii", _VERSION_3, 0)
    if library.capset(header, bytes(24)) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def run_powerless(program: str, *arguments: object) -> str:
    """Run a Python program without privileges; return what it prints.

    :raises subprocess.CalledProcessError: it failed.
    """
    prelude = "from tests.support.powerless import *\ngive_up_capabilities()\n"
    return subprocess.run(
        [sys.executable, "-c", prelude + program, *map(str, arguments)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    ).stdout
