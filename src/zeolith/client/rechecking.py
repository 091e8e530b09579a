"""Asking the server which suspects of a cache are out of date, while the application goes on.

See :mod:`zeolith.cache.suspects`.  A thread of its own asks: the one that watches the connection
has heartbeats to send.  What it asks costs others no more than any call: it reads as callers do,
and what it learns it tells the cache when it has given up the reading role again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Final

from ..cache.interface import ClientCache
from ..cache.suspects import Suspects
from ..errors import ClientDisconnected, IllegalMessage
from ..protocol.additions import MAX_PAIRS, PAIR_SIZE, VerifyMany
from .channel import Channel
from .verification import CacheOwner

logger = logging.getLogger(__name__)

_OVERHEAD: Final = 64
"""Bytes of a question without its pairs."""


class Rechecking:
    """Looks into the suspects of *cache* until there are none, or the connection ends.

    To be used by the link's thread, which starts it when the connection is the present one, and
    joins it when that has ended.

    :param name: of the storage, for logs and the thread.
    :param owner: told when suspects are given up.
    """

    def __init__(self, name: str, channel: Channel, cache: ClientCache, owner: CacheOwner) -> None:
        self._name = name
        self._channel = channel
        self._cache = cache
        self._owner = owner
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin if there is anything to do."""
        suspects = self._cache.suspects
        if suspects is None or not len(suspects):
            return
        if not self._channel.speaks_own:
            self._forget(suspects, "the server speaks ZEO's protocol, which has no call for it")
            return
        self._thread = threading.Thread(
            target=self._run, args=(suspects,), name=f"zeolith verify {self._name}", daemon=True
        )
        self._thread.start()

    @property
    def is_current(self) -> bool:
        """Whether the calling thread is the one that looks into them."""
        return self._thread is threading.current_thread()

    def join(self) -> None:
        """Wait for the end; the channel has been closed."""
        if self._thread is not None:
            self._thread.join()

    def _run(self, suspects: Suspects) -> None:
        try:
            self._look_into(suspects)
        except ClientDisconnected as error:
            logger.debug("%s: the rest is verified on the next connection: %s", self._name, error)
        except IllegalMessage as error:
            # What else it says is not to be trusted either.
            logger.warning("%s: leaving %s: %s", self._name, self._channel.server_name, error)
            self._channel.close(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is said
            self._forget(suspects, f"the server cannot verify them: {error}")

    def _look_into(self, suspects: Suspects) -> None:
        checked = stale = 0
        while (page := suspects.page()) is not None:
            number, pairs = page
            found = self._ask(pairs)
            suspects.settle(number, found)
            checked += len(pairs)
            stale += len(found)
        logger.info(
            "%s: of %d objects in the cache that were verified at %s %d were stale",
            self._name,
            checked,
            self._channel.server_name,
            stale,
        )

    def _ask(self, pairs: Sequence[tuple[bytes, bytes]]) -> list[bytes]:
        """Return the objects of *pairs* that are out of date.

        :raises POSError: the server cannot tell.
        :raises IllegalMessage: its answer is none.
        :raises ClientDisconnected: the connection has ended.
        """
        channel = self._channel
        most = min(MAX_PAIRS, max(1, (channel.max_payload - _OVERHEAD) // PAIR_SIZE))
        found: list[bytes] = []
        for at in range(0, len(pairs), most):
            part = pairs[at : at + most]
            # All that we know when we ask has been announced before: see the server's answer.
            known = self._cache.last_tid()
            answer = channel.call(VerifyMany(b"".join([oid + start for oid, start in part])))
            match answer:
                case (bytes(tid), bytes(stale)) if tid >= known and len(stale) % 8 == 0:
                    found += [stale[at : at + 8] for at in range(0, len(stale), 8)]
                case _:
                    raise IllegalMessage(f"no answer to a verification: {answer!r:.60}")
        return found

    def _forget(self, suspects: Suspects, reason: str) -> None:
        self._owner.cache_is_stale()
        logger.warning(
            "%s: %d objects of the cache that may be out of date are dropped: %s",
            self._name,
            suspects.forget_all(),
            reason,
        )
