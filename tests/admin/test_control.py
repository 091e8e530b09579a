"""The parts of ``zeolith ctl``, each by itself."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from tests.support import users as known
from tests.support.processes import running_server
from ZODB.MappingStorage import MappingStorage

from zeolith.admin.actions import ACTIONS, help_text
from zeolith.admin.asking import NotAnswering
from zeolith.admin.liveness import check_alive
from zeolith.admin.logtail import follow, last_lines
from zeolith.admin.managersocket import ManagerTrouble, ask_status, tell_manager
from zeolith.admin.privileges import account_to_become
from zeolith.admin.signalnames import signal_named
from zeolith.admin.supervised import Supervised
from zeolith.cli.main import main
from zeolith.config.accounts import find_account
from zeolith.config.tls import TlsSettings
from zeolith.errors import ConfigurationError

CONF = "<zeo>\naddress 8100\n{zeo}\n</zeo>\n<mappingstorage>\n</mappingstorage>\n{rest}\n"


@pytest.fixture
def conf(tmp_path: Path) -> Callable[..., str]:
    """Write a ``zeo.conf``; return its path."""

    def conf(zeo: str = "", rest: str = "") -> str:
        path = tmp_path / "zeo.conf"
        path.write_text(CONF.format(zeo=zeo, rest=rest))
        return str(path)

    return conf


# -- what is run ---------------------------------------------------------------------------------


def test_without_a_runner_the_socket_is_beside_the_file(
    conf: Callable[..., str], tmp_path: Path
) -> None:
    supervised = Supervised.load(conf())
    assert supervised.socket == f"{tmp_path}/zeo.zdsock"
    assert supervised.program[1:] == ("-P", "-m", "zeolith", "serve", "-C", f"{tmp_path}/zeo.conf")
    assert os.path.isabs(supervised.program[0])


def test_the_socket_is_beside_the_pid_file(conf: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "var").mkdir()
    supervised = Supervised.load(conf(zeo=f"pid-filename {tmp_path}/var/zeo.pid"))
    assert supervised.socket == f"{tmp_path}/var/zeo.zdsock"


def test_a_program_of_one_s_own_is_honoured(conf: Callable[..., str]) -> None:
    path = conf(rest="<runner>\nprogram /opt/bin/runzeo -C 'a b'\n</runner>")
    supervised = Supervised.load(path)
    assert supervised.program == ("/opt/bin/runzeo", "-C", "a b")
    assert "PYTHONPATH" not in set(supervised.environment) - set(os.environ)
    assert Supervised.load(path, {"program": ("other",)}).program == ("other",)


def test_the_manager_is_told_only_what_the_options_changed(conf: Callable[..., str]) -> None:
    path = conf(rest="<runner>\nbackoff-limit 3\numask 077\n</runner>")
    plain = Supervised.load(path).manager_command(())
    assert "-b" not in plain
    assert "-m" in plain  # python -m
    changed = Supervised.load(path, {"umask": 0o27, "backoff_limit": 5, "forever": True})
    command = changed.manager_command(("--more",))
    assert command[command.index("-b") + 1] == "5"
    assert command[len(command) - command[::-1].index("-m")] in ("27", "zeolith")
    assert "27" in command
    assert "-f" in command
    assert command[-1] == "--more"


def test_another_manager_is_run_by_another_python(conf: Callable[..., str], tmp_path: Path) -> None:
    script = tmp_path / "zdrun.py"
    script.touch()
    path = conf(rest=f"<runner>\npython {script}\nzdrun {script}\n</runner>")
    assert Supervised.load(path).manager_command(())[:3] == [str(script), str(script), "-S"]


def test_a_socket_path_that_is_too_long_is_refused(conf: Callable[..., str]) -> None:
    with pytest.raises(ConfigurationError, match="too long for a socket"):
        Supervised.load(conf(), {"socket_name": "/tmp/" + "x" * 95})


def test_a_relative_transcript_is_found_in_the_server_s_directory(
    conf: Callable[..., str], tmp_path: Path
) -> None:
    """The daemon manager opens it when it has gone there."""
    path = conf(rest=f"<runner>\ndirectory {tmp_path}/run\ntranscript out.log\n</runner>")
    assert Supervised.load(path).runner.transcript == f"{tmp_path}/run/out.log"
    changed = Supervised.load(path, {"transcript": "../other.log"})
    command = changed.manager_command(())
    assert command[command.index("-t") + 1] == f"{tmp_path}/other.log"


def test_a_relative_unix_address_is_found_in_the_server_s_directory(
    tmp_path: Path,
) -> None:
    path = tmp_path / "zeo.conf"
    text = CONF.format(zeo="", rest=f"<runner>\ndirectory {tmp_path}\n</runner>")
    path.write_text(text.replace("8100", "./zeo.sock"))
    assert Supervised.load(str(path)).address == f"{tmp_path}/./zeo.sock"


def test_the_log_to_show(conf: Callable[..., str], tmp_path: Path) -> None:
    log = f"<eventlog>\n<logfile>\npath STDOUT\n</logfile>\n<logfile>\npath {tmp_path}/event\n"
    log += "</logfile>\n</eventlog>\n"
    assert Supervised.load(conf()).logfile is None
    assert Supervised.load(conf(rest=log)).logfile == f"{tmp_path}/event"
    runner = "<runner>\nlogfile /a/log\n</runner>"
    assert Supervised.load(conf(rest=log + runner)).logfile == "/a/log"
    runner = "<runner>\ntranscript /a/out\n</runner>"
    assert Supervised.load(conf(rest=runner)).logfile == "/a/out"


# -- whether it answers --------------------------------------------------------------------------


def test_a_server_answers() -> None:
    with running_server(MappingStorage()) as server:
        assert check_alive(server.address).note == ""


def test_a_server_that_knows_its_users_answers(tmp_path: Path) -> None:
    users = known.directory(tmp_path / "users", known.entry("boss", "all"))
    with running_server(MappingStorage(), users=users) as server:
        assert "it knows its users" in check_alive(server.address).note


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        address = sock.getsockname()
    with pytest.raises(NotAnswering):
        check_alive(address)


def test_a_server_that_hangs_does_not_answer() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as sock,
        pytest.raises(NotAnswering, match="no answer within"),
    ):
        check_alive(sock.getsockname(), timeout=0.2)


@pytest.fixture(params=["asyncio", "uvloop"])
def tls_server(request: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Start a server with TLS that admits its own certificate as a client's, or does not."""
    authority, other = trustme.CA(), trustme.CA()
    certificate = tmp_path / "server.pem"
    authority.issue_cert("localhost", "127.0.0.1").private_key_and_cert_chain_pem.write_to_path(
        str(certificate)
    )
    with ExitStack() as cleanup:

        def start(admits_itself: bool) -> tuple[Any, TlsSettings]:
            clients = tmp_path / "clients.pem"
            (authority if admits_itself else other).cert_pem.write_to_path(str(clients))
            settings = TlsSettings(certificate=str(certificate), authenticate=str(clients))
            context = settings.server_context()
            server = cleanup.enter_context(
                running_server(MappingStorage(), ssl=context, loop=request.param)
            )
            return server, settings

        yield start


