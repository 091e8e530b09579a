"""``zeolith blob get`` and ``zeolith blob put``."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import trustme
from tests.support.blobsites import store_blob
from tests.support.hosts import Hosts
from tests.support.processes import child_environment, running_server
from tests.support.proxy import DOWN, Action, Passing, Proxy
from tests.support.raw import oid_of
from tests.support.tlscontexts import server_context
from tests.support.waiting import wait_until
from ZODB.FileStorage import FileStorage

from zeolith.admin.blobtransfer import parse_oid
from zeolith.cli.blobdisplay import BlobDisplay
from zeolith.cli.main import FAILURE, USAGE, main
from zeolith.config.address import format_address
from zeolith.errors import ConfigurationError

DATA = bytes(range(256)) * 4000


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as found:
        yield found


@pytest.fixture
def files(tmp_path: Path) -> FileStorage:
    return FileStorage(str(tmp_path / "Data.fs"), blob_dir=str(tmp_path / "blobs"))


@pytest.fixture
def server(files: FileStorage, stack: ExitStack) -> Any:
    return stack.enter_context(running_server(files))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command; return exit status, output and errors."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        status = main(["blob", *map(str, arguments)])
        found = capsys.readouterr()
        return status, found.out, found.err

    return run


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.bin"
    path.write_bytes(DATA)
    path.chmod(0o640)
    return path


def oid_in(output: str) -> str:
    return output.partition(":")[0]


def test_there_and_back(run: Any, server: Any, source: Path, tmp_path: Path) -> None:
    address = format_address(server.address)
    status, output, errors = run("put", address, source, "--root-key", "report")
    assert (status, errors) == (0, "")
    oid = oid_in(output)
    assert output.startswith("0x")
    target = tmp_path / "target.bin"
    status, output, errors = run("get", address, oid, target)
    assert (status, errors) == (0, "")
    assert output.startswith(f"{target}: 1.0 MB, transaction 0x")
    assert target.read_bytes() == DATA
    # The files are like any that the user makes, and nothing else is left.
    assert target.stat().st_mode & 0o200
    assert source.read_bytes() == DATA
    assert source.stat().st_mode & 0o777 == 0o640
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".zeo")] == []


def test_a_new_revision_beside_the_old_one(
    run: Any, files: FileStorage, tmp_path: Path, source: Path, stack: ExitStack
) -> None:
    tid = store_blob(files, tmp_path, 1, b"old")
    # The record of a blob: its class, and no state.
    address = format_address(stack.enter_context(running_server(files)).address)
    status, _, errors = run("put", address, source, "--oid", "0x1")
    assert (status, errors) == (FAILURE, "zeolith: object 0x0000000000000001 is no blob\n")
    status, output, _ = run("put", address, source, "--root-key", "k")
    first = output.split()[-1]
    source.write_bytes(b"new")
    status, output, _ = run("put", address, source, "--oid", oid_in(output), "--note", "why")
    assert status == 0
    oid, target = oid_in(output), tmp_path / "target"
    assert run("get", address, oid, target)[0] == 0
    assert target.read_bytes() == b"new"
    assert run("get", address, oid, target, "--serial", first, "--force")[0] == 0
    assert target.read_bytes() == DATA
    assert run("get", address, "1", target, "--serial", tid.hex(), "--force")[0] == 0
    assert target.read_bytes() == b"old"
    assert [entry["description"] for entry in files.undoLog(0, 2)] == [
        b"why", b"zeolith blob put source.bin"
    ]  # fmt: skip


def test_what_is_not_there(run: Any, server: Any, source: Path, tmp_path: Path) -> None:
    address, target = format_address(server.address), tmp_path / "target"
    status, _, errors = run("get", address, "0x77", target)
    assert (status, errors) == (FAILURE, "zeolith: there is no object 0x0000000000000077 here\n")
    status, _, errors = run("get", address, "0x77", target, "--serial", "0x" + "0" * 16)
    assert status == FAILURE
    assert errors == (
        "zeolith: object 0x0000000000000077 has no revision 0x0000000000000000 with a blob\n"
    )
    assert not target.exists()
    status, _, errors = run("put", address, source, "--oid", "0x77")
    assert (status, errors) == (FAILURE, "zeolith: there is no object 0x0000000000000077 here\n")
    assert run("put", address, source, "--root-key", "a")[0] == 0
    status, _, errors = run("get", address, "0", target)
    assert (status, errors) == (FAILURE, "zeolith: object 0x0000000000000000 is no blob\n")
    status, _, errors = run("put", address, source, "--root-key", "a")
    assert status == FAILURE
    assert "the root object has a key 'a' already" in errors


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["get", "1"], "give [ADDRESS] OID FILE"),
        (["get", "8100", "no-number", "new"], "'no-number' is no object id"),
        (["get", "8100", "1", "source.bin"], "source.bin exists; --force replaces it"),
        (["get", "8100", "1", "new", "--serial", "now"], "is no transaction id"),
        (["put", "8100", "source.bin"], "either --oid or --root-key"),
        (
            ["put", "8100", "source.bin", "--oid", "1", "--root-key", "a"],
            "either --oid or --root-key",
        ),
        (["put", "8100", "missing", "--oid", "1"], "missing is no file"),
        (["put", "--oid", "1"], "give [ADDRESS] FILE"),
    ],
)
def test_wrong_usage(
    run: Any, source: Path, arguments: list[str], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(source.parent)
    status, _, errors = run(*arguments)
    assert status == USAGE
    assert problem in errors


def test_no_server(run: Any, source: Path, tmp_path: Path) -> None:
    with running_server(FileStorage(str(tmp_path / "other.fs"))) as server:
        address = format_address(server.address)
        status, _, errors = run("put", address, source, "--root-key", "a")
        assert status == FAILURE
        assert "is not supported" in errors
    status, _, errors = run("get", address, "1", tmp_path / "x", "--timeout", "0.2")
    assert status == FAILURE
    assert errors.startswith("zeolith: ")
    assert "Traceback" not in errors


def test_of_a_zeo_server(run: Any, source: Path, tmp_path: Path) -> None:
    hosts = Hosts()
    try:
        config = (
            f"<filestorage>\npath {tmp_path}/Data.fs\nblob-dir {tmp_path}/blobs\n</filestorage>"
        )
        address = format_address(hosts.start("zeo", {"1": config}).address)
        status, output, _ = run("put", address, source, "--root-key", "a")
        assert status == 0
        assert run("get", address, oid_in(output), tmp_path / "target")[0] == 0
    finally:
        hosts.close()
    assert (tmp_path / "target").read_bytes() == DATA


def test_with_tls(run: Any, files: FileStorage, source: Path, stack: ExitStack) -> None:
    authority = trustme.CA()
    path = str(source.parent / "server.pem")
    authority.issue_cert("localhost", "127.0.0.1").private_key_and_cert_chain_pem.write_to_path(
        path
    )
    trusted = str(source.parent / "authority.pem")
    authority.cert_pem.write_to_path(trusted)
    context = server_context(path, None, client_certificates="none")
    server = stack.enter_context(running_server(files, ssl=context))
    address = format_address(server.address)
    assert run("put", address, source, "--root-key", "a", "--authenticate", trusted)[0] == 0
    assert run("put", address, source, "--root-key", "b", "--timeout", "0.5")[0] == FAILURE


def test_object_ids() -> None:
    assert parse_oid("0x1F") == oid_of(31)
    assert parse_oid("000000000000001f") == oid_of(31)
    for text in ("", "0x", "-1", "1_0", "0x1" + "0" * 16, "ü"):
        with pytest.raises(ConfigurationError, match="is no object id"):
            parse_oid(text)


def test_the_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with BlobDisplay("0x1") as display:
        display.progress(0, None)
        display.progress(500, 1000)
        display.progress(200, 1000)  # after a break
        display.progress(1000, 1000)
    assert "100%" in capsys.readouterr().err


def test_progress_and_interruption(
    files: FileStorage, tmp_path: Path, source: Path, stack: ExitStack
) -> None:
    """Ctrl-C in the middle ends it, and leaves nothing behind."""
    tid = store_blob(files, tmp_path, 1, bytes(8_000_000))
    server = stack.enter_context(running_server(files))
    proxy = stack.enter_context(Proxy(server.address))
    sent = 0

    def rule(passing: Passing) -> Action:
        nonlocal sent
        sent += passing.size if passing.direction is DOWN else 0
        return Action.PASS if sent < 1_000_000 else Action.SWALLOW

    proxy.rule = rule
    target = tmp_path / "target"
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "zeolith", "blob", "get", format_address(proxy.address)),
            *("1", str(target), "--serial", tid.hex()),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=child_environment(),
    )
    stack.callback(process.kill)

    def is_on_its_way() -> bool:
        return any(path.stat().st_size for path in tmp_path.glob(".zeolith-blob-*/*/*.dl"))

    wait_until(is_on_its_way, "some of the blob is there")
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=20)
    assert (process.returncode, output, errors) == (FAILURE, "", "zeolith: interrupted\n")
    assert not target.exists()
    assert list(tmp_path.glob(".zeolith-blob-*")) == []
