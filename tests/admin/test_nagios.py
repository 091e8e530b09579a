"""``zeolith nagios`` beside ZEO's own ``zeo-nagios``, on the same servers."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import ZEO.nagios
from tests.support.hosts import Hosts
from tests.support.processes import free_port, running_server
from tests.support.raw import RawClient, oid_of
from ZODB.MappingStorage import MappingStorage

from zeolith.admin import nagios
from zeolith.admin.asking import Target
from zeolith.admin.status import Status
from zeolith.cli.main import main
from zeolith.config.address import format_address

_numbers = count(1)
_STORAGE = "<mappingstorage>\n</mappingstorage>"


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    found = Hosts()
    yield found
    found.close()


@pytest.fixture(params=["zeolith", "zeo"])
def start(request: pytest.FixtureRequest, hosts: Hosts) -> Iterator[Any]:
    """Start a server of either kind with storages of these names; return its address."""
    with ExitStack() as stack:

        def start(*names: str, **options: Any) -> Any:
            server = hosts.start(request.param, dict.fromkeys(names, _STORAGE), **options)
            stack.callback(server.stop)
            return server.address

        yield start


@pytest.fixture
def ours(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run our command; return exit status and output."""

    def run(*arguments: str) -> tuple[int, str]:
        status = main(["nagios", *arguments])
        found = capsys.readouterr()
        return status, found.out + found.err

    return run


