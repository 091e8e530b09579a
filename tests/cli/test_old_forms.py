"""The call forms of ZEO 2.0's start.py and of runzeo, and what ``serve`` took over from them."""

from __future__ import annotations

import logging
import os
import pstats
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.conftest import Start
from tests.support.waiting import wait_until

import zeolith
from zeolith.cli import main as cli
from zeolith.cli.serve import ProcessOptions
from zeolith.cli.start import directory
from zeolith.config.objects import ObjectStorage
from zeolith.config.server import ServerConfig
from zeolith.config.storages import File

Served = list[tuple[ServerConfig, ProcessOptions]]


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is set, and what a test sets is taken back."""
    monkeypatch.setattr(os, "environ", dict(os.environ))
    for name in ("ZEO_MSGPACK", "INSTANCE_HOME", "ZEO_SERVER_PID", "Z_DEBUG_MODE"):
        os.environ.pop(name, None)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Served:
    """Collect what would have been served."""
    calls: Served = []

    def serve(config: ServerConfig, _signals: None, options: ProcessOptions) -> int:
        calls.append((config, options))
        return 0

    monkeypatch.setattr("zeolith.cli.serve.serve", serve)
    return calls


def start(served: Served, *args: str) -> tuple[ServerConfig, ProcessOptions]:
    assert cli.main(args, program=cli.START) == 0
    return served.pop()


def serve(served: Served, *args: str) -> tuple[ServerConfig, ProcessOptions]:
    assert cli.main(["serve", *args]) == 0
    return served.pop()


# -- start.py ----------------------------------------------------------------------------------


def test_the_shortest_command(served: Served, tmp_path: Path) -> None:
    config, options = start(served, "-p", "8100")
    # start.py would have listened on all interfaces.
    assert config.address == ("127.0.0.1", 8100)
    assert config.storages == (File("1", str(tmp_path / "Data.fs"), None),)
    assert config.pid_file == str(tmp_path / "ZEO_SERVER.pid")
    assert options.user == ("nobody" if os.geteuid() == 0 else None)
    assert options.log_level is None


@pytest.mark.parametrize(
    ("args", "address"),
    [
        (("-p", "8100", "-h", "192.0.2.7"), ("192.0.2.7", 8100)),
        (("-p8100", "-h", ""), ("", 8100)),
        (("-p", "8100", "-h", "*"), ("", 8100)),
        (("-p", "8100", "-h", "::1"), ("::1", 8100)),
        (("-p", "8100", "-h", "[::1]"), ("::1", 8100)),
        (("-U", "/run/zeo"), "/run/zeo"),
        (("-U", "zeo"), "./zeo"),
    ],
)
def test_addresses(served: Served, args: tuple[str, ...], address: object) -> None:
    assert start(served, *args)[0].address == address


def test_every_option(served: Served) -> None:
    config, options = start(
        served,
        *("-D", "-d", "-s", "-u", "root", "-P", "prof", "-p", "1", "my.fs", "A_NAME=a=value"),
    )
    assert config.storages == (File("1", "my.fs", None),)
    assert options == ProcessOptions(user="root", profile="prof", log_level=logging.DEBUG)
    assert os.environ["A_NAME"] == "a=value"
    assert os.environ["Z_DEBUG_MODE"] == "1"
    assert os.environ["STUPID_LOG_SEVERITY"] == "-300"


@pytest.mark.parametrize(
    "args", [("-Smain=dir/module:attribute",), ("-S", "main=dir/module:attribute")]
)
def test_objects_replace_the_default_file(served: Served, args: tuple[str, ...]) -> None:
    config, _ = start(served, "-p", "1", *args, "-S", "other=module")
    assert config.storages == (
        ObjectStorage("main", "dir/module", "attribute"),
        ObjectStorage("other", "module", "other"),
    )


def test_a_file_beside_objects_is_served_too(served: Served) -> None:
    config, _ = start(served, "-p", "1", "-S", "main=module", "Data.fs")
    assert [opener.name for opener in config.storages] == ["1", "main"]


def test_the_instances_directory(served: Served, tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "var").mkdir(parents=True)
    config, _ = start(served, "-p", "1", f"INSTANCE_HOME={home}")
    assert config.storages == (File("1", f"{home}/var/Data.fs", None),)
    assert config.pid_file == f"{home}/var/ZEO_SERVER.pid"
    config, _ = start(served, "-p", "1", "ZEO_SERVER_PID=my.pid")
    assert config.pid_file == "my.pid"


def test_where_files_are(tmp_path: Path) -> None:
    (tmp_path / "instance" / "var").mkdir(parents=True)
    program = str(tmp_path / "instance" / "lib" / "python" / "zeolith" / "start.py")
    assert directory({}, program) == tmp_path / "instance" / "var"
    assert directory({}, "start.py") == tmp_path
    assert directory({"INSTANCE_HOME": str(tmp_path)}, program) == tmp_path
    assert directory({"INSTANCE_HOME": str(tmp_path / "instance")}, "x").name == "var"


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ((), "give a port (-p) or a Unix socket (-U)"),
        (("-p", "1", "-U", "s"), "-p and -U exclude each other"),
        (("-U", "s", "-h", "localhost"), "a host has no effect without a port"),
        (("-p", "1", "a.fs", "b.fs"), "only one file can be named without an option"),
        (("-p", "zeo"), "'zeo' is not a valid integer"),
        (("-p", "1", "-S", "main"), "'main' names no storage"),
        (("-p", "1", "-S", "a=m", "-S", "a=m"), "two storages are called 'a'"),
        (("-p", "1", "-f", "a.fs"), "-f"),
    ],
)
def test_what_start_refuses(
    capsys: pytest.CaptureFixture[str], args: tuple[str, ...], text: str
) -> None:
    assert cli.main(args, program=cli.START) == 2
    assert text in capsys.readouterr().err


def test_the_help_of_start(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"], program=cli.START) == 0
    assert capsys.readouterr().out.startswith("Usage: python -m zeolith.start [OPTIONS] [FILE]")


# -- what serve took over ----------------------------------------------------------------------


def test_the_same_options_in_serve(served: Served) -> None:
    config, options = serve(
        served, *("-p", "8100", "--host", "*", "-u", "root", "-S", "m=x", "-D", "a.fs", "B=1")
    )
    assert config.address == ("", 8100)
    assert [opener.name for opener in config.storages] == ["1", "m"]
    assert options == ProcessOptions(user="root", log_level=logging.DEBUG)
    assert os.environ["B"] == "1"


def test_variables_are_set_before_the_configuration_is_read(served: Served, tmp_path: Path) -> None:
    (tmp_path / "zeo.conf").write_text(
        "<zeo>\naddress $(ADDRESS)\n</zeo>\n<mappingstorage>\n</mappingstorage>\n"
    )
    config, _ = serve(served, "-C", "zeo.conf", "ADDRESS=127.0.0.1:7")
    assert config.address == ("127.0.0.1", 7)


def test_the_pid_file_by_environment(served: Served) -> None:
    config, _ = serve(served, "-p", "1", "a.fs", "ZEO_SERVER_PID=x.pid")
    assert config.pid_file == "x.pid"
    config, _ = serve(served, "-p", "1", "a.fs", "--pid-file", "y.pid")
    assert config.pid_file == "y.pid"


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error", "critical"])
def test_log_levels(served: Served, level: str) -> None:
    _, options = serve(served, "-p", "1", "a.fs", "--log-level", level)
    assert logging.getLevelName(options.log_level or 0) == level.upper()


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (("-a", "1", "-p", "2", "x"), "-a and -p exclude each other"),
        (("-a", "1", "--host", "localhost", "x"), "a host has no effect without a port"),
        (("-a", "1", "-f", "x", "y"), "y and -f exclude each other"),
        (("-a", "1", "-d", "--log-level", "error", "x"), "-d and --log-level error differ"),
        (("-C", "x", "-S", "a=b"), "-S and -C exclude each other"),
        (("-p", "65536", "x"), "65536"),
    ],
)
def test_what_serve_refuses(
    capsys: pytest.CaptureFixture[str], args: tuple[str, ...], text: str
) -> None:
    assert cli.main(["serve", *args]) == 2
    assert text in capsys.readouterr().err


# -- as processes ------------------------------------------------------------------------------


def test_runzeo(start: Start, tmp_path: Path) -> None:
    (tmp_path / "zeo.conf").write_text(
        "<zeo>\naddress 127.0.0.1:0\n</zeo>\n<filestorage>\npath Data.fs\n</filestorage>\n"
    )
    server = start("-C", "zeo.conf", "-t", "5", "--pid-file", "zeo.pid", module="zeolith.runzeo")
    server.wait_listening()
    assert (tmp_path / "zeo.pid").read_text() == f"{server.pid}\n"
    zeolith.connection(server.address).close()
    assert server.stop() == 0
    wrong = start("-C", "zeo.conf", "-f", "x", module="zeolith.runzeo")
    assert wrong.wait() == 2
    assert "Usage: python -m zeolith.runzeo" in wrong.log
    asked = start("-h", module="zeolith.runzeo")
    assert asked.wait() == 0


def test_a_test_start_ends_by_itself(start: Start, tmp_path: Path) -> None:
    process = start("-a", "0", "-f", "Data.fs", "--test", module="zeolith.runzeo")
    process.wait_listening()
    assert process.wait() == 0
    assert (tmp_path / "Data.fs").exists()


def test_objects_of_a_python_file(serve: Start, tmp_path: Path) -> None:
    (tmp_path / "storages.py").write_text(
        "from ZODB.DemoStorage import DemoStorage\nfrom ZODB.MappingStorage import MappingStorage\n"
        "open('runs', 'a').write('x')\n"
        "main, other = MappingStorage(), DemoStorage()\n"
    )
    server = serve("-a", "0", "-S", "main=storages", "-S", "two=./storages.py:other")
    assert "serving main of storages as storage main, other of ./storages.py as storage two at" in (
        server.line
    )
    for name in ("main", "two"):
        zeolith.connection(server.address, storage=name).close()
    assert server.stop() == 0
    assert (tmp_path / "runs").read_text() == "x"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("main=missing", "missing.py cannot be read: No such file"),
        ("main=storages:nothing", "defines no nothing"),
        ("main=storages:number", "is 1, which is no storage"),
        ("main=storages:MappingStorage", "which is no storage"),
    ],
)
def test_objects_that_cannot_be_served(
    refused: Callable[..., str], tmp_path: Path, text: str, complaint: str
) -> None:
    (tmp_path / "storages.py").write_text(
        "from ZODB.MappingStorage import MappingStorage\nnumber = 1\n"
    )
    assert complaint in refused("-a", "0", "-S", text)


def test_a_python_file_that_fails_shows_where(start: Start, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("main = 1 / 0\n")
    process = start("serve", "-a", "0", "-S", "main=broken")
    assert process.wait() == 1
    assert "ZeroDivisionError" in process.log
    assert "broken.py, for -S main=broken:main" in process.log


def test_a_profile(serve: Start, tmp_path: Path) -> None:
    server = serve("-a", "0", "-f", "Data.fs", "-P", "profile", "--loop", "asyncio")
    zeolith.connection(server.address).close()
    assert server.stop() == 0
    names = {name for _, _, name in pstats.Stats(str(tmp_path / "profile")).stats}  # type: ignore[attr-defined]
    assert "data_received" in names


def test_a_profile_that_has_no_place(refused: Callable[..., str], tmp_path: Path) -> None:
    assert "profile missing/x: cannot be written" in refused(
        "-a", "0", "-f", "Data.fs", "-P", "missing/x"
    )
    assert not (tmp_path / "Data.fs").exists()


def test_debugging_reaches_an_event_log(serve: Start, tmp_path: Path) -> None:
    (tmp_path / "zeo.conf").write_text(
        "<zeo>\naddress 127.0.0.1:0\n</zeo>\n<mappingstorage>\n</mappingstorage>\n"
        "<eventlog>\nlevel error\n<logfile>\npath zeo.log\n</logfile>\n</eventlog>\n"
    )
    server = serve("-C", "zeo.conf", "--log-level", "info")
    wait_until(lambda: "listening on" in (tmp_path / "zeo.log").read_text())
    assert server.stop(signal.SIGINT) == 0


# -- warnings ----------------------------------------------------------------------------------


def test_a_server_open_to_the_network_is_warned_about_in_one_line(serve: Start) -> None:
    server = serve("-p", "0", "--host", "*", "-f", "Data.fs")
    (line,) = server.warnings
    assert "can be reached from other machines, without TLS and without log-in" in line
    assert "0.0.0.0:" in line
    assert server.stop() == 0


@pytest.mark.parametrize("address", ["0", "localhost:0", "./zeo.sock"])
def test_a_server_for_this_machine_is_not(serve: Start, address: str) -> None:
    server = serve("-a", address, "-f", "Data.fs")
    assert server.warnings == []
    assert server.stop() == 0


def test_a_refused_start_is_in_the_event_log_too(
    refused: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "zeo.conf").write_text(
        "<zeo>\naddress 127.0.0.1:0\n</zeo>\n<filestorage>\npath Data.fs\n</filestorage>\n"
        "<eventlog>\n<logfile>\npath zeo.log\n</logfile>\n</eventlog>\n"
    )
    (tmp_path / "Data.fs").write_text("not a database at all")
    said = refused("-C", "zeo.conf")
    assert "is not a FileStorage, or is damaged" in said
    log = (tmp_path / "zeo.log").read_text()
    assert "CRITICAL" in log
    assert "the server does not start: storage '1' (Data.fs): is not a FileStorage" in log
