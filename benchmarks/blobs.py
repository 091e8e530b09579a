"""Workloads with blobs: one large one, many small ones, and small loads beside a transfer.

Blobs go through the methods of ZODB's storage interface.  The files that are uploaded are on disk
before the clock starts; what the server and the client write is what is measured.
"""

from __future__ import annotations

import os
import pickle
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

from ZODB.blob import Blob
from ZODB.Connection import TransactionMetaData
from ZODB.utils import maxtid, z64

from .latency import finish_loads
from .memory import forget_peak, peak_memory
from .worker import Session

MEGABYTE: Final = 10**6
BLOBS_PER_TURN: Final = 3
SMALL_BLOB: Final = 50_000
"""Bytes of each of many blobs."""

_RECORD: Final = pickle.dumps(Blob, 3) + pickle.dumps(None, 3)
_PATTERN: Final = 1 << 20

_WARM_UP: Final = 100
_IDLE_LOADS: Final = 1_500
_BESIDE_SECONDS: Final = 2.0
_PAUSE: Final = 0.001
"""Seconds between loads beside a transfer.  A client that loads without a pause has most of its
loads in the moments when nothing holds them up; one that comes every millisecond sees what others
see."""

_MEMORY_STEPS: Final = 8
"""How many times as long the larger blob is whose transfer's memory is measured."""


class _Stored(NamedTuple):
    """A committed blob."""

    oid: bytes
    tid: bytes


def _write_source(path: Path, size: int, chance: random.Random) -> Path:
    """Write *size* random bytes to *path*, and to the disk."""
    pattern = chance.randbytes(min(size, _PATTERN))
    with path.open("wb") as file:
        for start in range(0, size, len(pattern)):
            file.write(pattern[: size - start])
        file.flush()
        os.fsync(file.fileno())
    return path


def _commit(storage: Any, blobs: list[tuple[bytes, bytes, str]]) -> bytes:
    """Commit one transaction with ``(oid, serial, file)`` blobs; return its tid."""
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    for oid, serial, file in blobs:
        storage.storeBlob(oid, serial, _RECORD, file, "", meta)
    storage.tpc_vote(meta)
    tid: bytes = storage.tpc_finish(meta)
    return tid


def _store(session: Session, storage: Any, sizes: list[int]) -> list[_Stored]:
    """Commit new blobs of *sizes* bytes, each in a transaction of its own."""
    chance = random.Random(session.job.seed)
    stored = []
    for number, size in enumerate(sizes):
        source = _write_source(Path(session.job.folder) / f"stored-{number}", size, chance)
        oid = storage.new_oid()
        stored.append(_Stored(oid, _commit(storage, [(oid, z64, str(source))])))
    return stored


def _check_size(path: str, size: int) -> None:
    if os.stat(path).st_size != size:
        raise RuntimeError(f"a blob of {size} bytes came as one of {os.stat(path).st_size}")


def blob_up(session: Session) -> None:
    """Commit blobs of ``amount`` MB, one after the other; an operation is a GB."""
    size = session.job.amount * MEGABYTE
    chance = random.Random(session.job.seed)
    folder = Path(session.job.folder)
    with session.open(with_blobs=True) as storage:
        _store(session, storage, [SMALL_BLOB])
        sources = [
            (storage.new_oid(), z64, str(_write_source(folder / f"source-{number}", size, chance)))
            for number in range(BLOBS_PER_TURN)
        ]
        session.start()
        for source in sources:
            _commit(storage, [source])
        session.finish(BLOBS_PER_TURN * size / 1e9)


def blob_down(session: Session) -> None:
    """Load blobs of ``amount`` MB that the cache does not hold; an operation is a GB."""
    size = session.job.amount * MEGABYTE
    with session.open(with_blobs=True) as storage:
        warm_up, *blobs = _store(session, storage, [SMALL_BLOB] + [size] * BLOBS_PER_TURN)
    with session.open(with_blobs=True) as storage:
        storage.loadBlob(*warm_up)
        session.start()
        paths = [storage.loadBlob(*blob) for blob in blobs]
        session.finish(BLOBS_PER_TURN * size / 1e9)
        for path in paths:
            _check_size(path, size)


def many_blobs_up(session: Session) -> None:
    """Commit ``amount`` blobs of :data:`SMALL_BLOB` bytes in one transaction."""
    chance = random.Random(session.job.seed)
    folder = Path(session.job.folder)
    with session.open(with_blobs=True) as storage:
        _store(session, storage, [SMALL_BLOB])
        sources = [
            (
                storage.new_oid(),
                z64,
                str(_write_source(folder / f"source-{number}", SMALL_BLOB, chance)),
            )
            for number in range(session.job.amount)
        ]
        session.start()
        _commit(storage, sources)
        session.finish(len(sources))


def many_blobs_down(session: Session) -> None:
    """Load ``amount`` blobs of :data:`SMALL_BLOB` bytes that the cache does not hold."""
    chance = random.Random(session.job.seed)
    folder = Path(session.job.folder)
    with session.open(with_blobs=True) as storage:
        (warm_up,) = _store(session, storage, [SMALL_BLOB])
        oids = [storage.new_oid() for _ in range(session.job.amount)]
        tid = _commit(
            storage,
            [
                (oid, z64, str(_write_source(folder / f"source-{number}", SMALL_BLOB, chance)))
                for number, oid in enumerate(oids)
            ],
        )
    with session.open(with_blobs=True) as storage:
        storage.loadBlob(*warm_up)
        session.start()
        paths = [storage.loadBlob(oid, tid) for oid in oids]
        session.finish(len(oids))
        for path in paths:
            _check_size(path, SMALL_BLOB)


# -- transfers beside something else -------------------------------------------------------------


