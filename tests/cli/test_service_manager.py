"""What systemd asks of a server: notifications, the watchdog, sockets that it opened."""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import ZODB
from tests.cli.conftest import Process, Start
from ZODB.FileStorage import FileStorage

import zeolith
from zeolith.cli.activation import take_sockets

FILE = ("-f", "Data.fs")
PATIENCE = 30.0


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """The socket on which a service manager listens; its address is the variable's value."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(PATIENCE)
        yield sock


def next_message(manager: socket.socket) -> dict[str, str]:
    lines = manager.recv(4096).decode().splitlines()
    return dict(line.split("=", 1) for line in lines)


AS_MANAGER = """\
import os, sys
variable, descriptors, *command = sys.argv[1:]
copies = [os.dup(int(number)) for number in descriptors.split()]
copies = [os.dup2(copy, 64 + at) for at, copy in enumerate(copies)]
for at, copy in enumerate(copies):
    os.dup2(copy, 3 + at)
os.environ[variable] = str(os.getpid())
os.execv(command[0], command)
"""
"""Puts descriptors where systemd puts them, and the process's own id into a variable."""


def as_pid(variable: str, *sockets: socket.socket) -> list[str]:
    """Words that set *variable* to the id that the command's process will have."""
    descriptors = " ".join(str(sock.fileno()) for sock in sockets)
    return [sys.executable, "-c", AS_MANAGER, variable, descriptors]


def pass_sockets(*sockets: socket.socket) -> dict[str, object]:
    """Options of ``start`` by which a server gets *sockets* as systemd passes them."""
    return {
        "before": as_pid("LISTEN_PID", *sockets),
        "pass_fds": [sock.fileno() for sock in sockets],
        "LISTEN_FDS": str(len(sockets)),
    }


# -- notifications -----------------------------------------------------------------------------


def test_ready_when_it_listens_and_stopping_when_it_ends(
    serve: Start, manager: socket.socket
) -> None:
    server = serve("-a", "0", *FILE, NOTIFY_SOCKET=manager.getsockname())
    ready = next_message(manager)
    assert ready["READY"] == "1"
    assert ready["STATUS"].startswith("serving Data.fs as storage 1 at 127.0.0.1:")
    assert server.stop() == 0
    assert next_message(manager)["STOPPING"] == "1"
    manager.setblocking(False)
    with pytest.raises(BlockingIOError):
        manager.recv(1)  # neither a watchdog nobody asked for, nor STOPPING twice


def test_an_abstract_socket(serve: Start) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("")  # Linux chooses an abstract name
        manager.settimeout(PATIENCE)
        name = manager.getsockname()
        assert name.startswith(b"\0")
        server = serve("-a", "0", *FILE, NOTIFY_SOCKET="@" + name[1:].decode())
        assert next_message(manager)["READY"] == "1"
        assert server.stop() == 0


@pytest.mark.parametrize("address", ["missing", "vsock:2:1234"])
def test_a_manager_that_is_not_there_is_no_obstacle(
    serve: Start, tmp_path: Path, address: str
) -> None:
    path = str(tmp_path / address) if address == "missing" else address
    server = serve("-a", "0", *FILE, NOTIFY_SOCKET=path)
    assert server.stop() == 0
    assert "WARNING" in server.log
    assert address in server.log or "the service manager cannot be told" in server.log


def test_a_refused_start_is_never_ready(start: Start, manager: socket.socket) -> None:
    process = start("serve", "-a", "0", "-f", "missing/x", NOTIFY_SOCKET=manager.getsockname())
    assert process.wait() == 2
    manager.setblocking(False)
    with pytest.raises(BlockingIOError):
        manager.recv(1)


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_the_watchdog_is_fed_by_the_loop(serve: Start, manager: socket.socket, loop: str) -> None:
    server = serve(
        *("-a", "0", *FILE, "--loop", loop),
        before=as_pid("WATCHDOG_PID"),
        NOTIFY_SOCKET=manager.getsockname(),
        WATCHDOG_USEC="100000",
    )
    assert next_message(manager)["READY"] == "1"
    for _ in range(3):
        assert next_message(manager) == {"WATCHDOG": "1"}
    assert server.stop() == 0


def test_the_watchdog_of_another_process_is_not_ours(serve: Start, manager: socket.socket) -> None:
    server = serve(
        *("-a", "0", *FILE),
        NOTIFY_SOCKET=manager.getsockname(),
        WATCHDOG_USEC="1000",
        WATCHDOG_PID="1",
    )
    assert next_message(manager)["READY"] == "1"
    zeolith.connection(server.address).close()  # some turns of the loop
    assert server.stop() == 0
    assert next_message(manager)["STOPPING"] == "1"


# -- sockets -----------------------------------------------------------------------------------


