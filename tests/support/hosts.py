"""The tests' end of :mod:`tests.support.server_host`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

Kind: TypeAlias = Literal["zeolith", "zeo"]
Address: TypeAlias = tuple[str, int] | str

_SCRIPT = Path(__file__).with_name("server_host.py")


class Record(NamedTuple):
    """One log record of a server host."""

    number: int
    level: str
    logger: str
    text: str

    @property
    def is_error(self) -> bool:
        """Whether somebody has to look after it."""
        return self.level in ("ERROR", "CRITICAL")


class RunningServer:
    """A server in a host.

    :ivar address: ``(host, port)`` or the path of a socket.
    :ivar kind: whose server it is.
    """

    def __init__(self, host: ServerHost, kind: Kind, number: int, address: Any, since: int) -> None:
        self.kind = kind
        self.address: Address = tuple(address) if isinstance(address, list) else address
        self._host = host
        self._number: int | None = number
        self._since = since

    def stop(self) -> None:
        """Stop the server and close its storages; may be called twice."""
        if self._number is not None:
            number, self._number = self._number, None
            self._host.ask(command="stop", id=number)

    def records(self) -> list[Record]:
        """Return what the host has logged since this server was asked to start."""
        return self._host.records(self._since)


class ServerHost:
    """One host process; started when it is first needed.

    Not thread-safe: tests use it from their main thread.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            self.close()
            # Hosts outlive the temporary directories that tests make their working directory.
            self._process = subprocess.Popen(
                [sys.executable, str(_SCRIPT)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd="/",
                env=dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path))),
            )
        return self._process

    def ask(self, **command: Any) -> dict[str, Any]:
        """Send one command and return its answer.

        :raises RuntimeError: the host died, or reports an error.
        """
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(command) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"the server host ended with status {process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def start(self, kind: Kind, storages: dict[str, str], **options: Any) -> RunningServer:
        """Start a server.

        :param storages: ZConfig text of each storage, by the name under which it is served.
        :param options: what ZEO's ``StorageServer`` or Zeolith's ``ServerOptions`` takes; for
            ``ssl`` the files ``certificate``, ``key`` and ``authenticate``.
        """
        options.setdefault("address", ("127.0.0.1", 0))
        answer = self.ask(command="start", kind=kind, storages=storages, options=options)
        return RunningServer(self, kind, answer["id"], answer["address"], answer["since"])

    def records(self, since: int) -> list[Record]:
        """Return the log records after number *since*."""
        return [Record(*item) for item in self.ask(command="records", since=since)["records"]]

    def close(self) -> None:
        """Stop every server and end the process."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.close()
        except BrokenPipeError:
            pass  # it is dead already; its status tells
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


class Hosts:
    """The host processes of a test session, one per kind of server."""

    def __init__(self) -> None:
        self._hosts: dict[Kind, ServerHost] = {}

    def start(self, kind: Kind, storages: dict[str, str], **options: Any) -> RunningServer:
        """Start a server in the host of its kind; see :meth:`ServerHost.start`."""
        return self._hosts.setdefault(kind, ServerHost()).start(kind, storages, **options)

    def close(self) -> None:
        for host in self._hosts.values():
            host.close()
