"""R6: whatever mixture of old and new blocks and files is found, the answers are right."""

from __future__ import annotations

import random
from pathlib import Path
from typing import NamedTuple

import pytest

from zeolith.cache import MINIMUM_SIZE, RingCache
from zeolith.cache.home import HEADER_SIZE, CacheHome
from zeolith.types import MAX_TID, NO_TID

COUNTER = b"\0" * 7 + b"\7"
SECTOR = 512
SUFFIXES = ("", ".index")


def to_tid(n: int) -> bytes:
    return n.to_bytes(8, "big")


def data_of(oid: bytes, start: int) -> bytes:
    """Of one length, so that the next revision may come to lie where one of the last round did."""
    return (oid + to_tid(start)) * 7


class Image(NamedTuple):
    """The files at one moment.

    :ivar told: last tid of the snapshot.
    """

    records: bytes
    snapshot: bytes
    told: int


class Site:
    """A client whose cache files are looked at now and then, and the history of its database."""

    def __init__(self, path: str, size: int) -> None:
        self.path, self.size = path, size
        self.histories: dict[bytes, list[int]] = {}
        self.clock = 0
        self.images: list[Image] = []
        self.cache = self.open()

    def open(self) -> RingCache:
        return RingCache(self.size, home=CacheHome(self.path))

    def commit(self, *oids: bytes) -> None:
        self.clock += 1
        for oid in oids:
            self.histories.setdefault(oid, []).append(self.clock)
            self.cache.invalidate(oid, to_tid(self.clock))
            self.cache.store(oid, to_tid(self.clock), None, data_of(oid, self.clock))
        self.cache.set_last_tid(to_tid(self.clock))

    def save(self) -> None:
        self.cache.save()
        records, index = (Path(self.path + suffix).read_bytes() for suffix in SUFFIXES)
        self.images.append(Image(records, index, self.clock))

    def stop(self) -> None:
        """End without a word."""
        self.cache._is_off = True
        self.cache._rings.close()
        assert self.cache._home is not None
        self.cache._home.close()

    def put(self, records: bytes, image: Image) -> None:
        Path(self.path).write_bytes(records)
        Path(self.path + ".index").write_bytes(image.snapshot)

    def check(self, told: int) -> int:
        """Open what is there; return how many current revisions it answers with."""
        cache = self.open()
        try:
            assert cache.last_tid() in (NO_TID, to_tid(told))
            hits = 0
            for oid, history in self.histories.items():
                for tid in range(max(1, told - 5), told + 2):
                    found = cache.load_before(oid, to_tid(tid))
                    if found is None:
                        continue
                    data, start, end = found
                    before = [n for n in history if n < tid]
                    assert start == to_tid(before[-1])
                    assert data == data_of(oid, before[-1])
                    after = [n for n in history if n >= tid]
                    if end is None:
                        assert not after or after[0] > told
                        hits += 1
                    else:
                        assert end == to_tid(after[0])
            return hits
        finally:
            cache._is_off = True  # not to be saved
            cache.close()


def test_old_records_under_a_new_index(tmp_path: Path) -> None:
    """One object, written all the time: each round its revisions lie where the last ones did."""
    site = Site(str(tmp_path / "cache.zec"), MINIMUM_SIZE)
    for _ in range(90):
        site.commit(COUNTER)
        site.save()
    site.stop()
    hits = 0
    for at, image in enumerate(site.images):
        for older in site.images[max(0, at - 12) : at]:
            site.put(older.records, image)
            hits += site.check(image.told)
        site.put(image.records, image)
        hits += site.check(image.told)
    assert hits


def test_an_old_index_over_new_records(tmp_path: Path) -> None:
    site = Site(str(tmp_path / "cache.zec"), MINIMUM_SIZE)
    for _ in range(90):
        site.commit(COUNTER)
        site.save()
    site.stop()
    for at, image in enumerate(site.images):
        for newer in site.images[at : at + 12]:
            site.put(newer.records, image)
            site.check(image.told)


@pytest.mark.parametrize("seed", range(4))
def test_any_mixture_of_blocks(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    site = Site(str(tmp_path / "cache.zec"), MINIMUM_SIZE + 1_000 * seed)
    oids = [to_tid(n) for n in range(1 + 2 * seed)]
    for turn in range(80):
        site.commit(*chance.sample(oids, chance.randint(1, min(3, len(oids)))))
        for oid in oids:
            site.cache.load_before(oid, MAX_TID)
        if turn % 3 == 0:
            site.save()
        if turn % 20 == 19:  # a crash: what follows is written over what is lost
            site.stop()
            site.cache = site.open()
            told = int.from_bytes(site.cache.last_tid(), "big")
            for oid, history in site.histories.items():
                if history[-1] > told:
                    site.cache.invalidate(oid, None)
            site.cache.set_last_tid(to_tid(site.clock))
    site.stop()
    hits = 0
    for _ in range(60):
        image = chance.choice(site.images)
        others = [chance.choice(site.images).records for _ in range(3)] + [image.records]
        length = max(map(len, others))
        blocks = [
            chance.choice(others).ljust(length, b"\0")[at : at + SECTOR]
            for at in range(HEADER_SIZE, length, SECTOR)
        ]
        site.put(image.records[:HEADER_SIZE] + b"".join(blocks), image)
        hits += site.check(image.told)
    assert hits


def test_the_index_of_another_cache(tmp_path: Path) -> None:
    """Two caches that have done the same in the same places, in different databases."""
    sites = [Site(str(tmp_path / name), MINIMUM_SIZE) for name in ("one.zec", "two.zec")]
    sites[0].commit(COUNTER)
    for site in sites:
        site.commit(COUNTER)
        site.save()
        site.stop()
    first, second = sites
    second.put(second.images[0].records, first.images[0])
    assert second.check(first.images[0].told) == 0
    first.put(second.images[0].records, first.images[0])
    assert first.check(first.images[0].told) == 0


def test_what_was_written_before_a_crash_under_what_was_saved_after_it(tmp_path: Path) -> None:
    """Both lie in the same place, in the same round."""
    site = Site(str(tmp_path / "cache.zec"), MINIMUM_SIZE)
    site.commit(COUNTER)
    site.save()
    site.commit(COUNTER)
    lost = Path(site.path).read_bytes()
    site.stop()
    site.cache = site.open()
    site.cache.invalidate(COUNTER, None)
    site.commit(COUNTER)
    site.save()
    site.stop()
    image = site.images[-1]
    length = len(data_of(COUNTER, 0)) + 30
    assert len(lost) <= len(image.records) < len(lost) + length
    site.put(image.records, image)
    assert site.check(image.told)
    site.put(lost.ljust(len(image.records), b"\0"), image)
    assert site.check(image.told) == 0