def test_a_server_answers_over_tls(tls_server: Callable[..., Any]) -> None:
    server, tls = tls_server(admits_itself=True)
    assert check_alive(server.address, tls).note == ""
    with pytest.raises(NotAnswering):
        check_alive(server.address, None, timeout=1)


def test_a_server_that_does_not_admit_itself_is_alive(tls_server: Callable[..., Any]) -> None:
    server, tls = tls_server(admits_itself=False)
    assert "not admitted" in check_alive(server.address, tls).note


def test_a_server_without_tls_does_not_pass_for_one_with(tls_server: Callable[..., Any]) -> None:
    _, tls = tls_server(admits_itself=True)
    with running_server(MappingStorage()) as plain, pytest.raises(NotAnswering):
        check_alive(plain.address, tls)


# -- the manager's socket ------------------------------------------------------------------------


@contextmanager
def manager_that_says(path: Path, answer: bytes) -> Iterator[None]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()

        def serve() -> None:
            connection, _ = sock.accept()
            with connection:
                connection.recv(100)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield
        thread.join(30)


@pytest.fixture
def short(tmp_path: Path) -> Iterator[Path]:
    path = Path(f"/tmp/zsock-{os.getpid()}")
    yield path
    path.unlink(missing_ok=True)


def test_what_a_manager_says(short: Path) -> None:
    text = b"status=running\nshould_be_up=1\ndelay=0\napplication=12\ntesting=1\nmanager=11\n"
    with manager_that_says(short, text + b"args=['/bin/x', 'a b']\n"):
        status = ask_status(str(short))
    assert status is not None
    assert (status.pid, status.manager, status.is_testing) == (12, 11, True)
    assert status.program == ("/bin/x", "a b")
    assert not status.is_waiting


