"""Servers and workers as child processes of the run."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import psutil

from .products import Address, server_arguments
from .worker import Job, Outcome

_ROOT: Final = Path(__file__).resolve().parent.parent
_START_TIMEOUT: Final = 30.0
_STOP_TIMEOUT: Final = 10.0


class BenchmarkFailed(Exception):
    """A server or a worker did not do what it was started for."""


def _environment() -> dict[str, str]:
    # A checkout is enough: the package need not be installed.
    path = os.pathsep.join((str(_ROOT), str(_ROOT / "src"), os.environ.get("PYTHONPATH", "")))
    return {**os.environ, "PYTHONPATH": path.rstrip(os.pathsep)}


def _free_address() -> Address:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        host, port = sock.getsockname()
        return host, port


class Server:
    """A server of one product, serving one file on a port of loopback, on given cores.

    A context manager: it listens inside.

    :param certificates, blob_dir: see :func:`.products.server_arguments`.
    :raises BenchmarkFailed: it does not listen in time.
    """

    def __init__(
        self,
        product: str,
        data: Path,
        cores: Sequence[int],
        certificates: Path | None = None,
        blob_dir: Path | None = None,
    ) -> None:
        self.product = product
        self.address = _free_address()
        self._log = data.with_suffix(".log")
        module, arguments = server_arguments(product, self.address, data, certificates, blob_dir)
        where = ",".join(map(str, cores))
        self._command = [sys.executable, "-m", "benchmarks.launch", where, module, *arguments]

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._child = subprocess.Popen(
                self._command, cwd=self._log.parent, env=_environment(), stdout=log, stderr=log
            )
        try:
            self._wait_until_listening()
        except BaseException:
            self._child.kill()
            self._child.wait()
            raise
        self._process = psutil.Process(self._child.pid)
        return self

    def _wait_until_listening(self) -> None:
        deadline = time.monotonic() + _START_TIMEOUT
        while time.monotonic() < deadline and self._child.poll() is None:
            try:
                socket.create_connection(self.address).close()
            except ConnectionRefusedError:
                time.sleep(0.05)
            else:
                return
        raise BenchmarkFailed(f"{self.product} does not listen:\n{self.log()}")

    def log(self) -> str:
        """Return the end of what the server has said."""
        return self._log.read_text(errors="replace")[-4000:]

    @property
    def pid(self) -> int:
        return self._child.pid

    def cpu(self) -> float:
        """Return the CPU seconds that the server, and children of it that have ended, have used."""
        times = self._process.cpu_times()
        own = times.user + times.system
        return float(own + times.children_user + times.children_system)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._child.terminate()
        try:
            self._child.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            # ZEO 6.2 can swallow the signal.
            self._child.kill()
            self._child.wait()


class Worker:
    """A client process with one job.  A context manager: prepared and waiting inside.

    :raises BenchmarkFailed: from any method, if the process ends early.
    """

    def __init__(self, job: Job) -> None:
        self._job = job

    def __enter__(self) -> Self:
        # A file, not a pipe: nobody reads what a product logs while it works.
        self._complaints = tempfile.TemporaryFile("w+")
        self._child = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.workloads"],
            env=_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            text=True,
        )
        self._tell(json.dumps(self._job._asdict()))
        return self

    def _tell(self, line: str) -> None:
        assert self._child.stdin is not None
        self._child.stdin.write(line + "\n")
        self._child.stdin.flush()

    def _hear(self) -> str:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            self._child.wait()
            self._complaints.seek(0)
            said = self._complaints.read()[-2000:]
            raise BenchmarkFailed(f"{self._job.client}: {self._job.workload} failed\n{said}")
        return line.strip()

    def wait_ready(self) -> None:
        """Wait until the worker has prepared."""
        heard = self._hear()
        if heard != "ready":
            raise BenchmarkFailed(f"{self._job.workload} says {heard!r}")

    def go(self) -> None:
        """Let the worker work."""
        self._tell("go")

    def stop(self) -> None:
        """Tell a worker that works until told."""
        self._tell("stop")

    def wait_outcome(self) -> Outcome:
        """Wait until the work is done; return what was measured."""
        return Outcome(**json.loads(self._hear()))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._child.kill()
        with self._complaints:
            try:
                self._child.communicate(timeout=_STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.communicate()
