"""The list of benchmarks: what is run where, in which unit it is told, and what is aimed at."""

from __future__ import annotations

from typing import Final, NamedTuple

from .products import BARE, FILE, Contender


class Metric(NamedTuple):
    """One number of a benchmark; less is better.

    :ivar title: what the number is.
    :ivar unit: of the number as it is shown.
    :ivar scale: from seconds or bytes to the unit.
    :ivar target: ZEO's number divided by Zeolith's shall be at least this; None where no target
        is set.
    :ivar value: name of the value in the worker's outcome; empty for the time per operation,
        ``server_cpu`` for the server's processor time per operation.
    :ivar limit: Zeolith's own number, in the unit, shall be at most this, whatever ZEO's is; None
        where no limit is set.
    """

    title: str
    unit: str
    scale: float
    target: float | None = None
    value: str = ""
    limit: float | None = None


class Placement(NamedTuple):
    """Where a benchmark runs, as positions in the list of usable cores; empty: on all."""

    server: tuple[int, ...] = ()
    client: tuple[int, ...] = ()


ONE_CORE: Final = Placement((0,), (0,))
ONE_EACH: Final = Placement((1,), (0,))
ALL_CORES: Final = Placement()


class Benchmark(NamedTuple):
    """One benchmark.

    :ivar key: its name on the command line.
    :ivar workload: what the measured workers do.
    :ivar amount: operations per worker.
    :ivar workers: how many do it at once.
    :ivar placement: where.
    :ivar metrics: what is told.
    :ivar floor: the contender that no product can beat, if there is one.
    :ivar beside: the workload of another client, which works all the time until it is told to
        stop, and its amount; None for a server without other work.
    :ivar database: the one that is served: ``items``, ``small`` objects, or items stored
        ``twice``, so that there is something to pack.
    :ivar is_fresh: whether each turn has a server of its own, which has served nobody before.
    :ivar is_once: whether the work leaves the server without work, so that a disturbed turn cannot
        be repeated.
    :ivar has_blobs: whether the server has a blob directory; the amounts may be scaled then.
    :ivar is_timed: whether it measures time, which needs a quiet machine and many rounds; other
        numbers are taken as they come, in :data:`ROUNDS_UNTIMED` rounds at most.
    :ivar is_encrypted: whether client and server talk over TLS, with certificates on both sides.
    """

    key: str
    workload: str
    amount: int
    metrics: tuple[Metric, ...]
    placement: Placement = ONE_EACH
    workers: int = 1
    floor: Contender | None = None
    beside: tuple[str, int] | None = None
    database: str = "items"
    is_fresh: bool = False
    is_once: bool = False
    has_blobs: bool = False
    is_timed: bool = True
    is_encrypted: bool = False


ROUNDS_UNTIMED: Final = 2

_MICRO: Final = 1e6


def _beside_blobs(key: str, workload: str, what: str, other: str = "") -> Benchmark:
    """Return a benchmark of small loads while blobs of 200 MB travel.

    :param other: the other client's workload; empty if the client itself transfers.
    """
    size = 200
    return Benchmark(
        key,
        workload,
        size,
        (
            Metric("cold load, idle server, p99", "µs", _MICRO, value="idle_p99"),
            Metric(f"cold load while {what} a blob, p50", "µs", _MICRO, value="p50"),
            Metric(f"cold load while {what} a blob, p99", "µs", _MICRO, 2.0, "p99"),
            Metric("times as long, p99", "×", 1.0, None, "slowdown", 2.0),
        ),
        ALL_CORES,
        beside=(other, size) if other else None,
        is_fresh=True,
        has_blobs=True,
    )