def _make_upload(session: Session, storage: Any) -> Callable[[], None]:
    """Return a function that commits a blob of ``amount`` MB, again and again the same."""
    folder = Path(session.job.folder)
    chance = random.Random(session.job.seed)
    # Not the name that others of this turn use.
    source = _write_source(folder / f"again-{os.getpid()}", _beside_size(session), chance)
    oid = storage.new_oid()
    last = _Stored(oid, z64)

    def upload() -> None:
        nonlocal last
        last = _Stored(oid, _commit(storage, [(oid, last.tid, str(source))]))
        os.rename(storage.loadBlob(*last), source)  # out of the cache, for the next time

    upload()
    return upload


def _make_download(session: Session, storage: Any) -> Callable[[], None]:
    """Return a function that fetches a blob of ``amount`` MB, which the cache never holds."""
    (blob,) = _store(session, storage, [_beside_size(session)])

    def download() -> None:
        os.remove(storage.loadBlob(*blob))

    download()
    return download


def _beside_size(session: Session) -> int:
    return session.job.amount * MEGABYTE


_Make = Callable[[Session, Any], Callable[[], None]]


def _transfer_until_told(make: _Make, session: Session) -> None:
    with session.open(with_blobs=True) as storage:
        transfer = make(session, storage)
        session.start()
        count = 0
        while not session.told_to_stop():
            transfer()
            count += 1
        session.finish(count)


def upload_until_told(session: Session) -> None:
    """Commit blobs of ``amount`` MB until the parent writes another line."""
    _transfer_until_told(_make_upload, session)


def download_until_told(session: Session) -> None:
    """Fetch a blob of ``amount`` MB again and again until the parent writes another line."""
    _transfer_until_told(_make_download, session)


def _paced_loads(storage: Any, oids: list[bytes], is_enough: Callable[[int], bool]) -> list[float]:
    """Load one of *oids* every :data:`_PAUSE` seconds; return how long each took."""
    clock = time.perf_counter
    times: list[float] = []
    for oid in oids:
        if is_enough(len(times)):
            break
        time.sleep(_PAUSE)
        began = clock()
        storage.loadBefore(oid, maxtid)
        times.append(clock() - began)
    return times


def _shuffled(session: Session) -> list[bytes]:
    oids = list(session.oids)
    random.Random(session.job.seed).shuffle(oids)
    return oids


def _idle_loads(storage: Any, oids: list[bytes]) -> tuple[list[float], list[bytes]]:
    """Return how long loads take from an idle server, and the ids that are still cold."""
    warm, idle = oids[:_WARM_UP], oids[_WARM_UP:][:_IDLE_LOADS]
    _paced_loads(storage, warm, lambda _: False)
    return _paced_loads(storage, idle, lambda _: False), oids[_WARM_UP + _IDLE_LOADS :]


def loads_beside(session: Session) -> None:
    """Load cold objects from an idle server, then while another client works; each is timed."""
    with session.open() as storage:
        idle, oids = _idle_loads(storage, _shuffled(session))
        session.start()
        deadline = time.monotonic() + _BESIDE_SECONDS
        busy = _paced_loads(storage, oids, lambda _: time.monotonic() > deadline)
        finish_loads(session, idle, busy)


def _loads_beside_own(make: _Make, session: Session) -> None:
    with session.open(with_blobs=True) as storage:
        transfer = make(session, storage)
        idle, oids = _idle_loads(storage, _shuffled(session))
        failures: list[BaseException] = []
        stop = threading.Event()

        def transfer_again() -> None:
            try:
                while not stop.is_set():
                    transfer()
            except BaseException as error:  # noqa: BLE001 - raised below, in the main thread
                failures.append(error)

        thread = threading.Thread(target=transfer_again)
        session.start()
        thread.start()
        deadline = time.monotonic() + _BESIDE_SECONDS
        busy = _paced_loads(storage, oids, lambda _: time.monotonic() > deadline)
        finish_loads(session, idle, busy)
        stop.set()
        thread.join()
        if failures:
            raise failures[0]


def loads_beside_own_upload(session: Session) -> None:
    """As :func:`loads_beside`, while a thread of the same client commits such blobs."""
    _loads_beside_own(_make_upload, session)


def loads_beside_own_download(session: Session) -> None:
    """As :func:`loads_beside`, while a thread of the same client fetches blobs of that size."""
    _loads_beside_own(_make_download, session)


# -- memory --------------------------------------------------------------------------------------


def blob_memory(session: Session) -> None:
    """Send and fetch a blob of ``amount`` MB, and before it one of an eighth of that.

    ``server`` and ``client`` are the peak of resident memory with the larger one divided by that
    with the smaller one.
    """
    large = session.job.amount * MEGABYTE
    small = large // _MEMORY_STEPS
    pids = (session.job.server_pid, os.getpid())
    with session.open(with_blobs=True) as storage:

        def transfer(size: int) -> list[int]:
            """Return the peaks."""
            for pid in pids:
                forget_peak(pid)
            (blob,) = _store(session, storage, [size])
            os.remove(storage.loadBlob(*blob))
            path = storage.loadBlob(*blob)
            _check_size(path, size)
            os.remove(path)
            return [peak_memory(pid) for pid in pids]

        transfer(small)  # whatever is needed for the first time is there then
        session.start()
        before, after = transfer(small), transfer(large)
        server, client = (last / first for first, last in zip(before, after, strict=True))
        session.finish(1, server=server, client=client)


WORKLOADS: Final[tuple[Callable[[Session], None], ...]] = (
    blob_up,
    blob_down,
    many_blobs_up,
    many_blobs_down,
    upload_until_told,
    download_until_told,
    loads_beside,
    loads_beside_own_upload,
    loads_beside_own_download,
    blob_memory,
)
