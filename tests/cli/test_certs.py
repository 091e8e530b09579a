"""``zeolith certs``: a site's certificates in one command."""

from __future__ import annotations

import builtins
import os
import ssl
import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from tests.support.waiting import wait_until
from ZODB.MappingStorage import MappingStorage

import zeolith
from zeolith.admin import authority, certstore
from zeolith.admin.certstore import CertificateStore
from zeolith.cli.main import main
from zeolith.config.credentials import FileCredentials
from zeolith.config.tls import TlsSettings
from zeolith.errors import CertificateProblem, CertificateRefused


class Done(NamedTuple):
    """What a command did."""

    status: int
    out: str
    err: str


@pytest.fixture
def site(tmp_path: Path) -> Path:
    return tmp_path / "certs"


@pytest.fixture
def run(site: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    def run(*arguments: str) -> Done:
        status = main(["certs", str(site), *arguments])
        return Done(status, *capsys.readouterr())

    return run


def load(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


MAKE = ("-s", "127.0.0.1", "-s", "db.example.org", "-c", "app", "-c", "ann@example.org")


def test_one_command_makes_a_site_that_works(
    run: Any, site: Path, serve: Any, tmp_path: Path
) -> None:
    old = os.umask(0)
    try:
        done = run(*MAKE)
    finally:
        os.umask(old)
    assert (done.status, done.err) == (0, "")
    modes = {path.name: mode(path) for path in site.iterdir()}
    assert modes == {
        "ca.key": 0o600,
        "ca.pem": 0o644,
        "crl.pem": 0o644,
        "server.pem": 0o600,
        "client-app.pem": 0o600,
        "client-ann@example.org.pem": 0o600,
    }
    assert mode(site) == 0o700
    for name in modes:
        assert f"created {site / name}" in done.out
    # The section that it shows is one that works.
    begin, end = done.out.index("  <ssl>"), done.out.index("  </ssl>")
    (tmp_path / "zeo.conf").write_text(
        "<zeo>\naddress 127.0.0.1:0\n"
        + done.out[begin:end]
        + "  </ssl>\n</zeo>\n<mappingstorage>\n</mappingstorage>\n"
    )
    server = serve("-C", "zeo.conf")
    ssl_of_client = zeolith.tls(str(site / "client-app.pem"), str(site / "ca.pem"))
    connection = zeolith.connection(server.address, ssl=ssl_of_client)
    assert connection.root() == {}
    connection.close()
    with pytest.raises(CertificateRefused) as caught:
        zeolith.connection(server.address, ssl=zeolith.tls(authenticate=str(site / "ca.pem")))
    assert caught.value.problem is CertificateProblem.MISSING
    assert server.stop() == 0


def test_names(run: Any, site: Path) -> None:
    assert run("-s", "db.example.org", "-s", "::2", "-s", "bücher.example").status == 0
    found = load(site / "server.pem")
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name.value) for name in names] == [
        *("db.example.org", "::2", "xn--bcher-kva.example"),
        *("localhost", "127.0.0.1", "::1"),
    ]
    assert found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "db.example.org"


@pytest.mark.parametrize(
    "arguments",
    [
        ("-s", "db.example.org:8100"),
        ("-s", "two words"),
        ("-s", ""),
        ("-s", "x" * 64 + ".example"),
        ("-c", "../escape"),
        ("-c", ""),
        ("-c", "x" * 65),
        ("-c", "ca"),
        ("-c", "server"),
        ("-c", "good", "-s", "bad:name"),
    ],
)
def test_what_is_no_name_leaves_nothing_behind(
    run: Any, site: Path, arguments: tuple[str, ...]
) -> None:
    done = run(*arguments)
    assert done.status == 2
    assert arguments[-2].replace("-s", "--server").replace("-c", "--client") in done.err
    assert not site.exists()


def test_nothing_is_overwritten(run: Any, site: Path) -> None:
    assert run(*MAKE).status == 0
    before = {path: path.read_bytes() for path in site.iterdir()}
    for arguments, name in (
        (("-s", "other"), "server"),
        (("-c", "new", "-c", "app"), "app"),
    ):
        done = run(*arguments)
        assert done.status == 2
        assert f"exists already; --renew {name} makes it anew" in done.err
        assert {path: path.read_bytes() for path in site.iterdir()} == before
    # What is new is signed by the same authority.
    assert run("-c", "new").status == 0
    load(site / "client-new.pem").verify_directly_issued_by(load(site / "ca.pem"))


