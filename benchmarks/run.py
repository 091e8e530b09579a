"""Runs benchmarks: servers up, then rounds in which every contender has its turn."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from .affinity import busy_seconds, usable_cores
from .leftovers import empty_files
from .processes import BenchmarkFailed, Server, Worker
from .products import Contender, make_certificates
from .sample import write_items, write_oids, write_small_objects, write_twice
from .suite import ROUNDS_UNTIMED, Benchmark
from .worker import Job, Outcome

QUIET: Final = 0.15
"""The share of the cores' time that others may use in a sample that still counts as quiet."""

_WRITERS: Final = {"items": write_items, "small": write_small_objects, "twice": write_twice}
"""Names of the databases, and what writes them."""

_LOOK: Final = 0.2
_ATTEMPTS: Final = 3


class Sample(NamedTuple):
    """One contender's turn.

    :ivar values: seconds per operation under ``""``, the server's CPU seconds per operation under
        ``server_cpu``, and what the workload measured otherwise.
    :ivar foreign: share of the cores' time that went to processes that take no part.
    :ivar server_cpu: CPU seconds per operation of the server.
    :ivar client_cpu: CPU seconds per operation of the workers.
    """

    values: dict[str, float]
    foreign: float
    server_cpu: float
    client_cpu: float


@dataclass
class Results:
    """What a benchmark gave."""

    benchmark: Benchmark
    samples: dict[Contender, list[Sample]] = field(default_factory=dict)


class Runner:
    """Runs benchmarks on databases it writes under *folder*.

    :param folder: must exist; on the disk whose fsync is to be measured.  Whoever made it removes
        it, with the empty files that all turns leave there.
    :param patience: how long, in seconds, to wait for the machine to become quiet before a turn;
        a disturbed turn is repeated as long as this lasts, too.
    :param say: told of progress.
    """

    def __init__(self, folder: Path, patience: float, say: Callable[[str], None]) -> None:
        self._folder = folder
        self._patience = patience
        self._say = say
        self._cores = usable_cores()
        self._numbered = 0
        self._certificates: Path | None = None

    def run(self, benchmark: Benchmark, contenders: Sequence[Contender], rounds: int) -> Results:
        """Run *benchmark* in up to *rounds* rounds; the floor takes part in each.

        :raises BenchmarkFailed: a server or a worker failed.
        """
        everyone = list(contenders)
        if benchmark.floor is not None:
            everyone.append(benchmark.floor)
        results = Results(benchmark, {contender: [] for contender in everyone})
        data, oids = self._database(benchmark.database)
        with ExitStack() as stack:
            products = {contender.server for contender in everyone}
            places = {}
            if not benchmark.is_fresh:
                places = {name: self._serve(stack, name, data, benchmark) for name in products}
            if not benchmark.is_timed:
                rounds = min(rounds, ROUNDS_UNTIMED)
            for number in range(rounds):
                # Who goes first would find the machine in another state than who goes last.
                turns = everyone[number % len(everyone) :] + everyone[: number % len(everyone)]
                for contender in turns:
                    with ExitStack() as turn:
                        server, path = places.get(contender.server) or self._serve(
                            turn, contender.server, data, benchmark
                        )
                        results.samples[contender].append(
                            self._quiet_turn(benchmark, contender, server, path, oids, number)
                        )
        return results

    def _database(self, name: str) -> tuple[Path, Path]:
        path = self._folder / f"{name}.fs"
        oids = path.with_suffix(".oids")
        if not path.exists():
            self._say(f"writing {path.name}")
            write_oids(oids, _WRITERS[name](path))
        return path, oids

    def _serve(
        self, stack: ExitStack, product: str, data: Path, benchmark: Benchmark
    ) -> tuple[Server | None, Path]:
        self._numbered += 1
        own = self._folder / f"{self._numbered}-{product}" / data.name
        own.parent.mkdir()
        stack.callback(empty_files, own.parent)
        for path in (data, data.with_name(data.name + ".index")):
            if path.exists():
                shutil.copy(path, own.with_name(path.name))
        if product == "none":
            return None, own
        cores = self._places(benchmark.placement.server)
        certificates = self._find_certificates(benchmark)
        blob_dir = own.parent / "blobs" if benchmark.has_blobs else None
        server = Server(product, own, cores, certificates, blob_dir)
        return stack.enter_context(server), own

    def _find_certificates(self, benchmark: Benchmark) -> Path | None:
        if not benchmark.is_encrypted:
            return None
        if self._certificates is None:
            self._certificates = self._folder / "certificates"
            make_certificates(self._certificates)
        return self._certificates

    def _places(self, positions: Sequence[int]) -> list[int]:
        return [self._cores[p % len(self._cores)] for p in positions] or self._cores

    def _quiet_turn(
        self,
        benchmark: Benchmark,
        contender: Contender,
        server: Server | None,
        data: Path,
        oids: Path,
        number: int,
    ) -> Sample:
        clients = self._places(benchmark.placement.client)
        cores = sorted({*clients, *self._places(benchmark.placement.server)})
        deadline = time.monotonic() + (self._patience if benchmark.is_timed else 0.0)
        best: Sample | None = None
        attempts = 0
        while True:
            self._wait_quiet(cores, deadline)
            attempts += 1
            try:
                with ExitStack() as done:
                    folder = tempfile.mkdtemp(dir=self._folder)
                    done.callback(empty_files, Path(folder))
                    jobs = [
                        Job(
                            benchmark.workload,
                            contender.client,
                            server.address if server else ("", 0),
                            server.pid if server else 0,
                            str(data),
                            folder,
                            str(oids),
                            clients,
                            benchmark.amount,
                            100 * number + worker,
                            str(self._find_certificates(benchmark) or ""),
                        )
                        for worker in range(benchmark.workers)
                    ]
                    background = []
                    if benchmark.beside is not None:
                        workload, amount = benchmark.beside
                        background = [jobs[0]._replace(workload=workload, amount=amount)]
                    sample = _turn(jobs, background, server, cores)
            except BenchmarkFailed as error:
                # ZEO on uvloop can lose a client that commits beside others (an invalidation
                # that comes too late); that is worth saying, and no reason to stop.
                if attempts == _ATTEMPTS:
                    raise
                self._say(f"{contender}: a turn failed and is repeated: {error}")
                continue
            if best is None or sample.foreign < best.foreign:
                best = sample
            if best.foreign <= QUIET or benchmark.is_once or time.monotonic() >= deadline:
                return best

    @staticmethod
    def _wait_quiet(cores: Iterable[int], deadline: float) -> None:
        cores = list(cores)
        while time.monotonic() < deadline:
            began, busy = time.monotonic(), busy_seconds(cores)
            time.sleep(_LOOK)
            spent = busy_seconds(cores) - busy
            if spent <= QUIET * len(cores) * (time.monotonic() - began):
                return


