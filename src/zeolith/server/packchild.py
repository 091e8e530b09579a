"""The process that packs a FileStorage's file beside the server that uses it.

ZODB's packer is Python code that is busy for minutes: in the server it would hold the interpreter
while clients wait.  Here it works on the file as it is on disk, reading what the server appends
meanwhile, and writes ``Data.fs.pack``.  It changes nothing else: putting the new file in place of
the old one is the server's part (:mod:`.filepacker`).

Run as ``python -m zeolith.server.packchild FD`` with one end of a :class:`.PackWire`; the process
ends when the other end is closed, which the system does for a server that dies.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any, Final, Self

import ZODB.blob
from ZODB.FileStorage.FileStorage import RedundantPackWarning
from ZODB.FileStorage.fspack import GC, FileStoragePacker, PackCopier
from ZODB.serialize import referencesf

from .packwire import PACK_SUFFIX, REMOVED, PackWire, serialize_entries

NICENESS: Final = 10
"""Whoever waits for the server goes first."""

_REPORT_EVERY: Final = 0.25
_LOOK_EVERY: Final = 128
_SYNC_EVERY: Final = 4 << 20
"""Bytes after which the new file is brought to disk: an fsync of a commit that came behind
hundreds of megabytes would take seconds."""


class Watch:
    """Tells the server how far the work is, now and then.

    :param send: sends a message.
    """

    def __init__(self, send: Callable[..., None]) -> None:
        self._send = send
        self._phase = ""
        self._total = 0
        self._looks = 0
        self._told = 0.0

    def enter(self, phase: str, total: int) -> None:
        """What comes now is *phase*; it is done when *total* is reached."""
        self._phase, self._total = phase, total
        self._tell(0)

    def is_due(self) -> bool:
        """Whether it is time to tell; looks at the clock only now and then."""
        self._looks += 1
        if self._looks % _LOOK_EVERY:
            return False
        return time.monotonic() - self._told >= _REPORT_EVERY

    def at(self, done: int) -> None:
        """So much of the phase is done."""
        self._tell(done)

    def _tell(self, done: int) -> None:
        self._told = time.monotonic()
        self._send("progress", phase=self._phase, done=done, total=self._total)


class _NoLock:
    """Nobody else uses what this process works with."""

    def acquire(self) -> None: ...

    def release(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None: ...


class WatchedGC(GC):
    """ZODB's search for what is reachable, with reports.

    :param watch: told of progress.
    """

    def __init__(self, watch: Watch, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._watch = watch
        self._is_tracing = False

    def buildPackIndex(self) -> None:  # noqa: N802 - ZODB's names, here and below
        self._watch.enter("scan", self.eof)
        super().buildPackIndex()

    def findReachableAtPacktime(self, roots: Any) -> None:  # noqa: N802
        if not self._is_tracing:
            self._is_tracing = True
            self._watch.enter("trace", len(self.oid2curpos))
        super().findReachableAtPacktime(roots)

    def findReachableFromFuture(self) -> None:  # noqa: N802
        self._is_tracing = False
        self._watch.enter("look-ahead", self.eof)
        super().findReachableFromFuture()
        self._is_tracing = True

    def _read_data_header(self, pos: int, *arguments: Any, **options: Any) -> Any:
        if self._watch.is_due():
            self._watch.at(len(self.reachable) if self._is_tracing else pos)
        return super()._read_data_header(pos, *arguments, **options)


class _LastPlaces(dict[bytes, int]):
    """The packer's index of one transaction, which it clears after each: what was in it is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[bytes, int] = {}

    def clear(self) -> None:
        self.seen.update(self)
        super().clear()