def test_a_passed_socket_is_served_without_an_address(serve: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        server = serve(*FILE, **pass_sockets(listener))
    assert server.address == address
    connection = zeolith.connection(address)
    assert connection.root() == {}
    connection.close()
    assert server.stop() == 0


def test_what_is_passed_is_not_passed_on(serve: Start) -> None:
    """A process that packs must neither keep the address nor take it for its own."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = serve(*FILE, **pass_sockets(listener))
    info = Path(f"/proc/{server.pid}/fdinfo/3").read_text()
    (flags,) = re.findall(r"^flags:\s+(\d+)$", info, re.MULTILINE)
    assert int(flags, 8) & os.O_CLOEXEC
    assert server.stop() == 0
    environ = {"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "zeo", "HOME": "/"}
    assert take_sockets(environ) == ()
    assert environ == {"HOME": "/"}


def test_every_passed_socket_is_served_and_left_in_place(serve: Start, tmp_path: Path) -> None:
    path = str(tmp_path / "zeo.sock")
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(path)
        unix.listen()
        server = serve(*FILE, **pass_sockets(tcp, unix))
        for address in (tcp.getsockname(), path):
            zeolith.connection(address).close()
        assert server.stop() == 0
        # The service manager made it, and has it still for the next server.
        assert Path(path).exists()


def test_clients_wait_in_a_passed_socket_until_there_is_a_server(serve: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with socket.create_connection(listener.getsockname(), PATIENCE) as early:
            server = serve(*FILE, **pass_sockets(listener))
            early.settimeout(PATIENCE)
            assert early.recv(64)
        assert server.stop() == 0


def test_the_same_address_may_be_given_again(serve: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        server = serve("-a", f"localhost:{port}", *FILE, **pass_sockets(listener))
        assert server.address == ("127.0.0.1", port)
        assert server.stop() == 0


@pytest.mark.parametrize("way", ["option", "file"])
def test_another_address_would_be_ignored_and_is_refused(
    start: Start, tmp_path: Path, way: str
) -> None:
    (tmp_path / "zeo.conf").write_text(
        "<zeo>\naddress 127.0.0.1:1\n</zeo>\n<mappingstorage>\n</mappingstorage>\n"
    )
    arguments = ("-a", "127.0.0.1:1", *FILE) if way == "option" else ("-C", "zeo.conf")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        process = start("serve", *arguments, **pass_sockets(listener))
        assert process.wait() == 2
        host, port = listener.getsockname()
    source = "--address" if way == "option" else "zeo.conf, address"
    assert (
        f"{source}: is 127.0.0.1:1, but the socket passed by the service manager is {host}:{port}"
        in process.log
    )


def test_the_sockets_of_another_process_are_not_ours(refused: Callable[..., str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        said = refused(*FILE, LISTEN_PID="1", LISTEN_FDS="1", pass_fds=[listener.fileno()])
    assert "no address: give -a ADDRESS" in said


def test_what_is_passed_must_listen(start: Start) -> None:
    with socket.socket() as silent:
        process = start("serve", *FILE, **pass_sockets(silent))
        assert process.wait() == 2
    assert "LISTEN_FDS: descriptor 3 is no listening stream socket" in process.log


def test_the_mode_of_a_passed_socket_is_not_ours_to_set(start: Start, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "zeo.sock"))
        unix.listen()
        process = start("serve", *FILE, "--socket-mode", "0600", **pass_sockets(unix))
        assert process.wait() == 2
    assert "socket-mode: has no effect: the service manager has made the socket" in process.log


def test_the_variables_go_no_further(serve: Start, manager: socket.socket, tmp_path: Path) -> None:
    """A child process of the server must not speak, or listen, in its place."""
    (tmp_path / "look.py").write_text(
        "import os, ZODB.MappingStorage\nmain = ZODB.MappingStorage.MappingStorage()\n"
        "open('seen', 'w').write(' '.join(sorted(os.environ)))\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = serve(
            *("-S", "main=look"),
            **pass_sockets(listener),
            NOTIFY_SOCKET=manager.getsockname(),
            WATCHDOG_USEC="1000000",
        )
        seen = set((tmp_path / "seen").read_text().split())
        assert not seen & {
            *("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID")
        }
        assert isinstance(server, Process)
        assert server.stop() == 0


def test_the_rebuilding_of_an_index_is_reported(
    start: Start, manager: socket.socket, tmp_path: Path
) -> None:
    storage = FileStorage(str(tmp_path / "Data.fs"))
    with closing(ZODB.DB(storage)) as db, db.transaction() as connection:
        connection.root()["large"] = os.urandom(3_000_000)
    (tmp_path / "Data.fs.index").unlink()
    server = start("serve", "-a", "0", *FILE, NOTIFY_SOCKET=manager.getsockname())
    said = []
    while "READY" not in (message := next_message(manager)):
        assert int(message["EXTEND_TIMEOUT_USEC"]) > 10_000_000
        said.append(message["STATUS"])
    assert "Data.fs.index is missing: reading 3.0 MB to rebuild the index" in said[0]
    assert "the index is rebuilt, after" in said[-1]
    server.wait_listening()
    assert said[0] in server.log
    assert server.stop() == 0
    again = start("serve", "-a", "0", *FILE)
    again.wait_listening()
    assert "index" not in again.log
    assert again.stop() == 0
