"""Short blobs that are in memory leave in the step in which they are asked for; others do not."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import ssl
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trustme
from tests.server.conftest import Connect, Serve
from tests.support.blobsites import KIB, store_blob
from tests.support.raw import RawClient, RemoteFault, oid_of
from tests.support.rawstreams import RawStreams
from tests.support.storages import hook
from tests.support.waiting import wait_until
from ZODB.blob import LAYOUT_MARKER, BlobStorage, FilesystemHelper
from ZODB.DemoStorage import DemoStorage
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage

from zeolith.protocol.greeting import Coding
from zeolith.protocol.hello import Terms
from zeolith.protocol.limits import MAX_STREAMS, STREAM_FRAME
from zeolith.protocol.messages import InvalidateTransaction, Notice, Ping, Reply
from zeolith.protocol.openings import OVERHEAD
from zeolith.protocol.streamrequests import OpenBlob, StreamData, StreamEnd
from zeolith.server import warmblobs
from zeolith.server.blobplaces import bushy_path, lawn_path
from zeolith.server.blobsums import ATTRIBUTE, compute
from zeolith.server.sources import AT_ONCE
from zeolith.server.streams import OUTPUT_MARK
from zeolith.server.transport import Connection
from zeolith.server.warmblobs import AT_A_TIME, WarmBlobs, find_warm_blobs

DATA = os.urandom(50_000)
SHA = "sha256"
CREDIT = 4 * AT_ONCE


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def refuse(number: int) -> Callable[..., int]:
    def refused(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    return refused


@pytest.fixture(autouse=True)
def memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system has everything in memory, and every file system knows how to tell."""
    monkeypatch.setattr(warmblobs, "open_warm", lambda path: os.open(path, os.O_RDONLY))
    monkeypatch.setattr(warmblobs, "read_warm", lambda found, room: os.preadv(found, [room], 0))


class Short:
    """A server with one short blob whose checksum is known, and a client.

    :ivar sent: for each blob that was asked for, whether it was sent at once.
    """

    def __init__(
        self,
        files: FileStorage,
        tmp_path: Path,
        serve: Serve,
        raw: Connect,
        data: bytes = DATA,
        tls: tuple[Any, Any] = (None, None),
        terms: Terms = Terms(checksums=(SHA,)),  # noqa: B008 - never changed
        **options: Any,
    ) -> None:
        self.data, self.oid = data, oid_of(1)
        self.tid = store_blob(files, tmp_path, 1, data)
        self.path = files.loadBlob(self.oid, self.tid)
        with open(self.path, "rb") as file:
            compute(file.fileno(), SHA)
        self.server = serve(files, ssl=tls[0], **options)
        self.service = self.server._lobby.services["1"]
        self.sent: list[bool] = []
        self.warm = self.service.warm
        send = self.warm.send

        def note(session: Any, msgid: Any, request: Any) -> bool:
            self.sent.append(send(session, msgid, request))
            return self.sent[-1]

        self.warm.send = note
        self.client: RawClient = raw(
            self.server.address, coding=Coding.OWN, tls=tls[1], terms=terms
        )
        self.streams = RawStreams(self.client)

    def open(self, number: int = 0, offset: int = 0, credit: int = CREDIT) -> Any:
        return self.streams.open(number, self.oid, self.tid, offset, credit)

    def read(self, number: int = 0, offset: int = 0, credit: int = CREDIT) -> tuple[bytes, Any]:
        """Return the blob, and the end of its stream."""
        self.open(number, offset, credit)
        end = self.streams.read_to_end(number)
        return self.streams.data.pop(number, b""), end

    @property
    def counts(self) -> tuple[int, int]:
        blobs = self.service.stats.blobs
        return blobs.sent, blobs.sent_bytes


@pytest.fixture
def short(files: FileStorage, tmp_path: Path, serve: Serve, raw: Connect, loop: str) -> Short:
    return Short(files, tmp_path, serve, raw, loop=loop)