@pytest.mark.parametrize(("delay", "is_waiting"), [("0", False), ("17.5", True), ("inf", False)])
def test_whether_a_manager_waits(short: Path, delay: str, is_waiting: bool) -> None:
    with manager_that_says(short, f"delay={delay}\napplication=0\n".encode()):
        status = ask_status(str(short))
    assert status is not None
    assert status.is_waiting is is_waiting


@pytest.mark.parametrize("answer", [b"hello", b"application=x\n", b"application=1\nargs=(\n"])
def test_what_is_no_manager_is_said(short: Path, answer: bytes) -> None:
    with manager_that_says(short, answer), pytest.raises(ManagerTrouble, match="no daemon manager"):
        ask_status(str(short))


def test_no_manager_and_a_dead_one_are_the_same(short: Path) -> None:
    assert tell_manager(str(short), "status") is None
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(short))
    assert ask_status(str(short)) is None


def test_a_socket_of_somebody_else_is_trouble(tmp_path: Path) -> None:
    # Root may talk to anybody: a path that is none stands for a socket that is closed to us.
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ManagerTrouble, match="Not a directory"):
        ask_status(str(file / "zdsock"))


# -- log files -----------------------------------------------------------------------------------


def test_the_last_lines_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("".join(f"{number}\n" for number in range(50_000)))
    assert last_lines(str(path), 3) == "49997\n49998\n49999\n"
    path.write_text("one\ntwo\nunfinished")
    assert last_lines(str(path), 2) == "two\nunfinished"
    assert last_lines(str(path), 9) == "one\ntwo\nunfinished"
    assert last_lines(str(path), 9, since=4) == "two\nunfinished"
    assert last_lines(str(path), 9, since=100) == ""
    path.write_text("")
    assert last_lines(str(path)) == ""


