"""Keeping strangers from guessing passwords: who has failed too often waits.

Pure: time is an argument.  Each address and each name has a store of attempts that fills up again
slowly.  An attempt takes one of both; if it succeeds, they are given back.  So attempts that are
under way count, and a thousand connections at once guess no faster than one.

A name's store alone would let anybody keep a user out by failing in his name, an address's whoever
shares it: a process of the same machine that has an old password.  Where the user has logged in
from lately he is therefore held up by neither, but has a store of his own there for when that of
the address is empty.
"""

from __future__ import annotations

import hashlib
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
        name = _short(name)
        here = self._store(("address", address), now)
        taken, wait = [here], 0.0
        if (address, name) in self._good:
            if here.wait:
                home = self._store(("home", f"{address} {name}"), now)
                taken.append(home)
                wait = home.wait
        elif here.wait:
            # Nothing is remembered of the name: whoever waits could name others without end, until
            # all that is known of him, or of whom he works with, is forgotten for them.
            return here.wait
        else:
            named = self._store(("name", name), now)
            taken.append(named)
            wait = named.wait
        if not wait:
            for store in taken:
                store.left -= 1
        return wait

    def succeeded(self, address: str, name: str, now: float) -> None:
        """An attempt that was taken has succeeded."""
        name = _short(name)
        keys = [("address", address)]
        if (address, name) not in self._good:
            keys.append(("name", name))
        elif self._store(keys[0], now).left < 0:
            # Nobody but who is at home takes more than there is.
            keys.append(("home", f"{address} {name}"))
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


def _short(name: str) -> str:
    """Return what stands for *name*: strangers choose how long it is (R8)."""
    return hashlib.blake2b(name.encode("utf-8"), digest_size=16).hexdigest()
