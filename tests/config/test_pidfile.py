"""The process id file appears whole, and only its owner removes it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from zeolith.config.pidfile import PidFile, default_pid_file
from zeolith.errors import ConfigurationError


def test_written_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "server.pid"
    file = PidFile(str(path))
    file.write()
    assert path.read_text() == f"{os.getpid()}\n"
    assert [entry.name for entry in tmp_path.iterdir()] == ["server.pid"]
    file.remove()
    assert not path.exists()
    file.remove()


def test_a_stale_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "server.pid"
    path.write_text("1\n")
    PidFile(str(path)).write()
    assert path.read_text() == f"{os.getpid()}\n"


def test_the_file_of_another_server_stays(tmp_path: Path) -> None:
    path = tmp_path / "server.pid"
    file = PidFile(str(path))
    file.write()
    path.write_text("1\n")
    file.remove()
    assert path.read_text() == "1\n"


def test_a_file_never_written_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "server.pid"
    path.write_text(f"{os.getpid()}\n")
    PidFile(str(path)).remove()
    assert path.exists()


def test_removing_survives_a_vanished_directory(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    file = PidFile(str(directory / "server.pid"))
    file.write()
    directory.rename(tmp_path / "elsewhere")
    file.remove()
    assert (tmp_path / "elsewhere" / "server.pid").exists()


def test_a_change_of_directory_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = PidFile("server.pid")
    file.write()
    monkeypatch.chdir("/")
    file.remove()
    assert not (tmp_path / "server.pid").exists()


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "server.pid"
    with pytest.raises(ConfigurationError) as caught:
        PidFile(str(path)).write()
    assert str(path) in str(caught.value)
    assert "No such file" in str(caught.value)


def test_where_zope_expects_it(tmp_path: Path) -> None:
    home = {"INSTANCE_HOME": str(tmp_path)}
    assert default_pid_file({}) is None
    assert default_pid_file(home) is None
    (tmp_path / "var").mkdir()
    assert default_pid_file(home) == str(tmp_path / "var" / "ZEO.pid")
