"""A process that holds storage servers for tests: commands in as JSON lines, answers out.

Run as a script.  Servers of both kinds (Zeolith's and ZEO's) run in threads of this process, so a
test that needs a server pays a few milliseconds, and client and server still share neither an
interpreter lock nor a module.  ZEO's servers and Zeolith's never meet in one host: each kind gets
its own, so that neither profits from the other's imports.

Commands are objects with a ``command`` key:

- ``start``: ``kind``, ``storages`` (name → ZConfig text of one storage), ``options`` →
  ``{"id": …, "address": …, "since": …}`` (the number of the last record before it)
- ``stop``: ``id`` → ``{}`` after the storages are closed
- ``records``: ``since`` (a record's number) → ``{"records": [[number, level, logger, text], …]}``

An answer with the key ``error`` holds a traceback.
"""

from __future__ import annotations

import json
import logging
import os
import ssl
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import ZODB.config

Stop = Callable[[], None]


class Records(logging.Handler):
    """Keeps the latest log records as text."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: deque[tuple[int, str, str, str]] = deque(maxlen=20_000)
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            text += "\n" + "".join(traceback.format_exception(record.exc_info[1]))
        self.count += 1
        self.kept.append((self.count, record.levelname, record.name, text))


def server_context(kind: str, settings: dict[str, Any]) -> ssl.SSLContext:
    """Return the context that an ``<ssl>`` section of a server stands for, made as *kind* does."""
    if kind == "zeo":
        from ZEO.zconfig import server_ssl

        found: ssl.SSLContext = server_ssl(SimpleNamespace(password_function=None, **settings))
        return found
    from tests.support import tlscontexts

    return tlscontexts.server_context(**settings)


def start_zeo(storages: dict[str, Any], options: dict[str, Any]) -> tuple[Any, Stop]:
    """Start a ZEO server in a thread; return its address and what stops it."""
    from ZEO.StorageServer import StorageServer

    address = options.pop("address")
    options.pop("loop", None)  # ZEO takes uvloop whenever it is installed
    server = StorageServer(address, storages, **options)
    acceptor = server.acceptor
    thread = threading.Thread(target=server.loop, daemon=True)
    thread.start()

    def stop() -> None:
        server.close()
        thread.join(20)
        if thread.is_alive():
            raise RuntimeError("the ZEO server did not stop")

    return acceptor.addr, stop


def start_zeolith(storages: dict[str, Any], options: dict[str, Any]) -> tuple[Any, Stop]:
    """Start a Zeolith server in a thread; return its address and what stops it."""
    from zeolith.server import Server, ServerOptions, start_in_thread

    server = Server(storages, ServerOptions(**options))
    stop = start_in_thread(server)
    return server.address, stop


STARTERS = {"zeo": start_zeo, "zeolith": start_zeolith}


class Host:
    """Executes commands, one at a time."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._stops: dict[int, Stop] = {}
        self._count = 0

    def start(self, kind: str, storages: dict[str, str], options: dict[str, Any]) -> dict[str, Any]:
        if isinstance(options.get("address"), list):
            options["address"] = tuple(options["address"])
        if "ssl" in options:
            options["ssl"] = server_context(kind, options["ssl"])
        since = self._records.count
        opened: dict[str, Any] = {}
        with ExitStack() as stack:
            for name, config in storages.items():
                opened[name] = ZODB.config.storageFromString(config)
                stack.callback(opened[name].close)
            address, stop = STARTERS[kind](opened, options)
            # From here on, stopping the server closes the storages.
            stack.pop_all()
        self._count += 1
        self._stops[self._count] = stop
        return {"id": self._count, "address": address, "since": since}

    def stop(self, id: int) -> dict[str, Any]:  # noqa: A002 - the command's own word
        self._stops.pop(id)()
        return {}

    def records(self, since: int) -> dict[str, Any]:
        return {"records": [record for record in self._records.kept if record[0] > since]}

    def stop_all(self) -> None:
        for number in list(self._stops):
            self.stop(number)

    def execute(self, command: dict[str, Any]) -> dict[str, Any]:
        actions: dict[str, Callable[..., dict[str, Any]]] = {
            "start": self.start,
            "stop": self.stop,
            "records": self.records,
        }
        return actions[command.pop("command")](**command)


def main() -> int:
    """Serve commands until standard input ends."""
    # Whatever a library prints must not mix with the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    records = Records()
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    root.addHandler(records)
    host = Host(records)
    try:
        for line in sys.stdin:
            try:
                answer = host.execute(json.loads(line))
            except Exception:  # noqa: BLE001 - the test process is told everything
                answer = {"error": traceback.format_exc()}
            answers.write(json.dumps(answer) + "\n")
    finally:
        host.stop_all()
    return 0


if __name__ == "__main__":
    sys.exit(main())