class Packer(FileStoragePacker):
    """ZODB's packer, in steps that somebody else decides upon.

    :param path: the storage's file.
    :param size: where its last transaction ended when the pack began.
    :param stop: the tid of the pack's time.
    :param gc: whether to look for objects that nothing refers to.
    :param blob_dir: the storage's blob directory, or None.
    :param watch: told of progress.
    """

    _file: Any

    def __init__(
        self, path: str, size: int, stop: bytes, gc: bool, blob_dir: str | None, watch: Watch
    ) -> None:
        storage = SimpleNamespace(
            _file=SimpleNamespace(name=path),
            _lock=_NoLock(),
            _commit_lock=_NoLock(),
            blob_dir=None,  # or the list would be opened where ZODB wants it
            getSize=lambda: size,
            is_blob_record=ZODB.blob.is_blob_record,
        )
        super().__init__(storage, referencesf, stop, gc)
        self.gc = WatchedGC(watch, self._file, size, stop, gc, referencesf)
        self.tindex = _LastPlaces()
        self._watch = watch
        self._blob_dir = blob_dir
        self._synced = 0

    def copy_old(self, target: Any, removed: Any) -> int | None:
        """Copy what is still needed of the transactions up to the pack's time.

        :param target: the new file, open for writing and reading.
        :param removed: gets the list of blobs to be removed; None without blobs.
        :returns: where the next transaction begins in the old file; None if all of it is needed.
        """
        self.pack_blobs, self.blob_removed = removed is not None, removed
        self.gc.findReachable()
        self._watch.enter("copy", self.gc.packpos)
        self._tfile = target
        self._file.seek(0)
        target.write(self._file.read(self._metadata_size))
        self._copier = PackCopier(target, self.index, self.tindex)
        read, written = self.copyToPacktime()
        target.seek(written)
        return None if read == written else int(read)

    def copy_until(self, position: int, end: int) -> int:
        """Copy all transactions between two positions of the old file; return where it is now."""
        # What was read ahead earlier may be a transaction that has been finished or taken back.
        self._file.close()
        self._file = open(self._path, "rb")  # noqa: SIM115 - close() is for that
        self._watch.enter("follow", end)
        while position < end:
            position = self.copyOne(position)
        return position

    def sync(self) -> None:
        """Bring the new file to disk."""
        self._tfile.flush()
        os.fsync(self._tfile.fileno())
        self._synced = self._tfile.tell()

    def _read_data_header(self, pos: int, *arguments: Any, **options: Any) -> Any:
        if self._watch.is_due():
            self._watch.at(pos)
            if self._tfile.tell() - self._synced >= _SYNC_EVERY:
                self.sync()
        return super()._read_data_header(pos, *arguments, **options)


class Sizer:
    """Takes the place of the new file where only its size is wanted."""

    def __init__(self) -> None:
        self._position = 0
        self.size = 0

    def write(self, data: bytes) -> None:
        self._position += len(data)
        self.size = max(self.size, self._position)

    def seek(self, position: int) -> None:
        self._position = position

    def tell(self) -> int:
        return self._position

    def flush(self) -> None: ...

    def close(self) -> None: ...


class BlobCounter:
    """Takes the place of the list of blobs that are to be removed."""

    def __init__(self, blob_dir: str) -> None:
        self._helper = ZODB.blob.FilesystemHelper(blob_dir)
        self.files = 0
        self.size = 0
        self._seen: set[bytes] = set()

    def write(self, line: bytes) -> None:
        entry = bytes.fromhex(line.decode("ascii").strip())
        if entry in self._seen:
            return  # each revision of an object that goes names the object
        self._seen.add(entry)
        with suppress(OSError):  # gone already
            if len(entry) == 16:
                self._count(self._helper.getBlobFilename(entry[:8], entry[8:]))
                return
            directory = self._helper.getPathForOID(entry)
            for name in os.listdir(directory):
                self._count(os.path.join(directory, name))

    def _count(self, path: str) -> None:
        size = os.stat(path).st_size
        self.files += 1
        self.size += size

    def close(self) -> None: ...


