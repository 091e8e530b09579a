"""``zeolith user``, and the options by which commands log in."""

from __future__ import annotations

import io
import json
import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from tests.support import users as known
from tests.support.processes import ServerProcess, child_environment, running_server
from tests.support.users import PASSWORD, entry
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage

from zeolith import ClientStorage
from zeolith.cli.login import ask_principal
from zeolith.cli.main import main
from zeolith.config.server import parse_server_config
from zeolith.config.userdirectory import UserDirectory
from zeolith.config.userfile import read_users
from zeolith.errors import AuthenticationFailed, ConfigurationError
from zeolith.rights import DEFAULT, Right

DIGEST = "5f1d3cf4c2a2f8a2f5e0bd51d1fd6d8b1b5b3c0e"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ZEOLITH_USERNAME", "ZEOLITH_PASSWORD_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ZEOLITH_PASSWORD", PASSWORD)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "users"


@pytest.fixture
def run(path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run ``zeolith user``; return exit status, output and errors."""

    def run(command: str, *arguments: str) -> tuple[int, str, str]:
        quick = ["--iterations", "4096"] if command in ("add", "passwd", "import") else []
        status = main(["user", command, "-f", str(path), *quick, *arguments])
        found = capsys.readouterr()
        return status, found.out, found.err

    return run


def test_a_life(run: Any, path: Path) -> None:
    status, out, _ = run("add", "alice", "--access", "read", "--access", "2=all", "--uid", "root")
    assert status == 0
    assert "alice added" in out
    assert run("add", "web", "--no-password", "--certificate", "web.example.org")[0] == 0
    alice, web = read_users(path).entries.values()
    assert (alice.everywhere, alice.accounts) == (Right.READ, ("root",))
    assert alice.storages == {"2": ~Right(0)}
    assert web.secret is None
    assert web.certificates == ("web.example.org",)
    assert web.rights.everywhere == DEFAULT
    before = alice.secret
    assert run("passwd", "alice")[0] == 0
    assert run("set", "alice", "--access", "pack", "--uid", "")[0] == 0
    alice = read_users(path).entries["alice"]
    assert alice.secret != before
    assert alice.rights.everywhere == Right.PACK | Right.READ
    assert (alice.storages, alice.accounts) == ({}, ())
    status, out, _ = run("list")
    assert status == 0
    assert out.splitlines() == [
        "name   password  access                known by",
        "alice  set       read,pack",
        "web    none      read,write,undo,pack  certificate web.example.org",
    ]
    (first, _) = json.loads(run("list", "--json")[1])
    assert first == {
        "name": "alice",
        "password": "set",
        "access": "read,pack",
        "storages": {},
        "certificates": [],
        "accounts": [],
    }
    assert run("remove", "alice", "web")[0] == 0
    assert read_users(path).entries == {}


def test_nothing_secret_is_shown(run: Any, path: Path) -> None:
    run("add", "alice")
    path.write_text(path.read_text() + f"bob:{DIGEST}\n")
    shown = "".join(run("list")[1:]) + "".join(run("list", "--json")[1:])
    for secret in re.split(r"[ :$\n]", path.read_text()):
        assert len(secret) < 20 or secret not in shown
    assert "outdated" in shown


def test_import_of_a_file_of_zeo(run: Any, path: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.write_text(f"realm ZEO\nbob:{DIGEST}\nalice:{DIGEST}\n")
    run("add", "alice")
    before = read_users(path).entries["alice"]
    status, out, err = run("import", str(old))
    assert status == 0
    assert "1 users imported" in out
    assert "must set a password: bob" in err
    table = read_users(path)
    assert table.entries["alice"] == before
    assert table.entries["bob"].needs_password
    assert run("passwd", "bob")[0] == 0
    assert not read_users(path).entries["bob"].needs_password
    old.write_text("realm other\n")
    status, _, err = run("import", str(old))
    assert status == 2
    assert "its realm is other, that of" in err


def test_import_of_passwords(
    run: Any, path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = tmp_path / "passwords"
    source.write_text("# new\n\nalice:a:b\nbob:c\n")
    status, out, err = run("import", str(source), "--access", "read")
    assert (status, err) == (0, "")
    assert "2 users imported" in out
    server = running_server(MappingStorage(), users=UserDirectory(str(path)))
    with server as found:
        for name, password in (("alice", "a:b"), ("bob", "c")):
            ClientStorage(found.address, username=name, password=password, read_only=True).close()
    for text, problem in (("alice", "line 1"), ("a:b\na:c\n", "comes twice"), ("a:", "line 1")):
        source.write_text(text)
        status, _, err = run("import", str(source))
        assert status == 2
        assert problem in err
    assert len(read_users(path).entries) == 2


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("add", "alice"), "a user already"),
        (("add", "a:b"), "cannot be a user's name"),
        (("add", "x", "--access", "root"), "is no right"),
        (("add", "x", "--access", "read", "--access", "pack"), "given twice"),
        (("add", "x", "--access", "1=read", "--access", "1=pack"), "given twice on storage 1"),
        (("add", "x", "--uid", "no-such-user"), "no user 'no-such-user'"),
        (("add", "x", "--certificate", "c"), "the certificate 'c' is in line"),
        (("add", "x", "--no-password"), "needs --certificate or --uid"),
        (("add", "x", "--no-password", "--password-file", "y"), "no effect"),
        (("add", "x", "--password-file", "/missing"), "cannot be read"),
        (("add", "x", "--iterations", "5"), "4096"),
        (("passwd", "mallory"), "is no user in"),
        (("set", "alice"), "nothing to set"),
        (("set", "mallory", "--access", "read"), "is no user in"),
        (("remove", "alice", "mallory"), "is no user in"),
        (("import", "/missing"), "cannot be read"),
        (("import", "x", "--uid", "root"), "one user's"),
    ],
)
def test_what_is_refused_changes_nothing(
    run: Any, path: Path, arguments: tuple[str, ...], problem: str
) -> None:
    known.write(path, entry("alice", certificates=("c",)))
    before = path.read_text()
    status, _, err = run(*arguments)
    assert status == 2
    assert problem in err
    assert PASSWORD not in err
    assert path.read_text() == before


def test_which_file(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    conf = tmp_path / "zeo.conf"
    rest = "<mappingstorage>\n</mappingstorage>\n"
    conf.write_text(f"<zeo>\naddress 0\nauthentication-database {path}\n</zeo>\n{rest}")
    known.write(path, entry("alice"))
    assert main(["user", "list", "-C", str(conf)]) == 0
    assert "alice" in capsys.readouterr().out
    for arguments in ([], ["-f", "x", "-C", "y"]):
        assert main(["user", "list", *arguments]) == 2
        assert "by -f, or" in capsys.readouterr().err
    conf.write_text(f"<zeo>\naddress 0\n</zeo>\n{rest}")
    assert main(["user", "list", "-C", str(conf)]) == 2
    assert "authentication-database" in capsys.readouterr().err


def test_where_a_new_password_comes_from(
    run: Any, path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def knows(password: str) -> bool:
        server = running_server(MappingStorage(), users=UserDirectory(str(path)))
        with server as found:
            try:
                ClientStorage(found.address, username="alice", password=password).close()
            except AuthenticationFailed:
                return False
            return True

    assert run("add", "alice")[0] == 0
    assert knows(PASSWORD)
    file = tmp_path / "password"
    file.write_text("of a file\r\nmore\n")
    assert run("passwd", "alice", "--password-file", str(file))[0] == 0
    assert knows("of a file")
    monkeypatch.setattr("sys.stdin", io.StringIO("of a pipe\n"))
    assert run("passwd", "alice", "--password-file", "-")[0] == 0
    assert knows("of a pipe")
    status, _, err = run("passwd", "alice", "--password-file", "-")
    assert (status, "no password on standard input" in err) == (2, True)
    monkeypatch.delenv("ZEOLITH_PASSWORD")
    status, _, err = run("passwd", "alice")
    assert (status, "give --password-file" in err) == (2, True)
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr("sys.stdin", terminal)
    monkeypatch.setattr(click, "prompt", lambda *_, **options: f"typed {options['hide_input']}")
    assert run("passwd", "alice")[0] == 0
    assert knows("typed True")
    assert not knows("of a pipe")


# -- commands that log in ------------------------------------------------------------------------


def test_commands_log_in(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    users = known.directory(path, entry("boss", "all"), entry("reader", "read"))
    storage = FileStorage(str(tmp_path / "Data.fs"))
    with running_server(storage, users=users) as server:
        where = f"127.0.0.1:{server.address[1]}"

        def run(*arguments: str, user: str | None = "boss") -> tuple[int, str]:
            login = [] if user is None else ["--username", user]
            status = main([*arguments, *login])
            found = capsys.readouterr()
            return status, found.out + found.err

        assert run("status", where, user=None) == (
            1,
            "zeolith: this server knows its users: log in with --username\n",
        )
        assert run("nagios", where, user=None)[0] == 2
        status, text = run("status", where, user="reader")
        assert (status, "'reader' has neither" in text) == (1, True)
        assert run("status", where)[0] == 0
        assert run("nagios", where)[0] in (0, 1)
        assert run("pack", where)[0] == 0
        assert run("pack", where, "--dry-run")[0] == 0
        assert run("pack", where, user=None)[0] == 1
        status, text = run("pack", where, user="reader")
        assert (status, "'reader'" in text) == (1, True)
        status, text = run("kick", where, "--all")
        assert "no client is connected" in text
        assert run("status", where, "--realm", "other")[0] == 1
        monkeypatch.setenv("ZEOLITH_USERNAME", "boss")
        assert run("status", where, user=None)[0] == 0
        monkeypatch.setenv("ZEOLITH_PASSWORD", "wrong")
        status, text = run("status", where, user=None)
        assert (status, "wrong user name or password" in text) == (1, True)
        file = tmp_path / "password"
        file.write_text(PASSWORD)
        monkeypatch.setenv("ZEOLITH_PASSWORD_FILE", str(file))
        assert run("status", where, user=None)[0] == 0


def test_watching_takes_the_right_to_read(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    users = known.directory(path, entry("two", "none"))
    with running_server(MappingStorage(), users=users) as server:
        where = f"127.0.0.1:{server.address[1]}"
        assert main(["watch", where, "--username", "two"]) == 1
        assert "lacks the right 'read'" in capsys.readouterr().err
        assert main(["watch", where]) == 1
        assert "log in" in capsys.readouterr().err


def test_where_a_password_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ask_principal(None, None) is None
    for arguments in ((None, "file", None), (None, None, "realm")):
        with pytest.raises(click.UsageError, match="no effect without --username"):
            ask_principal(*arguments)
    with pytest.raises(ConfigurationError, match="--login-password-file"):
        ask_principal("alice", str(tmp_path / "missing"))
    with pytest.raises(click.UsageError, match="--login-password-file, or set ZEOLITH_PASSWORD"):
        ask_principal("alice", None, environ={})
    found = ask_principal("alice", None, "ZEO", environ={"ZEOLITH_PASSWORD": "x"})
    assert found is not None
    assert (found.user, found.realm) == ("alice", "ZEO")
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr("sys.stdin", terminal)
    monkeypatch.setattr(click, "prompt", lambda *_, **options: f"typed {options['hide_input']}")
    assert ask_principal("alice", None, environ={}) is not None


def test_no_command_takes_a_password_as_an_argument() -> None:
    """Everybody on the machine could read it."""
    from zeolith.cli.group import COMMANDS, zeolith

    def names(command: click.Command) -> list[str]:
        found = [option for parameter in command.params for option in parameter.opts]
        if isinstance(command, click.Group):
            for each in command.commands.values():
                found += names(each)
        return found

    context = click.Context(zeolith)
    for name in COMMANDS:
        command = zeolith.get_command(context, name)
        assert command is not None
        assert "--password" not in names(command)
    assert "--password-file" in names(zeolith.get_command(context, "user") or zeolith)


def test_a_server_with_users_is_described() -> None:
    from zeolith.cli.serve import describe

    zeo = "<zeo>\naddress 8100\nauthentication-database /x\n</zeo>\n"
    text = f"{zeo}<mappingstorage>\n</mappingstorage>\n"
    assert "username=..., password_file=..." in describe(
        parse_server_config(text), ("127.0.0.1", 8100)
    )


def test_the_server_names_who_must_set_a_password(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    lines = "".join(f"bob{number}:{DIGEST}\n" for number in range(12))
    path.write_text(f"realm ZEO\n{lines}")
    path.chmod(0o600)
    text = f"<zeo>\naddress 0\nauthentication-database {path}\n</zeo>\n"
    config = parse_server_config(f"{text}<mappingstorage>\n</mappingstorage>\n")
    config.make_server()._close_storages()
    (line,) = [line for line in caplog.messages if "zeolith user passwd" in line]
    assert "'bob0', 'bob1', 'bob10'" in line
    assert "and 2 more cannot log in by password" in line
    assert DIGEST not in caplog.text


def test_the_server_names_rights_that_have_no_effect(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A slip would leave the user with the rights that were to be taken away."""
    path.write_text("realm ZEO\nbob:- access@main=read access@Main=none access@1=none\n")
    path.chmod(0o600)
    text = f"<zeo>\naddress 0\nauthentication-database {path}\n</zeo>\n"
    config = parse_server_config(f"{text}<mappingstorage MAIN>\n</mappingstorage>\n")
    config.make_server()._close_storages()
    (line,) = [line for line in caplog.messages if "has no effect" in line]
    assert "access on the storages '1', 'Main' has no effect: this server has 'main';" in line


# -- as processes --------------------------------------------------------------------------------


def test_a_site_with_users(path: Path, tmp_path: Path) -> None:
    """The configuration that ZEO's recipe writes, and a user who was there before."""
    path.write_text(f"realm ZEO\nbob:{DIGEST}\n")
    path.chmod(0o600)
    config = (
        f"authentication-protocol digest\nauthentication-database {path}\nauthentication-realm ZEO"
    )
    server = ServerProcess(tmp_path / "server", config=config)
    server.start()
    try:
        keywords: dict[str, Any] = {"username": "bob", "password": PASSWORD, "wait_timeout": 10}
        with pytest.raises(AuthenticationFailed):
            ClientStorage(server.address, **keywords)
        command = [sys.executable, "-m", "zeolith", "user", "passwd", "bob", "-f", str(path)]
        subprocess.run(
            [*command, "--iterations", "4096"],
            env={**child_environment(), "ZEOLITH_PASSWORD": PASSWORD},
            check=True,
            stdout=subprocess.DEVNULL,
        )
        ClientStorage(server.address, **keywords).close()
    finally:
        server.stop()
    log = server.log()
    assert "'bob' cannot log in by password" in log
    assert "log-in as 'bob' refused" in log
    assert "as bob) connected to storage '1'" in log
    assert PASSWORD not in log


def test_a_server_does_not_start_with_users_that_others_could_change(
    path: Path, tmp_path: Path
) -> None:
    known.write(path, entry("alice"))
    path.chmod(0o666)
    conf = tmp_path / "zeo.conf"
    conf.write_text(
        f"<zeo>\naddress 127.0.0.1:0\nauthentication-database {path}\n</zeo>\n"
        "<mappingstorage>\n</mappingstorage>\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "zeolith", "serve", "-C", str(conf)],
        env=child_environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert "authentication-database" in done.stderr
    assert "0666" in done.stderr
    assert "chmod 600" in done.stderr
