"""The server's hold on the process that packs for it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from BTrees.fsBTree import fsBucket
from ZODB.FileStorage.FileStorage import RedundantPackWarning
from ZODB.fsIndex import fsIndex
from ZODB.POSException import StorageError

from .packwire import Message, PackWire, parse_entries

_FINISH_TIMEOUT: Final = 60.0
"""Seconds that the process may take for the last transactions, while no client can commit."""

_START_TIMEOUT: Final = 60.0
# Not from the working directory, which may be anybody's (-P).
_PROGRAM: tuple[str, ...] = ("-P", "-m", "zeolith.server.packchild")

Progress = Callable[[str, int, int], None]
"""Gets phase, how much of it is done, and of how much."""


class CannotStart(StorageError):
    """There can be no process that packs."""


class PackProcess:
    """One pack, or one estimate, in a process of its own.

    Belongs to one thread; only :meth:`kill` may be called from another.

    :param process: the process.
    :param wire: our end.
    :param progress: told what the process reports.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], wire: PackWire, progress: Progress
    ) -> None:
        self._process = process
        self._wire = wire
        self._progress = progress

    def kill(self) -> None:
        """End the process.  What waits for it raises :class:`ZODB.POSException.StorageError`."""
        self._process.kill()

    def wait_ready(self) -> None:
        """Wait until it has started.

        :raises CannotStart: it has not.
        """
        self._wire.limit(_START_TIMEOUT)
        try:
            self._wire.receive()
        except TimeoutError:
            raise CannotStart(f"it is not ready after {_START_TIMEOUT:g} s") from None
        except EOFError:
            raise CannotStart(f"it ended with status {self._process.wait()}") from None
        self._wire.limit(None)

    # -- what can be asked, in this order --------------------------------------------------------

    def begin(self, task: dict[str, Any]) -> int | None:
        """Have the transactions up to the pack's time copied.

        :returns: the position of the first transaction that is not copied; None if there is
            nothing to gain.
        :raises RedundantPackWarning: a later pack has been there.
        :raises StorageError: the process failed, or is gone.
        :raises OSError: it could not write or read.
        """
        self._tell("pack", **task)
        answer, _ = self._hear("copied", "nothing")
        return int(answer["position"]) if answer["is"] == "copied" else None

    def follow(self, end: int) -> int:
        """Have the transactions up to *end* copied; return *end*.  Raises as :meth:`begin`."""
        self._tell("follow", end=end)
        answer, _ = self._hear("copied")
        return int(answer["position"])

    def index(self) -> Any:
        """Return the index of the new file as it is now.  Raises as :meth:`begin`."""
        self._tell("index")
        index = fsIndex()
        while True:
            answer, payload = self._hear("bucket", "indexed")
            if answer["is"] == "indexed":
                return index
            # A bucket at a time, as it comes: the whole would keep the interpreter too long.
            index._data[bytes.fromhex(answer["prefix"])] = fsBucket().fromString(payload)

    def finish(self, end: int, index: Any) -> int:
        """Have the last transactions copied, and all brought to disk.

        Takes a minute at most: clients wait.

        :param end: where the last transaction ends, for good.
        :param index: gets what is new in it.
        :returns: the size of the new file.  Raises as :meth:`begin`.
        """
        self._wire.limit(_FINISH_TIMEOUT)
        self._tell("finish", end=end)
        answer, payload = self._hear("finished")
        for oid, position in parse_entries(payload):
            index[oid] = position
        return int(answer["size"])

    def estimate(self, task: dict[str, Any]) -> dict[str, int]:
        """Return what a pack would bring: ``before``, ``after``, ``blobs``, ``blob_bytes``.

        Raises as :meth:`begin`.
        """
        self._tell("estimate", **task)
        answer, _ = self._hear("estimated")
        del answer["is"]
        return answer

    # -- talking ---------------------------------------------------------------------------------

    def _tell(self, kind: str, **values: Any) -> None:
        try:
            self._wire.send(kind, **values)
        except TimeoutError:
            raise StorageError("the process that packs takes no commands") from None
        except OSError:
            raise self._gone() from None

    def _hear(self, *expected: str) -> Message:
        while True:
            try:
                message = self._wire.receive()
            except TimeoutError:
                raise StorageError(
                    f"the process that packs did not finish within {_FINISH_TIMEOUT:g} s"
                ) from None
            except EOFError:
                raise self._gone() from None
            answer, _ = message
            kind = answer["is"]
            if kind == "progress":
                self._progress(answer["phase"], answer["done"], answer["total"])
            elif kind == "redundant":
                raise RedundantPackWarning(answer["text"])
            elif kind == "failed":
                raise _error_of(answer)
            else:
                assert kind in expected, kind
                return message

    def _gone(self) -> StorageError:
        status = self._process.wait()
        how = f"signal {-status}" if status < 0 else f"status {status}"
        return StorageError(f"the process that packs was ended by {how}; nothing has changed")


def _error_of(answer: dict[str, Any]) -> Exception:
    if "errno" in answer:
        return OSError(answer["errno"], answer["text"], answer["file"])
    error: Exception = StorageError(f"packing failed: {answer['text']}")
    return error


@contextmanager
def pack_process(progress: Progress) -> Iterator[PackProcess]:
    """Start a process; it is gone afterwards.

    :raises CannotStart: it cannot be started.
    """
    ours, theirs = socket.socketpair()
    wire = PackWire(ours)
    try:
        with theirs:
            process = subprocess.Popen(
                [sys.executable, *_PROGRAM, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                # Ctrl-C is for the server, which decides.  Not a session of its own: there Linux
                # may give it as much of the processor as all that the server's session gets.
                process_group=0,
            )
    except OSError as error:
        wire.close()
        raise CannotStart(str(error)) from error
    except BaseException:
        wire.close()
        raise
    try:
        found = PackProcess(process, wire, progress)
        found.wait_ready()
        yield found
    finally:
        wire.close()
        process.kill()
        process.wait()
