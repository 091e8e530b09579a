"""Child process: one client, one workload, once.

The parent writes a :class:`Job` as one line of JSON.  The worker prepares, prints ``ready``, waits
for a line, works, prints an :class:`Outcome` as one line of JSON, and closes what it opened.  So
nothing but the work is between the parent's line and the worker's answer, and several workers
can be started together.
"""

from __future__ import annotations

import json
import select
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Final, NamedTuple

from .affinity import bind
from .products import Address, open_storage
from .sample import read_oids

_BUCKETS: Final = 997
"""Folders of a blob cache, in ZEO's layout and ours."""


class Job(NamedTuple):
    """What a worker is to do.

    :ivar workload: name in :data:`.workloads.WORKLOADS`.
    :ivar client: name of the product.
    :ivar address: of the server.
    :ivar server_pid: of the server; 0 if there is none.
    :ivar data: the database file, for the client without a server.
    :ivar folder: an empty one for this turn's files.
    :ivar oids: file of the ids of objects to load.
    :ivar cores: where to run.
    :ivar amount: how many operations.
    :ivar seed: for choosing objects; workers of one round get different ones.
    :ivar certificates: directory with those for TLS; empty: no TLS.
    """

    workload: str
    client: str
    address: Address
    server_pid: int
    data: str
    folder: str
    oids: str
    cores: list[int]
    amount: int
    seed: int
    certificates: str = ""


class Outcome(NamedTuple):
    """What a worker measured.

    :ivar started: when it began to work, in seconds of the system's monotonic clock.
    :ivar ended: when it was done.
    :ivar operations: how many it did.
    :ivar cpu: CPU seconds of this process, and of those it started, in between.
    :ivar values: what the workload measured otherwise, by name.
    """

    started: float
    ended: float
    operations: float
    cpu: float
    values: dict[str, float]


class Session:
    """What a workload works with."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.oids = read_oids(Path(job.oids))
        self._started = 0.0
        self._cpu = 0.0

    def open(self, cache_size: int = 200 << 20, with_blobs: bool = False) -> closing[Any]:
        """Return a connected storage, to be closed by ``with``.

        :param cache_size: in bytes.
        :param with_blobs: give it an empty blob cache of its own in the turn's folder.  It looks as
            one that has been used: making its folders is part of nobody's work.
        """
        job = self.job
        certificates = Path(job.certificates) if job.certificates else None
        blob_dir = _make_blob_cache(job.folder) if with_blobs else None
        data = Path(job.data)
        return closing(
            open_storage(job.client, job.address, data, cache_size, certificates, blob_dir)
        )

    def start(self) -> None:
        """Everything is prepared: tell the parent, and wait until it says go."""
        print("ready", flush=True)
        sys.stdin.readline()
        self._cpu = time.process_time()
        self._started = time.monotonic()

    def told_to_stop(self) -> bool:
        """Return whether the parent has written another line; does not wait."""
        return bool(select.select([sys.stdin], [], [], 0)[0])

    def finish(self, operations: float, children: float = 0.0, **values: float) -> None:
        """The work is done: tell the parent.

        :param children: CPU seconds of processes that were started for it.
        """
        ended = time.monotonic()
        cpu = time.process_time() - self._cpu + children
        outcome = Outcome(self._started, ended, operations, cpu, values)
        print(json.dumps(outcome._asdict()), flush=True)


def _make_blob_cache(folder: str) -> str:
    path = Path(tempfile.mkdtemp(prefix="cache-", dir=folder))
    for bucket in range(_BUCKETS):
        (path / str(bucket)).mkdir()
        (path / str(bucket) / ".lock").touch()
    return str(path)


def main(workloads: dict[str, Callable[[Session], None]]) -> None:
    """Do the job that standard input names."""
    job = Job(**json.loads(sys.stdin.readline()))
    host, port = job.address  # a list in JSON
    job = job._replace(address=(host, port))
    bind(job.cores)
    workloads[job.workload](Session(job))
