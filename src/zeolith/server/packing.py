"""Packing one storage: one at a time, in the background, and to be looked at."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from ZODB.POSException import StorageError

from .access import StorageAccess, layers_of
from .filepacker import FileMisplaced, FilePacker, can_pack_aside
from .inbox import Inbox
from .packwire import OLD_SUFFIX
from .peerlog import peer_logger
from .workers import Done, WorkerPool

logger = peer_logger(__name__)

_SHARES: Final = {
    "scan": (0.0, 0.25),
    "trace": (0.25, 0.2),
    "look-ahead": (0.45, 0.1),
    "copy": (0.55, 0.35),
    "follow": (0.9, 0.09),
    "blobs": (0.99, 0.0),
}
"""Phase → how much of a pack is done when it begins, and its part of the whole, by experience."""


class Packing:
    """Packs a storage, and keeps what there is to say of it.

    Belongs to the loop's thread, but for :meth:`describe`, :meth:`close` and :meth:`join`.

    :param access: the storage.
    :param inbox: the way back from the packing thread.
    """

    def __init__(self, access: StorageAccess, inbox: Inbox) -> None:
        self._access = access
        self._pool = WorkerPool(f"zeolith-pack-{access.name}", 1, inbox)
        self._packers: list[FilePacker] = []
        for layer in layers_of(access.storage):
            if can_pack_aside(layer):
                packer = FilePacker(layer, self._report)
                # Also for whoever packs the layer through a storage around it.
                layer.pack = packer.pack
                self._packers.append(packer)
        self._state: dict[str, Any] = {"is_running": False, "what": "", "last": None}
        self._progress: tuple[str, int, int] = ("", 0, 0)
        self._started = 0.0

    # -- looking at it ---------------------------------------------------------------------------

    @property
    def is_running(self) -> bool:
        """Whether a pack or an estimate is being made."""
        return bool(self._state["is_running"])

    @property
    def uses_storage(self) -> bool:
        """Whether a thread may be using the storage, or its locks."""
        return self.is_running and self._state["what"] == "pack"

    def describe(self) -> dict[str, Any]:
        """Return the state as plain values.  Any thread may call this.

        ``is_running``; while it is true: ``what`` (``pack`` or ``estimate``), ``started`` (seconds
        since the epoch), ``seconds``, ``phase``, ``done`` and ``total`` of the phase (bytes, or
        objects while tracing), ``fraction`` of the whole.  ``last``: None, or what the last one
        came to: ``what``, ``to`` and ``ended`` (seconds since the epoch), ``seconds``, ``error``
        (a text, None if it succeeded), ``before`` and ``after`` (bytes), and for an estimate
        ``blobs`` and ``blob_bytes`` that would go.  ``disk``, where the storage has a file:
        ``needed`` and ``free`` bytes for a pack, at most and now.
        """
        state = dict(self._state)
        if state["is_running"]:
            phase, done, total = self._progress
            start, share = _SHARES.get(phase, (0.0, 0.0))
            part = min(done / total, 1.0) if total > 0 else 0.0
            state.update(
                seconds=round(time.time() - state["started"], 3),
                phase=phase,
                done=done,
                total=total,
                fraction=round(start + share * part, 4),
            )
        disk = self._describe_disk()
        if disk is not None:
            state["disk"] = disk
        return state

    def _describe_disk(self) -> dict[str, int] | None:
        if not self._packers:
            return None
        path = self._packers[0].path
        try:
            facts = os.statvfs(os.path.dirname(path))
            needed = os.stat(path).st_size
            free = facts.f_bavail * facts.f_frsize
        except OSError:
            return None
        try:
            old = os.stat(path + OLD_SUFFIX)
        except OSError:
            pass
        else:
            # What the pack before has kept is removed first.
            free += old.st_blocks * 512 if old.st_nlink == 1 else 0
        return {"needed": needed, "free": free}

    # -- doing it --------------------------------------------------------------------------------

    def pack(
        self, when: float, client: str, done: Done, prepare: Callable[[], None] | None = None
    ) -> None:
        """Pack on a thread of its own.

        :param when: seconds since the epoch.
        :param client: who asks, for the log.
        :param done: gets the storage's size information, or the error.
        :param prepare: called first, on that thread.
        :raises StorageError: a pack or an estimate of this storage is running.
        """
        self._start("pack", when, client, partial(self._pack_job, prepare), done)

    def estimate(self, when: float, client: str) -> None:
        """Find out what a pack would bring; :meth:`describe` will say it.

        :raises StorageError: a pack or an estimate of this storage is running, or nobody knows
            how to make one.
        """
        if len(self._packers) != 1:
            raise StorageError(
                f"storage {self._access.name!r} is no FileStorage: no estimate can be made"
            )
        self._start("estimate", when, client, self._packers[0].estimate, lambda *_: None)

    def _start(
        self, what: str, when: float, client: str, job: Callable[[float], Any], done: Done
    ) -> None:
        name = self._access.name
        if self.is_running:
            running = "a pack" if self._state["what"] == "pack" else "an estimate for a pack"
            seconds = time.time() - self._state["started"]
            raise StorageError(
                f"{running} of storage {name!r} is already running, for {seconds:.0f} s"
            )
        logger.info("(%s) %s of storage %r to %s started", client, what, name, time.ctime(when))
        self._progress = ("", 0, 0)
        self._started = time.monotonic()
        self._state = {
            "is_running": True, "what": what, "started": time.time(), "last": self._state["last"]
        }  # fmt: skip
        self._pool.submit(partial(job, when), partial(self._ended, what, when, client, done))

    def _pack_job(
        self, prepare: Callable[[], None] | None, when: float
    ) -> tuple[int | None, dict[str, Any]]:
        if prepare is not None:
            prepare()
        before = self._access.storage.getSize()
        self._access.pack(when)
        return before, self._access.size_info()

    def _ended(
        self,
        what: str,
        when: float,
        client: str,
        done: Done,
        result: Any,
        error: Exception | None,
    ) -> None:
        seconds = time.monotonic() - self._started
        last: dict[str, Any] = {
            "what": what,
            "to": when,
            "ended": time.time(),
            "seconds": round(seconds, 3),
            "error": None if error is None else f"{type(error).__name__}: {error}",
        }
        name = self._access.name
        info: Any = None
        if error is not None:
            logger.error(
                "(%s) %s of storage %r failed after %.1f s: %s",
                client, what, name, seconds, last["error"], exc_info=error,
            )  # fmt: skip
        elif what == "pack":
            before, info = result
            last.update(before=before, after=info["size"])
            logger.info(
                "(%s) pack of storage %r took %.1f s: %s bytes before, %s after",
                client, name, seconds, before, info["size"],
            )  # fmt: skip
        else:
            last.update(result)
            logger.info("(%s) estimate for storage %r took %.1f s", client, name, seconds)
        self._state = {"is_running": False, "what": what, "last": last}
        done(info, error)

    def _report(self, phase: str, done: int, total: int) -> None:
        """Runs on the packing thread."""
        self._progress = (phase, done, total)

    # -- the end ---------------------------------------------------------------------------------

    def close(self) -> None:
        """Start nothing more; have what runs end soon.  Any thread."""
        self._pool.close()
        for packer in self._packers:
            packer.cancel()

    def join(self, timeout: float) -> bool:
        """Wait up to *timeout* seconds; return whether nothing runs any more.  Any thread."""
        return self._pool.join(timeout)


def is_fatal(error: Exception | None) -> bool:
    """Return whether a storage whose pack raised *error* must leave service."""
    return isinstance(error, FileMisplaced)