def _turn(
    jobs: list[Job], background: list[Job], server: Server | None, cores: list[int]
) -> Sample:
    """Let the workers work; return what all of them together measured."""
    with ExitStack() as stack:
        others = [stack.enter_context(Worker(job)) for job in background]
        # Some workers measure an idle server before they are ready.
        for worker in others:
            worker.wait_ready()
        workers = [stack.enter_context(Worker(job)) for job in jobs]
        for worker in workers:
            worker.wait_ready()
        for worker in others:
            worker.go()
        busy, used = busy_seconds(cores), server.cpu() if server else 0.0
        for worker in workers:
            worker.go()
        outcomes = [worker.wait_outcome() for worker in workers]
        busy, used = busy_seconds(cores) - busy, (server.cpu() if server else 0.0) - used
        for worker in others:
            worker.stop()
        beside = [worker.wait_outcome() for worker in others]
    return _combine(outcomes, beside, busy, used, len(cores))


def _combine(
    outcomes: list[Outcome], others: list[Outcome], busy: float, used: float, cores: int
) -> Sample:
    seconds = max(o.ended for o in outcomes) - min(o.started for o in outcomes)
    operations = sum(o.operations for o in outcomes)
    cpu = sum(o.cpu for o in outcomes)
    # Who works beside what is measured does so a little longer.
    beside = sum(o.cpu * min(1.0, seconds / (o.ended - o.started)) for o in others)
    return Sample(
        {"": seconds / operations, "server_cpu": used / operations, **outcomes[0].values},
        max(0.0, busy - used - cpu - beside) / (seconds * cores),
        used / operations,
        cpu / operations,
    )
