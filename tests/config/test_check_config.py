"""``zeolith check-config``: mistakes and traps that only a look beyond the lines finds."""

from __future__ import annotations

import datetime
import json
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from tests.support.certificates import DAY, Certificates

from zeolith.cli.main import main
from zeolith.config.accounts import Account
from zeolith.config.checks.check import check_config
from zeolith.config.checks.rights import Rights

STORAGE = "<filestorage>\n  path $var/Data.fs\n  {}\n</filestorage>\n"


@pytest.fixture
def var(tmp_path: Path) -> Path:
    (tmp_path / "Data.fs").write_bytes(b"FS30")
    return tmp_path


def conf(*keys: str, address: str = "127.0.0.1:8100", rest: str = "") -> str:
    """Return a configuration: the address is on line 2, *keys* follow from line 3 on."""
    storage = "" if re.search("<(zeo|.*storage)", rest) else STORAGE.replace("  {}\n", "")
    return "\n".join(["<zeo>", f"address {address}", *keys, "</zeo>", storage + rest])


def said(text: str, var: Path) -> list[str]:
    """Return what is said of *text*, where ``$var`` is the directory *var*."""
    report = check_config("zeo.conf", text.replace("$var", str(var)))
    return [
        f"{'error' if one.is_error else 'warning'}: {one}".replace(str(var), "$var")
        for one in report.complaints
    ]


def test_nothing_is_wrong(var: Path) -> None:
    assert said(conf(), var) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            conf(address="*:8100"),
            (
                "warning: zeo.conf, line 2, address: whoever reaches this address over the network "
                "reads and changes the whole database; add an <ssl> section, or listen on "
                "127.0.0.1, a private network or a Unix socket"
            ),
        ),
        (
            conf("monitor-address 0.0.0.0:8099"),
            (
                "warning: zeo.conf, line 3, monitor-address: whoever reaches this address over the "
                "network learns what the server does; add an <ssl> section"
            ),
        ),
        (conf(address="[::]:8100"), "warning: zeo.conf, line 2, address: whoever reaches"),
        (conf(address="no-such-host.invalid:1"), "error: zeo.conf, line 2, address: the host no"),
        (conf(address="0"), "warning: zeo.conf, line 2, address: port 0 is another port at each"),
        (
            conf(address="$var/missing/zeo.sock"),
            (
                "error: zeo.conf, line 2, address: the directory $var/missing does not exist; "
                "create it, or correct the path"
            ),
        ),
        (conf(address="./zeo.sock"), "warning: zeo.conf, line 2, address: ./zeo.sock is relative"),
        (
            conf("monitor-address 8100"),
            "error: zeo.conf, line 3, monitor-address: is the same as address",
        ),
        (conf("socket-mode 0600"), "error: zeo.conf, line 3, socket-mode: has no effect"),
        (conf("transaction-timeout 0"), "warning: zeo.conf, line 3, transaction-timeout: a client"),
        (conf("pid-filename zeo.pid"), "warning: zeo.conf, line 3, pid-filename: zeo.pid is rel"),
        (
            conf("<ssl>", "certificate /missing/c", "authenticate /missing/a", "</ssl>"),
            "error: zeo.conf, line 5, authenticate: /missing/a cannot be used",
        ),
        (
            conf("reed-only 1", "<ssl>", "certificate /missing/c", "</ssl>"),
            "error: zeo.conf, line 4, <ssl>: authenticate is missing",
        ),
    ],
)
def test_the_server(text: str, expected: str, var: Path) -> None:
    assert [line for line in said(text, var) if line.startswith(expected)]