@pytest.fixture
def theirs(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run ZEO's command; return exit status and output."""

    def run(*arguments: str) -> tuple[int, str]:
        status = ZEO.nagios.main(list(arguments))
        found = capsys.readouterr()
        return status or 0, found.out + found.err

    return run


def commit(address: Any, storage: str = "1", times: int = 1) -> None:
    with RawClient(address, storage) as client:
        for _ in range(times):
            client.commit({oid_of(next(_numbers)): (bytes(8), b"x")})


def grow_old(path: Path, seconds: float) -> None:
    """Have the last check been so long ago."""
    when = time.time() - seconds
    os.utime(path, (when, when))


def rates(text: str) -> dict[str, float]:
    """Return the metrics in the output."""
    found = re.findall(r"([\w: ']+)=(\S+)", text)
    return {name.strip("' "): float(number) for name, number in found}


@pytest.mark.parametrize("options", [(), ("-m",)], ids=["check", "metrics"])
@pytest.mark.parametrize("names", [("1",), ("1", "two"), ("other", "with blank")], ids=str)
def test_levels(
    start: Any, ours: Any, theirs: Any, names: tuple[str, ...], options: tuple[str, ...]
) -> None:
    address = start(*names)
    text = format_address(address)
    for name in names:
        assert ours(*options, text) == theirs(*options, text)
        commit(address, name)
    status, output = ours(*options, text)
    assert (status, output) == theirs(*options, text)
    assert status == 0
    assert output.startswith("OK")
    with RawClient(address, names[0]) as client:
        client.begin()
        client.ping()
        assert ours(*options, text) == theirs(*options, text)


def test_an_empty_storage_is_a_warning(start: Any, ours: Any, theirs: Any) -> None:
    text = format_address(start("1", "two"))
    assert ours("-m", text) == theirs("-m", text)
    assert ours(text) == (1, "Empty storage '1'\nEmpty storage 'two'\n")


def test_rates(start: Any, ours: Any, theirs: Any, tmp_path: Path) -> None:
    address = start("1", "two")
    commit(address)
    commit(address, "two")
    text = format_address(address)
    paths = {ours: tmp_path / "ours", theirs: tmp_path / "theirs"}
    for run, path in paths.items():
        status, output = run("-m", "-s", str(path), text)
        assert status == 0
        assert "commits" not in output
        grow_old(path, 3600)
    assert json.loads(paths[ours].read_text())["two"]["commits"] == 1
    commit(address, times=30)
    for unit, expected in (("minutes", 0.5), ("hours", 30.0), ("seconds", 30 / 3600)):
        found = {}
        for run, path in paths.items():
            before = path.read_bytes()
            _, output = run("-m", "-s", str(path), "-u", unit, text)
            found[run] = rates(output)
            path.write_bytes(before)
            grow_old(path, 3600)
        assert found[ours].keys() == found[theirs].keys()
        assert list(found[ours]) == list(found[theirs])
        assert found[ours] == pytest.approx(found[theirs], rel=0.01)
        assert found[ours]["commits"] == pytest.approx(expected, rel=0.01)
        assert found[ours]["two:commits"] == 0


def test_each_reads_what_the_other_has_kept(
    start: Any, ours: Any, theirs: Any, tmp_path: Path
) -> None:
    address, path = start("1"), tmp_path / "status"
    text = format_address(address)
    for run in (ours, theirs, ours):
        run("-m", "-s", str(path), text)
        grow_old(path, 60)
        commit(address, times=6)
        other = theirs if run is ours else ours
        _, output = other("-m", "-s", str(path), text)
        assert rates(output)["commits"] == pytest.approx(6, rel=0.05)


def test_nobody_listens(ours: Any, theirs: Any) -> None:
    address = f"127.0.0.1:{free_port()}"
    status, output = ours(address)
    assert (status, output) == theirs(address)
    assert status == 2
    assert output.startswith("Can't connect ")


def test_a_unix_socket(hosts: Hosts, ours: Any, theirs: Any, tmp_path: Path) -> None:
    server = hosts.start("zeolith", {"1": _STORAGE}, address=str(tmp_path / "zeo.sock"))
    try:
        assert ours("-m", str(server.address)) == theirs("-m", str(server.address))
        os.chdir(tmp_path)
        assert ours("zeo.sock") == theirs("zeo.sock") == (1, "Empty storage '1'\n")
    finally:
        server.stop()


def test_ipv6(ours: Any, theirs: Any) -> None:
    with running_server(MappingStorage(), address=("::1", 0)) as server:
        text = format_address(server.address)
        assert text.startswith("[::1]:")
        assert ours("-m", text) == theirs("-m", text)


# -- what zeo-nagios does not have ---------------------------------------------------------------


def test_limits(ours: Any, tmp_path: Path) -> None:
    with running_server(MappingStorage()) as server:
        text = format_address(server.address)
        commit(server.address)
        with RawClient(server.address), RawClient(server.address):
            assert ours("-w", "connections=2", text) == (0, "OK\n")
            assert ours("-w", "connections=1", text) == (1, "connections is 2, more than 1\n")
            expected = (
                "connections is 2, more than 1|active_txns=0\n| connections=2;0;1\n waiting=0\n"
            )
            limits = ("-w", "connections=0", "-k", "connections=1", "-m")
            assert ours(*limits, text) == (2, expected)
        path = tmp_path / "status"
        limit = ("-s", str(path), "-k", "commits=5", text)
        assert ours(*limit)[0] == 0
        grow_old(path, 60)
        commit(server.address, times=9)
        status, output = ours(*limit)
        assert status == 2
        assert output.startswith("commits is ")


def test_a_storage_out_of_service_is_critical(ours: Any) -> None:
    with running_server({"1": MappingStorage(), "two": MappingStorage()}) as server:
        commit(server.address)
        server._services["two"].outage = "storage 'two' is out of service"
        status, output = ours(format_address(server.address))
        assert status == 2
        assert output.startswith("storage 'two' is out of service\n")


@pytest.mark.parametrize(
    ("left", "trouble", "status", "first"),
    [
        (31 * 86400.0, "", 0, "OK"),
        (2 * 86400.0, "", 1, "The server's certificate ends in 2.0 days"),
        (-1.0, "", 2, "The server's certificate has expired"),
        (86400.0 * 90, "no key", 1, "The certificate is not renewed: no key"),
    ],
    ids=["far", "soon", "expired", "stuck"],
)
def test_the_end_of_a_certificate_is_seen(
    monkeypatch: pytest.MonkeyPatch, left: float, trouble: str, status: int, first: str
) -> None:
    """Who still gets an answer of a server whose certificate has ended does not look at dates."""
    server = {"certificate": {"expires": 1000.0 + left, "trouble": trouble}, "now": 1000.0}
    counters = dict.fromkeys(nagios.LEVELS, 0) | {"last-transaction": "01" * 8}
    found = Status(server, {"1": {"counters": counters}}, [])
    monkeypatch.setattr(nagios, "fetch_status", lambda _target, connections: found)
    result = nagios.check(Target(("127.0.0.1", 1)), nagios.Plan())
    assert (result.status, result.text) == (status, first)


def test_a_server_that_started_anew_has_no_rates(ours: Any, tmp_path: Path) -> None:
    path = tmp_path / "status"
    with running_server(MappingStorage()) as server:
        text = format_address(server.address)
        commit(server.address)
        ours("-m", "-s", str(path), text)
        kept = json.loads(path.read_text())
        kept["1"].update(start="Mon Jan  1 00:00:00 2001", commits=1000)
        path.write_text(json.dumps(kept))
        grow_old(path, 60)
        assert "commits" not in ours("-m", "-s", str(path), text)[1]
        grow_old(path, 60)
        assert rates(ours("-m", "-s", str(path), text)[1])["commits"] == 0


@pytest.mark.parametrize(
    "kept", [b"", b"{", b"[]", b'{"1": 5}', b'{"1": {}}', b"\xff", b"[" * 100_000]
)
def test_a_damaged_status_file_is_written_anew(ours: Any, tmp_path: Path, kept: bytes) -> None:
    path = tmp_path / "status"
    path.write_bytes(kept)
    grow_old(path, 60)
    with running_server(MappingStorage()) as server:
        status, output = ours("-m", "-s", str(path), format_address(server.address))
    assert status == 1  # it is empty
    assert "commits" not in output
    assert json.loads(path.read_text())["1"]["commits"] == 0
    assert [entry.name for entry in tmp_path.iterdir()] == ["status"]


def test_a_status_file_that_cannot_be_written(ours: Any, tmp_path: Path) -> None:
    with running_server(MappingStorage()) as server:
        status, output = ours("-m", "-s", str(tmp_path), format_address(server.address))
        assert status == 2
        assert "--status-path" in output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense:x"],
        ["-u", "weeks", "8100"],
        ["-s", "file", "8100"],
        ["-w", "connections", "8100"],
        ["-w", "unknown=5", "8100"],
        ["-k", "commits=5", "8100"],
    ],
    ids=" ".join,
)
def test_wrong_usage(ours: Any, arguments: list[str]) -> None:
    status, output = ours(*arguments)
    assert status == 2
    assert "Traceback" not in output
