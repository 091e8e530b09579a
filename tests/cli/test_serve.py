"""``zeolith serve`` as a process: its start, its line, its signals, its end."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme
from tests.cli.conftest import Process, Start
from tests.support.certificates import Certificates
from tests.support.tlscontexts import client_context
from tests.support.waiting import wait_until

import zeolith
from zeolith.config.address import Address

FILE = ("-f", "Data.fs")


def connect(address: Address) -> socket.socket:
    if isinstance(address, str):
        client = socket.socket(socket.AF_UNIX)
        client.connect(address)
        return client
    return socket.create_connection(address, 10)


def greeting(address: Address) -> bytes:
    with connect(address) as client:
        client.settimeout(10)
        return client.recv(64)


def assert_clean(process: Process) -> None:
    """The log shows no accident."""
    log = process.log
    for trouble in ("Traceback", "ERROR", "CRITICAL", "Warning:", "never awaited"):
        assert trouble not in log, log


# -- start and line ----------------------------------------------------------------------------


def test_the_line_says_what_and_where(serve: Start) -> None:
    server = serve("-a", "0", *FILE)
    assert isinstance(server.address, tuple)
    port = server.address[1]
    assert server.line == (
        f"zeolith: serving Data.fs as storage 1 at 127.0.0.1:{port}; connect with: python -c "
        f"\"import zeolith; print(zeolith.connection(('127.0.0.1', {port})).root())\"\n"
    )
    assert server.stop() == 0
    assert_clean(server)


def test_the_line_says_how_to_connect(serve: Start, tmp_path: Path) -> None:
    server = serve("-a", "0", *FILE, "--blob-dir", "blobs")
    command = shlex.split(server.line.partition("connect with: ")[2])
    done = subprocess.run(
        [sys.executable, *command[1:]],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert (done.stdout, done.returncode) == ("{}\n", 0), done.stderr
    assert server.stop() == 0
    assert (tmp_path / "blobs").is_dir()


def test_data_are_there_after_a_restart(serve: Start) -> None:
    for number in range(3):
        server = serve("-a", "0", *FILE)
        db = zeolith.DB(server.address)
        with db.transaction() as connection:
            root = connection.root()
            assert root.get("n", 0) == number
            root["n"] = number + 1
        db.close()
        assert server.stop() == 0
        assert_clean(server)


def test_several_storages(serve: Start) -> None:
    server = serve("-a", "0", "-f", "a.fs", "-f", "b.fs")
    assert "serving a.fs as storage 1, b.fs as storage 2 at" in server.line
    for name in ("1", "2"):
        db = zeolith.DB(server.address, storage=name)
        with db.transaction() as connection:
            connection.root()["name"] = name
        db.close()
    assert server.stop() == 0


@pytest.mark.parametrize("address", ["*:0", ":0"])
def test_all_interfaces_when_told(serve: Start, address: str) -> None:
    server = serve("-a", address, *FILE)
    assert greeting(server.address)
    assert server.stop() == 0


def test_ipv6(serve: Start) -> None:
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    server = serve("-a", "[::1]:0", *FILE)
    assert server.address[0] == "::1"
    assert greeting(server.address)
    assert server.stop() == 0


def test_a_unix_socket_is_there_and_then_gone(serve: Start, tmp_path: Path) -> None:
    path = tmp_path / "zeo.sock"
    server = serve("-a", str(path), *FILE)
    assert server.address == str(path)
    assert greeting(str(path))
    assert server.stop() == 0
    assert not path.exists()


def test_a_unix_socket_left_by_a_crash_is_no_obstacle(serve: Start, tmp_path: Path) -> None:
    path = tmp_path / "zeo.sock"
    with socket.socket(socket.AF_UNIX) as crashed:
        crashed.bind(str(path))
    server = serve("-a", str(path), *FILE)
    assert greeting(str(path))
    assert server.stop() == 0


@pytest.mark.parametrize(
    ("option", "environment", "letter"),
    [((), {}, b"Z"), (("--msgpack",), {}, b"M"), ((), {"ZEO_MSGPACK": "1"}, b"M")],
)
def test_the_coding(
    serve: Start, option: tuple[str, ...], environment: dict[str, str], letter: bytes
) -> None:
    server = serve("-a", "0", *FILE, *option, **environment)
    assert greeting(server.address)[4:6] == letter + b"5"
    assert server.stop() == 0


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_both_loops(serve: Start, loop: str) -> None:
    server = serve("-a", "0", *FILE, "--loop", loop)
    connection = zeolith.connection(server.address)
    assert connection.root() == {}
    connection.close()
    assert server.stop() == 0
    assert_clean(server)


def test_read_only(serve: Start) -> None:
    writable = serve("-a", "0", *FILE)
    zeolith.connection(writable.address).close()  # a database has made its root
    assert writable.stop() == 0
    server = serve("-a", "0", *FILE, "--read-only")
    assert "serving read-only Data.fs" in server.line
    assert "read_only=True" in server.line
    connection = zeolith.connection(server.address, read_only=True)
    assert connection.isReadOnly()
    connection.close()
    assert server.stop() == 0


def test_a_configuration_file(serve: Start, tmp_path: Path) -> None:
    (tmp_path / "zeo.conf").write_text(
        "<zeo>\naddress 127.0.0.1:0\npid-filename zeo.pid\n</zeo>\n"
        "<filestorage main>\npath Data.fs\nblob-dir blobs\n</filestorage>\n"
        "<eventlog>\nlevel info\n<logfile>\npath zeo.log\n</logfile>\n</eventlog>\n"
        "<runner>\nprogram zeolith serve -C zeo.conf\n</runner>\n"
    )
    server = serve("-C", "zeo.conf")
    assert "storage='main'" in server.line
    assert (tmp_path / "zeo.pid").read_text() == f"{server.pid}\n"
    connection = zeolith.connection(server.address, storage="main")
    connection.close()
    assert server.stop() == 0
    assert not (tmp_path / "zeo.pid").exists()
    log = (tmp_path / "zeo.log").read_text()
    assert "serving Data.fs as storage main at" in log
    assert "SIGTERM: stopping" in log
    assert server.log == ""


def test_tls(serve: Start, tmp_path: Path) -> None:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    for name in ("localhost", "client@example.org"):
        issued = ca.issue_cert(name)
        issued.private_key_and_cert_chain_pem.write_to_path(tmp_path / f"{name}.pem")
    (tmp_path / "zeo.conf").write_text(
        "<zeo>\naddress localhost:0\n<ssl>\ncertificate localhost.pem\nauthenticate ca.pem\n"
        "</ssl>\n</zeo>\n<mappingstorage>\n</mappingstorage>\n"
    )
    server = serve("-C", "zeo.conf")
    assert " with TLS; connect with: zeolith.DB((" in server.line
    context = client_context(
        str(tmp_path / "client@example.org.pem"), str(tmp_path / "ca.pem"), check_hostname=False
    )
    connection = zeolith.connection(server.address, ssl=context)
    assert connection.root() == {}
    connection.close()
    assert server.stop() == 0


# -- signals -----------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGTERM, 0), (signal.SIGINT, 0), (signal.SIGHUP, 1)],
)
def test_signals_that_end_it(serve: Start, loop: str, number: signal.Signals, status: int) -> None:
    server = serve("-a", "0", *FILE, "--loop", loop)
    with connect(server.address) as silent:  # one that never says hello does not hold it back
        assert silent.recv(64)
        assert server.stop(number) == status
    assert f"{number.name}: stopping" in server.log
    assert_clean(server)


def test_a_second_ctrl_c_changes_nothing(serve: Start) -> None:
    server = serve("-a", "0", *FILE)
    server.send(signal.SIGINT)
    server.send(signal.SIGINT)
    server.send(signal.SIGTERM)
    assert server.wait() == 0
    assert_clean(server)


def test_a_signal_before_it_listens_ends_it_quietly(start: Start, tmp_path: Path) -> None:
    # Reading a configuration from a pipe nobody writes to keeps it from getting any further.
    os.mkfifo(tmp_path / "zeo.conf")
    for number in (signal.SIGTERM, signal.SIGINT):
        process = start("serve", "-C", "zeo.conf")
        # Opening our end returns when it has opened its own.
        with (tmp_path / "zeo.conf").open("w"):
            assert process.stop(number) == 0
        assert process.log == ""


def test_log_files_are_reopened(serve: Start, tmp_path: Path) -> None:
    log = tmp_path / "zeo.log"
    (tmp_path / "zeo.conf").write_text(
        "<zeo>\naddress 0\n</zeo>\n<mappingstorage>\n</mappingstorage>\n"
        f"<eventlog>\n<logfile>\npath {log}\n</logfile>\n</eventlog>\n"
    )
    server = serve("-C", "zeo.conf")
    log.rename(tmp_path / "zeo.log.1")
    server.send(signal.SIGUSR2)
    assert server.stop() == 0
    # Which of two pending signals is taken first is the system's choice, so only that both
    # were taken is certain: the last lines are in the file of the configured name.
    assert (
        "closing storage '1'"
        in (log.read_text() if log.exists() else "") + (tmp_path / "zeo.log.1").read_text()
    )


def test_sigusr2_without_log_files_is_harmless(serve: Start) -> None:
    server = serve("-a", "0", *FILE)
    server.send(signal.SIGUSR2)
    assert greeting(server.address)
    assert server.stop() == 0


def test_tls_by_options(serve: Start, refused: Callable[..., str], tmp_path: Path) -> None:
    ours, others = Certificates(tmp_path), Certificates(tmp_path, "others")
    (tmp_path / "word").write_text("open sesame\n")
    locked = ours.encrypt(ours.issue("server", "localhost"), b"open sesame")
    options = ("--certificate", locked, "--password-file", "word", "--authenticate", ours.root)
    client = zeolith.tls(ours.issue("client"), ours.root)
    server = serve("-a", "localhost:0", *FILE, *options, "--crl", ours.revoke([]))
    address = ("localhost", server.address[1])
    zeolith.ClientStorage(address, ssl=client).close()
    with pytest.raises(zeolith.errors.CertificateRefused):
        zeolith.ClientStorage(address, ssl=zeolith.tls(authenticate=ours.root))
    assert server.stop() == 0
    # Nothing of the section is left.
    own = others.issue("server")
    (tmp_path / "zeo.conf").write_text(
        f"<zeo>\naddress localhost:0\n<ssl>\ncertificate {own}\nauthenticate {others.root}\n"
        "</ssl>\n</zeo>\n<mappingstorage>\n</mappingstorage>\n"
    )
    free = (*options[:4], "--client-certificates", "none")
    server = serve("-C", "zeo.conf", *free)
    address = ("localhost", server.address[1])
    zeolith.ClientStorage(address, ssl=zeolith.tls(authenticate=ours.root)).close()
    assert server.stop() == 0
    for wrong, problem in (
        (options[:4], "--authenticate: is missing"),
        (options[4:], "--certificate: is missing"),
        ((*options, "--client-certificates", "none"), "--authenticate: has no effect"),
        ((*options[:2], *options[4:]), "--key: the private key is encrypted"),
        (("--certificate", own, *options[2:]), "--password-file: has no effect"),
    ):
        assert problem in refused("-a", "0", *FILE, *wrong)


def test_sigusr2_has_renewed_certificates_read(serve: Start, tmp_path: Path) -> None:
    """At once, not only when it is time for the next look."""
    ours = Certificates(tmp_path)
    current = Path(ours.issue("server", "localhost"))
    (tmp_path / "zeo.conf").write_text(
        f"<zeo>\naddress localhost:0\n<ssl>\ncertificate {current}\nauthenticate {ours.root}\n"
        "</ssl>\n</zeo>\n<mappingstorage>\n</mappingstorage>\n"
    )
    server = serve("-C", "zeo.conf")
    current.write_bytes(Path(ours.issue("second", "localhost")).read_bytes())
    server.send(signal.SIGUSR2)
    wait_until(lambda: "SIGUSR2: looked for renewed certificates" in server.log, timeout=8)
    assert "certificates read again, for new connections" in server.log
    assert server.stop() == 0
    assert_clean(server)


def test_the_pid_file_lives_as_long_as_the_server(serve: Start, tmp_path: Path) -> None:
    path = tmp_path / "zeo.pid"
    server = serve("-a", "0", *FILE, "--pid-file", str(path))
    assert path.read_text() == f"{server.pid}\n"
    assert server.stop() == 0
    assert not path.exists()


# -- what it refuses ---------------------------------------------------------------------------


def test_a_port_in_use(refused: Callable[..., str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        said = refused("-a", str(port), *FILE)
    assert f"127.0.0.1:{port} is in use" in said


def test_a_unix_socket_in_use(refused: Callable[..., str], tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "zeo.sock"))
        other.listen()
        said = refused("-a", "./zeo.sock", *FILE)
    assert "./zeo.sock is in use" in said
    assert (tmp_path / "zeo.sock").exists()


def test_an_unknown_host(refused: Callable[..., str]) -> None:
    assert "'no-such-host.invalid'" in refused("-a", "no-such-host.invalid:8100", *FILE)


def test_a_file_open_in_another_server(
    serve: Start, refused: Callable[..., str], tmp_path: Path
) -> None:
    server = serve("-a", "0", *FILE, "--pid-file", "zeo.pid")
    said = refused("-a", "0", *FILE, "--pid-file", "zeo.pid")
    assert f"storage '1' (Data.fs): is already open in process {server.pid}" in said
    # The one that failed has not taken away what belongs to the other.
    assert (tmp_path / "zeo.pid").read_text() == f"{server.pid}\n"


def test_a_missing_directory(refused: Callable[..., str]) -> None:
    said = refused("-a", "0", "-f", "missing/Data.fs")
    assert "missing/Data.fs" in said
    assert "create the directory" in said


def test_a_file_that_is_no_database(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "Data.fs").write_text("not a database at all")
    assert "is not a FileStorage, or is damaged" in refused("-a", "0", *FILE)


def test_a_directory_in_place_of_a_file(tmp_path: Path, start: Start) -> None:
    (tmp_path / "Data.fs").mkdir()
    process = start("serve", "-a", "0", *FILE)
    assert process.wait() == 2
    assert re.search(r"Data\.fs.*cannot be opened.*Is a directory", process.log)


def test_a_file_it_may_not_read(start: Start, tmp_path: Path) -> None:
    (tmp_path / "Data.fs").write_bytes(b"")
    (tmp_path / "Data.fs").chmod(0)
    if os.access(tmp_path / "Data.fs", os.R_OK):
        pytest.skip("this user may read everything; the translation is tested in tests/config")
    process = start("serve", "-a", "0", *FILE)
    assert process.wait() == 2
    assert re.search(r"Data\.fs.*cannot be opened.*Permission denied", process.log)


def test_a_pid_file_that_cannot_be_written(refused: Callable[..., str]) -> None:
    said = refused("-a", "0", *FILE, "--pid-file", "missing/zeo.pid")
    assert "pid file" in said
    assert "missing/zeo.pid: cannot be written" in said


def test_options_that_exclude_each_other(refused: Callable[..., str]) -> None:
    assert "-f and -C exclude each other" in refused("-C", "zeo.conf", *FILE)


def test_a_broken_configuration_file(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "zeo.conf").write_text("<zeo>\naddress 1\nadress 1\n</zeo>\n<mappingstorage/>\n")
    assert "zeo.conf, line 3, adress: 'adress' is not a known key" in refused("-C", "zeo.conf")


def test_an_unknown_storage_does_not_hurt_the_server(serve: Start) -> None:
    server = serve("-a", "0", *FILE)
    with pytest.raises(Exception, match="nope"):
        zeolith.client(server.address, storage="nope", wait_timeout=5)
    connection = zeolith.connection(server.address)
    assert connection.root() == {}
    connection.close()
    assert server.stop() == 0


# -- entry points ------------------------------------------------------------------------------


def test_the_module_is_the_command(start: Start) -> None:
    process = start("version")
    process.wait_listening()
    assert process.line.startswith(f"zeolith {zeolith.__version__}, Python 3.")
    assert process.wait() == 0