@pytest.mark.parametrize(
    ("storages", "expected"),
    [
        (
            STORAGE.format("create yes"),
            (
                "warning: zeo.conf, line 6, create: empties the database at each start of the "
                "server; remove the line"
            ),
        ),
        (
            STORAGE.format("read-only yes"),
            "warning: zeo.conf, line 6, read-only: clients that want to write are admitted",
        ),
        (STORAGE.format("quota 1"), "warning: zeo.conf, line 6, quota: $var/Data.fs has 4 bytes"),
        (
            STORAGE.format("blob-dir $var/Data.fs"),
            "error: zeo.conf, line 6, blob-dir: $var/Data.fs is not a directory; name a directory",
        ),
        (
            STORAGE.format("") + "<filestorage a>\npath $var/../{}/Data.fs\n</filestorage>",
            "error: zeo.conf, line 9, path: $var/../{}/Data.fs belongs to the storage on line 4",
        ),
        (
            STORAGE.format("blob-dir $var/b")
            + "<blobstorage a>\nblob-dir $var/b\n<mappingstorage/>\n</blobstorage>",
            "error: zeo.conf, line 9, blob-dir: $var/b belongs to the storage on line 4, too",
        ),
        (
            STORAGE.format("") * 2,
            (
                "error: zeo.conf, line 8, <filestorage>: is called '1' (a storage without a name "
                "is), and so is the one on line 4; write a name"
            ),
        ),
        (
            "<filestorage>\npath $var\n</filestorage>",
            "error: zeo.conf, line 5, path: $var is a directory; name a file in it",
        ),
        (
            "<filestorage>\npath $var/Text.fs\n</filestorage>",
            "error: zeo.conf, line 5, path: $var/Text.fs is no FileStorage; correct the path",
        ),
        (
            "<filestorage>\npath $var/New.fs\nblob-dir $var/blobs\n</filestorage>",
            (
                "warning: zeo.conf, line 5, path: $var/New.fs does not exist, but there are blobs "
                "in $var/blobs: an empty database would be made"
            ),
        ),
        (
            "<filestorage>\npath Data.fs\n</filestorage>",
            "warning: zeo.conf, line 5, path: Data.fs is relative to the directory in which",
        ),
        (
            "<mappingstorage>\n</mappingstorage>",
            "warning: zeo.conf, line 4, <mappingstorage>: the database is lost when the server",
        ),
        (
            f"<demostorage>\n{STORAGE.format('')}</demostorage>",
            "warning: zeo.conf, line 4, <demostorage>: what is committed is lost when",
        ),
        (
            "<fullstorage>\nenvdir x\n</fullstorage>",
            "error: zeo.conf, line 4, <fullstorage>: the storages on Berkeley DB exist no more",
        ),
        (
            "<zeoclient>\nserver localhost:8100\n</zeoclient>",
            "error: zeo.conf, line 5, server: is this server itself; name the server to forward",
        ),
        (
            "<zeolith>\nserver 8100\n</zeolith>",
            "error: zeo.conf, line 5, server: is this server itself; name the server to forward",
        ),
        (
            "<zeoclient>\nserver a:1\nusername x\n</zeoclient>",
            "error: zeo.conf, line 6, username: needs a password; give password or",
        ),
    ],
)
def test_the_storages(storages: str, expected: str, var: Path) -> None:
    (var / "Text.fs").write_text("nothing of the kind")
    (var / "blobs").mkdir()
    (var / "blobs" / ".layout").write_text("bushy\n")
    storages, expected = (text.replace("{}", var.name) for text in (storages, expected))
    assert [line for line in said(conf(rest=storages), var) if line.startswith(expected)]


