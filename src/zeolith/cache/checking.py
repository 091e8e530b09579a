"""Reading a whole cache file and comparing each record with what the index says of it; mending.

A client needs none of this: it looks at the checksum of each record that it reads.  It is for
whoever wants to know how a disk is, or what a crash has cost.

What is damaged cannot be mended, only left out, so that the cache says what it has.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from .earlier import EarlierRevisions, entries_of, pack_row
from .home import HEADER_SIZE, INDEX_SUFFIX, CacheHome, CacheInUse
from .index import PlaceIndex
from .inspection import CacheFiles, is_same, look
from .log import LENGTH_BITS, LENGTH_MASK, LogState, end_of
from .records import is_whole
from .snapshot import Snapshot

CHUNK: Final = 1 << 20
"""Bytes that are read at once: enough for a disk to show what it can do."""

NO_INDEX: Final = (
    "it has no index: what is in the file cannot be found, a client begins with an empty cache"
)

_OID_BITS: Final = 64
_OID_MASK: Final = (1 << _OID_BITS) - 1


class Damage(NamedTuple):
    """A revision that the index names and the file does not have.

    :ivar oid: of which object.
    :ivar is_earlier: whether it is one that is not current any more.
    :ivar offset: where in the file its record should be, in bytes.
    :ivar problem: what is wrong, in a few words.
    """

    oid: bytes
    is_earlier: bool
    offset: int
    problem: str


class Findings(NamedTuple):
    """The outcome of :func:`check`.

    :ivar files: what was checked.
    :ivar current: current revisions that the index names.
    :ivar earlier: earlier ones.
    :ivar bytes_read: of their records.
    :ivar bad: places and object ids of those that are damaged, current ones first: for
        :func:`fix`.
    :ivar faults: what is wrong with the files besides.
    """

    files: CacheFiles
    current: int
    earlier: int
    bytes_read: int
    bad: tuple[frozenset[int], frozenset[int]]
    faults: tuple[str, ...]

    @property
    def damaged(self) -> int:
        """How many revisions are damaged."""
        return len(self.bad[0]) + len(self.bad[1])

    @property
    def is_clean(self) -> bool:
        """Whether nothing is wrong."""
        return not self.damaged and not self.faults


def check(
    files: CacheFiles,
    report: Callable[[Damage], None],
    progress: Callable[[int], None],
) -> Findings:
    """Read each record that the index means; changes and locks nothing.

    :param files: from :func:`.look`.
    :param report: told of each damaged revision.
    :param progress: told how many more bytes were read.
    :raises CacheInUse: a process has the cache open, or saved it meanwhile: its records change
        while they are read.
    :raises OSError: the file cannot be read at all.
    """
    if files.owner is not None:
        raise _in_use(files)
    snapshot = files.snapshot
    if snapshot is None:
        faults = () if files.is_new else (files.problem or NO_INDEX,)
        return Findings(files, 0, 0, 0, (frozenset(), frozenset()), faults)
    current, earlier = _keys(snapshot)
    used = 0
    bad = []
    with open(files.path, "rb", buffering=0) as file:
        checker = _Checker(file.fileno(), snapshot)
        for keys, is_earlier in ((current, False), (earlier, True)):
            found = set()
            for key in keys:
                place, number = key >> _OID_BITS, key & _OID_MASK
                oid = number.to_bytes(8, "big")
                problem = checker.find_problem(oid, place, is_earlier)
                if problem is not None:
                    found.add(key)
                    offset = place >> LENGTH_BITS << snapshot.rings.shift
                    report(Damage(oid, is_earlier, offset, problem))
                used += place & LENGTH_MASK
                progress(place & LENGTH_MASK)
            bad.append(frozenset(found))
    if not is_same(files):
        raise _in_use(look(files.path))
    held = len(current) + len(earlier)
    miscounted = f"the index says that it has {snapshot.revisions} records, and has {held}"
    faults = () if snapshot.revisions == held else (miscounted,)
    return Findings(files, len(current), len(earlier), used, (bad[0], bad[1]), faults)


def fix(findings: Findings) -> None:
    """Leave out of the index what is damaged; an index that cannot be used goes, and with it the
    records that it alone could find.

    :param findings: of a cache that nobody has used since.
    :raises CacheInUse: somebody has.
    :raises OSError: the index cannot be written; it is as it was.
    """
    files = findings.files
    home = CacheHome(files.path)
    try:
        # From here on it is ours.
        if look(files.path).stamp != files.stamp:
            raise CacheInUse(*_changed(files))
        snapshot = files.snapshot
        if snapshot is not None:
            home.save(_without(snapshot, findings.bad))
            return
        if files.stamp is not None:
            os.unlink(files.path + INDEX_SUFFIX)
        # What lies there is of no use to anybody.
        os.ftruncate(home.file.fileno(), HEADER_SIZE)
    finally:
        home.close()


def _in_use(files: CacheFiles) -> CacheInUse:
    if files.owner is None:
        return CacheInUse(*_changed(files))
    who = "" if files.owner.pid is None else f" (process {files.owner.pid})"
    return CacheInUse(
        files.path,
        f"a process uses it{who}, so its records change all the time",
        "stop it first; info works on a cache in use",
    )


def _changed(files: CacheFiles) -> tuple[str, str, str]:
    return (files.path, "a process has used it while it was checked", "check it again")


def _keys(snapshot: Snapshot) -> tuple[list[int], list[int]]:
    """Return the places of the current revisions and of the earlier ones, each with the object id
    in its last bits, in the order in which they lie in the file.

    Integers, because there may be millions: a tuple of two would take three times as much.
    """
    index = PlaceIndex()
    index.load(snapshot.pages, snapshot.suspects)
    current = [place << _OID_BITS | int.from_bytes(oid, "big") for oid, place in index.items()]
    earlier = [
        place << _OID_BITS | oid for oid, row in snapshot.rows for _, _, place in entries_of(row)
    ]
    return sorted(current), sorted(earlier)


class _Checker:
    """Compares records with what a snapshot says of them; to be asked in the order of the file."""

    def __init__(self, descriptor: int, snapshot: Snapshot) -> None:
        self._descriptor = descriptor
        self._shift = snapshot.rings.shift
        self._seals = snapshot.rings.seals
        self._live = [*_live(snapshot.rings.small), *_live(snapshot.rings.main)]
        self._earlier = EarlierRevisions()
        self._earlier.load(snapshot.rows)
        self._chunk = b""
        self._base = 0

    def find_problem(self, oid: bytes, place: int, is_earlier: bool) -> str | None:
        """Return what is wrong with the revision of *oid* at *place*, None if nothing is."""
        position, length = place >> LENGTH_BITS, place & LENGTH_MASK
        end = end_of(place, self._shift)
        if not any(first <= position and end <= last for first, last in self._live):
            return "it lies where the cache keeps nothing"
        try:
            record = self._read(position << self._shift, length)
        except OSError as error:
            return f"it cannot be read: {error.strerror}"
        if len(record) < length:
            return "the file ends before it"
        if record[:8] != oid or not is_whole(record, self._seals.seed_at(position)):
            return "another record was written there, or it was damaged"
        start = record[8:16]
        if not is_earlier:
            if self._earlier.last_end(oid) > start:
                return "an earlier revision of the object ends after it begins"
            return None
        for first, last, found in entries_of(self._earlier.rows[int.from_bytes(oid, "big")]):
            if found == place and first == start and first < last:
                return None
        return "it is another revision than the index says"

    def _read(self, offset: int, length: int) -> bytes:
        at = offset - self._base
        if not 0 <= at <= len(self._chunk) - length:
            try:
                self._chunk = os.pread(self._descriptor, max(length, CHUNK), offset)
            except OSError:
                # The fault may lie behind the record.
                self._chunk = os.pread(self._descriptor, length, offset)
            self._base = offset
            at = 0
        return self._chunk[at : at + length]


def _live(log: LogState) -> Iterator[tuple[int, int]]:
    """Yield where *log* has records: first position and the one behind the last."""
    if log.head < log.tail:
        yield log.first, log.head
        yield log.tail, log.limit
    else:
        yield log.tail, log.head


def _without(snapshot: Snapshot, bad: tuple[frozenset[int], frozenset[int]]) -> Snapshot:
    """Return *snapshot* without the revisions in *bad*."""
    current, earlier = bad
    index = PlaceIndex()
    index.load(snapshot.pages, snapshot.suspects)
    for key in current:
        index.delete((key & _OID_MASK).to_bytes(8, "big"))
    held = sum(1 for _ in index.items())
    rows = []
    for oid, row in snapshot.rows:
        entries = [e for e in entries_of(row) if e[2] << _OID_BITS | oid not in earlier]
        held += len(entries)
        if entries:
            rows.append((oid, pack_row(entries)))
    return snapshot._replace(
        revisions=held, pages=index.dump(), rows=rows, suspects=index.dump_suspects()
    )
