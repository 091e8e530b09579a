"""``zeolith ctl`` end to end: real commands, managers and servers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import transaction
from persistent.mapping import PersistentMapping
from tests.support.controlled import Controlled
from tests.support.processes import child_environment, is_listening, is_running
from tests.support.waiting import wait_until
from ZODB import DB
from ZODB.FileStorage import FileStorage

import zeolith
from zeolith.admin.managersocket import ask_status
from zeolith.cli.main import main


@pytest.fixture
def site() -> Iterator[Controlled]:
    site = Controlled()
    yield site
    site.close()


def commit(site: Controlled, key: str, value: object) -> None:
    connection = zeolith.connection(site.address, wait_timeout=10)
    try:
        connection.root()[key] = value
        transaction.commit()
    finally:
        connection.close()


def read(site: Controlled, key: str) -> object:
    connection = zeolith.connection(site.address, wait_timeout=10)
    try:
        return connection.root()[key]
    finally:
        connection.close()


def wait_for_other(site: Controlled, pid: int) -> None:
    wait_until(lambda: site.pid() not in (0, pid), "another process")


def test_from_an_empty_directory_to_data_that_survives_a_stop(
    site: Controlled, capsys: pytest.CaptureFixture[str]
) -> None:
    host, port = site.address
    assert main(["init", str(site.directory), "--address", f"{host}:{port}"]) == 0
    assert "daemon manager not running" in site.run("status", status=3)
    said = site.run("start")
    assert f"daemon process started, pid={site.pid()}" in said
    assert "answers at" in site.run("status")
    assert "already running" in site.run("start")
    commit(site, "answer", 42)
    assert "daemon process stopped" in site.run("stop")
    assert not is_listening(site.address)
    assert site.run("status", status=3)
    assert "daemon manager not running" in site.run("stop")
    site.run("start")
    assert read(site, "answer") == 42
    assert "Traceback" not in site.log + site.output


@pytest.mark.long
def test_a_crashed_server_is_started_again_with_growing_delays(site: Controlled) -> None:
    site.write_conf()
    site.run("start")
    commit(site, "before", 1)
    for delay in (1, 2):
        pid = site.pid()
        site.run("kill", "KILL")
        wait_for_other(site, pid)
        assert f"sleep {delay} to avoid rapid restarts" in site.log
        wait_until(lambda: site.ctl("status").returncode == 0, "the server answers")
    assert read(site, "before") == 1
    assert site.log.count("terminated by SIGKILL") == 2


def test_a_server_that_was_stopped_by_its_signal_is_not_started_again(site: Controlled) -> None:
    site.write_conf()
    site.run("start")
    assert "signal SIGTERM sent" in site.run("kill")
    wait_until(lambda: site.field("manager") is None, "the manager ends too")
    assert "exit status 0; exiting now" in site.log
    site.run("status", status=3)


def test_stop_under_load_loses_nothing_acknowledged(site: Controlled) -> None:
    site.write_conf()
    site.run("start")
    acknowledged: list[list[int]] = [[] for _ in range(3)]
    started = threading.Barrier(4)

    def work(number: int) -> None:
        manager = transaction.TransactionManager(explicit=True)
        db = zeolith.DB(site.address, wait_timeout=1)
        try:
            connection = db.open(manager)
            manager.begin()
            own = connection.root()[f"own{number}"]
            manager.abort()
            for step in range(100_000):
                with manager:
                    own["step"] = step
                acknowledged[number].append(step)
                if step == 0:
                    started.wait()
        except (transaction.interfaces.TransientError, zeolith.errors.OutcomeUnknown):
            return  # the latter if the server has gone in the last step of a commit
        finally:
            db.close()

    for number in range(3):
        commit(site, f"own{number}", PersistentMapping(step=-1))
    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    started.wait()
    said = site.run("stop")
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert "daemon process stopped" in said
    assert "Traceback" not in site.log + site.output
    assert "exit status 0" in site.log
    storage = FileStorage(str(site.directory / "var" / "Data.fs"), read_only=True)
    try:
        db = DB(storage)
        connection = db.open()
        for number in range(3):
            assert acknowledged[number]
            assert connection.root()[f"own{number}"]["step"] >= acknowledged[number][-1]
        db.close()
    finally:
        storage.close()


def test_restart_is_another_process_that_answers(site: Controlled) -> None:
    site.write_conf()
    said = site.run("restart")
    assert "started" in said
    pid = site.pid()
    assert "daemon process restarted" in site.run("restart")
    assert site.pid() not in (0, pid)
    assert not is_running(pid)
    assert is_listening(site.address)


@pytest.mark.long
def test_status_tells_a_silent_program_from_a_server(site: Controlled) -> None:
    site.write_conf(runner="program sleep 1000\nstart-timeout 1")
    said = site.run("start", status=1)
    assert "does not answer after 1 s" in said
    assert "no answer at" in site.run("status", status=4)
    site.run("stop")
    site.run("status", status=3)


@pytest.mark.long
def test_status_tells_a_manager_without_server(site: Controlled) -> None:
    # 1 is no exit code to end with: the manager tries again after a second, then gives up.
    site.write_conf(runner='program /bin/sh -c "echo sorry; exit 1"\nbackoff-limit 3')
    said = site.run("start", status=1)
    assert "the daemon manager starts it again" in said
    assert "the server ended, and the daemon manager with it" in said
    assert "sorry" in said
    assert "restarting too frequently; quit" in site.log
    site.run("status", status=3)
    site.write_conf(runner='program /bin/sh -c "exit 1"\nstart-timeout 0\nforever true')
    site.run("start", status=1)
    wait_until(lambda: "waiting to start it again" in site.run("status", status=5), "5")
    site.run("stop")
    site.run("status", status=3)


def test_a_configuration_error_ends_the_manager_and_is_shown(site: Controlled) -> None:
    site.write_conf()
    (site.directory / "var" / "Data.fs").mkdir()
    said = site.run("start", status=1)
    assert "Data.fs" in said
    assert "exit status 2; exiting now" in site.log


def test_a_log_that_cannot_be_written_is_said_before_anything_runs(site: Controlled) -> None:
    site.write_conf(
        eventlog="<eventlog>\n<logfile>\npath /proc/nothing/log\n</logfile>\n</eventlog>\n"
    )
    said = site.run("start", status=2)
    assert "zeolith: daemon manager: the log file cannot be opened: " in said
    assert "/proc/nothing/log" in said
    site.run("status", status=3)


def test_a_server_that_others_run_is_seen_and_left_alone(site: Controlled) -> None:
    site.write_conf()
    process = site.popen("fg")
    assert process.stdout is not None
    assert b"serving" in process.stdout.readline()
    assert "not run by this daemon manager" in site.run("status")
    assert "no daemon manager runs it" in site.run("start", status=1)
    assert "no daemon manager runs it" in site.run("stop", status=1)
    # It has become the server: the signal reaches it, and its status is the server's.
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert process.stdout.read() == b""


def test_fg_refuses_beside_a_running_server(site: Controlled) -> None:
    site.write_conf()
    site.run("start")
    assert "stop it first" in site.run("fg", status=1)


def test_a_manager_takes_its_server_with_it(site: Controlled) -> None:
    site.write_conf()
    site.run("start")
    pid, manager = site.pid(), int(site.field("manager") or 0)
    os.kill(manager, signal.SIGTERM)
    wait_until(lambda: not is_running(manager) and not is_running(pid), "both end")
    assert "daemon manager received SIGTERM" in site.log
    assert "exit status 0" in site.log
    site.run("status", status=3)


@pytest.mark.long
def test_a_server_whose_manager_was_killed_is_seen(site: Controlled) -> None:
    site.write_conf()
    site.run("start")
    pid, manager = site.pid(), int(site.field("manager") or 0)
    os.kill(manager, signal.SIGKILL)
    wait_until(lambda: not is_running(manager), "the manager ends")
    try:
        assert "not run by this daemon manager" in site.run("status")
        assert "stop it where it was started" in site.run("start", status=1)
    finally:
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not is_running(pid), "the server ends")
    site.run("start")  # the manager's socket is stale and replaced


@pytest.mark.long
def test_hang_around_keeps_the_manager(site: Controlled) -> None:
    site.write_conf(runner="hang-around true")
    site.run("start")
    manager = site.field("manager")
    site.run("stop")
    assert site.field("manager") == manager
    site.run("status", status=5)
    site.run("start")
    assert site.field("manager") == manager
    site.run("kill")
    wait_until(lambda: site.pid() == 0, "the server ends")
    assert site.field("manager") == manager
    assert "daemon manager stopped" in site.run("stop")
    assert site.field("manager") is None


def test_wait_ends_with_the_server(site: Controlled) -> None:
    site.write_conf()
    site.run("start")
    process = site.popen("wait")
    assert process.poll() is None
    site.run("stop")
    assert process.wait(30) == 0
    assert "not running" in site.run("wait")


@pytest.mark.long
def test_kill_knows_names_and_numbers(site: Controlled) -> None:
    site.write_conf()
    assert "not running" in site.run("kill", status=3)
    site.run("start")
    for name in ("USR2", "sigusr2", str(int(signal.SIGUSR2))):
        assert "signal SIGUSR2 sent" in site.run("kill", name)
    assert "there is no signal 'NONSENSE'" in site.run("kill", "NONSENSE", status=2)
    wait_until(lambda: site.log.count("log files reopened") >= 1, "the server takes it")


def test_logs_go_on_after_somebody_renamed_them(site: Controlled) -> None:
    site.write_conf(zeo="", runner="")
    site.run("start")
    log, output = site.directory / "log" / "zeo.log", site.directory / "log" / "output.log"
    log.rename(log.with_suffix(".1"))
    output.rename(output.with_suffix(".1"))
    site.run("logreopen")
    wait_until(lambda: "log files reopened" in site.log, "the new file has the line")
    assert output.exists()
    pid = site.pid()
    site.run("kill", "KILL")
    wait_until(lambda: "spawned process" in site.log, "the manager writes to the new file too")
    wait_until(lambda: "serving" in site.output, "what is printed goes to the new file")
    assert site.pid() != pid
    old = log.with_suffix(".1").read_text()
    assert "SIGKILL" not in old
    assert "reopened" not in old


def test_the_signal_alone_reopens_the_server_s_log(site: Controlled) -> None:
    """What logrotate's rules do: rename, then SIGUSR2 to the process in the pid file."""
    site.write_conf()
    site.run("start")
    log = site.directory / "log" / "zeo.log"
    log.rename(log.with_suffix(".1"))
    pid = int((site.directory / "var" / "zeo.pid").read_text())
    os.kill(pid, signal.SIGUSR2)
    wait_until(lambda: "log files reopened" in site.log, "the new file has the line")
    site.run("stop")
    assert "Exiting" in site.log  # the manager has noticed without being told
    assert "Exiting" not in log.with_suffix(".1").read_text()


