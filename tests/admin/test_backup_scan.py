"""Reading transactions: whatever is not whole is damage, at every byte."""

from __future__ import annotations

import hashlib
import zlib
from contextlib import closing
from pathlib import Path

import pytest
from tests.support.backups import Site
from ZODB.FileStorage import FileIterator
from ZODB.interfaces import IBlob

from zeolith.admin.backup.failures import Damage
from zeolith.admin.backup.scan import (
    START,
    BlobKey,
    is_blob,
    read_beginning,
    read_tids,
    scan,
)
from zeolith.types import Oid, Tid


@pytest.fixture
def boundaries(site: Site) -> list[int]:
    """Where the transactions of the site's file begin, and where the last one ends."""
    with closing(FileIterator(str(site.path))) as iterator:
        found = [transaction._tpos for transaction in iterator]
    return [*found, site.path.stat().st_size]


def test_all_transactions_are_found(site: Site, boundaries: list[int]) -> None:
    with closing(FileIterator(str(site.path))) as iterator:
        tids = [Tid(transaction.tid) for transaction in iterator]
    counts: list[int] = []
    with site.path.open("rb") as file:
        found = scan(file, 0, boundaries[-1], advance=counts.append)
        file.seek(0)
        assert list(read_tids(file, True)) == tids
        file.seek(boundaries[2])
        assert list(read_tids(file, False)) == tids[2:]
    assert (found.first_tid, found.last_tid, found.transactions) == (tids[0], tids[-1], 4)
    assert (found.cut, sum(counts), found.packed_tid) == (boundaries[-1], boundaries[-1], None)
    assert found.sha256 == hashlib.sha256(site.path.read_bytes()).hexdigest()
    assert [blob.tid for blob in found.blobs] == tids[1:]
    assert len({blob.oid for blob in found.blobs}) == 3


def test_a_stretch_is_read_alone(site: Site, boundaries: list[int]) -> None:
    with site.path.open("rb") as file:
        found = scan(file, boundaries[1], boundaries[3])
    content = site.path.read_bytes()[boundaries[1] : boundaries[3]]
    assert (found.transactions, len(found.blobs)) == (2, 2)
    assert found.md5 == hashlib.md5(content, usedforsecurity=False).hexdigest()


def test_later_transactions_do_not_count(site: Site, boundaries: list[int]) -> None:
    with site.path.open("rb") as file:
        tids = [blob.tid for blob in scan(file, 0, boundaries[-1]).blobs]
        found = scan(file, 0, boundaries[-1], until=tids[1])
    assert (found.last_tid, found.cut, found.transactions) == (tids[1], boundaries[3], 3)
    assert [blob.tid for blob in found.blobs] == tids[:2]


def test_every_end_but_that_of_a_transaction_is_damage(site: Site, boundaries: list[int]) -> None:
    with site.path.open("rb") as file:
        for end in range(1, boundaries[-1]):
            if end == START or end in boundaries:
                assert scan(file, 0, end).cut == end
            else:
                with pytest.raises(Damage, match=r"Data\.fs: "):
                    scan(file, 0, end)


def test_a_file_that_is_shorter_than_expected_is_damage(
    site: Site, boundaries: list[int], tmp_path: Path
) -> None:
    path = tmp_path / "short"
    for size in range(boundaries[2], boundaries[3]):
        path.write_bytes(site.path.read_bytes()[:size])
        with path.open("rb") as file, pytest.raises(Damage):
            scan(file, 0, boundaries[3])


def test_no_changed_byte_is_more_than_damage(
    site: Site, boundaries: list[int], tmp_path: Path
) -> None:
    """A header may say anything: reading it ends, with a summary or with Damage."""
    content = bytearray(site.path.read_bytes())
    path = tmp_path / "changed"
    outcomes: set[object] = set()
    for position in range(boundaries[2], boundaries[3]):
        changed = content.copy()
        changed[position] ^= 0xFF
        path.write_bytes(changed)
        with path.open("rb") as file:
            try:
                found: object = scan(file, 0, len(content)).cut
            except Damage as damage:
                found = damage.where
        outcomes.add(found)
    assert outcomes == {len(content), str(path)}


def test_an_unfinished_transaction_is_damage(
    site: Site, boundaries: list[int], tmp_path: Path
) -> None:
    content = bytearray(site.path.read_bytes())
    content[boundaries[3] + 16] = ord("c")
    path = tmp_path / "unfinished"
    path.write_bytes(content)
    with path.open("rb") as file:
        with pytest.raises(Damage, match="is not complete"):
            scan(file, 0, len(content))
        file.seek(0)
        assert len(list(read_tids(file, True))) == 3


def test_a_packed_file_says_up_to_where(site: Site) -> None:
    site.pack()
    (tid,) = site.commit(4)
    with site.path.open("rb") as file:
        found = scan(file, 0, site.path.stat().st_size)
    assert found.packed_tid is not None
    assert found.packed_tid < tid == found.last_tid


def test_the_beginning_survives_everything_but_a_pack(site: Site) -> None:
    with site.path.open("rb") as file:
        first = read_beginning(file)
    site.commit(4)
    with site.path.open("rb") as file:
        assert read_beginning(file) == first
    assert first is not None
    assert str(first) == f"first transaction 0x{first.tid.hex()}"


@pytest.mark.parametrize("content", [b"", b"FS30", b"FS30" + b"\0" * 22, b"FS30" + b"c" * 30])
def test_a_file_without_transactions_has_no_beginning(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "Data.fs"
    path.write_bytes(content)
    with path.open("rb") as file:
        assert read_beginning(file) is None


BLOB = b"\x80\x03cZODB.blob\nBlob\nq\x01."


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        (b"", False),
        (b"\x80\x03cpersistent.mapping\nPersistentMapping\nq\x01.", False),
        (BLOB, True),
        (b".z" + zlib.compress(BLOB), True),
        (b".z" + zlib.compress(b"\x80\x03csome\nClass\n."), False),
        (b".zno", None),
        (b".encrypted", None),
    ],
)
def test_records_of_blobs(data: bytes, answer: bool | None) -> None:
    assert is_blob(data) is answer


def test_the_test_data_is_that_of_a_blob() -> None:
    from ZODB.blob import Blob

    assert IBlob.implementedBy(Blob)
    assert str(BlobKey(Oid(b"\0" * 8), Tid(b"\1" * 8))) == (
        f"blob 0x{'00' * 8} of transaction 0x{'01' * 8}"
    )
