"""What the options of ``zeolith serve`` mean, alone and together."""

from __future__ import annotations

import re
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from zeolith import __version__
from zeolith.cli import main as cli
from zeolith.cli.serve import ProcessOptions
from zeolith.config.server import ServerConfig
from zeolith.config.storages import File


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ZEO_MSGPACK", "INSTANCE_HOME"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[ServerConfig, ProcessOptions]]:
    """Collect what would have been served."""
    calls: list[tuple[ServerConfig, ProcessOptions]] = []

    def serve(config: ServerConfig, _signals: None, options: ProcessOptions) -> int:
        calls.append((config, options))
        return 0

    monkeypatch.setattr("zeolith.cli.serve.serve", serve)
    return calls


@pytest.fixture
def zeo_conf(tmp_path: Path) -> str:
    path = tmp_path / "zeo.conf"
    path.write_text(
        f"<zeo>\naddress 9999\ntransaction-timeout 7\npid-filename {tmp_path}/conf.pid\n</zeo>\n"
        "<mappingstorage main>\n</mappingstorage>\n"
    )
    return str(path)


Served = list[tuple[ServerConfig, ProcessOptions]]


def parse(served: Served, *args: str) -> ServerConfig:
    assert cli.main(["serve", *args]) == 0
    ((config, _),) = served
    return config


def refusal(capsys: pytest.CaptureFixture[str], args: Sequence[str]) -> str:
    """Return what is printed when *args* are refused."""
    assert cli.main(args) == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    assert captured.out == ""
    return captured.err


# -- what they mean ----------------------------------------------------------------------------


def test_the_shortest_command(served: Served) -> None:
    config = parse(served, "-a", "8100", "-f", "var/Data.fs")
    assert config == ServerConfig(
        address=("127.0.0.1", 8100), storages=(File("1", "var/Data.fs", None),)
    )
    assert config.transaction_timeout == 30


def test_every_option(served: Served) -> None:
    config = parse(
        served,
        *("--address", "[::1]:8100", "--filename", "a.fs", "--blob-dir", "blobs"),
        *("--timeout", "2.5", "--pid-file", "zeo.pid", "--read-only", "--msgpack"),
        *("--loop", "asyncio", "--compression", "off", "--conflict-resolution", "in-process"),
    )
    assert config == ServerConfig(
        address=("::1", 8100),
        storages=(File("1", "a.fs", "blobs"),),
        transaction_timeout=2.5,
        pid_file="zeo.pid",
        read_only=True,
        msgpack=True,
        loop="asyncio",
        compression="off",
        conflict_resolution="in-process",
    )


def test_several_files_are_numbered_and_paired_with_their_blobs(served: Served) -> None:
    config = parse(
        served,
        *("-a", "/run/zeo", "-f", "a.fs", "-f", "b.fs", "--blob-dir", "a", "--blob-dir", "b"),
    )
    assert config.storages == (File("1", "a.fs", "a"), File("2", "b.fs", "b"))


def test_several_files_without_blobs(served: Served) -> None:
    config = parse(served, "-a", "1", "-f", "a.fs", "-f", "b.fs", "-f", "c.fs")
    assert [opener.name for opener in config.storages] == ["1", "2", "3"]


def test_a_time_out_of_0_means_none(served: Served) -> None:
    assert parse(served, "-a", "1", "-f", "a.fs", "-t", "0").transaction_timeout is None


