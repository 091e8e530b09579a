"""Reading the file of a process that writes to it as fast as it can, and is killed (R6)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from zeolith.cache import Siblings

WRITER = """
import sys
from zeolith.cache import RingCache
from zeolith.cache.home import CacheHome
cache = RingCache(30_000, home=CacheHome(sys.argv[1]))
n = int.from_bytes(cache.last_tid(), "big")
while True:
    n += 1
    tid = n.to_bytes(8, "big")
    for k in range(n % 7 + 1):
        oid = ((n * 31 + k * 17) % 300).to_bytes(8, "big")
        cache.invalidate(oid, tid)
        cache.store(oid, tid, None, (tid + oid) * 10)
        if k == 0:
            # A few are read again, so that they are copied, over others.
            cache.load_before(oid, tid)
    cache.set_last_tid(tid)
    if n % 20 == 0:
        cache.save()
    if n % 60 == 0:
        print(n, flush=True)
"""


class History:
    """Which transaction of the writer wrote an object last."""

    def __init__(self) -> None:
        self._tids: list[list[int]] = [[] for _ in range(300)]
        self._known = 0

    def last(self, oid: int, tid: int) -> int | None:
        while self._known < tid:
            self._known += 1
            n = self._known
            for k in range(n % 7 + 1):
                self._tids[(n * 31 + k * 17) % 300].append(n)
        return max((n for n in self._tids[oid][-60:] if n <= tid), default=None)


def to_int(data: bytes) -> int:
    return int.from_bytes(data, "big")


def test_what_is_read_is_what_was_current_or_came_later(tmp_path: Path) -> None:
    path = str(tmp_path / "app-1.zec")
    history = History()
    read = missing = later = snapshots = 0
    siblings = Siblings([path], 1 << 20)
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            before = None
            for _ in range(40):
                process.stdout.readline()
                (sibling,) = siblings.look()
                snapshots += sibling is not before
                before = sibling
                as_of = to_int(sibling.as_of)
                for oid in range(300):
                    record = sibling.read(oid.to_bytes(8, "big"))
                    if record is None:
                        missing += 1
                        continue
                    read += 1
                    start = to_int(record[8:16])
                    body = (record[8:16] + record[:8]) * 10
                    assert to_int(record[:8]) == oid
                    assert record[20:-4] == body
                    if start > as_of:
                        later += 1
                    else:
                        assert start == history.last(oid, as_of)
            process.kill()
    assert read > 100, (read, missing, later, snapshots)
    assert snapshots > 10
