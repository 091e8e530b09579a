"""Our cache with a trace of what it is asked."""

from __future__ import annotations

from .home import CacheHome
from .interface import Revision
from .records import HEADER, OVERHEAD
from .ring import RingCache
from .shared import SharedCache
from .siblings import Siblings
from .tracefile import TraceFile
from .traces import EMPTY, ZERO, Code


class TracedCache(RingCache):
    """A :class:`.RingCache` that writes down each use.

    A class of its own, so that a cache without a trace does not even have to ask whether it has
    one.

    What is written beside ZEO's trace: a revision that is too large for this cache counts as
    stored, for another size may have room for it.

    :param trace: belongs to this from now on.
    """

    def __init__(
        self,
        size: int,
        trace: TraceFile,
        *,
        directory: str | None = None,
        home: CacheHome | None = None,
    ) -> None:
        super().__init__(size, directory=directory, home=home)
        self.trace = trace
        self._trace_start()

    def _trace_start(self) -> None:
        self.trace.add(Code.START, b"", end=ZERO if len(self) else EMPTY)

    def load_before(self, oid: bytes, tid: bytes) -> Revision | None:
        """As inherited."""
        found = super().load_before(oid, tid)
        if found is None:
            # ZODB asks for the newest by a tid that is above the last.
            if tid > self._last_tid:
                self.trace.add(Code.LOAD_MISS, oid)
            else:
                self.trace.add(Code.LOAD_EARLIER_MISS, oid, end=tid)
        else:
            data, start, end = found
            if end is None:
                self.trace.add(Code.LOAD_HIT, oid, start, length=len(data))
            else:
                self.trace.add(Code.LOAD_EARLIER_HIT, oid, end=start, length=len(data))
        return found

    def store(self, oid: bytes, start: bytes, end: bytes | None, data: bytes) -> None:
        """As inherited."""
        with self._lock:
            stored = self._rings.stored
            super().store(oid, start, end, data)
            is_large = len(data) + OVERHEAD > self._rings.max_record
            if stored != self._rings.stored or is_large:
                self._trace_store(oid, start, end, len(data))

    def _append_fresh(self, fresh: dict[bytes, bytes]) -> None:
        for oid, body in fresh.items():
            self._trace_store(oid, body[8:16], None, len(body) - HEADER.size)
        super()._append_fresh(fresh)

    def _trace_store(self, oid: bytes, start: bytes, end: bytes | None, length: int) -> None:
        if end is None:
            self.trace.add(Code.STORE, oid, start, length=length)
        else:
            self.trace.add(Code.STORE_EARLIER, oid, start, end, length)

    def invalidate(self, oid: bytes, tid: bytes | None) -> None:
        """As inherited."""
        with self._lock:
            is_held = self._index.get(oid) is not None
            super().invalidate(oid, tid)
            if not is_held:
                self.trace.add(Code.INVALIDATE_MISS, oid, tid or ZERO)
            elif tid is None:
                self.trace.add(Code.INVALIDATE_DISCARD, oid)
            elif self._index.get(oid) is None:
                # What is held is not as new as *tid*, or nothing would have happened.
                self.trace.add(Code.INVALIDATE_KEEP, oid, tid)

    def replace(self, oid: bytes, tid: bytes, data: bytes) -> None:
        """As inherited, in two steps."""
        self.invalidate(oid, tid)
        self.store(oid, tid, None, data)

    def clear(self) -> None:
        """As inherited."""
        super().clear()
        self._trace_start()

    def save(self) -> None:
        """As inherited."""
        super().save()
        self.trace.flush()

    def close(self) -> None:
        """As inherited."""
        super().close()
        self.trace.close()


class TracedSharedCache(SharedCache):
    """A :class:`.SharedCache` with a trace.

    To its own cache what a sibling answers is a miss.  It is written down as stored thereafter, as
    if the server had answered, so that it is known what the load was for.
    """

    def __init__(self, own: TracedCache, siblings: Siblings) -> None:
        self._trace = own.trace
        super().__init__(own, siblings)

    def _borrow(self, oid: bytes, tid: bytes) -> Revision | None:
        found = super()._borrow(oid, tid)
        if found is not None:
            data, start, _ = found
            self._trace.add(Code.STORE, oid, start, length=len(data))
        return found
