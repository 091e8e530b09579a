"""Real server processes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from zeolith.config.address import Address, local_address, parse_address

WAIT = 30.0
"""Seconds after which a process that should end is taken for stuck."""


class Process:
    """A process of ``zeolith``.

    :ivar line: what it printed when it listened.
    """

    def __init__(self, arguments: list[str], directory: Path, **environment: str) -> None:
        self._errors = directory / "stderr"
        # Unhandled warnings of the interpreter, such as files left open, show up in the log.
        command = [sys.executable, "-X", "dev", "-m", "zeolith", *arguments]
        path = os.pathsep.join(filter(None, sys.path))
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                command,
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, "PYTHONPATH": path, **environment},
            )
        self.line = ""

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def log(self) -> str:
        """What is on standard error so far."""
        return self._errors.read_text()

    @property
    def address(self) -> Address:
        """Where a client of this machine finds it."""
        found = re.search(r" at (\S+?)(?: with TLS)?; connect with: ", self.line)
        assert found is not None, self.line
        return local_address(parse_address(found[1]))

    def wait_listening(self) -> None:
        assert self._process.stdout is not None
        self.line = self._process.stdout.readline()
        assert self.line, self.log

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self) -> int:
        """Return the exit status."""
        return self._process.wait(WAIT)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal; return the exit status."""
        self.send(number)
        return self.wait()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


Start: TypeAlias = Callable[..., Process]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start ``zeolith`` in the test's directory; it is killed after the test."""
    processes: list[Process] = []

    def start(*arguments: str, **environment: str) -> Process:
        process = Process(list(arguments), tmp_path, **environment)
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.close()


@pytest.fixture
def serve(start: Start) -> Start:
    """Start ``zeolith serve`` and wait until it listens."""

    def serve(*arguments: str, **environment: str) -> Process:
        process = start("serve", *arguments, **environment)
        process.wait_listening()
        return process

    return serve


@pytest.fixture
def refused(start: Start) -> Callable[..., str]:
    """Start ``zeolith serve``, which must refuse; return what it says."""

    def refused(*arguments: str) -> str:
        process = start("serve", *arguments)
        assert process.wait() == 2, process.log
        assert "Traceback" not in process.log
        return process.log

    return refused