def test_logs_are_rotated_by_size(site: Controlled) -> None:
    site.write_conf(
        eventlog=f"<eventlog>\nlevel debug\n<logfile>\npath {site.directory}/log/zeo.log\n"
        "max-size 2KB\nold-files 3\n</logfile>\n</eventlog>\n"
    )
    site.run("start")
    third = site.directory / "log" / "zeo.log.3"
    for number in range(100):
        commit(site, "x", number)
        if third.exists():
            break
    assert third.exists()
    site.run("stop")
    files = sorted(path.name for path in third.parent.glob("zeo.log*"))
    assert files == ["zeo.log", "zeo.log.1", "zeo.log.2", "zeo.log.3"]
    for path in third.parent.glob("zeo.log.*"):
        # The manager does not rotate, and its own lines are few.
        assert path.stat().st_size < 6000
    assert "Logging error" not in site.output


def test_logtail_follows_and_ends_with_an_interrupt(site: Controlled, tmp_path: Path) -> None:
    site.write_conf()
    log = tmp_path / "some.log"
    log.write_text("".join(f"line {number}\n" for number in range(20)))
    process = site.popen("logtail", str(log))
    out = process.stdout
    assert out is not None
    assert [out.readline() for _ in range(10)] == [b"line %d\n" % n for n in range(10, 20)]
    with log.open("a") as file:
        file.write("added\n")
    assert out.readline() == b"added\n"
    log.write_text("new\n")
    assert out.readline() == b"==> file truncated <==\n"
    assert out.readline() == b"new\n"
    log.rename(tmp_path / "some.log.1")
    log.write_text("other\n")
    assert out.readline() == b"==> file replaced <==\n"
    assert out.readline() == b"other\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    assert out.read() == b""


