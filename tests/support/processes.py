"""Servers for tests: in this process, where a test can reach into them, and as real children."""

from __future__ import annotations

import atexit
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.raw import Address, connect
from tests.support.waiting import DEADLINE, wait_until


def child_environment() -> dict[str, str]:
    """Return an environment in which children import what this process imports."""
    return dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path)))


_MOST_RESERVED = 200
_reserved: deque[socket.socket] = deque()


def free_port() -> int:
    """Return a loopback port at which nobody listens, and which the system gives to nobody else.

    A socket that does not listen stays bound to it.  Whoever sets ``SO_REUSEADDR``, as servers do,
    can listen there nevertheless; but no other process gets the port by chance before a server is
    started, or between two of its lives.
    """
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", 0))
    _reserved.append(sock)
    if len(_reserved) > _MOST_RESERVED:
        _reserved.popleft().close()
    port: int = sock.getsockname()[1]
    return port


@atexit.register
def _release_ports() -> None:
    while _reserved:
        _reserved.pop().close()


def is_listening(address: Address) -> bool:
    """Whether somebody accepts connections there."""
    try:
        connect(address).close()
    except OSError:
        return False
    return True


def is_running(pid: int) -> bool:
    """Whether there is such a process, other than a dead one that nobody has waited for."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@contextmanager
def running_server(storages: dict[str, Any] | Any, **options: Any) -> Iterator[Any]:
    """Run a server in a thread of this process; closing it closes the storages.

    :param storages: by name, or one that is then called ``1``.
    :param options: of ``ServerOptions``; the address defaults to a free loopback port.
    :returns: the ``Server``; its ``address`` is where it listens.
    """
    from zeolith.server import Server, ServerOptions, start_in_thread

    options.setdefault("address", ("127.0.0.1", 0))
    if not isinstance(storages, dict):
        storages = {"1": storages}
    server = Server(storages, ServerOptions(**options))
    stop = start_in_thread(server)
    try:
        yield server
    finally:
        stop()


class ServerProcess:
    """``python -m zeolith serve`` as a child, on the same port and files after each start.

    :param directory: where its files are: ``Data.fs``, ``blobs``, ``log`` and ``zeo.conf``.
    :param options: further command-line arguments.
    :param config: lines for the ``<zeo>`` section of a configuration file; the storage is the
        same as without.
    :param module: what is run, and its first arguments.
    :param socket_path: where to listen, instead of at a free port; not with *config*.

    :ivar address: where it listens.
    """

    def __init__(
        self,
        directory: Path,
        *options: str,
        config: str | None = None,
        blobs: bool = True,
        module: Sequence[str] = ("zeolith", "serve"),
        socket_path: str | None = None,
    ) -> None:
        self.directory = directory
        self._module = module
        self.address = ("127.0.0.1", free_port())
        self._socket_path = socket_path
        self.process: subprocess.Popen[bytes] | None = None
        host, port = self.address
        directory.mkdir(parents=True, exist_ok=True)
        if config is None:
            self._arguments = ["-a", socket_path or f"{host}:{port}", "-f", "Data.fs"]
            if blobs:
                self._arguments += ["--blob-dir", "blobs"]
        else:
            (directory / "zeo.conf").write_text(
                f"<zeo>\naddress {host}:{port}\n{config}\n</zeo>\n"
                "<filestorage 1>\npath Data.fs\nblob-dir blobs\n</filestorage>\n"
            )
            self._arguments = ["-C", "zeo.conf"]
        self._arguments += options

    @property
    def _listens(self) -> Address:
        return self._socket_path or self.address

    def start(self) -> None:
        """Start the child and wait until it listens."""
        assert self.process is None
        with open(self.directory / "log", "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *self._module, *self._arguments],
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=child_environment(),
            )
        wait_until(self._is_up, "the server listens")

    def _is_up(self) -> bool:
        assert self.process is not None
        status = self.process.poll()
        assert status is None, f"the server ended with {status}:\n{self.log()}"
        return is_listening(self._listens)

    def log(self) -> str:
        """Return everything the child has printed, over all its lives."""
        return (self.directory / "log").read_text(errors="replace")

    def tracebacks(self) -> list[str]:
        """Return the tracebacks that the child has printed, each with the lines around it."""
        lines = self.log().splitlines()
        return [
            "\n".join(lines[max(0, at - 1) : at + 15])
            for at, line in enumerate(lines)
            if line.startswith("Traceback")
        ]

    def kill(self) -> None:
        """``kill -9``: no chance to clean up."""
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.wait()

    def signal(self, number: int = signal.SIGTERM) -> None:
        """Send a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self, timeout: float = DEADLINE) -> int:
        """Wait for the child's end and return its exit status."""
        assert self.process is not None
        status = self.process.wait(timeout)
        self.process = None
        return status

    def stop(self) -> int:
        """Ask the child to stop; return its exit status."""
        self.signal()
        return self.wait()

    def memory(self) -> int:
        """Return the child's resident bytes."""
        import psutil

        assert self.process is not None
        size: int = psutil.Process(self.process.pid).memory_info().rss
        return size

    def __enter__(self) -> ServerProcess:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()


def run_python(
    program: str, *arguments: str, timeout: float = 60.0, options: Sequence[str] = ()
) -> str:
    """Run a program text in a fresh interpreter and return what it prints.

    :param options: of the interpreter.
    :raises AssertionError: it fails, or takes too long.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-W", "error", *options, "-c", program, *arguments],
            capture_output=True,
            text=True,
            timeout=timeout,
            env=child_environment(),
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise AssertionError(f"still running: {error.stdout!r} {error.stderr!r}") from error
    assert done.returncode == 0, f"status {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout
