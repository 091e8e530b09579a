"""R4, R5: the server is killed at any instant, many times."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from tests.rules.writers import Writers, verify
from tests.support.processes import ServerProcess
from tests.support.raw import Z64, RawClient, oid_of

from zeolith.protocol.messages import Store, StoreBlobChunk, StoreBlobStart


def kill_and_look(tmp_path: Path, kills: int, seed: int) -> tuple[int, int]:
    """Kill the server *kills* times in the middle of commits; return what was found at the end."""
    generator = random.Random(seed)
    server = ServerProcess(tmp_path / "server")
    lives: list[Writers] = []
    found = (0, 0)
    try:
        for turn in range(kills):
            server.start()
            start = lives[-1].next_number if lives else 1
            writers = Writers(server.address, 3, seed=turn, start=start)
            lives.append(writers)
            # Somewhere in the middle of the commits that follow this one.
            writers.wait_acknowledged(generator.randrange(1, 40))
            server.kill()
            writers.stop()
            # What the last life did is looked at now, all of it at the end.
            server.start()
            verify(server.address, writers)
            server.kill()
        server.start()
        found = verify(server.address, *lives)
        assert server.stop() == 0
    finally:
        server.kill()
    assert sum(writers.acknowledged for writers in lives) == found[0]
    return found


def test_r4_kill_9_in_the_middle_of_commits(tmp_path: Path) -> None:
    acknowledged, _unknown = kill_and_look(tmp_path, 10, seed=1)
    assert acknowledged >= 10


@pytest.mark.long
@pytest.mark.timeout(900)
def test_r4_kill_9_a_hundred_times(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    acknowledged, unknown = kill_and_look(tmp_path, 100, seed=2)
    with capsys.disabled():
        print(f" {acknowledged} acknowledged and there, {unknown} without an answer there")


def test_r4_kill_9_leaves_no_half_blob(tmp_path: Path) -> None:
    """An upload in progress at the kill leaves nothing that looks like a blob."""
    server = ServerProcess(tmp_path / "server")
    with server:
        with RawClient(server.address) as client:
            client.begin()
            client.send(Store(oid_of(1), Z64, b"x", 1), StoreBlobStart())
            client.send(*[StoreBlobChunk(bytes(59000))] * 20)
            client.ping()
            server.kill()
        server.start()
        blobs = list((tmp_path / "server" / "blobs").rglob("*.blob"))
        assert blobs == []
        with RawClient(server.address) as client:
            client.begin()
            client.store_blob(oid_of(1), b"cZODB.blob\nBlob\n.", b"again")
            client.vote()
            client.finish()