def test_supervisord_sees_the_server_itself(site: Controlled) -> None:
    site.write_conf()
    process = site.popen("start", SUPERVISOR_ENABLED="1")
    assert process.stdout is not None
    assert b"serving" in process.stdout.readline()
    pid = int((site.directory / "var" / "zeo.pid").read_text())
    assert pid == process.pid
    assert site.ctl("status", SUPERVISOR_ENABLED="1").returncode == 0
    refused = site.ctl("stop", SUPERVISOR_ENABLED="1")
    assert refused.returncode == 2
    assert "supervisorctl stop" in refused.stdout
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0


def test_supervisord_without_an_action(site: Controlled) -> None:
    site.write_conf()
    process = site.popen(SUPERVISOR_ENABLED="1")
    assert process.stdout is not None
    assert b"serving" in process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0


def test_a_managed_server_is_controlled_below_supervisord_too(site: Controlled) -> None:
    site.write_conf()
    site.run("start")
    done = site.ctl("stop", SUPERVISOR_ENABLED="1")
    assert done.returncode == 0
    assert "daemon process stopped" in done.stdout


def test_a_manager_in_the_foreground(site: Controlled) -> None:
    site.write_conf(runner="daemon false")
    process = site.popen("start")
    wait_until(lambda: site.ctl("status").returncode == 0, "the server answers")
    assert site.field("manager") == str(process.pid)
    process.send_signal(signal.SIGTERM)
    process.wait(30)
    site.run("status", status=3)