def test_a_file_without_line_breaks_does_not_fill_memory(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as file:
        file.truncate(64 << 20)
    assert len(last_lines(str(path))) < 2 << 20


def test_following_ends_when_asked_and_waits_for_a_file_that_vanished(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("a\n")
    steps: Iterator[Callable[[], object]] = iter(
        [
            lambda: path.unlink(),
            lambda: path.write_text("b\n"),
            lambda: path.write_text(""),
            lambda: None,
        ]
    )

    def wait() -> bool:
        step = next(steps, None)
        if step is None:
            return True
        step()
        return False

    said = b"".join(follow(str(path), wait))
    assert said == b"a\n==> file replaced <==\nb\n==> file truncated <==\n"


# -- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["HUP", "hup", "SIGHUP", "sighup", str(int(signal.SIGHUP))])
def test_signals_have_names_and_numbers(text: str) -> None:
    assert signal_named(text) is signal.SIGHUP


@pytest.mark.parametrize("text", ["", "0", "999", "-1", "SIG_IGN", "_DFL", "WOOHOO", "²"])
def test_what_is_no_signal(text: str) -> None:
    with pytest.raises(ConfigurationError, match="no signal"):
        signal_named(text)


def test_users_have_names_and_numbers() -> None:
    assert find_account("root", "user").uid == 0
    assert find_account("0", "user").name == "root"
    with pytest.raises(ConfigurationError, match="user: there is no user 'nobody-here'"):
        find_account("nobody-here", "user")


def test_only_root_becomes_somebody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    assert account_to_become(None, "user") is None

    def be(uid: int) -> None:
        monkeypatch.setattr(os, "geteuid", lambda: uid)
        monkeypatch.setattr(os, "getresuid", lambda: (uid, uid, uid))

    be(12345)
    with pytest.raises(ConfigurationError, match="user: only root can serve as root"):
        account_to_become("root", "user")
    be(0)
    assert account_to_become("root", "user") is None
    account = account_to_become("nobody", "user")
    assert account is not None
    assert account.name == "nobody"
    assert account.gid in account.groups
    be(account.uid)
    assert account_to_become("nobody", "user") is None
    # Whoever could take root's rights back is not that user.
    monkeypatch.setattr(os, "getresuid", lambda: (account.uid, account.uid, 0))
    with pytest.raises(ConfigurationError, match="only root"):
        account_to_become("nobody", "user")


@pytest.mark.parametrize(
    ("action", "program"), [("fg", "zeolith"), ("start", "zeolith.admin.manager")]
)
def test_what_takes_the_place_of_the_command_is_the_user_s(
    action: str, program: str, conf: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root's rights are given up first; after that nothing of ours runs any more."""
    found = find_account("nobody", "user")
    events: list[object] = []

    def execute(path: str, command: list[str], environment: dict[str, str]) -> None:
        events.append(command[command.index("-m") + 1])
        raise OSError(13, "far enough")

    monkeypatch.setattr("zeolith.admin.supervised.account_to_become", lambda *args: found)
    monkeypatch.setattr("zeolith.admin.launching.become", events.append)
    monkeypatch.setattr(os, "execvpe", execute)
    monkeypatch.setattr(os, "umask", lambda mode: 0)
    path = conf(rest="<runner>\nuser nobody\ndaemon false\n</runner>")
    assert main(["ctl", "-C", path, action]) == 1
    assert events == [found, program]


def test_a_directory_that_cannot_be_entered_is_named(
    conf: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "chdir", refuse)
    path = conf(rest=f"<runner>\ndirectory {tmp_path}\n</runner>")
    assert main(["ctl", "-C", path, "fg"]) == 2
    assert f"directory: {tmp_path} cannot be entered: Permission denied" in capsys.readouterr().err


# -- the command ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "an action is missing"),
        (["-C", "{conf}"], "an action is missing"),
        (["status"], "-C is missing"),
        (["-C", "/does/not/exist", "status"], "cannot be read"),
        (["-C", "{conf}", "dance"], "there is no action 'dance'"),
        (["-C", "{conf}", "stop", "now"], "'now' is one argument too many"),
        (["-C", "{conf}", "status", "-x"], "'-x' is unknown"),
        (["-C", "{conf}", "kill", "NOPE"], "there is no signal 'NOPE'"),
        (["-C", "{conf}", "show", "me"], "there is no 'me'"),
        (["-C", "{conf}", "logtail"], "no log file is configured"),
        (["-S", "schema.xml", "-C", "{conf}", "status"], "-S: zeo.conf has one schema"),
        (["-i", "-C", "{conf}", "status"], "-i: there is no interactive shell"),
        (["-X", "a=b", "-C", "{conf}", "status"], "-X: values of zeo.conf cannot be overridden"),
        (["-b", "x", "-C", "{conf}", "status"], "'x' is not a number of seconds"),
        (["-m", "9", "-C", "{conf}", "status"], "'9' is not a umask"),
        (["-x", "a", "-C", "{conf}", "status"], "'a' is not an exit status"),
        (["-s", "/no/such/dir/zdsock", "-C", "{conf}", "status"], "there is no directory"),
        (["-C", "{conf}", "-u", "nobody-here", "start"], "there is no user 'nobody-here'"),
        (["help", "dance"], "there is no action 'dance'"),
    ],
)
def test_wrong_usage_has_status_2(
    arguments: list[str],
    problem: str,
    conf: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("SUPERVISOR_ENABLED", raising=False)
    path = conf()
    status = main(["ctl", *(argument.replace("{conf}", path) for argument in arguments)])
    assert status == 2
    assert problem in capsys.readouterr().err


def test_help_explains_each_action(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ctl", "help"]) == 0
    said = capsys.readouterr().out
    for name in set(ACTIONS) - {"foreground"}:
        assert f"\n{name}" in f"\n{said}"
    assert main(["ctl", "help", "kill"]) == 0
    assert capsys.readouterr().out.startswith("kill [SIGNAL]")
    assert len(help_text("foreground").splitlines()) == 1


def test_show(conf: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    path = conf()
    assert main(["ctl", "-C", path, "show"]) == 0
    options = capsys.readouterr().out
    assert f"configuration:      {path}\n" in options
    assert "user:               -\n" in options
    assert main(["ctl", "-C", path, "show", "python"]) == 0
    python = capsys.readouterr().out
    assert "executable:" in python
    assert main(["ctl", "-C", path, "show", "all"]) == 0
    assert capsys.readouterr().out == f"{options}\n{python}"


def test_a_log_that_cannot_be_read(
    conf: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ctl", "-C", conf(), "logtail", "/does/not/exist"]) == 1
    assert "/does/not/exist cannot be read: No such file" in capsys.readouterr().err
