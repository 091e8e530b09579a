"""``zeolith cache check``."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest
from ZEO.cache import ClientCache as ZeoCache

from zeolith.cache import CacheHome, RingCache
from zeolith.cache.checking import NO_INDEX
from zeolith.cache.home import HEADER_SIZE
from zeolith.cli.commands.cache_check import MOST
from zeolith.cli.console import Console
from zeolith.cli.main import FAILURE, USAGE, main

Run: TypeAlias = Callable[..., tuple[int, list[str], list[str]]]

TID = bytes(7) + b"\1"
RECORDS = 30


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command; return exit status, output and errors."""

    def run(*arguments: str) -> tuple[int, list[str], list[str]]:
        status = main(["cache", "check", *arguments])
        found = capsys.readouterr()
        return status, found.out.splitlines(), found.err.splitlines()

    return run


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A cache of some current records and an earlier one."""
    path = str(tmp_path / "app-1.zec")
    cache = RingCache(100_000, home=CacheHome(path))
    for n in range(RECORDS):
        cache.store(n.to_bytes(8, "big"), TID, None, bytes(76))
    cache.store(bytes(8), bytes(8), TID, bytes(76))
    cache.close()
    return path


def damage(path: str, records: int = 1) -> None:
    with open(path, "r+b") as file:
        for n in range(records):
            file.seek(HEADER_SIZE + n * 112 + 50)
            file.write(b"damaged")


def test_a_good_one(run: Run, path: str) -> None:
    before = os.stat(path + ".index").st_mtime_ns
    good = f"{path}: {RECORDS} current and 1 earlier records, 3.1 kB: good"
    assert run(path) == (0, [good], [])
    assert run("--fix", path) == (0, [good], [])
    assert os.stat(path + ".index").st_mtime_ns == before


def test_a_damaged_one(run: Run, path: str) -> None:
    damage(path)
    counted = f"{path}: {RECORDS} current and 1 earlier records, 3.1 kB: 1 DAMAGED"
    said = (
        f"zeolith: {path}: the current revision of object 0000000000000000, at byte {HEADER_SIZE}: "
        "another record was written there, or it was damaged"
    )
    assert run(path) == (FAILURE, [counted], [said])
    assert run("--fix", path) == (FAILURE, [counted + ", fixed"], [said])
    good = f"{path}: {RECORDS - 1} current and 1 earlier records, 3.0 kB: good"
    assert run(path) == (0, [good], [])


def test_an_earlier_one(run: Run, path: str) -> None:
    with open(path, "r+b") as file:
        file.seek(HEADER_SIZE + RECORDS * 112)
        file.write(b"damaged")
    _, _, (said,) = run(path)
    assert said.startswith(f"zeolith: {path}: an earlier revision of object 0000000000000000, at ")


def test_only_some_are_listed_unless_all_are_asked_for(run: Run, path: str) -> None:
    damage(path, RECORDS)
    status, (counted,), said = run(path)
    assert status == FAILURE
    assert counted.endswith(f": {RECORDS} DAMAGED")
    assert len(said) == MOST + 1
    assert said[-1] == f"zeolith: {path}: and {RECORDS - MOST} more; -v lists all"
    status, _, said = run("-v", path)
    assert status == FAILURE
    assert len([line for line in said if "the current revision of" in line]) == RECORDS
    assert "more" not in said[-1]


def test_an_index_that_cannot_be_used(run: Run, path: str) -> None:
    Path(path + ".index").write_bytes(b"nothing")
    problem = f"zeolith: {path}: it is no index of a cache"
    assert run(path) == (FAILURE, [f"{path}: NOT USABLE"], [problem])
    assert run("--fix", path) == (FAILURE, [f"{path}: EMPTIED"], [problem])
    assert run(path) == (0, [f"{path}: empty"], [])


def test_no_index(run: Run, path: str) -> None:
    os.unlink(path + ".index")
    assert run(path) == (FAILURE, [f"{path}: NOT USABLE"], [f"zeolith: {path}: {NO_INDEX}"])


def test_one_in_use(run: Run, path: str) -> None:
    cache = RingCache(100_000, home=CacheHome(path))
    try:
        for option in ((), ("--fix",)):
            status, out, (said,) = run(*option, path)
            assert (status, out) == (USAGE, [])
            assert f"{path}: a process uses it (process {os.getpid()})" in said
            assert "stop it first; info works on a cache in use" in said
    finally:
        cache.close()


def test_what_cannot_be_read(run: Run, path: str, tmp_path: Path) -> None:
    zeo = str(tmp_path / "zeo.zec")
    ZeoCache(zeo, 100_000).close()
    missing = str(tmp_path / "missing.zec")
    damage(path)
    for order in ((zeo, path, missing), (path, missing, zeo)):
        status, (counted,), said = run("--fix", *order) if order[0] == zeo else run(*order)
        assert status == USAGE
        assert counted.startswith(path)
        assert any(f"{zeo}: is a cache of ZEO, which cannot be read here" in line for line in said)
        assert f"zeolith: {missing}: No such file or directory" in said
    assert os.path.exists(zeo)
    assert not os.path.exists(missing)


def test_what_cannot_be_written(run: Run, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    damage(path)

    def refuse(*args: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.replace", refuse)
    status, out, said = run("--fix", path)
    assert (status, out) == (USAGE, [])
    assert said == [f"zeolith: {path}: Permission denied"]


def test_progress(run: Run, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way there is shown as by other commands that take long."""
    told: list[object] = []
    progress = Console.progress

    def record(console: Console, label: str, total: int) -> object:
        told.append((label, total))
        return progress(console, label, total)

    monkeypatch.setattr(Console, "progress", record)
    monkeypatch.setattr("zeolith.cli.console.LINE_INTERVAL", 0)
    _, _, said = run(path)
    assert told == [(path, 31 * 100)]
    assert said[-1] == f"{path}: 100 % of 3100 bytes"


def test_no_file(run: Run) -> None:
    status, _, errors = run("--fix")
    assert status == USAGE
    assert any("Missing argument" in line for line in errors)