def test_a_file_that_appears_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"theirs")
    with pytest.raises(certstore.ConfigurationError, match="exists already"):  # type: ignore[attr-defined]
        certstore._create(path, b"ours", 0o600)
    assert path.read_bytes() == b"theirs"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_renewing(run: Any, site: Path) -> None:
    assert run(*MAKE, "--days", "10").status == 0
    server, ca = load(site / "server.pem"), load(site / "ca.pem")
    (site / "server.pem").chmod(0o640)
    done = run("--renew", "server", "--days", "100")
    assert done.status == 0
    assert done.out == f"renewed {site / 'server.pem'}\n"
    renewed = load(site / "server.pem")
    assert renewed.serial_number != server.serial_number
    assert renewed.public_key() != server.public_key()
    assert (renewed.not_valid_after_utc - server.not_valid_after_utc).days in (89, 90)
    kind = x509.SubjectAlternativeName
    names = [c.extensions.get_extension_for_class(kind) for c in (server, renewed)]
    assert names[0] == names[1]
    assert mode(site / "server.pem") == 0o640
    # Those of the clients are due, the server's is not.
    done = run("--renew-due")
    assert sorted(done.out.splitlines()) == [
        f"renewed {site / name}.pem" for name in ("client-ann@example.org", "client-app")
    ]
    assert run("--renew-due").out == "nothing is due for renewal\n"
    done = run("--renew", "ca", "--ca-days", "5000")
    assert done.status == 0
    newer = load(site / "ca.pem")
    assert newer.not_valid_after_utc > ca.not_valid_after_utc
    renewed.verify_directly_issued_by(newer)


def test_revoking(run: Any, site: Path) -> None:
    assert run(*MAKE).status == 0
    serial = load(site / "client-app.pem").serial_number
    done = run("--revoke", "app")
    assert done.status == 0
    aside = site / f"revoked-{serial:x}.pem"
    assert str(aside) in done.out
    assert not (site / "client-app.pem").exists()
    assert aside.exists()
    assert run("-c", "app").status == 0
    second = load(site / "client-app.pem").serial_number
    assert run("--revoke", "app").status == 0
    # What is on the list stays there, also when the authority is renewed.
    assert run("--renew", "ca").status == 0
    revoked = x509.load_pem_x509_crl((site / "crl.pem").read_bytes())
    assert {item.serial_number for item in revoked} == {serial, second}
    assert revoked.next_update_utc == load(site / "ca.pem").not_valid_after_utc
    assert revoked.is_signature_valid(load(site / "ca.pem").public_key())  # type: ignore[arg-type]
    for name in ("app", "ca", "nobody"):
        assert run("--revoke", name).status == 2


def test_a_running_server_learns_of_a_revocation(
    run: Any, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zeolith.server import Server, ServerOptions, renewal, start_in_thread

    monkeypatch.setattr(renewal, "LOOK", 0.02)
    assert run(*MAKE).status == 0
    credentials = FileCredentials.of_server(
        TlsSettings(
            certificate=str(site / "server.pem"),
            authenticate=str(site / "ca.pem"),
            revocations=str(site / "crl.pem"),
        )
    )
    options = ServerOptions(address=("127.0.0.1", 0), ssl=credentials)
    server = Server({"1": MappingStorage()}, options)
    stop = start_in_thread(server)
    try:
        client = zeolith.tls(str(site / "client-app.pem"), str(site / "ca.pem"))
        zeolith.ClientStorage(server.address, ssl=client).close()
        context = credentials.context
        assert run("--revoke", "app").status == 0
        wait_until(lambda: credentials.context is not context)
        monkeypatch.setattr(client, "refresh", lambda: None)  # its file is not there any more
        with pytest.raises(CertificateRefused) as caught:
            zeolith.ClientStorage(server.address, ssl=client)
        assert caught.value.problem is CertificateProblem.REVOKED
    finally:
        stop()


def test_listing(run: Any, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(*MAKE, "--days", "100").status == 0
    assert run("-c", "brief", "--days", "5").status == 0
    done = run()
    assert done.status == 0
    rows = {line.split()[0]: line.split() for line in done.out.splitlines()[1:]}
    assert list(rows) == ["ca", "server", "ann@example.org", "app", "brief"]
    assert rows["server"][2:4] == ["99", "valid"]
    assert rows["brief"][2:4] == ["4", "due"]
    assert "127.0.0.1, db.example.org, localhost, ::1" in done.out
    foreign = authority.Authority.make("another").issue_client("stranger")
    (site / "client-stranger.pem").write_bytes(foreign)
    done = run()
    assert done.status == 1
    assert "FOREIGN" in done.out
    (site / "client-stranger.pem").write_text("nonsense")
    assert "holds no certificate" in run().err


def test_an_encrypted_authority(run: Any, site: Path, tmp_path: Path) -> None:
    word = tmp_path / "word"
    word.write_text("open sesame\n")
    assert run(*MAKE, "--ca-password-file", str(word)).status == 0
    assert b"ENCRYPTED" in (site / "ca.key").read_bytes()
    assert b"open sesame" not in (site / "ca.key").read_bytes()
    done = run("-c", "more")
    assert done.status == 2
    assert "give --ca-password-file" in done.err
    assert run("-c", "more", "--ca-password-file", str(word)).status == 0
    word.write_text("wrong\n")
    assert run("-c", "another", "--ca-password-file", str(word)).status == 2
    assert not (site / "client-another.pem").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "has no ca.pem; --server NAME makes one"),
        (("--renew", "server"), "has no ca.pem"),
        (("--renew-due",), "has no ca.pem"),
        (("--days", "5"), "--days has no effect here"),
        (("--ca-days", "5"), "--ca-days has no effect here"),
        (("--ca-password-file", "x"), "--ca-password-file has no effect here"),
        (("-s", "x", "--renew", "x"), "exclude each other"),
        (("-c", "x", "--revoke", "x"), "exclude each other"),
        (("-s", "x", "--days", "0"), "0 is not in the range"),
        (("-s", "x", "--ca-password-file", "/no/file"), "cannot be read"),
    ],
)
def test_wrong_usage(run: Any, site: Path, arguments: tuple[str, ...], message: str) -> None:
    done = run(*arguments)
    assert done.status == 2
    assert message in done.err
    assert not site.exists()