# -- where they are ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layout", "path_of"), [("bushy", bushy_path), ("lawn", lawn_path)], ids=["bushy", "lawn"]
)
def test_paths_are_those_of_zodb(
    tmp_path: Path, layout: str, path_of: Callable[[bytes, bytes], bytes]
) -> None:
    helper = FilesystemHelper(str(tmp_path), layout)
    lot = random.Random(7)
    ids = [bytes(8), b"\xff" * 8, b"\0\x01" * 4, oid_of(10), *(lot.randbytes(8) for _ in range(50))]
    for oid, tid in zip(ids, reversed(ids), strict=True):
        assert helper.base_dir + os.fsdecode(path_of(oid, tid)) == helper.getBlobFilename(oid, tid)


def test_only_storages_that_are_known_have_them(tmp_path: Path) -> None:
    class Other(FileStorage):
        pass

    names = iter("abcdefgh")

    def place() -> str:
        return str(tmp_path / next(names))

    found = {
        "file": FileStorage(place(), blob_dir=place()),
        "around": BlobStorage(place(), MappingStorage()),
        "subclass": Other(place(), blob_dir=place()),
        "none": FileStorage(place()),
        "memory": MappingStorage(),
        "demo": DemoStorage(),
    }
    known = {name for name, storage in found.items() if find_warm_blobs(storage) is not None}
    for storage in found.values():
        storage.close()
    assert known == {"file", "around"}


