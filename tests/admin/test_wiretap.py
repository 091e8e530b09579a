"""``zeolith wire``: what it shows, what it passes on, and how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import trustme
from tests.support.processes import child_environment, running_server
from tests.support.raw import FakeServer, RawClient, connect, oid_of
from tests.support.waiting import DEADLINE, Background
from ZODB.MappingStorage import MappingStorage

from zeolith.admin import wiretap
from zeolith.cli.main import main
from zeolith.config.address import format_address
from zeolith.protocol.framing import frame
from zeolith.protocol.greeting import Coding
from zeolith.protocol.messages import SetClientLabel
from zeolith.protocol.transcript import MAX_DECODED

Z64 = bytes(8)


class Tap:
    """``zeolith wire`` as a child; its output as it comes."""

    def __init__(self, target: Any, *options: str) -> None:
        where = target if isinstance(target, str) else format_address(target)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "zeolith", "wire", where, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=child_environment(),
        )
        self.lines: list[str] = []
        self.first = self.read()
        found = re.search(r'^(?:\{"listening": ")?([^" ]+)', self.first)
        assert found is not None, self.first
        host, _, port = found[1].rpartition(":")
        self.address: Any = found[1] if "/" in found[1] else (host, int(port))

    def read(self) -> str:
        assert self.process.stdout is not None
        line: str = self.process.stdout.readline()
        return line.rstrip("\n")

    def read_until(self, pattern: str) -> str:
        """Read lines until one matches; return it."""
        while line := self.read():
            self.lines.append(line)
            if re.search(pattern, line):
                return line
        raise AssertionError(f"no line with {pattern!r} among {self.lines}")

    def interrupt(self) -> list[str]:
        """Send Ctrl-C; return what is printed from then on."""
        self.process.send_signal(signal.SIGINT)
        return self.rest()

    def rest(self) -> list[str]:
        """Wait for the end, which is a clean one; return what has not been read."""
        out, errors = self.process.communicate(timeout=DEADLINE)
        assert (self.process.returncode, errors) == (0, "")
        return out.splitlines()

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as found:
        yield found


@pytest.fixture
def tap(stack: ExitStack) -> Callable[..., Tap]:
    def start(target: Any, *options: str) -> Tap:
        found = Tap(target, *options)
        stack.callback(found.close)
        return found

    return start


@pytest.fixture
def server(stack: ExitStack) -> Any:
    return stack.enter_context(running_server(MappingStorage()))


TIME = r"\d\d:\d\d:\d\d\.\d{6}"


@pytest.mark.parametrize("coding", Coding)
def test_a_session_is_shown(tap: Any, server: Any, coding: Coding) -> None:
    found = tap(server.address)
    with RawClient(found.address, coding=coding) as client:
        tid = client.commit({oid_of(42): (Z64, b"precious")})
        assert client.load(oid_of(42)) == (b"precious", tid, None)
    found.read_until("-- closed")
    shown = int.from_bytes(tid, "big")
    for line in found.lines:
        assert re.match(rf"{TIME}   1 (--|->|<-) ", line), line
    texts = iter([line.partition("  1 ")[2] for line in found.lines])
    for pattern in (
        r"-- connected",
        r"<- greeting Z5, a Zeolith server; versions of its own protocol: 1 \[16\]",
        r"-> hello (Z5|M5|Zeolith's own protocol \(version=1, .*\)) \[\d+\]",
        r"-> call 1 register\(storage='1', read_only=False\) \[\d+\]",
        r"-> notice storea\(oid=0x2a, serial=0x0, data=8 bytes, txn=1\) \[\d+\]",
        rf"<- reply \d+ tpc_finish: {shown:#x}(, length=\d+, size=\d+)? \[\d+\]",
        r"-> call loadBefore\(oid=0x2a, tid=0x7fffffffffffffff\) \[\d+\]",
        rf"<- reply Loaded\(oid=0x2a, tid={shown:#x}, 8 bytes\) \[\d+\]",
    ):
        assert any(re.fullmatch(pattern, text.strip()) for text in texts), (pattern, found.lines)
    summary = found.interrupt()
    assert summary[0].split("  ")[0] == "method"
    rows = {row.split()[0]: row.split()[1:] for row in summary[1:]}
    assert rows["storea"][0] == "1"
    assert rows["loadBefore"][::2] == ["1", "1"]
    assert rows["loadBefore"][1] == str(21 if coding is Coding.OWN else rows["loadBefore"][1])


def test_data_are_shown_on_request(tap: Any, server: Any) -> None:
    found = tap(server.address, "--data")
    with RawClient(found.address) as client:
        client.commit({oid_of(42): (Z64, b"precious")})
    assert "data=b'precious'" in found.read_until("storea")


def test_json(tap: Any, server: Any) -> None:
    found = tap(server.address, "--json", "--max", "3")
    assert json.loads(found.first)["server"] == format_address(server.address)
    with connect(found.address) as sock:
        sock.sendall(frame(b"M5") + b"\0\0\0\1\x90")
        *lines, summary = found.rest()
    items = [json.loads(line) for line in lines]
    assert items[0]["remark"] == "connected"
    by_client = [item for item in items if item.get("from") == "client"]
    assert [(item["kind"], item["size"]) for item in by_client] == [("hello", 6), ("violation", 5)]
    assert by_client[0]["connection"] == 1
    assert by_client[1]["text"].startswith("violation by the client: ")
    assert by_client[0]["time"] <= by_client[1]["time"]
    assert json.loads(summary)["summary"]["greeting"]["answers"] == 1


def test_everything_is_passed_on_unchanged(tap: Any, stack: ExitStack) -> None:
    """What breaks the protocol, too, and what is too long to be shown; both ways, to the end."""
    fake = stack.enter_context(FakeServer())
    found = tap(fake.address)
    up, down = os.urandom(3 * MAX_DECODED), os.urandom(2 * MAX_DECODED)
    up, down = frame(b"M5") + up, b"\xff" + down

    def serve() -> bytes:
        connection = fake.accept().socket
        connection.settimeout(DEADLINE)
        sender = threading.Thread(target=connection.sendall, args=(down,))
        sender.start()
        received = read_to_end(connection)
        sender.join()
        connection.shutdown(socket.SHUT_WR)
        return received

    serving = Background(serve)
    with connect(found.address) as sock:
        sock.settimeout(DEADLINE)
        receiving = Background(lambda: read_to_end(sock))
        sock.sendall(up)
        sock.shutdown(socket.SHUT_WR)
        assert serving.result() == up
        assert receiving.result() == down
    line = found.read_until("not decoded")
    assert f"; {len(down) - 4} bytes of the server not decoded" in line
    found.interrupt()


def read_to_end(sock: socket.socket) -> bytes:
    parts = []
    while part := sock.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)


def test_tls_is_recognised(tap: Any, stack: ExitStack) -> None:
    fake = stack.enter_context(FakeServer())
    found = tap(fake.address)
    hello = bytes.fromhex("16030100c8010000c40303") + bytes(190)
    with connect(found.address) as sock:
        sock.sendall(hello)
        assert fake.accept().socket.recv(4_000)
        assert found.read_until("TLS").endswith(
            "-> TLS: encrypted from here on, nothing can be shown [4]"
        )


def test_tls_is_passed_on(tap: Any, stack: ExitStack) -> None:
    authority = trustme.CA()
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(theirs)
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(ours)
    server = stack.enter_context(running_server(MappingStorage(), ssl=theirs))
    found = tap(server.address)
    with RawClient(found.address, tls=ours) as client:
        client.commit({oid_of(42): (Z64, b"precious")})
    line = found.read_until("1 -- (closed|broken)")
    assert re.search(
        r"\d{3,} bytes of the client not decoded; \d{3,} bytes of the server not", line
    )
    assert not [line for line in found.lines if "storea" in line]


def test_a_unix_socket_on_either_side(tap: Any, tmp_path: Path, stack: ExitStack) -> None:
    there, here = str(tmp_path / "there"), str(tmp_path / "here")
    stack.enter_context(running_server(MappingStorage(), address=there))
    found = tap(there, "--listen", here)
    assert found.first.startswith(f"{here} passes on to {there};")
    with RawClient(here) as client:
        client.ping()
    found.interrupt()
    assert not os.path.lexists(here)


def test_a_server_that_is_not_there(tap: Any, tmp_path: Path) -> None:
    found = tap(str(tmp_path / "nobody"))
    with connect(found.address) as sock:
        assert sock.recv(1) == b""
    assert re.search(r"1 -- refused: cannot connect to .*nobody: ", found.read_until("refused"))
    found.interrupt()


def test_a_connection_that_is_broken_ends_alone(tap: Any, server: Any) -> None:
    found = tap(server.address)
    with RawClient(found.address) as other:
        client = RawClient(found.address)
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
        found.read_until("2 -- (broken|closed)")
        other.ping()
    found.read_until("1 -- closed")


def test_who_reads_no_more_ends_it(tap: Any, server: Any) -> None:
    """As in ``zeolith wire ... | head``."""
    found = tap(server.address)
    assert found.process.stdout is not None
    found.process.stdout.close()
    with connect(found.address) as sock:
        sock.settimeout(DEADLINE)
        read_to_end(sock)
    assert found.process.stderr is not None
    assert found.process.stderr.read() == ""
    assert found.process.wait(DEADLINE) == 0


def test_who_does_not_read_stops_who_sends(tap: Any, stack: ExitStack) -> None:
    """Nothing piles up in between."""
    fake = stack.enter_context(FakeServer())
    found = tap(fake.address)
    with connect(found.address) as sock:
        fake.accept()
        sock.settimeout(1)
        with pytest.raises(TimeoutError):
            sock.sendall(bytes(64 * MAX_DECODED))


@pytest.mark.parametrize("is_broken", [False, True], ids=["is there", "is broken"])
def test_who_does_not_read_does_not_keep_it_from_ending(
    tap: Any, stack: ExitStack, is_broken: bool
) -> None:
    """Neither while the server is there, nor when only the rest of it is to be taken."""
    fake = stack.enter_context(FakeServer())
    found = tap(fake.address)
    with connect(found.address) as sock:
        peer = fake.accept()
        peer.socket.settimeout(1)
        with pytest.raises(TimeoutError):
            peer.socket.sendall(bytes(64 * MAX_DECODED))
        if is_broken:
            peer.reset()
            sock.settimeout(1)
            with pytest.raises(TimeoutError):
                sock.sendall(bytes(64 * MAX_DECODED))
            found.read_until("-- broken")
        found.interrupt()


def test_what_the_terminal_cannot_show_breaks_nothing(
    tap: Any, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    found = tap(server.address)
    with RawClient(found.address, coding=Coding.OWN) as client:
        client.call(SetClientLabel("Gr\xfc\xdfe \u4f60\u597d"))
        client.ping()
    assert "Gr\\xfc\\xdfe \\u4f60\\u597d" in found.read_until("set_client_label")
    found.read_until("-- closed")


def test_a_full_disk(server: Any) -> None:
    with open("/dev/full", "w") as full:
        found = subprocess.run(
            [sys.executable, "-m", "zeolith", "wire", format_address(server.address)],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=child_environment(),
            timeout=DEADLINE,
            check=False,
        )
    assert found.returncode == 1
    assert found.stderr == "zeolith: cannot write: No space left on device\n"


def test_connections_are_limited(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wiretap, "MAX_CONNECTIONS", 1)
    said: list[Any] = []

    async def connect_twice() -> None:
        tap = wiretap.Wiretap(server.address, said.append)
        address = await tap.listen(("127.0.0.1", 0))
        assert isinstance(address, tuple)
        reader, writer = await asyncio.open_connection(*address)
        assert await reader.readexactly(4)
        refused, other = await asyncio.open_connection(*address)
        assert await refused.read() == b""
        for each in (writer, other):
            each.close()
            await each.wait_closed()
        await tap.close()

    asyncio.run(connect_twice())
    assert wiretap.Remark(2, "refused: 1 connections are open") in said
    heard = [item for item in said if isinstance(item, wiretap.Overheard)]
    assert [(item.connection, item.entry.size) for item in heard] == [(1, 16)]


# -- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["nonsense"], "ADDRESS: 'nonsense' has no port"),
        (["8100", "--listen", "x"], "--listen: 'x' has no port"),
        (["8100", "--listen", "8100"], "--listen and ADDRESS are the same"),
        (["8100", "--max", "0"], "--max"),
        (["8100", "--listen", "/dev/null"], "--listen: /dev/null exists; name a path"),
    ],
)
def test_options_that_make_no_sense(
    arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["wire", *arguments]) == 2
    assert problem in capsys.readouterr().err


def test_an_address_that_is_taken(server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    where = format_address(server.address)
    assert main(["wire", "8100", "--listen", where]) == 1
    assert f"zeolith: cannot listen at {where}: " in capsys.readouterr().err
