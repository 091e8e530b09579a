"""The buckets of a blob cache that this process works in."""

from __future__ import annotations

import os
import shutil
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from zeolith.client import blobbuckets
from zeolith.client.blobbuckets import Buckets
from zeolith.client.bloblocks import try_lock
from zeolith.errors import ClientStorageError


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "cache" / "7")


def is_held(path: str) -> bool:
    lock = try_lock(os.path.join(path, ".lock"))
    if lock is not None:
        lock.close()
    return lock is None


def test_one_is_made_and_held(path: str) -> None:
    buckets = Buckets()
    with buckets.find(path) as bucket:
        assert is_held(path)
        assert bucket.mode == stat.S_IRUSR | os.stat(path).st_mode & 0o444
    assert not is_held(path)
    assert buckets.find(path) is bucket


def test_what_others_left_is_looked_for_once(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not in what we have made ourselves."""
    cleared: list[str] = []
    monkeypatch.setattr(blobbuckets, "clear_bucket", cleared.append)
    mine = Buckets()
    for _ in range(2):
        with mine.find(path):
            pass
    assert cleared == []
    of_others = Buckets()
    for _ in range(2):
        with of_others.find(path):
            pass
    assert cleared == [path]


def test_one_that_could_not_be_looked_at_is_looked_at_again(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.makedirs(path)
    buckets = Buckets()
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", lambda _: (_ for _ in ()).throw(OSError(5, "I/O error")))
        with pytest.raises(ClientStorageError, match="I/O error"), buckets.find(path):
            pass
    assert not is_held(path)
    Path(path, "7.03ff.blob.dl").write_bytes(b"partial")
    with buckets.find(path):
        assert os.listdir(path) == [".lock"]


def test_a_known_one_is_not_asked_for_again(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = Buckets().find(path)
    with bucket:
        pass

    def refuse(*_: Any) -> Any:
        raise AssertionError("it is known")

    for name in ("mkdir", "stat", "scandir"):
        monkeypatch.setattr(os, name, refuse)
    with bucket:
        pass


def test_one_that_somebody_has_removed(path: str) -> None:
    bucket = Buckets().find(path)
    with bucket:
        pass
    shutil.rmtree(os.path.dirname(path))
    with bucket:
        assert is_held(path)


def test_what_cannot_be_one(path: str) -> None:
    os.makedirs(os.path.dirname(path))
    Path(path).write_text("in place of a directory")
    bucket = Buckets().find(path)
    for _ in range(2):
        with pytest.raises(ClientStorageError, match="cannot be used"), bucket:
            pass
    os.remove(path)
    with bucket:
        pass


def test_the_same_thread_is_refused(path: str) -> None:
    """A finalizer that loads a blob would wait for itself."""
    bucket = Buckets().find(path)
    with bucket:
        with pytest.raises(ClientStorageError, match="by the same thread"), bucket:
            pass
        assert is_held(path)
    assert not is_held(path)
    with bucket:
        pass


def test_who_is_interrupted_holds_nothing(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = Buckets().find(path)

    def interrupt(_: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(blobbuckets, "wait_for", interrupt)
        with pytest.raises(KeyboardInterrupt), bucket:
            pass
    done = threading.Event()

    def work() -> None:
        with bucket:
            done.set()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(30)
    assert done.is_set()
