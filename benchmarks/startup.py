"""How long a server needs from its start until clients can connect."""

from __future__ import annotations

import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from .products import Address, server_arguments
from .worker import Session

_LOOK: Final = 0.001
_TIMEOUT: Final = 30.0


def start_up(session: Session) -> None:
    """Start a server on a file whose index is there, and stop it, some times; ``each`` is the
    median time from its start until it listens.

    The server is the client's product, run as its users do, on any core.
    """
    product, data = session.job.client, Path(session.job.data)
    with tempfile.TemporaryDirectory(dir=data.parent) as folder:
        copy = Path(folder) / data.name
        for path in (data, data.with_name(data.name + ".index")):
            shutil.copy(path, copy.with_name(path.name))
        _start_once(product, copy)  # the system has read Python's files then
        session.start()
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        times = [_start_once(product, copy) for _ in range(session.job.amount)]
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        session.finish(session.job.amount, used, each=statistics.median(times))


def _start_once(product: str, data: Path) -> float:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address: Address = free.getsockname()
    module, arguments = server_arguments(product, address, data)
    with (data.parent / "log").open("wb") as log:
        began = time.monotonic()
        child = subprocess.Popen(
            [sys.executable, "-m", module, *arguments], cwd=data.parent, stdout=log, stderr=log
        )
        try:
            while not _is_listening(address):
                if child.poll() is not None or time.monotonic() > began + _TIMEOUT:
                    said = (data.parent / "log").read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"{product} does not listen:\n{said}")
                time.sleep(_LOOK)
            return time.monotonic() - began
        finally:
            child.terminate()
            try:
                child.wait(_TIMEOUT)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def _is_listening(address: Address) -> bool:
    try:
        socket.create_connection(address).close()
    except ConnectionRefusedError:
        return False
    return True