def test_a_disk_without_room_for_a_pack(var: Path) -> None:
    with (var / "Data.fs").open("r+b") as file:
        file.truncate(2**42)  # takes no room itself
    (line,) = said(conf(), var)
    assert "$var/Data.fs has 4,194,304 MB, and " in line
    assert "a pack, which makes a second file, may not fit; make room on the disk" in line


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        ("<eventlog>\n</eventlog>", "warning: zeo.conf, line 7, <eventlog>: nothing is logged"),
        (
            "<eventlog>\n<logfile>\npath /missing/zeo.log\n</logfile>\n</eventlog>",
            "error: zeo.conf, line 9, path: the directory /missing does not exist",
        ),
        (
            "<eventlog>\n<logfile>\npath zeo.log\n</logfile>\n</eventlog>",
            "warning: zeo.conf, line 9, path: zeo.log is relative to the directory",
        ),
        (
            "<runner>\nuser nobody-of-that-name\n</runner>",
            "error: zeo.conf, line 8, user: there is no user 'nobody-of-that-name'",
        ),
        (
            "<runner>\nprogram /missing/runzeo\n</runner>",
            "error: zeo.conf, line 8, program: /missing/runzeo cannot be run",
        ),
        (
            "<runner>\nprogram $var/runzeo -C zeo.conf\n</runner>",
            "warning: zeo.conf, line 8, program: starts ZEO's server rather than this one",
        ),
        (
            "<runner>\nexit-codes 0\n</runner>",
            "warning: zeo.conf, line 8, exit-codes: without 2 the server is started again and",
        ),
        (
            "<runner>\nexit-codes 2\n</runner>",
            "warning: zeo.conf, line 8, exit-codes: without 0 a server that was stopped comes",
        ),
        ("<runner>\nprompt x\n</runner>", "warning: zeo.conf, line 8, prompt: has no effect"),
        (
            f"<runner>\nsocket-name /tmp/{'x' * 95}\n</runner>",
            "error: zeo.conf, line 8, socket-name: the path is longer than the 99 bytes",
        ),
        (
            "<runner>\ntranscript $var/no/transcript\n</runner>",
            "error: zeo.conf, line 8, transcript: the directory $var/no does not exist",
        ),
    ],
)
def test_logs_and_runner(rest: str, expected: str, var: Path) -> None:
    (var / "runzeo").write_text("#!/bin/sh\n")
    (var / "runzeo").chmod(0o755)
    assert [line for line in said(conf(rest=rest), var) if line.startswith(expected)]


# -- certificates --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


def write_certificate(ca: trustme.CA, path: Path, days: float, start: float = -300) -> None:
    """Write a certificate with its key, valid until *days* from now."""
    now = datetime.datetime.now(datetime.UTC)
    issued = ca.issue_cert(
        "localhost",
        not_before=now + datetime.timedelta(days=start),
        not_after=now + datetime.timedelta(days=days),
    )
    issued.private_key_and_cert_chain_pem.write_to_path(path)
    path.chmod(0o600)


@pytest.mark.parametrize(
    ("days", "start", "expected"),
    [
        (-1, -300, "error: zeo.conf, line 4, certificate: a certificate in $var/c.pem expired on"),
        (10, -300, "warning: zeo.conf, line 4, certificate: a certificate in $var/c.pem expires"),
        (99, 2, "error: zeo.conf, line 4, certificate: a certificate in $var/c.pem is not valid"),
        (99, -1, ""),
    ],
)
def test_certificates_have_their_time(
    ca: trustme.CA, var: Path, days: float, start: float, expected: str
) -> None:
    write_certificate(ca, var / "c.pem", days, start)
    ca.cert_pem.write_to_path(var / "ca.pem")
    ssl = ("<ssl>", "certificate $var/c.pem", "authenticate $var/ca.pem", "</ssl>")
    lines = said(conf(*ssl, address="*:8100"), var)
    assert len(lines) == bool(expected)
    assert all(line.startswith(expected) for line in lines)


@pytest.mark.parametrize(
    ("days", "expected"),
    [
        (-1, "error: zeo.conf, line 6, crl: a revocation list in $var/ours-1.crl expired on"),
        (0.5, "warning: zeo.conf, line 6, crl: a revocation list in $var/ours-1.crl expires"),
        (2, ""),
    ],
)
def test_revocation_lists_have_their_time(var: Path, days: float, expected: str) -> None:
    ours = Certificates(var)
    own = Path(ours.issue("server"))
    own.chmod(0o600)
    ours.revoke([], next_update=days * DAY)
    lines = (
        "certificate $var/ours-server.pem",
        "authenticate $var/ours.pem",
        "crl $var/ours-1.crl",
    )
    found = said(conf("<ssl>", *lines, "</ssl>", address="*:8100"), var)
    assert len(found) == bool(expected)
    assert all(line.startswith(expected) for line in found)


