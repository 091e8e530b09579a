"""ZEO's commands, as they are installed, run by ``-m``, and called by other programs."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from tests.support.processes import free_port, is_listening
from tests.support.sites import Site
from tests.support.waiting import wait_until

import zeolith

CONF = """
<zeo>
  address 127.0.0.1:{port}
  pid-filename {directory}/zeo.pid
</zeo>
<filestorage 1>
  path {directory}/Data.fs
</filestorage>
<eventlog>
  <logfile>
    path {directory}/zeo.log
  </logfile>
</eventlog>
<runner>
  program {python} -m ZEO.runzeo -C {directory}/zeo.conf
  socket-name {directory}/zeo.zdsock
  daemon true
  forever false
  backoff-limit 10
  exit-codes 0, 2
  directory {directory}
  default-to-interactive true
</runner>
"""


def commit(port: int, value: object) -> None:
    db = zeolith.DB(port)
    with db.transaction() as connection:
        connection.root()["value"] = value
    db.close()


def test_runzeo(dropin: Site, tmp_path: Path) -> None:
    port = free_port()
    for command in (
        [str(dropin.directory / "bin" / "runzeo")],
        [dropin.python, "-m", "ZEO.runzeo"],
        # As the control script of plone.recipe.zeoserver has it under supervisord.
        [dropin.python, "-c", "import sys; from ZEO import runzeo; runzeo.main(sys.argv[1:])"],
    ):
        with subprocess.Popen(
            [*command, "-a", f"127.0.0.1:{port}", "-f", "Data.fs"],
            cwd=tmp_path,
            env=dropin.environment,
            stderr=subprocess.DEVNULL,
        ) as process:
            try:
                wait_until(lambda: is_listening(("127.0.0.1", port)))
                commit(port, 1)
                process.send_signal(signal.SIGTERM)
                assert process.wait(30) == 0
            finally:
                process.kill()
    assert "Usage:" in dropin.call("runzeo", "--help", cwd=tmp_path).stdout
    assert "Error" in dropin.call("runzeo", "--colour", cwd=tmp_path, status=2).stderr


def test_zeoctl(dropin: Site, tmp_path: Path) -> None:
    """Its ``zeo.conf`` starts ``runzeo``, as the recipes have written it; it does all of it."""
    port = free_port()
    conf = tmp_path / "zeo.conf"
    conf.write_text(CONF.format(directory=tmp_path, port=port, python=dropin.python))
    assert dropin.call("zeoctl", "-C", "zeo.conf", "status", cwd=tmp_path, status=3).stdout
    assert "started" in dropin.call("zeoctl", "-C", "zeo.conf", "start", cwd=tmp_path).stdout
    try:
        commit(port, 1)
        said = dropin.run("-m", "ZEO.zeoctl", "-C", "zeo.conf", "status", cwd=tmp_path).stdout
        assert "program running" in said
        # As the control script of plone.recipe.zeoserver has it.
        call = "from ZEO import runzeo, zeoctl; zeoctl.main(['-C', 'zeo.conf', 'status'])"
        assert "program running" in dropin.run("-c", call, cwd=tmp_path).stdout
    finally:
        assert "stopped" in dropin.call("zeoctl", "-C", "zeo.conf", "stop", cwd=tmp_path).stdout
    assert not is_listening(("127.0.0.1", port))


def test_zeopack(dropin: Site, port: int, tmp_path: Path) -> None:
    for value in range(3):
        commit(port, value)
    before = (tmp_path / "Data.fs").stat().st_size
    dropin.call("zeopack", f"127.0.0.1:{port}", cwd=tmp_path)
    assert (tmp_path / "Data.fs").stat().st_size < before
    dropin.run("-m", "ZEO.scripts.zeopack", "-d", "1", f"127.0.0.1:{port}", cwd=tmp_path)
    call = f"from ZEO.scripts import zeopack; zeopack.main(['127.0.0.1:{port}'])"
    dropin.run("-c", call, cwd=tmp_path)
    assert "Usage:" in dropin.call("zeopack", cwd=tmp_path).stdout


def test_nagios(dropin: Site, port: int, tmp_path: Path) -> None:
    address = f"127.0.0.1:{port}"
    assert dropin.call("zeo-nagios", address, cwd=tmp_path, status=1).stdout == (
        "Empty storage '1'\n"
    )
    commit(port, 1)
    done = dropin.call("zeo-nagios", "-m", "-s", "status", address, cwd=tmp_path)
    assert done.stdout.startswith("OK|active_txns=0\n| connections=")
    done = dropin.run("-m", "ZEO.nagios", "127.0.0.1:1", cwd=tmp_path, status=2)
    assert done.stdout.startswith("Can't connect")
    call = f"from ZEO.nagios import check; print(check({address!r}, True, 'status', 'minutes'))"
    printed = dropin.run("-c", call, cwd=tmp_path).stdout.splitlines()
    assert printed[0] == "OK|active_txns=0"
    assert any(line.strip().startswith("commits=") for line in printed)
    assert printed[-1] == "None"


def test_zeoup(dropin: Site, port: int, tmp_path: Path) -> None:
    for _ in range(2):
        done = dropin.run("-m", "ZEO.scripts.zeoup", "-p", str(port), cwd=tmp_path)
        assert done.stdout.startswith("Elapsed time: ")
    connection = zeolith.connection(port)
    assert connection.root()["monitor"]["zeoup"].value == 2
    before = connection.db().lastTransaction()
    connection.close()
    arguments = ("-h", "localhost", "-p", str(port), "-S", "1", "--nowrite")
    dropin.run("-m", "ZEO.scripts.zeoup", *arguments, cwd=tmp_path)
    storage = zeolith.client(port)
    assert storage.lastTransaction() == before
    storage.close()
    done = dropin.run("-m", "ZEO.scripts.zeoup", "-p", str(port), "-S", "2", cwd=tmp_path, status=1)
    assert done.stdout.startswith("ServerRefused: ")
    assert "give a port" in dropin.run("-m", "ZEO.scripts.zeoup", cwd=tmp_path, status=2).stderr


def test_traces(dropin: Site, port: int, tmp_path: Path) -> None:
    """A cache traced as with ZEO, and the scripts that read the trace."""
    dropin.run(
        "-c",
        f"import ZEO; ZEO.connection({port}, cache='main.zec').close()",
        cwd=tmp_path,
        environment={"ZEO_CACHE_TRACE": "1"},
    )
    trace = "main.zec.trace"
    assert (tmp_path / trace).exists()
    done = dropin.run("-m", "ZEO.scripts.cache_stats", "-q", trace, cwd=tmp_path)
    assert "records" in done.stdout
    done = dropin.run("-m", "ZEO.scripts.cache_simul", "-s", "1", trace, cwd=tmp_path)
    assert "loads of" in done.stdout


def test_start(dropin: Site, tmp_path_factory: pytest.TempPathFactory) -> None:
    """By ``-m``, in the instance that the environment names; more is in the first document."""
    home = tmp_path_factory.mktemp("home")
    user = ("-u", "root") if os.geteuid() == 0 else ()
    port = free_port()
    instance = {"INSTANCE_HOME": str(home)}
    done = dropin.run(
        "-m", "ZEO.start", *user, "-p", str(port), cwd=home.parent, environment=instance
    )
    assert f"; log {home}/ZEO_SERVER.log" in done.stdout
    commit(port, 1)
    os.kill(int((home / "ZEO_SERVER.pid").read_text()), signal.SIGTERM)
    wait_until(lambda: not (home / "ZEO_SERVER.zdsock").exists())
    assert "Usage: " in dropin.run("-m", "ZEO.start", "--help", cwd=home).stdout