def test_options_override_the_file(site: Controlled) -> None:
    site.write_conf(runner=f"umask 022\nlogfile {site.directory}/log/zeo.log")
    socket = site.directory / "other.zdsock"
    said = site.run(
        *("-s", str(socket), "-m", "027", "-b", "3", "-f", "-x", "0,2,7", "-T", "20"),
        *("-z", str(site.directory / "run"), "-l", "/a/log", "-t", "/a/transcript"),
        *("-p", "echo 'two words'", "-u", "root", "-d"),
        "show",
    )
    for name, value in {
        "socket-name": socket,
        "umask": "027",
        "backoff-limit": 3,
        "forever": True,
        "exit-codes": "0,2,7",
        "start-timeout": 20,
        "directory": site.directory / "run",
        "logfile": "/a/log",
        "transcript": "/a/transcript",
        "program": "echo two words",
        "user": "root",
        "daemon": True,
    }.items():
        assert f"{name + ':':20}{value}\n" in said, said
    # The manager is told: it reports what it runs by.
    site.run("-s", str(socket), "-b", "3", "-z", str(site.directory / "run"), "start")
    try:
        status = site.run("-s", str(socket), "status", "-l")
        assert "backofflimit=3" in status
        pid = int(status.split("application=")[1].split()[0])
        assert os.readlink(f"/proc/{pid}/cwd") == str(site.directory / "run")
    finally:
        site.run("-s", str(socket), "stop")


