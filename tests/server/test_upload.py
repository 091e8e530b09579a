"""A file that takes up a blob, and is given up while a thread uses it."""

from __future__ import annotations

import hashlib
import os
import sys
import threading
from pathlib import Path

import pytest
from tests.support.asides import Late
from tests.support.storages import gate

from zeolith.server.upload import Upload


def opened(directory: Path) -> list[str]:
    """Return the files in *directory* that this process has open, removed ones included."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            path = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # that of the directory
        if path.startswith(str(directory.resolve())):
            found.append(path)
    return found


@pytest.mark.parametrize("step", ["write", "flush"])
def test_r4_its_number_is_not_another_file_s_while_it_is_used(tmp_path: Path, step: str) -> None:
    """Closed under a thread that writes, its number would be that of the next file opened."""
    upload = Upload()
    upload.start(str(tmp_path))
    other = tmp_path / "other"
    module, name = {
        "write": (os, "write"),
        "flush": (sys.modules["zeolith.server.upload"], "flush"),
    }[step]
    with gate(module, name) as busy:
        job = (lambda: upload.write(b"of the blob")) if step == "write" else upload.flush
        thread = threading.Thread(target=job)
        thread.start()
        busy.wait_reached()
        upload.discard()
        with open(other, "wb", buffering=0) as file:
            file.truncate(0)
            busy.open()
            thread.join()
            assert os.fstat(file.fileno()).st_size == 0
    assert opened(tmp_path) == []
    assert os.listdir(tmp_path) == ["other"]


@pytest.mark.parametrize("is_cut_off", [False, True])
def test_what_a_thread_of_its_own_sums_up_is_all_in_the_checksum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_cut_off: bool
) -> None:
    module = sys.modules["zeolith.server.upload"]
    monkeypatch.setattr(module, "Aside", Late)
    monkeypatch.setattr(module, "is_worthwhile", lambda algorithm, size: True)
    upload = Upload("sha256")
    upload.start(str(tmp_path))
    for part in (b"a" * 100, b"b" * 100):
        upload.write(part)
    if is_cut_off:
        upload.rest()
        upload.reopen()
    upload.write(b"c" * 100)
    path = upload.finish(bytes(8), hashlib.sha256(b"a" * 100 + b"b" * 100 + b"c" * 100).digest())
    upload.flush()
    assert Path(path).read_bytes() == b"a" * 100 + b"b" * 100 + b"c" * 100


def test_one_that_was_given_up_is_not_started(tmp_path: Path) -> None:
    upload = Upload()
    upload.discard()
    upload.start(str(tmp_path))
    upload.write(b"too late")
    upload.flush()
    assert opened(tmp_path) == os.listdir(tmp_path) == []


def test_one_that_is_given_up_while_it_starts(tmp_path: Path) -> None:
    upload = Upload()
    with gate(sys.modules["zeolith.server.upload"], "make_file") as busy:
        thread = threading.Thread(target=lambda: upload.start(str(tmp_path)))
        thread.start()
        busy.wait_reached()
        upload.discard()
        busy.open()
        thread.join()
    assert opened(tmp_path) == os.listdir(tmp_path) == []
