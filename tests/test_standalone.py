"""``zeolith.server()``: in a thread and in a process, with everything ZEO's takes."""

from __future__ import annotations

import atexit
import logging
import math
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ZEO

import zeolith
from zeolith.config.address import Address
from zeolith.errors import ClientDisconnected, ConfigurationError


@pytest.fixture(autouse=True)
def _empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ZEO_MSGPACK", raising=False)


@pytest.fixture(params=[True, False], ids=["thread", "process"])
def threaded(request: pytest.FixtureRequest) -> bool:
    is_threaded: bool = request.param
    return is_threaded


def commit(address: Address, value: object, **kw: Any) -> None:
    db = zeolith.DB(address, **kw)
    with db.transaction() as connection:
        connection.root()["value"] = value
    db.close()


def read(address: Address, **kw: Any) -> object:
    connection = zeolith.connection(address, **kw)
    value: object = connection.root().get("value")
    connection.close()
    return value


def test_by_default_in_memory_on_a_free_port(threaded: bool) -> None:
    address, stop = zeolith.server(threaded=threaded)
    assert address[0] == "127.0.0.1"
    commit(address, 1)
    assert read(address) == 1
    stop()
    stop()
    assert os.listdir() == []
    with pytest.raises(ClientDisconnected):
        zeolith.client(address, wait_timeout=0.1)


def test_zeo_is_served_too(threaded: bool) -> None:
    address, stop = zeolith.server(threaded=threaded)
    db = ZEO.DB(address)
    with db.transaction() as connection:
        connection.root()["value"] = "from ZEO"
    db.close()
    assert read(address) == "from ZEO"
    stop()


def test_a_file_with_blobs(threaded: bool, tmp_path: Path) -> None:
    path = str(tmp_path / "cost $5.fs")  # a dollar sign means something to ZConfig
    address, stop = zeolith.server(path, str(tmp_path / "blobs"), threaded=threaded)
    commit(address, 1)
    stop()
    assert (tmp_path / "blobs").is_dir()
    address, stop = zeolith.server(path, threaded=threaded)
    assert read(address) == 1
    stop()


def test_storage_sections(threaded: bool) -> None:
    conf = "<mappingstorage main>\n</mappingstorage>\n<demostorage other>\n</demostorage>"
    address, stop = zeolith.server(storage_conf=conf, threaded=threaded)
    commit(address, 1, storage="main")
    assert read(address, storage="other") is None
    stop()


def test_a_storage_section_with_blobs(tmp_path: Path) -> None:
    address, stop = zeolith.server(
        blob_dir=str(tmp_path / "blobs"), storage_conf="<mappingstorage>\n</mappingstorage>"
    )
    storage = zeolith.client(address, blob_dir=str(tmp_path / "client"))
    assert storage.getName()
    storage.close()
    stop()
    assert (tmp_path / "blobs").is_dir()


def test_a_zeo_section_as_text(threaded: bool, tmp_path: Path) -> None:
    path = str(tmp_path / "zeo.sock")
    conf = f"<zeo>\naddress {path}\nmsgpack true\n</zeo>"
    address, stop = zeolith.server(zeo_conf=conf, threaded=threaded)
    assert address == path
    commit(address, 1)
    stop()


def test_a_zeo_section_as_a_mapping(threaded: bool, tmp_path: Path) -> None:
    pid_file = tmp_path / "zeo.pid"
    options = {"read_only": True, "pid_filename": str(pid_file), "invalidation_age": None}
    address, stop = zeolith.server(zeo_conf=options, threaded=threaded)
    assert (pid_file.read_text() == f"{os.getpid()}\n") is threaded
    storage = zeolith.client(address, read_only=True)
    assert storage.isReadOnly()
    storage.close()
    stop()
    assert not pid_file.exists()


@pytest.mark.parametrize("port", [("127.0.0.1", 0), 0])
def test_port(port: Any) -> None:
    address, stop = zeolith.server(port=port)
    commit(address, 1)
    stop()


def test_a_socket_path_as_port(tmp_path: Path) -> None:
    address, stop = zeolith.server(port=str(tmp_path / "zeo.sock"))
    assert address == str(tmp_path / "zeo.sock")
    stop()


@pytest.mark.parametrize(
    ("protocol", "letter"), [(None, b"Z"), (b"5", b"Z"), ("Z5", b"Z"), (b"M5", b"M")]
)
def test_protocol(protocol: Any, letter: bytes) -> None:
    address, stop = zeolith.server(protocol=protocol)
    assert isinstance(address, tuple)
    with socket.create_connection(address, 10) as client:
        assert client.recv(64)[4:6] == letter + b"5"
    stop()


def test_show_config(capsys: pytest.CaptureFixture[str]) -> None:
    _, stop = zeolith.server(show_config=True, zeo_conf={"transaction_timeout": 5})
    stop()
    printed = capsys.readouterr().out
    assert "  transaction-timeout 5\n" in printed
    assert "<mappingstorage>" in printed


def test_a_log_file(threaded: bool, tmp_path: Path) -> None:
    before = logging.getLogger("zeolith").handlers[:], logging.getLogger("zeolith").level
    address, stop = zeolith.server(threaded=threaded, log=True, debug=True)
    commit(address, 1)
    stop()
    assert "listening on" in (tmp_path / "server.log").read_text()
    assert (logging.getLogger("zeolith").handlers, logging.getLogger("zeolith").level) == before


