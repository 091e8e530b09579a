"""Short blobs that are asked for before somebody wants them.

An application that reads the blobs of a transaction one after the other waits for each: for the
server, and for two changes of process.  So once blobs are fetched in equal steps of their ids, the
next ones are asked for in the same breath, and what comes waits in memory, for a while.  A blob's
revision never changes, so it cannot be out of date.  It is verified like any other when it is used.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from ..errors import StreamViolation
from ..protocol.streamrequests import OpenBlob
from .slots import Slot
from .steps import Steps

if TYPE_CHECKING:
    from .channel import Channel
    from .streams import Streams

MOST: Final = 16
"""Blobs that wait, or are on their way, at once."""

MOST_OPEN: Final = 24
"""Streams from the server up to which more are asked for.  It admits 64, of which 32 are for those
who want a blob now; and it may not have heard yet that some are not wanted any more."""

LONGEST: Final = 64 * 1024
"""Bytes of one.  Longer ones take so long that nothing is gained; all together have to be borne in
memory (R8)."""

PATIENCE: Final = 10.0
"""Seconds after which nobody is expected to want what waits."""

Key: TypeAlias = tuple[bytes, bytes]
"""Object id and transaction id."""


class Found(NamedTuple):
    """What has come of a blob.

    :ivar data: its parts.
    :ivar answer: what the server said when it was asked.
    :ivar checksum: what the server said at the end.
    """

    data: list[bytes]
    answer: Any
    checksum: bytes | None


class _Wanted(Slot):
    """A blob that was asked for, and where the answer goes.

    :param streams: of the connection.
    :param steps: of the thread that is expected to want it.
    """

    __slots__ = ("_streams", "data", "steps", "stream")

    def __init__(self, streams: Streams, steps: Steps) -> None:
        super().__init__()
        self._streams = streams
        self.steps = steps
        self.data: list[bytes] = []
        self.stream = streams.begin(self._take, LONGEST)

    def _take(self, data: bytes | memoryview) -> int:
        if not self.done:
            # Without an answer they would be kept here for as long as the connection lasts.
            raise StreamViolation(self.stream.number, "data before the answer")
        self.data.append(bytes(data))  # what it is in now is used again
        return len(data)

    def settle(self, error: Exception | None) -> None:
        """Answer with *error*: there will be no stream."""
        super().settle(error)
        self._streams.refused(self.stream.number)

    @property
    def is_whole(self) -> bool:
        """Whether all of it has come, and well.  After the answer."""
        # The stream may have ended because it was cancelled.
        has_ended = self.stream.has_ended and self.stream.error is None and self.error is None
        return has_ended and self._received == self._size

    @property
    def is_short(self) -> bool:
        """Whether all of it is going to come without more credit, as far as can be told.  After the
        answer."""
        size = self._size
        # Of more than the server has said nobody knows when it ends.
        return size is not None and self._received <= size <= LONGEST

    @property
    def _size(self) -> int | None:
        size = self.value.get("size") if type(self.value) is dict else None
        return size if type(size) is int else None

    @property
    def _received(self) -> int:
        return sum(map(len, self.data))


class _Sequences(threading.local):
    """Each thread has a sequence of its own."""

    def __init__(self) -> None:
        self.steps = Steps(MOST)


class Ahead:
    """The blobs that one connection has asked for ahead.  Any thread.

    :param channel: the connection.
    :param streams: its streams.
    """

    def __init__(self, channel: Channel, streams: Streams) -> None:
        self._channel = channel
        self._streams = streams
        self._sequences = _Sequences()
        # Guards what follows; nobody waits for anything while holding it.
        self._lock = threading.Lock()
        self._wanted: dict[Key, _Wanted] = {}
        self._used = 0.0

    def take(self, oid: bytes, tid: bytes) -> Found | None:
        """Return that blob, and forget it; None if it was not asked for, or has to be asked for
        again.

        :raises ClientDisconnected: the connection ended before all of it had come.
        """
        if not self._wanted:
            return None
        wanted = self._wanted.get((oid, tid))
        if wanted is None:
            return None
        stream = wanted.stream
        try:
            with self._lock:
                is_ours = self._wanted.pop((oid, tid), None) is wanted
            if not is_ours:
                return None  # Somebody has forgotten it.
            if not stream.has_ended:
                try:
                    self._channel.wait_until(
                        stream, lambda: stream.has_ended or (wanted.done and not wanted.is_short)
                    )
                finally:
                    stream.cancel()  # unless it has ended
        except BaseException as error:
            if stream.is_open:
                # Interrupted before that was said: nobody else would.
                self._channel.close(error)
            raise
        wanted.steps.judge(wanted.is_whole)
        if not wanted.is_whole:
            return None
        return Found(wanted.data, wanted.value, stream.checksum)

    def follow(self, oid: bytes, tid: bytes, is_here: Callable[[bytes, bytes], bool]) -> None:
        """Note that a blob is being fetched, and ask for those that come next.

        :param is_here: whether a blob need not be fetched.
        :raises ClientDisconnected: the connection has ended.
        """
        steps = self._sequences.steps
        oids = steps.follow(oid, tid)
        if self._wanted and steps.has_jumped:
            self._forget(lambda key, wanted: wanted.steps is steps and steps.is_past(*key))
        if oids:
            keys = [(oid, tid) for oid in oids if not is_here(oid, tid)]
            if keys:
                self._ask(keys, steps)

    def _ask(self, keys: list[Key], steps: Steps) -> None:
        try:
            with self._lock:
                room = min(MOST - len(self._wanted), MOST_OPEN - self._streams.receiving)
                new = [key for key in keys if key not in self._wanted][: max(room, 0)]
                wanted = {key: _Wanted(self._streams, steps) for key in new}
                self._wanted.update(wanted)
                self._used = time.monotonic()
            if wanted:
                self._channel.start_all(
                    (OpenBlob(found.stream.number, oid, tid, 0, LONGEST), found)
                    for (oid, tid), found in wanted.items()
                )
        except BaseException as error:
            # Interrupted in between: somebody might wait for what was never asked for.
            self._channel.close(error)
            raise

    def tend(self) -> None:
        """Forget what nobody wants any more; called now and then.  Waits for nobody: who calls it
        is to notice that the server does not read."""
        if self._wanted and time.monotonic() - self._used > PATIENCE:
            with self._lock:
                gone, self._wanted = self._wanted, {}
            left = {key: each for key, each in gone.items() if not each.stream.cancel_nowait()}
            if left:
                with self._lock:
                    self._wanted = left | self._wanted

    def _forget(self, is_useless: Callable[[Key, _Wanted], bool]) -> None:
        try:
            with self._lock:
                gone = [key for key, wanted in self._wanted.items() if is_useless(key, wanted)]
                streams = [self._wanted.pop(key).stream for key in gone]
            for stream in streams:
                stream.cancel()  # unless it has ended
        except BaseException as error:
            # Interrupted in between: the others would stay open.
            self._channel.close(error)
            raise
