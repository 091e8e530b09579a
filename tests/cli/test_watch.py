"""``zeolith watch``: what it prints, and how it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
import pytest
import trustme
from tests.client.scripted import ScriptedServer
from tests.support.hosts import Hosts
from tests.support.processes import child_environment, free_port, running_server
from tests.support.proxy import Proxy
from tests.support.raw import RawClient, oid_of
from tests.support.tlscontexts import server_context
from tests.support.waiting import DEADLINE, wait_until
from ZODB.MappingStorage import MappingStorage

from zeolith.cli.commands.watch import parse_since, render_json, render_text, time_of
from zeolith.cli.main import main
from zeolith.client.changes import Change
from zeolith.config.address import format_address

TID = bytes.fromhex("040d28e78d531622")
TIME = "2026-11-21T07:03:33.122943Z"
DOCUMENT = Path(__file__).parents[2] / "docs" / "changes.md"


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as found:
        yield found


@pytest.fixture
def server(stack: ExitStack) -> Any:
    return stack.enter_context(running_server({"1": MappingStorage(), "two": MappingStorage()}))


class Watching:
    """The command in a process of its own."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "zeolith", "watch", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=child_environment(),
        )
        assert self.process.stdout is not None
        self.lines = self.process.stdout

    def end(self, number: int = signal.SIGINT) -> tuple[int, str]:
        """Send a signal; return exit status and errors."""
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=DEADLINE)
        return self.process.returncode, errors

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def watch(stack: ExitStack) -> Callable[..., Watching]:
    def start(*arguments: str) -> Watching:
        found = Watching(*arguments)
        stack.callback(found.close)
        return found

    return start


def commit(address: Any, *numbers: int, storage: str = "1") -> bytes:
    with RawClient(address, storage) as client:
        return client.commit({oid_of(number): (bytes(8), b"x") for number in numbers})


def wait_watched(server: Any) -> None:
    """Wait until the command has told the server its name, which is for the server's log."""
    publisher = server._services["1"].publisher
    wait_until(lambda: "zeolith watch" in [found.label for found in publisher.subscribers])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_lines_as_they_come_until_a_signal(server: Any, watch: Any, number: int) -> None:
    first = commit(server.address, 7)
    watching = watch(format_address(server.address), "--since", "start")
    assert watching.lines.readline() == f"{time_of(first)} {first.hex()} 1 object: 0x7\n"
    second = commit(server.address, *range(100, 120))
    words = watching.lines.readline().split()
    assert words[:4] == [time_of(second), second.hex(), "20", "objects:"]
    assert words[4:] == [f"0x{number:x}" for number in range(100, 108)] + ["and", "12", "more"]
    assert watching.end(number) == (0, "")


def test_json(server: Any, watch: Any) -> None:
    first = commit(server.address, 1, storage="two")
    address = format_address(server.address)
    watching = watch(address, "--storage", "two", "--since", first.hex(), "--json")
    second = commit(server.address, *range(50, 70), storage="two")
    assert json.loads(watching.lines.readline()) == {
        "time": time_of(second),
        "tid": second.hex(),
        "oids": [oid_of(number).hex() for number in range(50, 70)],
    }
    assert watching.end() == (0, "")


def test_now(server: Any, watch: Any) -> None:
    commit(server.address, 1)
    watching = watch(format_address(server.address))
    wait_watched(server)
    tid = commit(server.address, 2)
    assert watching.lines.readline().split()[1] == tid.hex()


def test_a_break_is_said_once_and_it_goes_on(server: Any, stack: ExitStack, watch: Any) -> None:
    proxy = stack.enter_context(Proxy(server.address))
    watching = watch(format_address(proxy.address), "--timeout", "0.3")
    wait_watched(server)
    proxy.target = ("127.0.0.1", 1)
    proxy.cut()
    errors = watching.process.stderr
    assert errors is not None
    assert "going on looking for it" in errors.readline()
    tid = commit(server.address, 2)
    proxy.target = server.address
    assert watching.lines.readline().split()[1] == tid.hex()
    assert watching.end() == (0, "")


def test_nobody_reads_any_more(server: Any, watch: Any) -> None:
    watching = watch(format_address(server.address), "--since", "start")
    commit(server.address, 1)
    watching.lines.readline()
    watching.lines.close()
    commit(server.address, 2)
    assert watching.process.wait(DEADLINE) == 0
    assert watching.process.stderr.read() == ""


def test_tls(stack: ExitStack, tmp_path: Path, watch: Any) -> None:
    authority = trustme.CA()
    files = {}
    for name in ("server", "client"):
        files[name] = tmp_path / f"{name}.pem"
        authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(files[name])
    trusted = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(trusted)
    context = server_context(str(files["server"]), str(trusted))
    server = stack.enter_context(running_server(MappingStorage(), ssl=context))
    address = f"localhost:{server.address[1]}"
    watching = watch(address, "--certificate", str(files["client"]), "--authenticate", str(trusted))
    wait_watched(server)
    assert watching.end() == (0, "")