def test_options_of_an_authority_that_exists(run: Any) -> None:
    assert run(*MAKE).status == 0
    assert "the authority exists" in run("-c", "x", "--ca-days", "5").err
    assert "without --renew ca" in run("--renew", "app", "--ca-days", "5").err
    assert "there is no" in run("--renew", "nobody").err


def test_half_an_authority(run: Any, site: Path) -> None:
    assert run(*MAKE).status == 0
    (site / "ca.pem").unlink()
    done = run("-c", "x")
    assert done.status == 2
    assert "ca.pem" in done.err
    (site / "ca.pem").write_bytes(authority.Authority.make("another").pem)
    assert "do not belong together" in run("-c", "x").err


def test_an_authority_that_has_expired(
    run: Any, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authority, "_SKEW", timedelta(days=3))
    ended = authority.Authority.make("ended", days=-1)
    monkeypatch.undo()
    assert run(*MAKE).status == 0
    (site / "ca.pem").write_bytes(ended.pem)
    (site / "ca.key").write_bytes(ended.key_pem())
    (site / "crl.pem").unlink()
    for arguments in (("-c", "x"), ("--renew", "app"), ("--revoke", "app")):
        done = run(*arguments)
        assert done.status == 2
        assert "ca.pem: expired on" in done.err
        assert "--renew ca" in done.err
    assert (site / "client-app.pem").exists()
    # Whatever the order: what the authority signs ends with it.
    assert run("--renew", "app", "--renew", "ca").status == 0
    load(site / "client-app.pem").verify_directly_issued_by(load(site / "ca.pem"))
    assert run("-c", "x").status == 0


def test_an_authority_of_another_kind(run: Any, site: Path) -> None:
    assert run(*MAKE).status == 0
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = load(site / "ca.pem").subject
    now = datetime.now(UTC)
    own = (
        x509.CertificateBuilder(name, name, key.public_key(), 1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    (site / "ca.pem").write_bytes(own.public_bytes(serialization.Encoding.PEM))
    encoding, shape = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (site / "ca.key").write_bytes(key.private_bytes(encoding, shape, serialization.NoEncryption()))
    done = run("-c", "x")
    assert done.status == 2
    assert "of another kind" in done.err


def test_a_revocation_list_of_somebody_else(run: Any, site: Path) -> None:
    """What it lacks would be admitted again, so it is not taken for one."""
    assert run(*MAKE).status == 0
    other = authority.Authority.make("another").revoke((), None)
    for text, message in ((b"nonsense", "holds no"), (other, "not signed by ca.pem")):
        (site / "crl.pem").write_bytes(text)
        for arguments in ((), ("--revoke", "app"), ("--renew", "ca")):
            done = run(*arguments)
            assert done.status == 2
            assert "crl.pem" in done.err
            assert message in done.err
    assert (site / "client-app.pem").exists()


def test_a_directory_that_cannot_be_made(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["certs", "/proc/no/such/place", "-s", "x"]) == 1
    assert "/proc/no" in capsys.readouterr().err


def test_without_the_library(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def fail(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name == "admin.certstore":
            raise ModuleNotFoundError("No module named 'cryptography'", name="cryptography")
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", fail)
    done = run(*MAKE)
    assert done.status == 2
    assert "install zeolith[certs]" in done.err


def test_what_openssl_finds_strange(run: Any, site: Path) -> None:
    """Python 3.13 checks strictly by default, and so do we."""
    assert run(*MAKE).status == 0
    store = CertificateStore(site)
    assert [entry.is_signed for entry in store.entries()] == [True] * 4
    context = ssl.create_default_context(cafile=str(site / "ca.pem"))
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    assert context.get_ca_certs()[0]["subject"]
