"""Processes of their own that use one blob cache, told what to do line by line.

Run as ``python -m tests.support.cacheprocess DIRECTORY [LIMIT]``.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.support.blobdirectories import SERIAL
from tests.support.raw import oid_of

from zeolith.client.blobs import BlobDirectory
from zeolith.client.blobsizes import shrink


def content(number: int) -> bytes:
    """Return the only revision of the blob with that number."""
    return b"%d " % number * 5000


class CacheProcess:
    """A process with a :class:`BlobDirectory` whose server is a function."""

    def __init__(self, directory: str | Path, limit: int | None = None) -> None:
        arguments = [sys.executable, "-m", "tests.support.cacheprocess", str(directory)]
        if limit is not None:
            arguments.append(str(limit))
        self.process = subprocess.Popen(
            arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )

    def tell(self, *words: object) -> None:
        """Give an order, whose answer :meth:`answer` returns."""
        assert self.process.stdin is not None
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        """Return the answer to the first order that has not been answered."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def ask(self, *words: object) -> str:
        """Give an order and return the answer."""
        self.tell(*words)
        return self.answer()

    def kill(self) -> None:
        """End the process at once, wherever it is."""
        self.process.kill()
        self.process.wait(30)

    def __enter__(self) -> CacheProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        if error is not None:
            self.process.kill()
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()


class _Worker:
    """The other end."""

    def __init__(self, directory: str, limit: int | None) -> None:
        self.blobs = BlobDirectory(directory, shared=False, cache_size=limit)
        self.files: dict[int, Any] = {}
        self.fetched = 0

    def fetch(self, oid: bytes, serial: bytes) -> None:
        self.fetched += 1
        data = content(int.from_bytes(oid, "big"))
        self.blobs.download_started(oid, serial)
        self.blobs.download_chunk(oid, serial, data)
        self.blobs.download_ended(oid, serial)

    def slow_fetch(self, oid: bytes, serial: bytes) -> None:
        """Fetch a half, say so, and the rest after another line."""
        data = content(int.from_bytes(oid, "big"))
        self.blobs.download_started(oid, serial)
        self.blobs.download_chunk(oid, serial, data[:100])
        _say("half")
        sys.stdin.readline()
        self.blobs.download_chunk(oid, serial, data[100:])
        self.blobs.download_ended(oid, serial)

    def open(self, number: int) -> str:
        self.files[number] = self.blobs.open(oid_of(number), SERIAL, None, self.fetch)
        return "open"

    def close(self, number: int) -> str:
        self.files.pop(number).close()
        return "closed"

    def load(self, number: int) -> str:
        return self.blobs.load(oid_of(number), SERIAL, self.fetch)

    def load_slowly(self, number: int) -> str:
        return self.blobs.load(oid_of(number), SERIAL, self.slow_fetch)

    def shrink(self, target: int) -> str:
        return str(shrink(self.blobs.path, target))

    def shrink_for_ever(self) -> str:
        _say("begun")
        while True:
            shrink(self.blobs.path, 0)

    def read_often(self, number: int) -> str:
        """Open blobs again and again, some of them by their paths; return what was wrong."""
        wrong = 0
        for turn in range(number):
            each = turn % 7
            if each < 2:
                with open(self.load(each), "rb") as file:
                    wrong += file.read() != content(each)
            else:
                with self.blobs.open(oid_of(each), SERIAL, None, self.fetch) as file:
                    wrong += file.read() != content(each) or not os.path.exists(file.name)
        return f"{wrong} wrong"

    def wait(self) -> str:
        """Wait for the check of the size."""
        keeper = self.blobs._keeper
        while keeper._is_checking and keeper._checker is not None:
            keeper._checker.join()
        return "checked"

    def fetches(self) -> str:
        return str(self.fetched)


def _say(text: str) -> None:
    print(text, flush=True)


def main(directory: str, *limit: str) -> None:
    worker = _Worker(directory, int(limit[0]) if limit else None)
    for line in iter(sys.stdin.readline, ""):
        name, *numbers = line.split()
        _say(getattr(worker, name)(*map(int, numbers)))
    worker.blobs.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