# -- what cannot be watched --------------------------------------------------------------------


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run the command; return exit status, output and errors."""

    def run(*arguments: str) -> tuple[int, str, str]:
        status = main(["watch", *arguments])
        found = capsys.readouterr()
        return status, found.out, found.err

    return run


def test_no_server(run: Any) -> None:
    status, text, errors = run(f"127.0.0.1:{free_port()}", "--timeout", "0.1")
    assert (status, text) == (1, "")
    assert errors.startswith("zeolith: timed out waiting for connection to 127.0.0.1:")


def test_no_such_storage(run: Any, server: Any) -> None:
    status, _, errors = run(format_address(server.address), "--storage", "three")
    assert status == 1
    assert "unknown storage: 'three'; served here: '1', 'two'" in errors


def test_a_transaction_that_is_not_there(run: Any, server: Any) -> None:
    commit(server.address, 1)
    status, _, errors = run(format_address(server.address), "--since", "7f" * 8)
    assert status == 1
    assert "7f7f7f7f7f7f7f7f, which this client has already seen" in errors


def test_a_history_that_is_lost(run: Any, stack: ExitStack) -> None:
    class Forgetful(MappingStorage):
        iterator = property()

    server = stack.enter_context(running_server(Forgetful(), invalidation_queue_size=0))
    commit(server.address, 1)
    status, _, errors = run(format_address(server.address), "--since", "start")
    assert status == 1
    assert "cannot iterate" in errors


def test_an_answer_that_makes_no_sense(run: Any, stack: ExitStack) -> None:
    server = ScriptedServer()
    stack.callback(server.close)
    server.changes = {"changes": 7}
    status, _, errors = run(format_address(server.address), "--since", "start")
    assert status == 1
    assert errors == "zeolith: changes: no page: {'changes': 7}\n"


def test_a_zeo_server(run: Any, stack: ExitStack) -> None:
    hosts = Hosts()
    stack.callback(hosts.close)
    zeo = hosts.start("zeo", {"1": "<mappingstorage>\n</mappingstorage>"})
    status, _, errors = run(format_address(zeo.address))
    assert status == 1
    assert "does not speak Zeolith's own protocol" in errors


@pytest.mark.parametrize(
    "arguments",
    [
        ("--since", "yesterday"),
        ("--since", "7f"),
        ("--since", "zz" * 8),
        ("--since", " 7f" * 8),
        ("--key", "file"),
        ("nowhere",),
        ("1:2", "-C", "file"),
        ("--timeout", "0"),
    ],
)
def test_wrong_usage(run: Any, arguments: tuple[str, ...]) -> None:
    status, text, errors = run(*arguments)
    assert (status, text) == (2, "")
    assert errors


def test_interrupted_where_no_signals_are_taken(
    run: Any, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zeolith.cli.commands import watch as module

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "show", interrupted)
    assert run(format_address(server.address)) == (0, "", "")
    wait_until(lambda: not len(server._services["1"].publisher))


# -- words -------------------------------------------------------------------------------------


def test_since() -> None:
    assert parse_since("now") is None
    assert parse_since("start") == bytes(8)
    assert parse_since("040d28e78d531622") == parse_since("0x040D28E78D531622") == TID
    with pytest.raises(click.UsageError, match="16 hexadecimal digits"):
        parse_since("040d28e78d5316")


def test_rendering() -> None:
    assert time_of(TID) == TIME
    assert render_text(Change(TID, ())) == f"{TIME} 040d28e78d531622 0 objects"
    assert render_text(Change(TID, (oid_of(255),))) == f"{TIME} 040d28e78d531622 1 object: 0xff"
    assert json.loads(render_json(Change(TID, ()))) == {"time": TIME, "tid": TID.hex(), "oids": []}
    # Ids that are no times, as tests and copied databases have them.
    assert time_of(b"\xff" * 8).startswith("9917-10-14")
    assert time_of(bytes(8)).startswith("1900-01-01")


def test_every_option_is_documented() -> None:
    from zeolith.cli.commands.watch import watch as command

    section = DOCUMENT.read_text().partition("\n## zeolith watch\n")[2]
    for parameter in command.params:
        if isinstance(parameter, click.Argument):
            assert f"| `{parameter.human_readable_name}` |" in section
        for option in parameter.opts if isinstance(parameter, click.Option) else ():
            assert f"`{option}`" in section, option


def test_the_document_s_lines_are_real() -> None:
    from zeolith.cli.commands.watch import render_text as render

    text = DOCUMENT.read_text()
    first = Change(TID, (oid_of(7), oid_of(100)))
    assert render(first) in text
