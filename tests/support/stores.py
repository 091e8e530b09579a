"""Object stores for tests: one in memory, moto's in a process of its own, a bad line to that."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.processes import child_environment, free_port, is_listening
from tests.support.waiting import wait_until

from zeolith.tier.failures import ObjectDamaged, ObjectMissing, StoreUnavailable
from zeolith.tier.objects import CheckedFile, Listed, StoredObject
from zeolith.tier.s3 import S3Store
from zeolith.tier.settings import StoreSettings

BUCKET = "blobs"


class MemoryStore:
    """A store in memory.

    :ivar objects: content by name.
    :ivar labels: by name.
    :ivar age: what each object's age is said to be, in seconds.
    :ivar before: called with the name of each operation before it.
    """

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.labels: dict[str, dict[str, str]] = {}
        self.marker: str | None = None
        self.age = 1e6
        self.calls: list[str] = []
        self.before: Callable[[str], None] = lambda what: None

    def _begin(self, what: str) -> None:
        self.calls.append(what)
        self.before(what)

    def put(self, found: StoredObject, path: str, labels: dict[str, str]) -> None:
        content = Path(path).read_bytes()
        self._begin("put")
        self.objects[found.name] = content
        self.labels[found.name] = labels

    def get(self, wanted: StoredObject, path: str) -> None:
        self._begin("get")
        if wanted.name not in self.objects:
            raise ObjectMissing(f"no {wanted.name}")
        file = CheckedFile(path)
        try:
            file.write(self.objects[wanted.name])
            problem = file.finish(wanted)
        finally:
            file.close()
        if problem is not None:
            raise ObjectDamaged(problem)

    def list(self) -> Iterator[Listed]:
        self._begin("list")
        yield from [Listed(name, self.age) for name in sorted(self.objects)]

    def delete(self, names: Iterable[str]) -> None:
        self._begin("delete")
        for name in names:
            self.objects.pop(name, None)

    def read_marker(self) -> str | None:
        self._begin("read_marker")
        return self.marker

    def write_marker(self, text: str) -> None:
        self._begin("write_marker")
        if self.marker is None:
            self.marker = text


def down(what: str) -> None:
    """For :attr:`MemoryStore.before`: the store is down."""
    raise StoreUnavailable(f"cannot {what}: down")


@contextmanager
def moto_server() -> Iterator[int]:
    """Run moto's server with a bucket; return its port."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "moto.server", "-p", str(port)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=child_environment(),
    )
    try:
        wait_until(lambda: is_listening(("127.0.0.1", port)), "moto listens")
        request = urllib.request.Request(f"http://127.0.0.1:{port}/{BUCKET}", method="PUT")
        with urllib.request.urlopen(request, timeout=20):
            yield port
    finally:
        process.kill()
        process.wait()


def write_credentials(directory: Path) -> str:
    """Write a file of credentials; return its path."""
    path = directory / "credentials"
    path.write_text(
        "[default]\naws_access_key_id = AKIATESTKEY\naws_secret_access_key = very-secret-key\n"
    )
    return str(path)


def s3_store(port: int, directory: Path, prefix: str = "", **options: Any) -> S3Store:
    """Return a store at *port* that is given up soon."""
    options = {"connect_timeout": 1.0, "read_timeout": 0.5, **options}
    return S3Store(
        StoreSettings(
            bucket=BUCKET,
            prefix=prefix,
            endpoint_url=f"http://127.0.0.1:{port}",
            region="eu-central-1",
            credentials_file=write_credentials(directory),
            **options,
        )
    )


class BadLine:
    """A TCP proxy in front of a store.

    :param target: port of the store.

    :ivar port: where it listens.
    :ivar mode: ``pass``; a status such as ``503``: the answer to each request, without the store;
        ``silent``: nothing is ever answered; ``refuse``: connections are closed at once; ``cut``:
        after *cut_after* bytes of the answers the connection is closed.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self.mode = "pass"
        self.cut_after = 0
        self.requests = 0
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def _start(self, work: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=work, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _keep(self, sock: socket.socket) -> socket.socket:
        with self._lock:
            self._sockets.append(sock)
        return sock

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._keep(client)
            self.requests += 1
            if self.mode == "refuse":
                client.close()
            elif self.mode in ("pass", "cut"):
                server = self._keep(socket.create_connection(("127.0.0.1", self._target)))
                self._start(self._pump, client, server, None)
                self._start(self._pump, server, client, self)
            elif self.mode != "silent":
                self._start(self._fail, client)

    def _fail(self, client: socket.socket) -> None:
        try:
            client.recv(1 << 16)
            client.sendall(
                f"HTTP/1.1 {self.mode} Broken\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                .encode()
            )  # fmt: skip
            client.shutdown(socket.SHUT_WR)
            while client.recv(1 << 16):
                pass
        except OSError:
            pass
        finally:
            client.close()

    def _pump(self, source: socket.socket, sink: socket.socket, line: BadLine | None) -> None:
        try:
            while data := source.recv(1 << 16):
                if line is not None and line.mode == "cut":
                    sink.sendall(data[: line.cut_after])
                    break
                sink.sendall(data)
        except OSError:
            pass  # the other pump has closed them
        finally:
            for sock in (source, sink):
                try:
                    sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass

    def set(self, mode: str, cut_after: int = 0) -> None:
        """Behave so from now on; connections that are open end."""
        self.mode, self.cut_after = mode, cut_after
        self._close_sockets()

    def _close_sockets(self) -> None:
        with self._lock:
            sockets = list(self._sockets)
        for sock in sockets:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def close(self) -> None:
        """Close all there is."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._close_sockets()
        for thread in self._threads:
            thread.join(10)
        for sock in self._sockets:
            sock.close()

    def __enter__(self) -> BadLine:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def age_files(directory: str, seconds: float) -> None:
    """Have all blobs of a blob directory been used that long ago."""
    for base, _, names in os.walk(directory):
        for name in names:
            if name.endswith(".blob"):
                path = os.path.join(base, name)
                status = os.stat(path)
                os.utime(path, (status.st_atime - seconds, status.st_mtime))