def test_the_server_is_found_without_path(site: Controlled) -> None:
    site.write_conf()
    done = subprocess.run(
        site.command("start"),
        env={**child_environment(), "PATH": "/nonexistent"},
        stdout=subprocess.DEVNULL,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0
    site.run("status")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_the_manager_is_started_as_the_user(site: Controlled) -> None:
    site.directory.chmod(0o755)
    fake = site.directory / "python"
    fake.write_text("#!/bin/sh\nid -un; id -Gn; exit 3\n")
    fake.chmod(0o755)
    site.write_conf(runner=f"user nobody\npython {fake}\ndirectory {site.directory}/run")
    said = site.run("start", status=1)
    assert "nobody\n" in said
    assert "root" not in said.splitlines()
    assert (site.directory / "run").owner() == "nobody"


def test_a_server_that_ignores_its_signal_is_killed(site: Controlled) -> None:
    loop = "trap '' TERM; echo up; while :; do sleep 0.1; done"
    site.write_conf(runner=f'program /bin/sh -c "{loop}"\nstart-timeout 0\nstop-timeout 1')
    site.run("start", status=1)
    wait_until(lambda: "up" in site.output, "the trap is set")
    pid = site.pid()
    assert "daemon process stopped" in site.run("stop")
    assert not is_running(pid)
    assert "terminated by SIGKILL" in site.log


def test_sighup_makes_the_server_start_again(site: Controlled) -> None:
    site.write_conf()
    site.run("start")
    pid = site.pid()
    site.run("kill", "HUP")
    wait_for_other(site, pid)
    assert "exit status 1" in site.log


@pytest.mark.long
def test_zdaemon_s_own_manager_and_zeo_s_own_server(site: Controlled) -> None:
    """An old configuration: the program is runzeo, the manager zdaemon's script."""
    import zdaemon.zdrun

    runzeo = f"{sys.executable} -m ZEO.runzeo -C {site.conf}"
    site.write_conf(runner=f"zdrun {zdaemon.zdrun.__file__}\nprogram {runzeo}")
    # ZEO reads the file with a schema of its own, in which runner's program is required.
    site.run("start")
    assert "answers at" in site.run("status")
    commit(site, "x", 1)
    assert read(site, "x") == 1
    site.run("restart")
    site.run("stop")
    site.run("status", status=3)
    assert "StorageServer created" in site.log  # it was ZEO's


def test_a_start_test_program_is_waited_for(site: Controlled) -> None:
    flag = site.directory / "flag"
    site.write_conf(runner=f"start-test-program test -e {flag}\nstart-timeout 30")
    process = site.popen("start")
    wait_until(lambda: is_listening(site.address), "the server listens")
    assert site.field("testing") == "1"
    assert process.poll() is None
    flag.touch()
    assert process.wait(30) == 0


def test_an_interrupted_start_goes_on(site: Controlled) -> None:
    flag = site.directory / "flag"
    site.write_conf(runner=f"start-test-program test -e {flag}")
    process = site.popen("start")
    wait_until(lambda: is_listening(site.address), "the server listens")
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 1
    site.run("status")


def test_a_unix_socket_in_the_directory_of_the_server(site: Controlled) -> None:
    site.write_conf(runner=f"directory {site.directory}/var")
    host, port = site.address
    site.conf.write_text(site.conf.read_text().replace(f"{host}:{port}", "./zeo.sock"))
    site.run("start")
    assert (site.directory / "var" / "zeo.sock").is_socket()
    assert "answers at" in site.run("status")


def test_logreopen_without_a_server(site: Controlled) -> None:
    site.write_conf()
    site.run("logreopen", status=3)
    site.run("reopen_transcript", status=3)


def test_a_transcript_without_directory_is_refused(site: Controlled) -> None:
    site.write_conf()
    said = site.run("-t", "/does/not/exist/out", "start", status=2)
    assert "transcript: there is no directory /does/not/exist" in said


def test_two_starts_at_once_make_one_server(site: Controlled) -> None:
    site.write_conf()
    processes = [site.popen("start") for _ in range(2)]
    statuses = sorted(process.wait(60) for process in processes)
    assert statuses in ([0, 0], [0, 1])
    site.run("status")
    assert site.log.count("daemon manager started") == 1
    assert site.log.count("spawned process") == 1


def test_commands_at_the_same_time_are_all_heard(site: Controlled) -> None:
    """zdaemon's manager drops a command when the next one comes before it was read."""
    site.write_conf()
    site.run("start")
    socket = str(site.directory / "var" / "zeo.zdsock")
    answers: list[object] = []

    def ask() -> None:
        for _ in range(100):
            answers.append(ask_status(socket))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(answers) == 400
    assert None not in answers
