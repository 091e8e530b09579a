"""The benchmark of compression runs, and its link is as slow as it says."""

from __future__ import annotations

import time
from contextlib import closing

import pytest
from benchmarks.bench_slow_link import Link, main, make_objects
from persistent.mapping import PersistentMapping
from ZODB.Connection import TransactionMetaData

import zeolith


def test_it_runs_and_shows_a_gain(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--mbit", "5", "--objects", "30", "--rounds", "1"]) == 0
    head, _, *rows = capsys.readouterr().out.splitlines()
    assert head.startswith("90 records")
    assert [row.split(",")[1].split()[0] for row in rows] == ["load", "prefetch", "store"]
    for row in rows:
        *_, plain, packed, ratio, size = row.split()
        assert float(plain) > float(packed)
        assert float(ratio) > 1.1
        assert float(size) < 0.8


def test_the_link_is_slow_both_ways() -> None:
    address, stop = zeolith.server()
    assert isinstance(address, tuple)
    with (
        closing(Link(address, 200_000)) as link,
        closing(zeolith.client(link.address, compression=False)) as storage,
    ):
        began = time.perf_counter()
        meta = TransactionMetaData()
        storage.tpc_begin(meta)
        oid = storage.new_oid()
        storage.store(oid, bytes(8), bytes(60_000), "", meta)
        storage.tpc_vote(meta)
        storage.tpc_finish(meta)
        stored = time.perf_counter()
        assert stored - began >= 0.29
        storage._cache.clear()
        assert len(storage.load(oid)[0]) == 60_000
        assert time.perf_counter() - stored >= 0.29
        assert link.up > 60_000
    stop()


def test_objects_are_the_same_each_time() -> None:
    one, two = make_objects(3), make_objects(3)
    assert len(one) == 9
    for left, right in zip(one, two, strict=True):
        assert type(left) is type(right)
        if isinstance(left, PersistentMapping):
            assert dict(left) == dict(right)