def test_an_eventlog_section_lasts_as_long_as_the_server(tmp_path: Path) -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    conf = (
        "<zeo>\naddress 0\n</zeo>\n<eventlog>\nlevel debug\n<logfile>\npath zeo.log\n</logfile>\n"
        "</eventlog>"
    )
    _, stop = zeolith.server(zeo_conf=conf)
    assert root.level == logging.DEBUG
    stop()
    assert (root.handlers, root.level) == before
    assert "listening on" in (tmp_path / "zeo.log").read_text()


def test_the_threads_name() -> None:
    _, stop = zeolith.server(name="mine")
    assert "mine" in {thread.name for thread in threading.enumerate()}
    stop()
    assert "mine" not in {thread.name for thread in threading.enumerate()}


# -- the end -----------------------------------------------------------------------------------


def run_script(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_a_server_never_stopped_ends_with_the_interpreter(threaded: bool, tmp_path: Path) -> None:
    done = run_script(
        "import zeolith\n"
        f"address, stop = zeolith.server('Data.fs', threaded={threaded})\n"
        "db = zeolith.DB(address)\n"
        "with db.transaction() as connection: connection.root()['value'] = 1\n"
        "db.close()\n"
    )
    assert (done.returncode, done.stderr) == (0, "")
    # It was closed in order: an index is written, and the file is free.
    assert (tmp_path / "Data.fs.index").exists()
    address, stop = zeolith.server("Data.fs")
    assert read(address) == 1
    stop()


def test_a_server_process_does_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    done = run_script(
        "import os, signal, zeolith\n"
        "zeolith.server('Data.fs', threaded=False)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert done.returncode == -9
    # run_script has returned, so nobody holds the child's standard error any more: it has gone.
    _, stop = zeolith.server("Data.fs")
    stop()


def test_a_stuck_server_process_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zeolith.child._command", lambda fd: _script(fd, "time.sleep(600)"))
    _, stop = zeolith.server(threaded=False)
    stop(0.05)


def test_stop_forgets_itself(monkeypatch: pytest.MonkeyPatch, threaded: bool) -> None:
    registered: list[Callable[[], None]] = []
    monkeypatch.setattr(atexit, "register", registered.append)
    monkeypatch.setattr(atexit, "unregister", registered.remove)
    _, stop = zeolith.server(threaded=threaded)
    assert registered == [stop]
    stop()
    assert registered == []


# -- what it refuses ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"path": "a.fs", "storage_conf": "<mappingstorage>\n</mappingstorage>"}, "path: has no"),
        ({"zeo_conf": "<zeo>\naddress 0\n</zeo>", "port": 1}, "port: has no effect"),
        ({"zeo_conf": "<zeo>\naddress 0\n</zeo>", "protocol": "M5"}, "protocol: has no effect"),
        ({"protocol": b"4"}, "protocol: '4' is not spoken here"),
        ({"zeo_conf": {"colour": "blue"}}, "colour: 'colour' is not a known key"),
        ({"path": "missing/Data.fs"}, "missing/Data.fs does not exist"),
        ({"path": "line\nbreak.fs"}, "line break"),
        ({"storage_conf": "<clouds>\n</clouds>"}, "unknown type name"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        zeolith.server(**arguments)
    assert text in str(caught.value)
    assert os.listdir() == []


def test_a_port_in_use(threaded: bool, capfd: pytest.CaptureFixture[str]) -> None:
    address, stop = zeolith.server()
    with pytest.raises(ConfigurationError) as caught:
        zeolith.server(port=address[1], threaded=threaded, name="second")
    stop()
    if threaded:
        assert "is in use" in str(caught.value)
    else:
        assert "server process 'second': ended with status 2" in str(caught.value)
        assert "is in use" in capfd.readouterr().err


def test_logging_is_restored_after_a_failure() -> None:
    before = logging.getLogger("zeolith").handlers[:]
    with pytest.raises(ConfigurationError):
        zeolith.server("missing/Data.fs", log="server.log")
    assert logging.getLogger("zeolith").handlers == before


@pytest.mark.parametrize("threaded", [True, False])
@pytest.mark.parametrize("value", ["x", None, True, 0, -1, math.nan, math.inf])
def test_a_start_timeout_that_is_no_time(threaded: bool, value: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        zeolith.server(threaded=threaded, start_timeout=value)
    assert caught.value.option == "start_timeout"


def test_a_thread_has_no_start_timeout() -> None:
    with pytest.raises(ConfigurationError, match="threaded=False") as caught:
        zeolith.server(start_timeout=5)
    assert caught.value.option == "start_timeout"
    zeolith.server(start_timeout=33)[1]()


def _script(fd: int, then: str) -> list[str]:
    """Return the command of a child that reports an address and then does something else."""
    report = "b'[\"127.0.0.1\", 1]\\n'"
    return [sys.executable, "-c", f"import os, time; os.write({fd}, {report}); {then}"]


def test_a_process_that_does_not_report_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    silent = [sys.executable, "-c", "import time; time.sleep(600)"]
    monkeypatch.setattr("zeolith.child._command", lambda fd: silent)
    with pytest.raises(ConfigurationError, match=r"does not listen after 0\.05 seconds"):
        zeolith.server(threaded=False, start_timeout=0.05)
