"""``zeolith cache info``."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest
from persistent.TimeStamp import TimeStamp

from zeolith.admin.tables import moment
from zeolith.cache import CacheHome, RingCache
from zeolith.cache.checking import NO_INDEX
from zeolith.cli.main import USAGE, main
from zeolith.protocol.hello import Database
from zeolith.types import NO_TID

Run: TypeAlias = Callable[..., tuple[int, str, str]]

TID = bytes.fromhex("040d284fb1c9e3dd")
TIME = TimeStamp(TID).timeTime()


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command; return exit status, output and errors."""

    def run(*arguments: str) -> tuple[int, str, str]:
        status = main(["cache", "info", *arguments])
        found = capsys.readouterr()
        return status, found.out, found.err

    return run


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A cache of two current records and an earlier one."""
    path = str(tmp_path / "app-1.zec")
    cache = RingCache(100_000, home=CacheHome(path))
    cache.store(bytes(7) + b"1", TID, None, bytes(76))
    cache.store(bytes(7) + b"2", NO_TID, TID, bytes(176))
    cache.store(bytes(7) + b"2", TID, None, bytes(276))
    cache.set_last_tid(TID)
    cache.set_database(Database("some identity", 3))
    cache.close()
    return path


def value(text: str, key: str) -> str:
    (found,) = [line for line in text.splitlines() if line.startswith(key + "  ")]
    return found.removeprefix(key).strip()


def test_table(run: Run, path: str) -> None:
    status, text, errors = run(path)
    assert (status, errors) == (0, "")
    assert value(text, "cache") == path
    assert value(text, "in use") == "no"
    assert value(text, "index").startswith(f"saved {moment(os.stat(path + '.index').st_mtime)}, ")
    assert value(text, "last transaction") == f"040d284fb1c9e3dd ({moment(TIME)})"
    assert value(text, "database") == "some identity, epoch 3"
    assert value(text, "records") == "2 current, 1 earlier"
    assert value(text, "bytes used") == "600 B of 100.0 kB"
    assert value(text, "record") == "300 B at most, 200 B on average"


def test_what_is_yet_to_be_verified(run: Run, path: str) -> None:
    cache = RingCache(100_000, home=CacheHome(path))
    cache.suspects.suspect_all()
    cache.store(bytes(7) + b"1", TID, None, bytes(76))
    cache.close()
    _, text, _ = run(path)
    assert value(text, "records") == "2 current, 1 earlier"
    assert value(text, "to be verified") == "1 of the current records"
    _, text, _ = run("--json", path)
    (told,) = json.loads(text)
    assert told["index"]["unverified"] == 1


def test_json(run: Run, path: str) -> None:
    status, text, errors = run("--json", path)
    assert (status, errors) == (0, "")
    (told,) = json.loads(text)
    saved = os.stat(path + ".index").st_mtime
    assert told["index"].pop("age") >= 0
    assert told == {
        "path": path,
        "size": os.path.getsize(path),
        "in_use": False,
        "process": None,
        "problem": None,
        "index": {
            "saved": pytest.approx(saved),
            "last_transaction": {
                "tid": TID.hex(),
                "time": pytest.approx(TIME),
            },
            "database": {"identity": "some identity", "epoch": 3},
            "current": 2,
            "unverified": 0,
            "earlier": 1,
            "bytes_used": 600,
            "capacity": 100_000,
            "biggest_record": 300,
            "mean_record": 200.0,
        },
    }


def test_in_use(run: Run, path: str) -> None:
    cache = RingCache(100_000, home=CacheHome(path))
    try:
        cache.store(bytes(7) + b"3", TID, None, b"not saved yet")
        status, text, _ = run(path)
        assert status == 0
        assert value(text, "in use") == f"by process {os.getpid()}"
        assert value(text, "records") == "2 current, 1 earlier"
        (told,) = json.loads(run(path, "--json")[1])
        assert (told["in_use"], told["process"]) == (True, os.getpid())
    finally:
        cache.close()


def test_nothing_is_known(run: Run, tmp_path: Path) -> None:
    path = str(tmp_path / "new.zec")
    cache = RingCache(100_000, home=CacheHome(path))
    try:
        assert value(run(path)[1], "index") == "there is none yet, and nothing in the file"
        cache.store(bytes(8), TID, None, b"data")
        assert value(run(path)[1], "index") == NO_INDEX
        cache.save()
        _, text, _ = run(path)
        assert value(text, "last transaction") == f"{NO_TID.hex()} (none)"
        assert value(text, "database") == "not known: its server did not say"
        (told,) = json.loads(run(path, "--json")[1])
        assert told["index"]["last_transaction"] == {"tid": NO_TID.hex(), "time": None}
        assert told["index"]["database"] is None
        cache.clear()
        cache.save()
        _, text, _ = run(path)
        assert value(text, "records") == "0 current, 0 earlier"
        assert json.loads(run(path, "--json")[1])[0]["index"]["mean_record"] == 0
        Path(path + ".index").write_bytes(b"damaged")
        assert value(run(path)[1], "index").startswith("it is no index of a cache: it is not used")
        (told,) = json.loads(run(path, "--json")[1])
        assert (told["index"], told["problem"]) == (None, "it is no index of a cache")
    finally:
        cache.close()


def test_several_files_of_which_some_cannot_be_read(run: Run, path: str, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    foreign.write_text("something else")
    missing = str(tmp_path / "missing.zec")
    status, text, errors = run(str(foreign), path, missing)
    assert status == USAGE
    assert text.startswith("cache ")
    assert value(text, "cache") == path
    assert errors.splitlines() == [
        f"zeolith: {foreign}: is no client cache of Zeolith's, or one of another version",
        f"zeolith: {missing}: No such file or directory",
    ]
    assert run(path, path)[1].count("\n\ncache ") == 1
    status, text, _ = run("--json", str(foreign), path, missing)
    assert status == USAGE
    first, second, third = json.loads(text)
    assert first["path"] == str(foreign)
    assert "is no client cache" in first["error"]
    assert second["path"] == path
    assert third == {"path": missing, "error": f"{missing}: No such file or directory"}


def test_which_of_its_files_cannot_be_read(run: Run, path: str) -> None:
    os.unlink(path + ".index")
    os.mkdir(path + ".index")
    assert run(path) == (USAGE, "", f"zeolith: {path}.index: it is no regular file\n")


def test_no_file(run: Run) -> None:
    status, _, errors = run()
    assert status == USAGE
    assert "Missing argument" in errors