def test_msgpack_by_environment(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZEO_MSGPACK", "1")
    assert parse(served, "-a", "1", "-f", "a.fs").msgpack is True


def test_the_pid_file_of_a_zope_instance(
    served: Served, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "var").mkdir()
    monkeypatch.setenv("INSTANCE_HOME", str(tmp_path))
    assert parse(served, "-a", "1", "-f", "a.fs").pid_file == f"{tmp_path}/var/ZEO.pid"


def test_a_configuration_file(served: Served, zeo_conf: str) -> None:
    config = parse(served, "-C", zeo_conf)
    assert config.address == ("127.0.0.1", 9999)
    assert config.transaction_timeout == 7
    assert config.pid_file == zeo_conf.replace("zeo.conf", "conf.pid")
    assert [opener.name for opener in config.storages] == ["main"]


def test_options_override_the_file(served: Served, zeo_conf: str) -> None:
    config = parse(
        served,
        *("-C", zeo_conf, "-a", "1", "-t", "0", "--pid-file", "x.pid"),
        *("--read-only", "--msgpack", "--loop", "uvloop", "--compression", "on"),
        *("--conflict-resolution", "off"),
    )
    assert config.address == ("127.0.0.1", 1)
    assert config.transaction_timeout is None
    assert config.pid_file == "x.pid"
    assert config.read_only
    assert config.msgpack
    assert config.loop == "uvloop"
    assert config.compression == "on"
    assert config.conflict_resolution == "off"


def test_a_configuration_on_standard_input(
    served: Served, zeo_conf: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", StringIO(Path(zeo_conf).read_text()))
    assert parse(served, "-C", "-").address == ("127.0.0.1", 9999)


# -- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ([], "no storage: give -f FILE"),
        (["-a", "1"], "no storage: give -f FILE"),
        (["-f", "a.fs"], "no address: give -a ADDRESS"),
        (["-f", "a.fs", "-C", "zeo.conf"], "-f and -C exclude each other"),
        (["--blob-dir", "b", "-C", "zeo.conf"], "--blob-dir and -C exclude each other"),
        (["-a", "1", "--blob-dir", "b"], "no storage: give -f FILE"),
        (["-a", "1", "-f", "a", "-f", "b", "--blob-dir", "c"], "--blob-dir is given 1 times and"),
        (["-a", "1", "-f", "a", "-t", "-1"], "--timeout"),
        (["-a", "1", "-f", "a", "-t", "soon"], "--timeout"),
        (["-a", "1", "-f", "a", "--loop", "trio"], "--loop"),
        (["-a", "1", "-f", "a", "--compression", "gzip"], "--compression"),
        (["-a", "1", "-f", "a", "--conflict-resolution", "on"], "--conflict-resolution"),
        (["-a", "1", "-f", "a", "--unknown"], "--unknown"),
        (["-a", "1", "-f", "a", "stray"], "stray"),
        (["-a", "localhost", "-f", "a"], "--address: 'localhost' has no port"),
        (["-C", "/missing/zeo.conf"], "/missing/zeo.conf: cannot be read"),
    ],
)
def test_usage_errors(capsys: pytest.CaptureFixture[str], args: list[str], text: str) -> None:
    assert text in refusal(capsys, ["serve", *args])


def test_an_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert "No such command 'sevre'" in refusal(capsys, ["sevre"])


def test_errors_of_a_configuration_name_the_stream(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "sys.stdin", StringIO("<zeo>\naddress 1\nport 1\n</zeo>\n<mappingstorage/>\n")
    )
    assert "<stdin>, line 3, port" in refusal(capsys, ["serve", "-C", "-"])


# -- the rest of the command -------------------------------------------------------------------


@pytest.mark.parametrize("args", [["--help"], ["-h"], ["serve", "--help"], ["serve", "-h"]])
def test_help(capsys: pytest.CaptureFixture[str], args: list[str]) -> None:
    assert cli.main(args) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("Usage: zeolith")
    assert "control-fd" not in printed


def test_versions(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"zeolith {__version__}\n"
    assert cli.main(["version"]) == 0
    printed = capsys.readouterr().out
    assert re.fullmatch(
        rf"zeolith {re.escape(__version__)}, Python 3\.\S+, ZODB \S+, uvloop \S+\n", printed
    )


def test_the_status_of_a_server_is_the_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zeolith.cli.serve.serve", lambda *args: 1)
    assert cli.main(["serve", "-a", "1", "-f", "a.fs"]) == 1


def test_other_errors_are_failures_with_everything_known(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def serve(*args: Any) -> int:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr("zeolith.cli.serve.serve", serve)
    assert cli.main(["serve", "-a", "1", "-f", "a.fs"]) == 1
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError
