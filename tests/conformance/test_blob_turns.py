"""C: chunks of two blobs on one connection, ``assert blob_tempfile is None`` (ZEO#150).

ZEO's calls for blobs have no room for two at a time: its server drops a client whose chunks of one
blob come among those of another, and its client ends up with mixed files.
"""

from __future__ import annotations

import os
import threading
from typing import Any

from tests.conformance.site import BLOBS, Site
from tests.support.proxy import DOWN, UP, Direction, Passing, Proxy
from tests.support.waiting import Background
from ZODB.blob import Blob

CHUNK = 59_000
"""Bytes of a blob in one message."""

_THREADS = 4
_ROUNDS = 3

_UPLOAD = ("storeBlobStart", "storeBlobChunk", "storeBlobEnd")
_DOWNLOAD = ("receiveBlobStart", "receiveBlobChunk", "receiveBlobStop")


def _blobs_one_after_the_other(
    proxy: Proxy, direction: Direction, names: tuple[str, str, str]
) -> int:
    """Return how many blobs have passed, after a look at whose chunk each one is."""
    start, _, end = names
    count = 0
    for link in proxy.links:
        on_its_way: Passing | None = None
        for frame in link.frames:
            if frame.direction is not direction or frame.name not in names:
                continue
            if frame.name == start:
                assert on_its_way is None, "a blob begins within another"
                on_its_way = frame
                count += 1
                continue
            assert on_its_way is not None, f"a {frame.name} without a beginning"
            if direction is DOWN:
                assert _key(frame) == _key(on_its_way), f"the {frame.name} of another blob"
            if frame.name == end:
                on_its_way = None
        assert on_its_way is None
    return count


def _key(frame: Passing) -> Any:
    message: Any = frame.message
    return message[-1].oid, message[-1].serial


def _together(work: Any) -> None:
    barrier = threading.Barrier(_THREADS)

    def begin(number: int) -> None:
        barrier.wait(60)
        work(number)

    for thread in [Background(lambda n=number: begin(n)) for number in range(_THREADS)]:  # type: ignore[misc]
        thread.result()


def _contents() -> dict[str, bytes]:
    return {
        f"{thread}.{step}": os.urandom((3 + thread + step) * CHUNK + thread)
        for thread in range(_THREADS)
        for step in range(_ROUNDS)
    }


def test_c_uploads_of_many_threads_never_interleave(site: Site) -> None:
    server = site.serve(BLOBS)
    proxy = site.proxy(server)
    database = site.database(proxy.address, **site.blob_options(False))
    contents = _contents()
    with database.transaction() as connection:
        for thread in range(_THREADS):
            connection.root()[thread] = connection.root().__class__()

    def store(thread: int) -> None:
        for step in range(_ROUNDS):
            with database.transaction() as connection:
                name = f"{thread}.{step}"
                connection.root()[thread][name] = Blob(contents[name])

    _together(store)
    passed = _blobs_one_after_the_other(proxy, UP, _UPLOAD)
    assert passed == (0 if site.pairing.is_own else len(contents))
    # The connection has held, and what arrived is what was sent.
    assert len(proxy.links) == 1
    reader = site.database(server.address, **site.blob_options(False))
    with reader.transaction() as connection:
        for name, content in contents.items():
            with connection.root()[int(name[0])][name].open() as file:
                assert file.read() == content


def test_c_downloads_of_many_threads_never_interleave(site: Site) -> None:
    server = site.serve(BLOBS)
    writer = site.database(server.address, **site.blob_options(False))
    contents = _contents()
    with writer.transaction() as connection:
        for name, content in contents.items():
            connection.root()[name] = Blob(content)
    with writer.transaction() as connection:
        blobs = {}
        for name in contents:
            blob = connection.root()[name]
            blob._p_activate()
            blobs[name] = blob._p_oid, blob._p_serial
    proxy = site.proxy(server)
    reader = site.client(proxy.address, **site.blob_options(False))

    def load(thread: int) -> None:
        # All of them; each thread begins elsewhere.
        for at in range(len(blobs)):
            name = list(blobs)[(at + _ROUNDS * thread) % len(blobs)]
            with open(reader.loadBlob(*blobs[name]), "rb") as file:
                assert file.read() == contents[name], name

    _together(load)
    passed = _blobs_one_after_the_other(proxy, DOWN, _DOWNLOAD)
    assert passed == (0 if site.pairing.is_own else len(contents))
    assert len(proxy.links) == 1