def test_tls_that_lets_everybody_in(var: Path) -> None:
    own = Path(Certificates(var).issue("server"))
    own.chmod(0o600)
    lines = ("certificate $var/ours-server.pem", "client-certificates none")
    (line,) = said(conf("<ssl>", *lines, "</ssl>", address="*:8100"), var)
    assert "reads and changes the whole database; set client-certificates required, or" in line
    assert said(conf("<ssl>", *lines, "</ssl>"), var) == []


def test_a_key_that_everybody_may_read(ca: trustme.CA, var: Path) -> None:
    write_certificate(ca, var / "c.pem", 99)
    (var / "c.pem").chmod(0o644)
    ca.cert_pem.write_to_path(var / "ca.pem")
    ssl = ("<ssl>", "certificate $var/c.pem", "authenticate $var/ca.pem", "</ssl>")
    (line,) = said(conf(*ssl), var)
    assert "everybody on this machine may read the private key in $var/c.pem; chmod o-r" in line


# -- rights --------------------------------------------------------------------------------------


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that everybody can reach, as those of pytest cannot be."""
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory)


def test_the_rights_of_another_user(public: Path) -> None:
    stranger = Rights(Account("stranger", os.geteuid() + 12345, os.getegid() + 12345))
    path = public / "file"
    path.write_text("")
    public.chmod(0o755)
    path.chmod(0o644)
    assert stranger.may(path, os.R_OK)
    assert not stranger.may(path, os.W_OK)
    assert stranger.why_no_file(path) == (
        f"the user stranger may not read and write {path}",
        "change its owner or permissions",
    )
    assert stranger.why_no_entry(public / "new") == (
        f"the user stranger may not write to the directory {public}",
        "change its owner or permissions",
    )
    path.chmod(0o666)
    assert stranger.why_no_file(path) is None
    public.chmod(0o700)
    assert not stranger.may(path, os.R_OK)
    assert Rights(Account("root", 0, 0)).may(path, os.R_OK)


def test_our_own_rights(tmp_path: Path) -> None:
    rights = Rights()
    assert rights.why_no_file(tmp_path / "new") is None
    assert rights.why_no_directory(tmp_path) is None
    assert rights.why_no_directory(tmp_path / "new") is None
    problem, remedy = rights.why_no_directory(tmp_path / "no" / "new") or ("", "")
    assert problem == f"the directory {tmp_path}/no does not exist"
    assert remedy == "create it, or correct the path"


# -- the command ---------------------------------------------------------------------------------


def run(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str]:
    status = main(["check-config", *args])
    captured = capsys.readouterr()
    assert captured.err == ""
    return status, captured.out


def test_statuses_and_settings(var: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = var / "zeo.conf"
    path.write_text(conf("read-only true").replace("$var", str(var)))
    status, text = run(capsys, str(path))
    assert status == 0
    for key, value in (
        ("read-only", "true"),
        ("transaction-timeout", "30  (default)"),
        ("invalidation-age", "1d  (default)"),
        ("monitor-address", "(not set)"),
    ):
        assert re.search(rf"^  {key}  +{re.escape(value)}$", text, re.M), key
    assert f"  path           {var}/Data.fs\n" in text
    assert text.endswith(f"{path}: no mistakes found\n")
    path.write_text(conf("transaction-timeout 0").replace("$var", str(var)))
    status, text = run(capsys, "-q", str(path))
    assert status == 0
    assert text == (
        f"warning: {path}, line 3, transaction-timeout\n"
        "  a client that stops in the middle of a commit stops the commits of all others\n"
        "  -> give a number of seconds\n"
        "\n"
        f"{path}: 1 warning\n"
    )
    assert run(capsys, "--strict", str(path))[0] == 2
    path.write_text(conf("transaction-timeout never", "x y").replace("$var", str(var)))
    status, text = run(capsys, str(path))
    assert status == 2
    assert text.endswith(f"{path}: 2 errors\n")


def test_json(var: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = var / "zeo.conf"
    client = "<zeoclient up>\nserver a:1\nserver b:1\npassword x\n</zeoclient>"
    path.write_text(conf("transaction-timeout 0", rest=client))
    status, text = run(capsys, "--json", str(path))
    assert status == 2
    found = json.loads(text)
    assert found["file"] == str(path)
    (error,) = found["errors"]
    assert (error["file"], error["line"], error["subject"]) == (str(path), 8, "password")
    assert error["problem"]
    assert error["remedy"]
    (warning,) = found["warnings"]
    assert (warning["line"], warning["subject"]) == (3, "transaction-timeout")
    zeo, up = found["configuration"]
    assert (zeo["type"], zeo["name"], zeo["line"]) == ("zeo", None, 1)
    assert zeo["keys"]["transaction-timeout"] == {"value": "0", "default": False, "line": 3}
    assert zeo["keys"]["read-only"] == {"value": "false", "default": True, "line": None}
    assert zeo["keys"]["invalidation-age"] == {"value": "1d", "default": True, "line": None}
    assert (up["type"], up["name"]) == ("zeoclient", "up")
    assert up["keys"]["server"]["value"] == ["a:1", "b:1"]
    assert up["keys"]["password"]["value"] == "********"


def test_passwords_in_texts_are_hidden(var: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from zeolith.config.effective import format_outline

    text = "<demostorage>\nname dbname='x' password='sec ret' host=a\n</demostorage>"
    shown = format_outline(check_config("zeo.conf", conf(rest=text)).outline)
    assert "dbname='x' password=******** host=a" in shown
    assert "sec ret" not in shown


def test_the_rights_of_the_user_who_will_run_it(
    public: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root has another user's rights to look at")
    public.chmod(0o755)
    path = public / "zeo.conf"
    path.write_text(conf().replace("$var", str(public)))
    assert run(capsys, "-q", str(path))[0] == 0
    status, text = run(capsys, "-q", "--user", "nobody", str(path))
    assert status == 2
    assert f"the user nobody may not write to the directory {public}\n" in text
    assert main(["check-config", "--user", "nobody-of-that-name", str(path)]) == 2
    assert "--user: there is no user" in capsys.readouterr().err
    # Who is named in <runner> counts as well.
    path.write_text(conf(rest="<runner>\nuser nobody\n</runner>").replace("$var", str(public)))
    assert run(capsys, "-q", str(path))[0] == 2


def test_from_standard_input(
    var: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO("<zeo>\n</zeo>"))
    status, text = run(capsys, "-q", "-")
    assert status == 2
    assert "error: <stdin>, line 1, <zeo>\n  the key address is missing\n" in text


def test_quiet_has_no_effect_on_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-config", "-q", "--json", "zeo.conf"]) == 2
    assert "--quiet has no effect with --json" in capsys.readouterr().err


@pytest.mark.parametrize("file", ["missing.conf", ".", "http://[", "\0"])
def test_files_that_cannot_be_read(
    file: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, text = run(capsys, file)
    assert status == 2
    assert text.startswith("error: ")
    assert text.endswith(": 1 error\n")


def test_what_is_printed_is_printable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "zeo.conf"
    path.write_text("<zeo>\naddress \x1b[2J\n\x1b]0;title\x07 x\n</zeo>\n")
    status, text = run(capsys, str(path))
    assert status == 2
    assert "\x1b" not in text
    assert "\x07" not in text


def test_nothing_is_made_or_opened(var: Path) -> None:
    before = sorted(var.iterdir())
    rest = "<eventlog>\n<logfile>\npath $var/zeo.log\n</logfile>\n</eventlog>\n"
    text = conf("pid-filename $var/zeo.pid", rest=rest)
    assert said(text, var) == []
    assert sorted(var.iterdir()) == before


# -- users ---------------------------------------------------------------------------------------


def users(var: Path, text: str, mode: int = 0o600) -> str:
    """Write a file of users; return the line that names it."""
    (var / "users").write_text(text)
    (var / "users").chmod(mode)
    return "authentication-database $var/users"


def test_users_are_in_order(var: Path) -> None:
    key = users(var, "realm ZEO\nweb:-\n")
    assert said(conf(key, "authentication-realm ZEO", "authentication-protocol digest"), var) == []


def test_users_whom_nobody_can_show_to_be(var: Path) -> None:
    Path(Certificates(var).issue("server")).chmod(0o600)
    key = users(var, "realm ZEO\nweb:- certificate=web.example.org\ndaemon:- uid=root\n")
    where = "warning: zeo.conf, line 3, authentication-database: "
    by_certificate = f"{where}'web': known by certificate, and no client is asked for one; "
    by_uid = f"{where}'daemon': known by user id, which only a Unix socket tells; let the server "

    def lines(*more: str, address: str = "127.0.0.1:8100") -> list[str]:
        return said(conf(key, *more, address=address), var)

    assert [line[: len(by_certificate)] for line in lines(address="$var/sock")] == [by_certificate]
    tls = ("<ssl>", "certificate $var/ours-server.pem")
    first, second = lines(*tls, "client-certificates none", "</ssl>")
    assert first == f"{by_certificate}take out client-certificates none, or give them passwords"
    assert second.startswith(by_uid)
    (line,) = lines(*tls, "authenticate $var/ours.pem", "</ssl>")
    assert line.startswith(by_uid)


@pytest.mark.parametrize(
    ("text", "mode", "more", "expected"),
    [
        (
            f"realm ZEO\nbob:{'5' * 40}\n",
            0o600,
            "",
            (
                "warning: zeo.conf, line 3, authentication-database: $var/users: 'bob' cannot log "
                "in by password"
            ),
        ),
        (
            "realm ZEO\n",
            0o600,
            "",
            (
                "warning: zeo.conf, line 3, authentication-database: $var/users has no user: "
                "nobody can connect; add one"
            ),
        ),
        (
            "realm ZEO\nbob:x\n",
            0o600,
            "",
            (
                "error: zeo.conf, line 3, authentication-database: $var/users, line 2: the secret "
                "of 'bob' is damaged"
            ),
        ),
        (
            "realm ZEO\n",
            0o644,
            "",
            "error: zeo.conf, line 3, authentication-database: $var/users has the permissions 0644",
        ),
        (
            "realm ZEO\nweb:- access=all access@main=none access@1=read\n",
            0o600,
            "",
            (
                "warning: zeo.conf, line 3, authentication-database: $var/users: access on the "
                "storages 'main' has no effect: this server has '1'; correct the names, unless "
            ),
        ),
        (
            "realm ZEO\n",
            0o600,
            "authentication-realm other",
            (
                "error: zeo.conf, line 4, authentication-realm: is other, but the users in "
                "$var/users belong to the realm ZEO"
            ),
        ),
        (
            "realm ZEO\nweb:- uid=no-such-user\n",
            0o600,
            "",
            (
                "error: zeo.conf, line 3, authentication-database: $var/users, user web: there is "
                "no user 'no-such-user' on this machine"
            ),
        ),
        (
            "realm ZEO\nweb:- uid=root\nweb2:- uid=0\n",
            0o600,
            "",
            (
                "error: zeo.conf, line 3, authentication-database: $var/users, user web2: the user "
                "id 0 is that of 'web' too"
            ),
        ),
    ],
)
def test_users_that_are_not(text: str, mode: int, more: str, expected: str, var: Path) -> None:
    found = said(conf(users(var, text, mode), more), var)
    assert [line for line in found if line.startswith(expected)], found


def test_users_without_tls(var: Path) -> None:
    key = users(var, "realm ZEO\nweb:-\n")
    (line,) = said(conf(key, address="*:8100"), var)
    assert "whoever reaches this address over the network can read along, and take over" in line


def test_users_with_tls_need_no_certificates(var: Path) -> None:
    """But the monitor's report has no log-in."""
    own = Path(Certificates(var).issue("server"))
    own.chmod(0o600)
    tls = ("<ssl>", "certificate $var/ours-server.pem", "client-certificates none", "</ssl>")
    key = users(var, "realm ZEO\nweb:-\n")
    assert said(conf(key, *tls, address="*:8100"), var) == []
    (line,) = said(conf(key, "monitor-address *:8101", *tls, address="*:8100"), var)
    assert "monitor-address: whoever reaches this address over the network learns what" in line