BENCHMARKS: Final = (
    Benchmark(
        "cold-load-one-core",
        "cold_load",
        6_000,
        (Metric("cold load, both on one core", "µs", _MICRO, 6.0),),
        ONE_CORE,
        floor=BARE,
    ),
    Benchmark(
        "cold-load",
        "cold_load",
        6_000,
        (Metric("cold load, one core each", "µs", _MICRO, 2.5),),
        floor=BARE,
    ),
    Benchmark(
        "cold-load-tls",
        "cold_load",
        6_000,
        (Metric("cold load over TLS, one core each", "µs", _MICRO, 2.5),),
        is_encrypted=True,
    ),
    Benchmark(
        "cold-load-tls-one-core",
        "cold_load",
        6_000,
        (Metric("cold load over TLS, both on one core", "µs", _MICRO, 2.5),),
        ONE_CORE,
        is_encrypted=True,
    ),
    Benchmark(
        "cold-load-8-threads",
        "cold_load_threads",
        6_000,
        (Metric("cold load, 8 threads of one client", "µs", _MICRO, 3.0),),
    ),
    Benchmark(
        "cache-hit",
        "cache_hit",
        200_000,
        (Metric("cache hit", "µs", _MICRO, 1 / 0.6),),
    ),
    Benchmark(
        "prefetch",
        "prefetch",
        6_000,
        (Metric("prefetch 100, then load each", "µs", _MICRO, 2.0),),
        floor=BARE,
    ),
    Benchmark(
        "load-many",
        "load_many",
        6_000,
        (Metric("the same, beside ZEO's single loads", "µs", _MICRO, 12.0),),
    ),
    Benchmark(
        "load-many-one-core",
        "load_many",
        6_000,
        (Metric("the same, both on one core", "µs", _MICRO, 12.0),),
        ONE_CORE,
    ),
    Benchmark(
        "commit-1-writer",
        "small_commits",
        300,
        (Metric("small commit, 1 writer", "µs", _MICRO, 2.0),),
        floor=FILE,
    ),
    Benchmark(
        "commit-8-writers",
        "small_commits",
        100,
        (Metric("small commit, 8 writers", "µs", _MICRO),),
        ALL_CORES,
        workers=8,
    ),
    Benchmark(
        "commit-5000-objects",
        "large_commit",
        5_000,
        (Metric("one transaction of 5,000, per object", "µs", _MICRO, 2.5),),
        floor=FILE,
    ),
    Benchmark(
        "scan",
        "scan",
        20_000,
        (Metric("scan of 20,000 through ZODB, per object", "µs", _MICRO),),
        floor=FILE,
    ),
    Benchmark(
        "latency",
        "load_latency",
        3_000,
        (
            Metric("cold load while another commits, p50", "µs", _MICRO, value="p50"),
            Metric("cold load while another commits, p99", "µs", _MICRO, value="p99"),
        ),
        ALL_CORES,
        beside=("commit_until_told", 20),
    ),
    Benchmark(
        "pack-latency",
        "pack_latency",
        20_000,
        (
            Metric("cold load before a pack of 150 MB, p99", "µs", _MICRO, value="idle_p99"),
            Metric("cold load while it packs, p50", "µs", _MICRO, value="p50"),
            Metric("cold load while it packs, p99", "µs", _MICRO, value="p99"),
            Metric("times as long, p99", "×", 1.0, 10.0, value="slowdown"),
            Metric("longest load while it packs", "ms", 1e3, value="longest"),
            Metric("the pack", "s", 1.0, value="pack"),
        ),
        ALL_CORES,
        database="twice",
        is_fresh=True,
        is_once=True,
    ),
    Benchmark(
        "start-up",
        "start_up",
        7,
        (Metric("from the start to listening, 20,000 objects", "ms", 1e3, value="each"),),
        ALL_CORES,
    ),
    Benchmark(
        "memory-connection",
        "idle_connections",
        2_000,
        (Metric("server memory per idle connection", "kB", 1e-3, 1.0, value="each"),),
        ALL_CORES,
        is_fresh=True,
        is_timed=False,
    ),
    Benchmark(
        "memory-cached-object",
        "cached_objects",
        200_000,
        (Metric("client memory per cached object", "bytes", 1.0, 1.0, value="each"),),
        ALL_CORES,
        database="small",
        is_timed=False,
    ),
    Benchmark(
        "cache-hit-alone",
        "cache_hit_alone",
        200_000,
        (Metric("hit of the cache alone, 300 bytes", "µs", _MICRO, 1 / 0.6),),
    ),
    Benchmark(
        "cache-memory",
        "cache_memory",
        100_000,
        (Metric("memory per object of 100,000 in the cache", "bytes", 1.0, 1.0, value="each"),),
        is_timed=False,
    ),
    Benchmark(
        "cache-memory-scattered",
        "cache_memory_scattered",
        100_000,
        (Metric("the same, one object id in 20", "bytes", 1.0, 1.0, value="each"),),
        is_timed=False,
    ),
    Benchmark(
        "cache-open",
        "cache_open",
        600_000,
        (
            Metric("opening a cache of 300 MB, 600,000 objects, and a hit", "ms", 1e3, 5.0, "open"),
            Metric("closing it", "ms", 1e3, value="close"),
        ),
    ),
    Benchmark(
        "blob-up",
        "blob_up",
        200,
        (
            Metric("a blob of 200 MB committed, per GB", "ms", 1e3, 0.9),
            Metric("server CPU for that, per GB", "ms", 1e3, 2.0, "server_cpu"),
        ),
        ALL_CORES,
        is_fresh=True,
        has_blobs=True,
    ),
    Benchmark(
        "blob-down",
        "blob_down",
        200,
        (
            Metric("a blob of 200 MB fetched, per GB", "ms", 1e3, 1.5),
            Metric("server CPU for that, per GB", "ms", 1e3, 2.0, "server_cpu"),
        ),
        ALL_CORES,
        is_fresh=True,
        has_blobs=True,
    ),
    _beside_blobs("blob-small-loads-up", "loads_beside", "another commits", "upload_until_told"),
    _beside_blobs(
        "blob-small-loads-down", "loads_beside", "another fetches", "download_until_told"
    ),
    _beside_blobs("blob-same-client-up", "loads_beside_own_upload", "the same client commits"),
    _beside_blobs("blob-same-client-down", "loads_beside_own_download", "the same client fetches"),
    Benchmark(
        "blobs-1000-up",
        "many_blobs_up",
        1_000,
        (Metric("one transaction of 1,000 blobs of 50 KB, per blob", "µs", _MICRO, 3.0),),
        ALL_CORES,
        floor=FILE,
        is_fresh=True,
        has_blobs=True,
    ),
    Benchmark(
        "blobs-1000-down",
        "many_blobs_down",
        1_000,
        (Metric("1,000 blobs of 50 KB fetched, per blob", "µs", _MICRO, 3.0),),
        ALL_CORES,
        is_fresh=True,
        has_blobs=True,
    ),
    Benchmark(
        "blob-memory",
        "blob_memory",
        400,
        (
            Metric("server's peak memory, 400 MB over 50 MB", "×", 1.0, None, "server", 1.1),
            Metric("client's peak memory, 400 MB over 50 MB", "×", 1.0, None, "client", 1.1),
        ),
        ALL_CORES,
        is_fresh=True,
        has_blobs=True,
        is_timed=False,
    ),
)


def scaled(benchmark: Benchmark, factor: float) -> Benchmark:
    """Return *benchmark* with *factor* times its amounts, 1 at least; its metrics' titles stay."""

    def times(amount: int) -> int:
        return max(round(amount * factor), 1)

    beside = benchmark.beside
    if beside is not None:
        beside = (beside[0], times(beside[1]))
    return benchmark._replace(amount=times(benchmark.amount), beside=beside)