def test_a_class_that_somebody_has_changed_is_not_known(
    files: FileStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_warm_blobs(files) is not None
    monkeypatch.setattr(FileStorage, "loadBlob", lambda *_: "elsewhere", raising=False)
    assert find_warm_blobs(files) is None
    files.close()


@pytest.mark.parametrize("layout", ["bushy", "lawn"])
def test_both_layouts(tmp_path: Path, serve: Serve, raw: Connect, layout: str) -> None:
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    (blobs / LAYOUT_MARKER).write_text(layout)
    files = FileStorage(str(tmp_path / "Data.fs"), blob_dir=str(blobs))
    short = Short(files, tmp_path, serve, raw)
    assert short.read() == (DATA, StreamEnd(0, sha(DATA)))
    assert short.sent == [True]


# -- at once -----------------------------------------------------------------------------------


def test_it_leaves_in_one_piece_with_the_answer(
    short: Short, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    write = Connection.write

    def note(self: Connection, frame: bytes) -> None:
        written.append(len(frame))
        write(self, frame)

    monkeypatch.setattr(Connection, "write", note)
    # No worker has anything to do with it.
    with hook(short.service.pools.quick, "submit", before=lambda *_: pytest.fail("a worker")):
        assert short.open() == {"size": len(DATA)}
        assert short.streams.read_to_end(0, gives_credit=False) == StreamEnd(0, sha(DATA))
    assert short.streams.data[0] == DATA
    assert short.sent == [True]
    assert len(written) == 1
    assert short.counts == (1, len(DATA))
    assert [type(getattr(found, "request", found)) for found in short.client.inbox[-3:]] == [
        Reply,
        StreamData,
        StreamEnd,
    ]
    # The number is free again.
    del short.streams.ends[0], short.streams.data[0]
    assert short.read() == (DATA, StreamEnd(0, sha(DATA)))


@pytest.mark.parametrize(("size", "is_sent"), [(0, 0), (1, 1), (AT_ONCE, 1), (AT_ONCE + 1, 0)])
def test_sizes(
    files: FileStorage, tmp_path: Path, serve: Serve, raw: Connect, size: int, is_sent: int
) -> None:
    data = os.urandom(size)
    short = Short(files, tmp_path, serve, raw, data)
    assert short.read() == (data, StreamEnd(0, sha(data)))
    assert short.sent == [is_sent]
    assert short.counts == (1, size)


def test_over_tls(
    files: FileStorage, tmp_path: Path, serve: Serve, raw: Connect, loop: str
) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    short = Short(files, tmp_path, serve, raw, tls=(context, trusting), loop=loop)
    for number in range(2 * AT_A_TIME):
        assert short.read(number) == (DATA, StreamEnd(number, sha(DATA)))
    assert short.sent == 2 * AT_A_TIME * [True]


@pytest.mark.parametrize("size", [STREAM_FRAME, STREAM_FRAME + 1])
def test_a_peer_that_takes_compressed_messages(
    files: FileStorage, tmp_path: Path, serve: Serve, raw: Connect, size: int
) -> None:
    """Each of them is compressed, and none is so long that it takes long."""
    data, terms = bytes(size), Terms(checksums=(SHA,), compresses=True)
    short = Short(files, tmp_path, serve, raw, data, terms=terms)
    assert short.read() == (data, StreamEnd(0, sha(data)))
    assert short.sent == [size <= STREAM_FRAME]


def test_a_peer_that_verifies_nothing(
    files: FileStorage, tmp_path: Path, serve: Serve, raw: Connect
) -> None:
    data = os.urandom(STREAM_FRAME)
    short = Short(files, tmp_path, serve, raw, data, terms=Terms())
    assert short.read() == (data, StreamEnd(0))
    assert short.sent == [False]


@pytest.mark.parametrize("lacking", [0, 1])
def test_a_peer_that_takes_no_longer_message(short: Short, lacking: int) -> None:
    (connection,) = short.server._lobby.connections
    connection.session.codec.max_payload = len(DATA) + OVERHEAD - lacking
    assert short.read() == (DATA, StreamEnd(0, sha(DATA)))
    assert short.sent == [not lacking]


# -- not at once -------------------------------------------------------------------------------


def _not_open(short: Short, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(warmblobs, "open_warm", refuse(errno.EAGAIN))


def _not_read(short: Short, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(warmblobs, "read_warm", refuse(errno.EAGAIN))


def _half_read(short: Short, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(warmblobs, "read_warm", lambda found, room: os.preadv(found, [room[:4096]], 0))


def _no_sum(short: Short, patch: pytest.MonkeyPatch) -> None:
    os.removexattr(short.path, ATTRIBUTE)


def _damaged_sum(short: Short, patch: pytest.MonkeyPatch) -> None:
    os.setxattr(short.path, ATTRIBUTE, os.getxattr(short.path, ATTRIBUTE)[:-1] + b"g")


def _old_sum(short: Short, patch: pytest.MonkeyPatch) -> None:
    os.utime(short.path, ns=(0, 0))


def _another_way(short: Short, patch: pytest.MonkeyPatch) -> None:
    """As a tier does, and whoever else puts a method of his own in the place of the class's."""
    storage = short.service.access.storage
    patch.setattr(storage, "loadBlob", storage.loadBlob)


@pytest.mark.parametrize(
    "why",
    [_not_open, _not_read, _half_read, _no_sum, _damaged_sum, _old_sum, _another_way],
    ids=lambda why: why.__name__.strip("_"),
)
def test_a_worker_does_what_has_to_be_waited_for(
    short: Short, monkeypatch: pytest.MonkeyPatch, why: Callable[..., None]
) -> None:
    os.chmod(short.path, 0o600)
    why(short, monkeypatch)
    assert short.read() == (DATA, StreamEnd(0, sha(DATA)))
    assert short.sent == [False]
    assert short.counts == (1, len(DATA))
    assert short.warm.is_able


@pytest.mark.parametrize(
    ("offset", "credit"), [(1, CREDIT), (len(DATA), CREDIT), (0, 0), (0, len(DATA) - 1)]
)
def test_what_is_not_wanted_in_one_piece(short: Short, offset: int, credit: int) -> None:
    short.open(0, offset, credit)
    short.streams.read_until(0, min(credit, len(DATA) - offset))
    short.client.send()
    if credit < len(DATA) - offset:
        short.streams.settle()
        assert short.streams.data[0] == DATA[:credit], "no more than there is credit for"
    else:
        assert short.streams.read_to_end(0) == StreamEnd(0, sha(DATA))
    assert short.sent == [False]


def test_a_file_that_is_cut_while_it_is_read(short: Short, monkeypatch: pytest.MonkeyPatch) -> None:
    os.chmod(short.path, 0o600)

    def cut(found: int, room: memoryview) -> int:
        os.truncate(short.path, 30_000)
        return os.preadv(found, [room], 0)

    monkeypatch.setattr(warmblobs, "read_warm", cut)
    assert short.open() == {"size": 30_000}
    assert short.streams.read_to_end(0) == StreamEnd(0, sha(DATA[:30_000]))
    assert short.sent == [False]


def test_a_file_that_grows_while_it_is_read(short: Short, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was committed is sent, and its checksum."""
    os.chmod(short.path, 0o600)

    def grow(found: int, room: memoryview) -> int:
        with open(short.path, "ab") as file:
            file.write(b"more")
        return os.preadv(found, [room], 0)

    monkeypatch.setattr(warmblobs, "read_warm", grow)
    assert short.read() == (DATA, StreamEnd(0, sha(DATA)))
    assert short.sent == [True]


def test_a_file_that_is_gone(short: Short) -> None:
    os.remove(short.path)
    with pytest.raises(RemoteFault, match="POSKeyError"):
        short.open()
    assert short.sent == [False]
    short.client.ping()


def test_a_directory_and_a_pipe_are_no_blobs(tmp_path: Path) -> None:
    found = make_warm(tmp_path)
    (tmp_path / "dir").mkdir()
    os.mkfifo(tmp_path / "pipe")
    keeper = os.open(tmp_path / "pipe", os.O_RDWR)
    for name in ("dir", "pipe"):
        assert found.read(bytes(tmp_path / name), AT_ONCE, SHA) is None
    os.close(keeper)
    assert found.is_able


def make_warm(path: Path) -> WarmBlobs:
    return WarmBlobs(SimpleNamespace(), str(path), bushy_path)


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EPERM, errno.ENOENT])
def test_what_cannot_be_had_now_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(warmblobs, "open_warm", refuse(number))
    assert make_warm(tmp_path).is_able


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP])
@pytest.mark.parametrize("name", ["open_warm", "read_warm"])
def test_a_system_that_does_not_know_how(
    files: FileStorage,
    tmp_path: Path,
    serve: Serve,
    raw: Connect,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    name: str,
) -> None:
    """That is found out at the start, and once."""
    calls: list[int] = []

    def refused(*_: object) -> int:
        calls.append(number)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(warmblobs, name, refused)
    short = Short(files, tmp_path, serve, raw)
    assert not short.warm.is_able
    assert short.read() == (DATA, StreamEnd(0, sha(DATA)))
    assert short.sent == [False]
    assert calls == [number]


def test_nothing_is_left_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[int] = []

    def note(path: bytes) -> int:
        opened.append(os.open(path, os.O_RDONLY))
        return opened[-1]

    monkeypatch.setattr(warmblobs, "open_warm", note)
    (tmp_path / "file").write_bytes(DATA)
    path = bytes(tmp_path / "file")
    with open(path, "rb") as file:
        compute(file.fileno(), SHA)
    found = make_warm(tmp_path)
    got = found.read(path, AT_ONCE, SHA)
    assert got is not None
    assert (bytes(got[0]), got[1]) == (DATA, sha(DATA))
    assert found.read(path, 100, SHA) is None
    assert found.read(path, AT_ONCE, "blake3") is None
    monkeypatch.setattr(warmblobs, "read_warm", refuse(errno.EAGAIN))
    assert found.read(path, AT_ONCE, SHA) is None
    assert len(opened) == 4
    for descriptor in set(opened):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)


# -- beside other streams ----------------------------------------------------------------------


def test_a_number_that_is_in_use(short: Short) -> None:
    short.open(3, credit=1)
    with pytest.raises(RemoteFault, match=r"IllegalMessage.*open already"):
        short.open(3)
    assert short.read(4) == (DATA, StreamEnd(4, sha(DATA)))
    assert short.sent == [False, False, True]


def test_r8_blobs_on_their_way_are_limited(short: Short) -> None:
    for number in range(MAX_STREAMS):
        short.open(number, credit=1)
    with pytest.raises(RemoteFault, match=f"StorageError.*{MAX_STREAMS} blobs on their way"):
        short.open(MAX_STREAMS)
    assert not any(short.sent)


def test_r7_others_have_their_turn(short: Short) -> None:
    """What a client asks for in advance is not all handled in one step of the loop."""
    steps = 0
    at: list[int] = []
    loop = short.server._lobby.loop
    count = 10 * AT_A_TIME
    is_over = False

    def step() -> None:
        nonlocal steps
        steps += 1
        if not is_over:
            loop.call_soon(step)

    loop.call_soon_threadsafe(step)
    send = short.warm.send

    def note(*arguments: Any) -> bool:
        at.append(steps)
        return cast("bool", send(*arguments))

    short.warm.send = note
    requests = [
        (short.client.next_id(), OpenBlob(number, short.oid, short.tid, 0, CREDIT))
        for number in range(count)
    ]
    ping = short.client.next_id()
    short.client.send(*requests, (ping, Ping()))
    for number in range(count):
        assert short.streams.read_to_end(number) == StreamEnd(number, sha(DATA))
        assert short.streams.data.pop(number) == DATA
    short.client.answer(ping)
    is_over = True
    assert max(at.count(each) for each in at) <= AT_A_TIME
    assert len(at) == count


def test_r8_a_client_that_does_not_read(
    files: FileStorage, tmp_path: Path, serve: Serve, raw: Connect, loop: str
) -> None:
    short = Short(files, tmp_path, serve, raw, os.urandom(AT_ONCE), loop=loop)
    greedy = raw(
        short.server.address,
        coding=Coding.OWN,
        receive_buffer=64 * KIB,
        terms=Terms(checksums=(SHA,)),
    )
    unsent: list[int] = []
    send = short.warm.send

    def note(session: Any, *arguments: Any) -> bool:
        is_sent = cast("bool", send(session, *arguments))
        unsent.append(session.connection.unsent)
        return is_sent

    short.warm.send = note
    asked: list[int] = []
    while all(short.sent):
        greedy.ask(OpenBlob(len(asked), short.oid, short.tid, 0, CREDIT))
        asked.append(len(asked))
        wait_until(lambda: len(unsent) == len(asked))
    # The last one waits for its turn, as long streams do.
    assert OUTPUT_MARK <= max(unsent) < OUTPUT_MARK + AT_ONCE + KIB
    streams = RawStreams(greedy)
    for number in asked:
        assert streams.read_to_end(number, gives_credit=False) == StreamEnd(number, sha(short.data))
        assert streams.data.pop(number) == short.data


# -- order -------------------------------------------------------------------------------------


def test_r1_it_comes_after_the_invalidations(short: Short) -> None:
    """Those of what was published when it is read, whoever announces it."""
    publisher = short.service.publisher
    oid, tid = oid_of(9), bytes([short.tid[0], *([255] * 7)])
    short.client.ping()
    # As a commit of somebody else does: the loop hears of that a moment later.
    publisher.publish(tid, [oid], cast("Any", object()))
    short.open()
    assert short.sent == [True]
    kinds = [
        message.request if isinstance(message, Notice) else message
        for message in short.client.inbox
    ]
    announced = next(
        at
        for at, found in enumerate(kinds)
        if isinstance(found, InvalidateTransaction) and found.tid == tid
    )
    data = next(at for at, found in enumerate(kinds) if isinstance(found, StreamData))
    answer = max(at for at, found in enumerate(kinds) if isinstance(found, Reply))
    assert announced < answer < data
