"""Keeping strangers from guessing passwords: who has failed too often waits.

Pure: time is an argument.  Each address and each name has a store of attempts that fills up again
slowly.  An attempt takes one of both; if it succeeds, they are given back.  So attempts that are
under way count, and a thousand connections at once guess no faster than one.

A name's store alone would let anybody keep a user out by failing in his name.  Where the user has
logged in from lately is therefore not held up by it.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

REFILL: Final = 10.0
"""Seconds until another attempt may be made when there is none left: 8,640 guesses a day."""

MAX_KEYS: Final = 20_000
"""Addresses and names that are remembered.  With more, the one that failed longest ago is
forgotten: whoever has so many addresses is not held up by counting them."""


class _Store:
    __slots__ = ("left", "most", "since")

    def __init__(self, now: float, most: int) -> None:
        self.left = self.most = float(most)
        self.since = now

    def refill(self, now: float) -> None:
        self.put_back(max(now - self.since, 0.0) / REFILL)
        self.since = now

    def put_back(self, attempts: float) -> None:
        self.left = min(self.left + attempts, self.most)

    @property
    def wait(self) -> float:
        return max(1.0 - self.left, 0.0) * REFILL


class Guessing:
    """Counts attempts.  Not thread-safe; times are seconds of any steady clock.

    :param attempts: failures in a row, of one address or one name, before anybody has to wait.
    """

    def __init__(self, attempts: int) -> None:
        self._attempts = attempts
        self._stores: OrderedDict[tuple[str, str], _Store] = OrderedDict()
        self._good: OrderedDict[tuple[str, str], None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._stores) + len(self._good)

    def take(self, address: str, name: str, now: float) -> float:
        """An attempt is to be made; return 0 if it may, else for how many seconds it may not.

        :param address: where from; see :func:`~.origins.origin`.
        """
        stores = [self._store(("address", address), now)]
        if (address, name) not in self._good:
            stores.append(self._store(("name", name), now))
        wait = max(store.wait for store in stores)
        if not wait:
            for store in stores:
                store.left -= 1
        return wait

    def succeeded(self, address: str, name: str, now: float) -> None:
        """An attempt that was taken has succeeded."""
        keys = [("address", address)]
        if (address, name) not in self._good:
            keys.append(("name", name))
        for key in keys:
            store = self._store(key, now)
            store.put_back(1)
            if store.left == store.most:
                del self._stores[key]
        self._good[address, name] = None
        self._good.move_to_end((address, name))
        if len(self._good) > MAX_KEYS:
            self._good.popitem(last=False)

    def _store(self, key: tuple[str, str], now: float) -> _Store:
        store = self._stores.get(key)
        if store is None:
            store = self._stores[key] = _Store(now, self._attempts)
            if len(self._stores) > MAX_KEYS:
                self._stores.popitem(last=False)
        store.refill(now)
        self._stores.move_to_end(key)
        return store
