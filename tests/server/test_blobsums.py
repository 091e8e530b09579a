"""Checksums that the server keeps beside its blobs."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from zeolith.protocol.checksums import ALGORITHMS
from zeolith.server import blobsums
from zeolith.server.blobsums import ATTRIBUTE, compute, recall, remember

DATA = bytes(3_000_000)
DIGEST = hashlib.sha256(DATA).digest()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "blob"
    found.write_bytes(DATA)
    return found


@pytest.fixture
def descriptor(path: Path) -> Iterator[int]:
    found = os.open(path, os.O_RDONLY)
    yield found
    os.close(found)


def test_it_is_computed_once(descriptor: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert recall(descriptor, "sha256") is None
    assert compute(descriptor, "sha256") == DIGEST
    assert recall(descriptor, "sha256") == DIGEST


def test_another_algorithm_is_another_checksum(descriptor: int) -> None:
    compute(descriptor, "sha256")
    assert recall(descriptor, "blake3") is None


def test_a_name_or_a_mode_changes_nothing(descriptor: int, path: Path) -> None:
    compute(descriptor, "sha256")
    path.chmod(0o400)
    path.rename(path.with_name("other"))
    assert recall(descriptor, "sha256") == DIGEST


@pytest.mark.parametrize("change", ["longer", "later"])
def test_a_file_that_has_changed_has_none(descriptor: int, path: Path, change: str) -> None:
    compute(descriptor, "sha256")
    if change == "longer":
        status = path.stat()
        with path.open("ab") as file:
            file.write(b"x")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    else:
        os.utime(path, ns=(0, 0))
    assert recall(descriptor, "sha256") is None


@pytest.mark.parametrize(
    "value", [b"", b"\xff", b"1 sha256", b"short", b"long", b"version", b"sum"]
)
def test_damage_is_none(descriptor: int, path: Path, value: bytes) -> None:
    remember(descriptor, "sha256", DIGEST, os.fstat(descriptor))
    good = os.getxattr(path, ATTRIBUTE)
    changed = {b"short": good[:-1], b"long": good + b"\0", b"version": b"\1" + good[1:]}
    changed[b"sum"] = good[:20] + bytes([good[20] ^ 1]) + good[21:]
    os.setxattr(path, ATTRIBUTE, changed.get(value, value))
    assert recall(descriptor, "sha256") is None


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_it_fits_into_an_inode(descriptor: int, path: Path, algorithm: str) -> None:
    """Beyond 56 bytes ext4 takes a block of the disk for each."""
    remember(descriptor, algorithm, DIGEST, os.fstat(descriptor))
    assert recall(descriptor, algorithm) == DIGEST
    assert len(os.getxattr(path, ATTRIBUTE)) <= 56


def test_a_file_from_before_the_epoch(descriptor: int, path: Path) -> None:
    os.utime(path, ns=(-5, -5))
    remember(descriptor, "sha256", DIGEST, os.fstat(descriptor))
    assert recall(descriptor, "sha256") == DIGEST


def test_where_there_are_no_attributes_it_is_computed_each_time(
    descriptor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any) -> Any:
        raise OSError(errno.ENOTSUP, "not supported")

    monkeypatch.setattr(os, "setxattr", refuse)
    monkeypatch.setattr(os, "getxattr", refuse)
    assert compute(descriptor, "sha256") == DIGEST
    assert recall(descriptor, "sha256") is None
    monkeypatch.setattr(blobsums, "_has_attributes", False)
    remember(descriptor, "sha256", DIGEST, os.fstat(descriptor))
    assert recall(descriptor, "sha256") is None
