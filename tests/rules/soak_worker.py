"""One application process of the soak test: threads that read and commit through one database.

Run as a script with ``HOST PORT SECONDS THREADS SEED``; prints one JSON object at the end.

The database holds accounts whose sum never changes, and one counter per thread.  A transaction
moves an amount between two accounts (each with a blob-free record of its own) and counts up.  So

- a *torn* read shows a sum that is wrong,
- a *stale* read shows a counter lower than one that this process has seen, or committed, before,
- a *lost* commit shows a counter lower, at the end, than what was acknowledged.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from typing import Any

import psutil
import transaction
import ZODB
from transaction.interfaces import TransientError
from ZODB.POSException import POSKeyError, StorageError

import zeolith

PATIENCE = 60.0
"""Seconds that a transaction may be retried before it counts as stuck."""


class Worker:
    """What the threads of this process share: the database, and what has gone wrong."""

    def __init__(self, address: tuple[str, int], seconds: float, seed: int) -> None:
        self.db = ZODB.DB(
            zeolith.ClientStorage(
                address,
                server_sync=bool(seed % 2),
                cache_size=1 << 20,
                wait_timeout=20,
                min_disconnect_poll=0.02,
                max_disconnect_poll=0.2,
            )
        )
        self.until = time.monotonic() + seconds
        self.seed = seed
        self.wrong: list[str] = []
        self.acknowledged: dict[str, int] = {}
        self.uncertain: dict[str, int] = {}
        self.commits = self.retries = self.reads = 0
        self.memory: list[int] = []

    def run(self, number: int) -> None:
        name = f"{self.seed}-{number}"
        generator = random.Random(f"{self.seed} {number}")
        manager = transaction.TransactionManager()
        self.acknowledged[name] = self.uncertain[name] = 0
        seen: dict[str, int] = {}
        while time.monotonic() < self.until and not self.wrong:
            deadline = time.monotonic() + PATIENCE
            while not self.attempt(name, generator, manager, seen):
                self.retries += 1
                if time.monotonic() > deadline:
                    self.wrong.append(f"{name}: stuck")
                    return

    def attempt(
        self, name: str, generator: random.Random, manager: Any, seen: dict[str, int]
    ) -> bool:
        """Make one transaction; return whether it succeeded."""
        is_committing = False
        try:
            connection = self.db.open(manager)
        except (TransientError, StorageError):
            manager.abort()
            return False
        try:
            root = connection.root()
            accounts, counters = root["accounts"], root["counters"]
            total = sum(accounts[key]["amount"] for key in accounts)
            if total != root["total"]:
                self.wrong.append(f"{name}: torn: the sum is {total}, not {root['total']}")
            for key in counters:
                value = counters[key]["value"]
                if value < seen.get(key, 0):
                    self.wrong.append(f"{name}: stale: {key} is {value}, was {seen[key]}")
                seen[key] = value
            self.reads += 1
            value = counters[name]["value"]
            known = self.acknowledged[name]
            if not known <= value <= known + self.uncertain[name]:
                self.wrong.append(f"{name}: {value} after {known} (+{self.uncertain[name]})")
            # What turned out to have been committed counts from now on.  What is not seen may
            # still show later: without a server the snapshot is as old as the cache.
            self.uncertain[name] -= value - known
            self.acknowledged[name] = value
            if generator.random() < 0.5:
                manager.abort()
                return True
            one, two = generator.sample(sorted(accounts), 2)
            amount = generator.randrange(100)
            accounts[one]["amount"] -= amount
            accounts[two]["amount"] += amount
            accounts[two]["filler"] = "x" * generator.randrange(5000)
            counters[name]["value"] = value + 1
            is_committing = True
            manager.commit()
            # No conflict: nothing else was committed to this counter.
            self.acknowledged[name], self.uncertain[name] = value + 1, 0
            seen[name] = value + 1
            self.commits += 1
            return True
        except POSKeyError as error:
            self.wrong.append(f"{name}: lost: {error!r}")
            manager.abort()
            return False
        except (TransientError, StorageError) as error:
            if is_committing and not is_conflict(error):
                # The connection broke: whether it was committed will be seen.
                self.uncertain[name] += 1
            manager.abort()
            return False
        finally:
            connection.close()

    def watch(self) -> None:
        """Note the memory of this process every half second."""
        process = psutil.Process()
        pause = threading.Event()
        while time.monotonic() < self.until:
            self.memory.append(process.memory_info().rss)
            pause.wait(0.5)


def is_conflict(error: BaseException) -> bool:
    from ZODB.POSException import ConflictError

    return isinstance(error, ConflictError)


def main() -> int:
    host, port, seconds, threads, seed = sys.argv[1:]
    worker = Worker((host, int(port)), float(seconds), int(seed))
    running = [threading.Thread(target=worker.run, args=(n,)) for n in range(int(threads))]
    running.append(threading.Thread(target=worker.watch))
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    worker.db.close()
    print(
        json.dumps(
            {
                "wrong": worker.wrong,
                "acknowledged": worker.acknowledged,
                "uncertain": worker.uncertain,
                "commits": worker.commits,
                "reads": worker.reads,
                "retries": worker.retries,
                "memory": worker.memory,
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
