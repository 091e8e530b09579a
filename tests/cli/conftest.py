"""Real server processes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from zeolith.config.address import Address, local_address, parse_address

WAIT = 30.0
"""Seconds after which a process that should end is taken for stuck."""


class Process:
    """A process of ``zeolith``.

    :param module: what Python runs instead.
    :param before: words of the command before Python's.
    :param pass_fds: descriptors that it inherits.

    :ivar line: what it printed when it listened.
    """

    def __init__(
        self,
        arguments: list[str],
        directory: Path,
        *,
        module: str = "zeolith",
        before: Sequence[str] = (),
        pass_fds: Sequence[int] = (),
        **environment: str,
    ) -> None:
        # Each process has its own, also of several in one directory.
        descriptor, path = tempfile.mkstemp(prefix="stderr-", dir=directory)
        os.close(descriptor)
        self._errors = Path(path)
        # Unhandled warnings of the interpreter, such as files left open, show up in the log.
        command = [*before, sys.executable, "-X", "dev", "-m", module, *arguments]
        path = os.pathsep.join(filter(None, sys.path))
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                command,
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                pass_fds=pass_fds,
                env={**os.environ, "PYTHONPATH": path, **environment},
            )
        self.line = ""

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    @property
    def log(self) -> str:
        """What is on standard error so far."""
        return self._errors.read_text()

    @property
    def warnings(self) -> list[str]:
        """The warnings that it has logged, but for those of a busy machine.

        In Python's development mode asyncio warns of whatever takes longer than 100 ms.
        """
        return [
            line
            for line in self.log.splitlines()
            if "WARNING" in line and " WARNING asyncio Executing " not in line
        ]

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

    def start(*arguments: str, directory: Path = tmp_path, **options: Any) -> Process:
        process = Process(list(arguments), directory, **options)
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.close()


@pytest.fixture
def serve(start: Start) -> Start:
    """Start ``zeolith serve`` and wait until it listens."""

    def serve(*arguments: str, **options: Any) -> Process:
        process = start("serve", *arguments, **options)
        process.wait_listening()
        return process

    return serve


@pytest.fixture
def refused(start: Start) -> Callable[..., str]:
    """Start ``zeolith serve``, which must refuse; return what it says."""

    def refused(*arguments: str, **options: Any) -> str:
        process = start("serve", *arguments, **options)
        assert process.wait() == 2, process.log
        assert "Traceback" not in process.log
        return process.log

    return refused
