"""The file that a blob is received into."""

from __future__ import annotations

import os
import stat
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.blobdirectories import SERIAL, leftovers, sender
from tests.support.raw import oid_of
from zeolith.client.bloblengths import ATTRIBUTE, check_length
from zeolith.client.bloblocks import is_shared
from zeolith.client.blobpartials import PartialFile
from zeolith.client.blobs import BlobDirectory
from zeolith.errors import ClientStorageError


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def test_one_of_a_process_that_died_is_replaced(tmp_path: Path) -> None:
    """It may have died when the file was protected already."""
    path = tmp_path / "x.dl"
    path.write_bytes(b"much longer than what comes now")
    path.chmod(0o444)
    with closing(PartialFile(str(path))) as file:
        assert file.write(b"new") == 3
        assert file.position == 3
    assert path.read_bytes() == b"new"


def test_what_cannot_be_made(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        PartialFile(str(tmp_path / "missing" / "x.dl"))
    (tmp_path / "x.dl").mkdir()
    with pytest.raises(OSError, match=r"x\.dl"):
        PartialFile(str(tmp_path / "x.dl"))


def test_a_sealed_one_is_protected_and_its_length_noted(tmp_path: Path) -> None:
    path = tmp_path / "x.dl"
    with closing(PartialFile(str(path))) as file:
        file.write(b"data")
        file.seal(4, 0o440)
    assert stat.S_IMODE(path.stat().st_mode) == 0o440
    assert os.getxattr(path, ATTRIBUTE) == b"4"
    with path.open("rb") as found:
        check_length(found.fileno(), 4)
        with pytest.raises(FileNotFoundError):
            check_length(found.fileno(), 3)


def test_where_the_length_cannot_be_noted_it_is_brought_to_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")))
    monkeypatch.delattr(os, "setxattr")
    path = str(tmp_path / "x.dl")
    with closing(PartialFile(path)) as file:
        file.write(b"data")
        file.seal(4, 0o444)
    assert synced == [path]


def test_a_file_system_without_permissions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "fchmod", refuse)
    with closing(PartialFile(str(tmp_path / "x.dl"))) as file:
        file.write(b"data")
        file.seal(4, 0o444)
        file.rename(str(tmp_path / "x"))
    assert (tmp_path / "x").read_bytes() == b"data"


def test_its_descriptor_goes_to_who_detaches_it(tmp_path: Path) -> None:
    file = PartialFile(str(tmp_path / "x.dl"))
    descriptor = file.detach()
    file.close()
    assert is_open(descriptor)
    os.close(descriptor)


def test_nobody_leaves_it_open(tmp_path: Path) -> None:
    """Whoever is interrupted between two steps."""
    file = PartialFile(str(tmp_path / "x.dl"))
    descriptor = file._descriptor
    del file
    assert not is_open(descriptor)


# -- in a directory ----------------------------------------------------------------------------


def test_it_has_all_before_it_has_its_name(
    blob_cache: BlobDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a power failure, or a process that dies, could leave a short blob that looks whole."""
    seen: list[tuple[Any, ...]] = []
    replace = os.replace

    def look(source: str, target: str) -> None:
        status = os.stat(source)
        noted = os.getxattr(source, ATTRIBUTE)
        seen.append((status.st_size, stat.S_IMODE(status.st_mode) & 0o222, noted))
        replace(source, target)

    monkeypatch.setattr(os, "replace", look)
    blob_cache.load(oid_of(1), SERIAL, sender(blob_cache, b"data"))
    assert seen == [(4, 0, b"4")]


def test_it_is_not_opened_again(blob_cache: BlobDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    blob_cache.load(oid_of(1), SERIAL, sender(blob_cache, b"data"))
    opened: list[str] = []
    original = os.open

    def note(path: Any, *arguments: Any, **keywords: Any) -> int:
        opened.append(os.path.basename(path))
        return original(path, *arguments, **keywords)

    monkeypatch.setattr(os, "open", note)
    path = blob_cache.load(oid_of(998), SERIAL, sender(blob_cache, b"data"))
    name = os.path.basename(path)
    assert opened == [name, ".lock", f"{name}.dl"]
    monkeypatch.undo()
    with open(path, "rb") as file:
        assert is_shared(file.fileno()), "it could be evicted before who has its path opens it"


def test_a_disk_that_is_found_full_when_the_file_is_closed(
    blob_cache: BlobDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Network file systems do so; nothing must be left that looks like a blob."""
    copies: list[int] = []
    dup, close = os.dup, os.close

    def note(descriptor: int) -> int:
        copies.append(dup(descriptor))
        return copies[-1]

    def refuse(descriptor: int) -> None:
        close(descriptor)
        if descriptor in copies:
            copies.remove(descriptor)
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "dup", note)
        patch.setattr(os, "close", refuse)
        with pytest.raises(ClientStorageError, match=r"cannot keep a blob.*No space"):
            blob_cache.load(oid_of(1), SERIAL, sender(blob_cache, b"data"))
    assert leftovers(blob_cache) == []
    assert not blob_cache.has(oid_of(1), SERIAL)


def test_a_name_that_cannot_be_given(
    blob_cache: BlobDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(122, "Disk quota exceeded")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(ClientStorageError, match=r"cannot keep a blob.*quota"):
        blob_cache.load(oid_of(1), SERIAL, sender(blob_cache, b"data"))
    assert leftovers(blob_cache) == []


def test_an_opened_blob_leaves_nothing_open_behind_it(blob_cache: BlobDirectory) -> None:
    with blob_cache.open(oid_of(1), SERIAL, None, sender(blob_cache, b"data")) as file:
        assert file.read() == b"data"
        name = os.path.basename(file.name)
    held = []
    for each in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # what lists them
            held.append(os.path.basename(os.readlink(f"/proc/self/fd/{each}")))
    assert name not in held