def pack(packer: Packer, wire: PackWire, commands: SimpleQueue[dict[str, Any]]) -> None:
    """Write the new file, as the server tells.

    What is written stays where it is, whatever happens: if the server is gone, another one may be
    at work with these files.  A server that lives tidies up.
    """
    path, blob_dir = packer._path, packer._blob_dir
    with ExitStack() as cleanup:
        cleanup.callback(packer.close)
        target = cleanup.enter_context(_create(path + PACK_SUFFIX, path))
        removed = None
        if blob_dir is not None:
            removed = cleanup.enter_context(open(os.path.join(blob_dir, REMOVED), "wb"))
        position = packer.copy_old(target, removed)
        if position is None:
            wire.send("nothing")
            return
        packer.sync()
        wire.send("copied", position=position)
        while True:
            command = commands.get()
            if command["is"] == "follow":
                position = packer.copy_until(position, command["end"])
                packer.sync()
                wire.send("copied", position=position)
            elif command["is"] == "index":
                packer.tindex.seen.clear()
                for prefix, bucket in packer.index._data.items():
                    wire.send("bucket", bucket.toString(), prefix=prefix.hex())
                wire.send("indexed")
            else:
                packer.copy_until(position, command["end"])
                packer.sync()
                if removed is not None:
                    _finish_list(removed, packer)
                wire.send(
                    "finished",
                    serialize_entries(packer.tindex.seen.items()),
                    size=target.tell(),
                )
                return


def estimate(packer: Packer, wire: PackWire, size: int) -> None:
    """Find out what a pack would bring."""
    sizer = Sizer()
    blobs = None if packer._blob_dir is None else BlobCounter(packer._blob_dir)
    try:
        packer._synced = sys.maxsize
        position = packer.copy_old(sizer, blobs)
        after = size if position is None else sizer.size + size - position
    finally:
        packer.close()
    wire.send(
        "estimated",
        before=size,
        after=after,
        blobs=0 if blobs is None else blobs.files,
        blob_bytes=0 if blobs is None else blobs.size,
    )


def _create(path: str, like: str) -> Any:
    """Open a new file that belongs to whom the file *like* belongs, with the same rights."""
    target = open(path, "w+b")  # noqa: SIM115 - the caller closes it
    facts = os.stat(like)
    with suppress(PermissionError):  # a file of another user, which we may write nevertheless
        os.fchown(target.fileno(), facts.st_uid, facts.st_gid)
    with suppress(PermissionError):
        os.fchmod(target.fileno(), stat.S_IMODE(facts.st_mode))
    return target


def _finish_list(removed: Any, packer: Packer) -> None:
    """Take from the list the blobs that are in use again, and bring it to disk."""
    removed.flush()
    with open(removed.name, "rb") as file:
        lines = file.readlines()
    # An object that nothing referred to at the pack's time may have been written again since.
    used = [
        line for line in lines
        if len(entry := bytes.fromhex(line.decode("ascii").strip())) > 8
        or packer.index.get(entry) is None
    ]  # fmt: skip
    if len(used) != len(lines):
        removed.seek(0)
        removed.truncate()
        removed.writelines(used)
        removed.flush()
    os.fsync(removed.fileno())


def _listen(wire: PackWire, commands: SimpleQueue[dict[str, Any]]) -> None:
    """Pass on what the server says; end the process with it."""
    while True:
        try:
            command, _ = wire.receive()
        except (EOFError, OSError):
            os._exit(1)
        commands.put(command)


def _work(wire: PackWire, commands: SimpleQueue[dict[str, Any]]) -> None:
    wire.send("ready")
    task = commands.get()
    watch = Watch(wire.send)
    stop = bytes.fromhex(task["stop"])
    packer = Packer(task["path"], task["size"], stop, task["gc"], task["blob_dir"], watch)
    if task["is"] == "estimate":
        estimate(packer, wire, task["size"])
    else:
        pack(packer, wire, commands)


def main(descriptor: int) -> int:
    """Do what the server asks for over the socket *descriptor*; return the exit status."""
    os.nice(NICENESS)
    wire = PackWire(socket.socket(fileno=descriptor))
    commands: SimpleQueue[dict[str, Any]] = SimpleQueue()
    threading.Thread(target=_listen, args=(wire, commands), daemon=True).start()
    try:
        _work(wire, commands)
    except RedundantPackWarning as warning:
        wire.send("redundant", text=str(warning))
    except (BrokenPipeError, ConnectionError):
        return 1  # nobody is left to be told
    except OSError as error:
        number = error.errno if error.errno is not None else errno.EIO
        wire.send("failed", errno=number, text=error.strerror or str(error), file=error.filename)
    except Exception as error:  # noqa: BLE001 - whatever a damaged file leads to
        wire.send("failed", text=f"{type(error).__name__}: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
