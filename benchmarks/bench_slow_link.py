"""What compression is worth on a slow link: ``python -m benchmarks.bench_slow_link``.

A server process, a client in this one, and between them a proxy that lets so many bits pass in a
second each way, at the pace of a link of that speed.  The same work is done with compression and
without, in turns; the best of several rounds counts, because other work on the machine can only
add to it.  The records are pickles as applications have them: content with prose in it (that of
this project's documents), buckets of indexes, small objects.
"""

from __future__ import annotations

import argparse
import random
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple

from BTrees.OIBTree import OIBucket
from persistent.mapping import PersistentMapping
from ZODB.Connection import TransactionMetaData
from ZODB.DB import DB
from ZODB.FileStorage import FileStorage
from ZODB.utils import maxtid

import zeolith

DOCUMENTS: Final = Path(__file__).resolve().parent.parent / "docs"

_CHUNK_SECONDS: Final = 0.002
"""What the proxy passes on at once takes the link this long: as long as a packet or two."""

_BATCH: Final = 100
"""Objects asked for at once."""


class Link:
    """A proxy for one server, as slow as a link of *rate* bytes a second in each direction.

    :ivar down: bytes that have passed from the server to clients.
    :ivar up: bytes that have passed from clients to the server.
    """

    def __init__(self, target: tuple[str, int], rate: float) -> None:
        self._target = target
        self._rate = rate
        self.down = self.up = 0
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listener.getsockname()[:2]
        self._start(self._accept)

    def _start(self, function: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=function, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # closed
            server = socket.create_connection(self._target)
            for sock in (client, server):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._sockets.append(sock)
            self._start(self._pump, client, server, True)
            self._start(self._pump, server, client, False)

    def _pump(self, source: socket.socket, sink: socket.socket, is_up: bool) -> None:
        size = max(int(self._rate * _CHUNK_SECONDS), 1)
        free_at = 0.0
        try:
            while data := source.recv(size):
                now = time.perf_counter()
                free_at = max(now, free_at) + len(data) / self._rate
                # The sleep is not exact, the time at which the link is free again is.
                time.sleep(max(0.0, free_at - now))
                sink.sendall(data)
                if is_up:
                    self.up += len(data)
                else:
                    self.down += len(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # one end is gone

    def close(self) -> None:
        """End all connections."""
        try:
            self._listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # not every system lets a listening socket be shut down
        self._listener.close()
        for sock in self._sockets:
            sock.close()
        for thread in self._threads:
            thread.join(5)


def make_objects(count: int) -> list[Any]:
    """Return persistent objects as applications have them, *count* of each sort."""
    chance = random.Random(1)
    words = " ".join(path.read_text(encoding="utf-8") for path in sorted(DOCUMENTS.glob("*.md")))
    paragraphs = [part for part in words.split("\n") if len(part) > 80]

    def prose(size: int) -> str:
        text = ""
        while len(text) < size:
            text += f"<p>{chance.choice(paragraphs)}</p>\n"
        return text

    def identifier() -> str:
        return "-".join(chance.choice(paragraphs).lower().split()[:3])

    found: list[Any] = []
    for number in range(count):
        found += [
            PersistentMapping(
                portal_type="Document",
                id=f"{identifier()}-{number}",
                title=chance.choice(paragraphs)[:60],
                creators=("admin", "editor"),
                subject=("news", "internal"),
                effective=chance.random() * 1e9,
                modified=chance.random() * 1e9,
                text=prose(chance.randrange(1_000, 6_000)),
            ),
            OIBucket({f"/site/{identifier()}/{n}": chance.randrange(1 << 31) for n in range(40)}),
            PersistentMapping(
                id=identifier(), owner="editor", state="published", size=chance.randrange(10**6)
            ),
        ]
    return found


def write_database(path: Path, count: int) -> list[bytes]:
    """Write :func:`make_objects` to a FileStorage; return the ids of the objects."""
    with closing(DB(FileStorage(str(path)))) as db, db.transaction() as connection:
        objects = make_objects(count)
        connection.root()["objects"] = objects
        for each in objects:
            connection.add(each)
        return [each._p_oid for each in objects]


class Turn(NamedTuple):
    """What one turn of one piece of work took.

    :ivar seconds: for all of it.
    :ivar size: bytes on the link, both ways.
    """

    seconds: float
    size: int


def load_each(storage: Any, oids: Sequence[bytes]) -> None:
    """One load after the other."""
    for oid in oids:
        assert storage.loadBefore(oid, maxtid) is not None


def prefetch(storage: Any, oids: Sequence[bytes]) -> None:
    """A hundred at once, then each from the cache."""
    for first in range(0, len(oids), _BATCH):
        batch = oids[first : first + _BATCH]
        storage.prefetch(batch, maxtid)
        load_each(storage, batch)


def store(storage: Any, oids: Sequence[bytes]) -> None:
    """All objects again, in one transaction."""
    records = [(oid, *storage.load(oid)) for oid in oids]
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    for oid, data, serial in records:
        storage.store(oid, serial, data, "", meta)
    storage.tpc_vote(meta)
    storage.tpc_finish(meta)


WORKS: Final[dict[str, Callable[[Any, Sequence[bytes]], None]]] = {
    "load each": load_each,
    "prefetch 100, load each": prefetch,
    "store in one transaction": store,
}


def take_turn(work: str, address: Any, oids: Sequence[bytes], rate: float, on: bool) -> Turn:
    """Do *work* once with an empty cache; return what it took."""
    with (
        closing(Link(address, rate)) as link,
        closing(zeolith.client(link.address, compression=on)) as storage,
    ):
        if work.startswith("store"):
            # What is stored is loaded before the clock starts.
            prefetch(storage, oids)
        before = link.up + link.down
        began = time.perf_counter()
        WORKS[work](storage, oids)
        seconds = time.perf_counter() - began
        return Turn(seconds, link.up + link.down - before)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_slow_link")
    parser.add_argument("--mbit", type=float, nargs="+", default=[10.0, 100.0], metavar="MBIT")
    parser.add_argument("--objects", type=int, default=100, help="of each of three sorts")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(argv)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmarks-")))
        oids = write_database(folder / "Data.fs", options.objects)
        with closing(FileStorage(str(folder / "Data.fs"), read_only=True)) as files:
            sizes = [len(files.load(oid)[0]) for oid in oids]
        print(
            f"{len(oids)} records of {min(sizes)} to {max(sizes)} bytes, {median(sizes):.0f} in "
            f"the middle, {sum(sizes)} together"
        )
        address, stop = zeolith.server(path=str(folder / "Data.fs"), threaded=False)
        stack.callback(stop)
        print(f"{'':36}{'plain ms':>10}{'zstd ms':>10}{'ratio':>7}{'bytes':>9}")
        for mbit in options.mbit:
            for work in WORKS:
                turns: dict[bool, list[Turn]] = {False: [], True: []}
                for _ in range(options.rounds):
                    for on in turns:
                        turns[on].append(take_turn(work, address, oids, mbit * 125_000, on))
                plain, packed = (min(found) for found in turns.values())
                print(
                    f"{f'{mbit:g} Mbit/s, {work}':36}{plain.seconds * 1e3:10.0f}"
                    f"{packed.seconds * 1e3:10.0f}{plain.seconds / packed.seconds:7.2f}"
                    f"{packed.size / plain.size:9.2f}"
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
