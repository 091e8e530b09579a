"""``zeolith kick`` as a command; what it does to a server is tested there."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest
from tests.support.hosts import Hosts
from tests.support.processes import free_port, running_server
from tests.support.raw import RawClient
from ZODB.MappingStorage import MappingStorage

from zeolith.cli.main import main
from zeolith.config.address import format_address
from zeolith.protocol.messages import SetClientLabel


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run the command; return exit status, output and errors."""

    def run(*arguments: str) -> tuple[int, str, str]:
        status = main(["kick", *arguments])
        found = capsys.readouterr()
        return status, found.out, found.err

    return run


@pytest.fixture
def clients() -> Any:
    """A server's address, and three clients of it: two called ``app``."""
    with ExitStack() as stack:
        server = stack.enter_context(running_server(MappingStorage()))
        found = []
        for label in ("app", "app", "other one"):
            client = stack.enter_context(RawClient(server.address))
            client.call(SetClientLabel(label))
            found.append(client)
        yield format_address(server.address), *found


def test_one_client(run: Any, clients: Any) -> None:
    address, first, second, other = clients
    status, text, errors = run(address, "app")
    assert (status, errors) == (0, "")
    lines = text.splitlines()
    assert lines[0].split()[:3] == ["number", "label", "address"]
    assert [line.split()[:2] for line in lines[1:3]] == [["1", "app"], ["2", "app"]]
    assert lines[3:] == ["2 connections ended"]
    first.wait_closed()
    second.wait_closed()
    other.ping()
    status, text, _ = run(address, "other one")
    assert text.splitlines()[-1] == "1 connection ended"
    other.wait_closed()


def test_dry_run(run: Any, clients: Any) -> None:
    address, first, *_ = clients
    status, text, _ = run("-n", address, "--all")
    assert status == 0
    assert text.splitlines()[-1] == "3 connections would be ended"
    first.ping()


def test_all(run: Any, clients: Any) -> None:
    address, *found = clients
    assert run(address, "--all", "--storage", "1")[0] == 0
    for client in found:
        client.wait_closed()
    status, text, errors = run(address, "--all")
    assert (status, text) == (1, "")
    assert "no client is connected" in errors


def test_nobody_of_that_name(run: Any, clients: Any) -> None:
    status, text, errors = run(clients[0], "nobody")
    assert (status, text) == (1, "")
    assert "no client 'nobody'" in errors


def test_a_refusal(run: Any, clients: Any) -> None:
    status, text, errors = run(clients[0], "--all", "--storage", "three")
    assert (status, text) == (1, "")
    assert "no storage 'three'" in errors


def test_a_name_too_long_to_be_asked_for(run: Any, clients: Any) -> None:
    status, text, errors = run(clients[0], "x" * 5000)
    assert (status, text) == (1, "")
    assert "too long" in errors


def test_a_server_of_zeo(run: Any) -> None:
    hosts = Hosts()
    try:
        server = hosts.start("zeo", {"1": "<mappingstorage>\n</mappingstorage>"})
        status, _, errors = run(format_address(server.address), "--all")
    finally:
        hosts.close()
    assert status == 1
    assert "is no Zeolith server" in errors


def test_nobody_listens(run: Any) -> None:
    status, _, errors = run(str(free_port()), "--all")
    assert status == 1
    assert "cannot connect" in errors


@pytest.mark.parametrize(
    "arguments",
    [[], ["8100"], ["8100", "x", "--all"], ["x", "y"]],
    ids=" ".join,
)
def test_wrong_usage(run: Any, arguments: list[str]) -> None:
    status, text, errors = run(*arguments)
    assert (status, text) == (2, "")
    assert "Traceback" not in errors
