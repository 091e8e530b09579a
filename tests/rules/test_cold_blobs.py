"""Blobs in an object store that speaks S3: real servers, a real store, and lines that fail."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
from tests.support.processes import ServerProcess
from tests.support.raw import Closed, RawClient, RemoteFault, oid_of
from tests.support.stores import (
    BUCKET,
    BadLine,
    age_files,
    moto_server,
    s3_store,
    write_credentials,
)
from tests.support.waiting import DEADLINE, Background, promptly, wait_until
from ZODB.blob import Blob
from ZODB.FileStorage import FileStorage
from ZODB.serialize import ObjectWriter

from zeolith.admin.asking import Target
from zeolith.admin.status import fetch_status
from zeolith.cli.main import FAILURE, OK, USAGE, main
from zeolith.protocol import messages as m
from zeolith.tier.stubs import read_stub

MIB = 1 << 20
RECORD = ObjectWriter(None).serialize(Blob())


@pytest.fixture(scope="module")
def moto() -> Iterator[int]:
    """The port of an S3 server with an empty bucket."""
    with moto_server() as port:
        yield port


class Site:
    """A server in a process of its own, and its store behind a line.

    :ivar conf: path of its zeo.conf.
    """

    def __init__(self, directory: Path, moto: int, line: BadLine, cache_size: str = "1GB") -> None:
        self.directory, self.line = directory, line
        self.prefix = f"{directory.parent.name}/{directory.name}/"
        self.store = s3_store(moto, directory.parent, self.prefix, read_timeout=20)
        self.server = ServerProcess(directory, config="")
        self.conf = directory / "zeo.conf"
        host, port = self.server.address
        self.storage = f"<filestorage>\npath {directory}/Data.fs\nblob-dir {self.blobs}\n"
        self.storage += "pack-keep-old false\n</filestorage>\n"
        self.conf.write_text(
            f"<zeo>\naddress {host}:{port}\n</zeo>\n<tieredblobs 1>\nbucket {BUCKET}\n"
            f"prefix {self.prefix}\nendpoint-url http://127.0.0.1:{line.port}\n"
            f"region eu-central-1\ncredentials-file {write_credentials(directory.parent)}\n"
            f"cache-size {cache_size}\n"
            f"connect-timeout 1\nread-timeout 2\n{self.storage}</tieredblobs>\n"
        )

    @property
    def blobs(self) -> Path:
        return self.directory / "blobs"

    def client(self) -> RawClient:
        return RawClient(self.server.address)

    def status(self) -> Any:
        return fetch_status(Target(self.server.address)).storages["1"]["tier"]

    def names(self) -> set[str]:
        """Return the names of all objects."""
        return {listed.name for listed in self.store.list()}

    def stubs(self) -> list[Path]:
        return sorted(self.blobs.rglob("*.cold"))

    def files(self) -> list[Path]:
        return sorted(self.blobs.rglob("*.blob"))


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as found:
        yield found


@pytest.fixture
def line(moto: int, stack: ExitStack) -> BadLine:
    return stack.enter_context(BadLine(moto))


@pytest.fixture
def site(tmp_path: Path, moto: int, line: BadLine, stack: ExitStack) -> Site:
    found = Site(tmp_path / "site", moto, line)
    stack.callback(found.server.kill)
    return found


def vote(client: RawClient, number: int, data: bytes) -> None:
    client.begin()
    client.store_blob(oid_of(number), RECORD, data)
    client.vote()


def commit(client: RawClient, number: int, data: bytes) -> bytes:
    vote(client, number, data)
    return client.finish()


def load(client: RawClient, number: int, tid: bytes) -> bytes:
    del client.inbox[:]
    client.taken = 0
    client.call(m.SendBlob(oid_of(number), tid))
    return b"".join(
        notice.request.chunk
        for notice in client.inbox
        if isinstance(notice, m.Notice) and isinstance(notice.request, m.ReceiveBlobChunk)
    )


def content(number: int, size: int = MIB) -> bytes:
    return (b"%08d" % number) * (size // 8)


def test_there_and_back_within_a_bounded_size(
    tmp_path: Path, moto: int, line: BadLine, stack: ExitStack
) -> None:
    site = Site(tmp_path / "site", moto, line, cache_size="3MB")
    with site.server, site.client() as client:
        tids = {}
        for number in range(8):
            tids[number] = commit(client, number, content(number))
            assert len(site.names()) == number + 1  # when its transaction is committed, at least
        wait_until(lambda: len(site.stubs()) == 8, "all have stubs")
        age_files(str(site.blobs), 1000)
        tids[8] = commit(client, 8, content(8))
        wait_until(lambda: site.status()["bytes"] <= 3 * MIB, "those not in use are evicted")
        assert len(site.files()) < 8
        for number, tid in tids.items():
            assert load(client, number, tid) == content(number)
        found = site.status()
        assert found["evicted"] > 0
        assert found["misses"] > 0
        assert found["trouble"] is None
        text = site.server.log()
    assert "Traceback" not in text
    # What is secret is nowhere to be seen.
    assert "very-secret-key" not in text + str(found) + site.conf.read_text()


@pytest.mark.parametrize(
    "mode",
    ["503", *(pytest.param(mode, marks=pytest.mark.long) for mode in ("500", "refuse", "silent"))],
)
def test_r7_a_store_that_fails(site: Site, mode: str) -> None:
    with site.server, site.client() as client:
        away, here = commit(client, 1, b"away"), commit(client, 2, b"here")
        wait_until(lambda: len(site.stubs()) == 2, "both have stubs")
        site.files()[0].unlink()
        site.line.set(mode)
        with promptly(20), pytest.raises(RemoteFault, match="the object store"):
            vote(client, 3, b"new")
        with promptly(20), pytest.raises(RemoteFault, match="the object store"):
            load(client, 1, away)
        # Whoever needs no store notices nothing.
        with promptly():
            assert load(client, 2, here) == b"here"
            client.commit({oid_of(7): (bytes(8), b"x")})
        assert "the object store" in site.status()["trouble"]
    assert site.server.tracebacks() == []


@pytest.mark.long
def test_a_store_that_recovers(site: Site) -> None:
    with site.server, site.client() as client:
        tid = commit(client, 1, b"away")
        wait_until(site.stubs, "it has a stub")
        site.files()[0].unlink()
        site.line.set("503")
        assert not is_well(client, tid)
        site.line.set("pass")
        wait_until(lambda: is_well(client, tid), "it has recovered")
        commit(client, 3, b"new")


def is_well(client: RawClient, tid: bytes) -> bool:
    try:
        return load(client, 1, tid) == b"away"
    except RemoteFault:
        return False  # for a moment it is not asked again


@pytest.mark.long
def test_a_store_that_dies_in_the_middle(site: Site) -> None:
    with site.server, site.client() as client:
        tid = commit(client, 1, content(1, 4 * MIB))
        wait_until(site.stubs, "it has a stub")
        site.files()[0].unlink()
        site.line.set("cut", 50_000)
        with pytest.raises(RemoteFault, match="the object store"):
            load(client, 1, tid)
        assert site.files() == []
        assert os.listdir(site.blobs / "tmp") == []
        with pytest.raises(RemoteFault, match="the object store"):
            vote(client, 2, content(2, 4 * MIB))
        client.ping()


def test_r4_kill_9_around_a_commit(site: Site) -> None:
    """Whatever was acknowledged is here and in the store; nothing else is for long."""
    site.server.start()
    with site.client() as client:
        tid = commit(client, 1, b"committed")
        vote(client, 2, b"voted")
        assert len(site.names()) == 2
        site.server.kill()
    for stub in site.stubs():
        stub.unlink()  # it need not have been written
    with site.server, site.client() as client:
        assert load(client, 1, tid) == b"committed"
        wait_until(site.stubs, "it is in the store")
        with pytest.raises(RemoteFault, match="POSKeyError"):
            load(client, 2, tid)
        (stub,) = site.stubs()
        assert [path.read_bytes() for path in site.files()] == [b"committed"]
        assert any(name in stub.read_text() for name in site.names())


def test_a_directory_that_was_there_before_and_the_way_back(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = site.directory
    plain = directory / "plain.conf"
    plain.write_text(site.conf.read_text().partition("<tieredblobs")[0] + site.storage)
    before = ServerProcess(directory, "-C", "plain.conf")
    before.address = site.server.address
    before._arguments = ["-C", "plain.conf"]
    with before, site.client() as client:
        tids = {number: commit(client, number, content(number)) for number in range(5)}
    # The command says how far it is, and refuses while a server runs.
    assert main(["blob", "upload", "-C", str(site.conf)]) == OK
    output = capsys.readouterr()
    assert output.out == "5 blobs uploaded, 5.2 MB; 5 are in the store\n"
    assert len(site.names()) == len(site.stubs()) == 5
    for path in site.files()[1:]:
        path.unlink()
    with site.server, site.client() as client:
        assert main(["blob", "fetch", "-C", str(site.conf)]) == USAGE
        assert "is open in a server" in capsys.readouterr().err
        assert load(client, 4, tids[4]) == content(4)
    site.line.set("503")
    assert main(["blob", "fetch", "-C", str(site.conf)]) == FAILURE
    assert "the object store" in capsys.readouterr().err
    site.line.set("pass")
    assert main(["blob", "fetch", "-C", str(site.conf)]) == OK
    assert capsys.readouterr().out == "3 blobs fetched, 3.1 MB; 5 are here\n"
    with before, site.client() as client:
        for number, tid in tids.items():
            assert load(client, number, tid) == content(number)


def test_backup_and_restore(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    repository, restored = site.directory / "repository", site.directory / "restored"
    conf = str(site.conf)
    with site.server, site.client() as client:
        tids = {number: commit(client, number, content(number)) for number in range(3)}
        wait_until(lambda: len(site.stubs()) == 3, "all have stubs")
        site.files()[0].unlink()
        paths = ["-f", str(site.directory / "Data.fs"), "-b", str(site.blobs)]
        assert main(["backup", "-r", str(repository), *paths]) == USAGE
        assert "name the zeo.conf that says where, with -C" in capsys.readouterr().err
        site.line.set("503")
        assert main(["backup", "-r", str(repository), "-C", conf]) == FAILURE
        assert "the object store" in capsys.readouterr().err
        site.line.set("pass")
        assert main(["backup", "-r", str(repository), "-C", conf]) == OK
        # A blob of a full backup that is in the repository is not fetched again.
        for path in site.files():
            path.unlink()
        site.line.set("503")
        assert main(["backup", "-r", str(repository), "-C", conf, "--full"]) == OK
        tids[3] = commit_without(client)
        site.line.set("pass")
    assert main(["verify", "-r", str(repository)]) == OK
    capsys.readouterr()
    restored.mkdir()
    target = ["-o", str(restored / "Data.fs"), "-b", str(restored / "blobs")]
    assert main(["restore", "-r", str(repository), *target]) == OK
    storage = FileStorage(str(restored / "Data.fs"), blob_dir=str(restored / "blobs"))
    for number in range(3):
        path = Path(storage.loadBlob(oid_of(number), tids[number]))
        assert path.read_bytes() == content(number)
    storage.close()


def commit_without(client: RawClient) -> bytes:
    """Commit something without a blob, which needs no store."""
    return client.commit({oid_of(77): (bytes(8), b"x")})


@pytest.mark.long
def test_a_clean_stop_writes_down_what_was_committed(site: Site) -> None:
    with site.server, site.client() as client:
        for number in range(20):
            commit(client, number, b"%d" % number)
        site.server.signal(signal.SIGTERM)
        assert site.server.wait() == 0
        assert len(site.stubs()) == 20


@pytest.mark.long
@pytest.mark.parametrize("seed", range(3))
def test_r4_kill_9_at_any_time(
    tmp_path: Path, moto: int, line: BadLine, stack: ExitStack, seed: int
) -> None:
    """Servers that are killed, stores that fail: what was acknowledged is here or there, whole."""
    random = Random(seed)
    site = Site(tmp_path / "site", moto, line, cache_size="1MB")
    stack.callback(site.server.kill)
    acknowledged: dict[int, bytes] = {}
    number = 0
    for _ in range(6):
        site.server.start()
        has_begun = threading.Event()
        killer = Background(partial(kill_later, site, has_begun, random.uniform(0.05, 1.0), random))
        try:
            with site.client() as client:
                while True:
                    number += 1
                    try:
                        acknowledged[number] = commit(client, number, content(number, 200_000))
                        has_begun.set()
                    except RemoteFault:
                        pass  # the store is down
                    if acknowledged and random.random() < 0.3:
                        some = random.choice(list(acknowledged))
                        try:
                            assert load(client, some, acknowledged[some]) == content(some, 200_000)
                        except RemoteFault:
                            pass
                    age_files(str(site.blobs), 500)
        except (OSError, Closed):
            pass  # killed
        killer.result()
        site.line.set("pass")
    with site.server, site.client() as client:
        wait_until(lambda: site.status()["pending"] == 0, "all are in the store")
        for some, tid in acknowledged.items():
            assert load(client, some, tid) == content(some, 200_000)
        names = site.names()
        for stub in site.stubs():
            found = read_stub(str(stub))
            assert found is not None
            assert found.name in names
    assert site.server.tracebacks() == []


def kill_later(site: Site, has_begun: threading.Event, seconds: float, random: Random) -> None:
    """Have the store fail for a while, and kill the server in the end, some time after the first
    commit."""
    assert has_begun.wait(DEADLINE)
    never = threading.Event()
    never.wait(seconds)
    if random.random() < 0.5:
        site.line.set(random.choice(["503", "refuse", "cut"]), 50_000)
        never.wait(seconds)
    site.server.kill()
