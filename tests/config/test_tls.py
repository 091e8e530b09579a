"""TLS contexts: who gets in, who does not, and what is refused before anybody tries."""

from __future__ import annotations

import datetime
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from tests.support.tlscontexts import client_context, server_context

from zeolith.config.server import parse_server_config
from zeolith.config.tls import TlsSettings
from zeolith.errors import ConfigurationError

PASSWORD = b"correct horse"


def password() -> bytes:
    return PASSWORD


not_a_function = "just a text"


@dataclass(frozen=True)
class Files:
    """Certificates on disk: an authority, one certificate for each side, and a stranger's."""

    directory: Path
    authority: str
    server: str
    client: str
    stranger: str
    ca: trustme.CA


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    directory = tmp_path_factory.mktemp("tls")
    ca, other = trustme.CA(), trustme.CA()
    ca.cert_pem.write_to_path(directory / "ca.pem")
    ca.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(
        directory / "server.pem"
    )
    for name, issuer in (("client", ca), ("stranger", other)):
        issuer.issue_cert(f"{name}@example.org").private_key_and_cert_chain_pem.write_to_path(
            directory / f"{name}.pem"
        )
    ca_pem, server, client, stranger = (
        str(directory / f"{name}.pem") for name in ("ca", "server", "client", "stranger")
    )
    return Files(directory, ca_pem, server, client, stranger, ca)


def talk(server: ssl.SSLContext, client: ssl.SSLContext, host: str | None = "localhost") -> str:
    """Shake hands in memory; return the protocol version.

    Afterwards one byte goes each way: with TLS 1.3 a client learns only then that the server
    has refused its certificate.
    """
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=host),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(6):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    for sender, receiver in (ends, ends[::-1]):
        sender.write(b"x")
        assert receiver.read(1) == b"x"
    version = ends[0].version()
    assert version is not None
    return version


def encrypted_key(files: Files) -> tuple[str, str]:
    """Return the paths of a certificate and of its encrypted key."""
    issued = files.ca.issue_cert("localhost")
    certificate, key = files.directory / "locked.pem", files.directory / "locked.key"
    issued.cert_chain_pems[0].write_to_path(certificate)
    private = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None)
    key.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(PASSWORD),
        )
    )
    return str(certificate), str(key)


# -- handshakes --------------------------------------------------------------------------------


def test_known_peers_talk(files: Files) -> None:
    server = server_context(files.server, files.authority)
    client = client_context(files.client, files.authority)
    assert talk(server, client) == "TLSv1.3"


def test_r9_a_client_without_certificate_stays_out(files: Files) -> None:
    server = server_context(files.server, files.authority)
    with pytest.raises(ssl.SSLError, match=r"(?i)certificate"):
        talk(server, client_context(authenticate=files.authority))


def test_r9_a_client_of_another_authority_stays_out(files: Files) -> None:
    server = server_context(files.server, files.authority)
    with pytest.raises(ssl.SSLError, match=r"(?i)certificate"):
        talk(server, client_context(files.stranger, files.authority))


def test_r9_a_listed_certificate_opens_for_itself_only(files: Files) -> None:
    server = server_context(files.server, files.client)
    assert talk(server, client_context(files.client, files.authority))
    with pytest.raises(ssl.SSLError, match=r"(?i)certificate"):
        talk(server, client_context(files.server, files.authority))


def test_a_server_of_another_authority_is_not_trusted(files: Files) -> None:
    server = server_context(files.server, files.authority)
    with pytest.raises(ssl.SSLCertVerificationError):
        talk(server, client_context(files.client, files.stranger))


def test_without_authenticate_a_client_trusts_the_systems_authorities_only(files: Files) -> None:
    server = server_context(files.server, files.authority)
    with pytest.raises(ssl.SSLCertVerificationError):
        talk(server, client_context(files.client))


def test_the_host_name_is_checked_unless_switched_off(files: Files) -> None:
    server = server_context(files.server, files.authority)
    with pytest.raises(ssl.SSLCertVerificationError, match=r"(?i)hostname mismatch"):
        talk(server, client_context(files.client, files.authority), "other.example.org")
    lenient = client_context(files.client, files.authority, check_hostname=False)
    assert talk(server, lenient, "other.example.org")
    assert talk(server, lenient, None)


@pytest.mark.parametrize("authenticate", [None, "SIGNED"])
def test_r9_a_server_without_a_name_is_not_vouched_for_by_the_systems_authorities(
    authenticate: str | None,
) -> None:
    with pytest.raises(ConfigurationError, match="name the server's certificate") as caught:
        client_context(None, authenticate, check_hostname=False)
    assert caught.value.option == "check-hostname"


def test_old_protocol_versions_are_refused(files: Files) -> None:
    for context in (server_context(files.server, files.authority), client_context()):
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.verify_flags & ssl.VERIFY_X509_STRICT
        assert context.options & ssl.OP_NO_RENEGOTIATION
        assert context.options & ssl.OP_NO_COMPRESSION


def test_an_encrypted_key(files: Files) -> None:
    certificate, key = encrypted_key(files)
    server = server_context(
        certificate, files.authority, key=key, password_function=f"{__name__}.password"
    )
    assert talk(server, client_context(files.client, files.authority))


# -- directories and revocation ----------------------------------------------------------------


@pytest.fixture
def hashed(files: Files, tmp_path: Path) -> Path:
    """A directory with the authority's certificate, as ``openssl rehash`` leaves it."""
    (tmp_path / "ca.pem").write_bytes(Path(files.authority).read_bytes())
    rehash(tmp_path)
    return tmp_path


def rehash(directory: Path) -> None:
    subprocess.run(["openssl", "rehash", str(directory)], check=True)


def revocation_list(ca: trustme.CA, revoked: str | None) -> bytes:
    """Return the authority's list, with the certificate in the file *revoked* on it."""
    authority = x509.load_pem_x509_certificate(ca.cert_pem.bytes())
    key = serialization.load_pem_private_key(ca.private_key_pem.bytes(), None)
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    subject_key = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.subject)
        .last_update(now - day)
        .next_update(now + day)
        .add_extension(x509.CRLNumber(1), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(subject_key.value),
            critical=False,
        )
    )
    if revoked is not None:
        certificate = x509.load_pem_x509_certificate(Path(revoked).read_bytes())
        builder = builder.add_revoked_certificate(
            x509.RevokedCertificateBuilder()
            .serial_number(certificate.serial_number)
            .revocation_date(now - day)
            .build()
        )
    signed = builder.sign(key, hashes.SHA256())  # type: ignore[arg-type]
    return signed.public_bytes(serialization.Encoding.PEM)


def test_a_directory_of_authorities(files: Files, hashed: Path) -> None:
    server = server_context(files.server, str(hashed))
    assert talk(server, client_context(files.client, str(hashed)))
    with pytest.raises(ssl.SSLError, match=r"(?i)certificate"):
        talk(server, client_context(files.stranger, files.authority))


def test_r9_a_revoked_client_stays_out(files: Files, tmp_path: Path) -> None:
    trusted = tmp_path / "trusted.pem"
    for revoked, is_admitted in ((None, True), (files.client, False)):
        trusted.write_bytes(Path(files.authority).read_bytes() + revocation_list(files.ca, revoked))
        server = server_context(files.server, str(trusted))
        client = client_context(files.client, files.authority)
        if is_admitted:
            assert talk(server, client)
        else:
            with pytest.raises(ssl.SSLCertVerificationError, match="revoked"):
                talk(server, client)


def test_r9_a_revocation_list_in_a_directory_counts(files: Files, hashed: Path) -> None:
    (hashed / "crl.pem").write_bytes(revocation_list(files.ca, files.client))
    rehash(hashed)
    server = server_context(files.server, str(hashed))
    with pytest.raises(ssl.SSLCertVerificationError, match="revoked"):
        talk(server, client_context(files.client, files.authority))


# -- what is refused at start ------------------------------------------------------------------


def refusal(
    certificate: str, authenticate: str, key: str | None = None, function: str | None = None
) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        server_context(certificate, authenticate, key=key, password_function=function)
    return caught.value


@pytest.mark.parametrize("placeholder", ["-", "SIGNED", "DYNAMIC"])
def test_placeholders_trust_nobody(files: Files, placeholder: str) -> None:
    error = refusal(files.server, placeholder)
    assert error.option == "authenticate"
    assert "does not say whom to trust" in error.problem


def test_a_directory_without_hashes_trusts_nobody(files: Files, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_bytes(Path(files.authority).read_bytes())
    error = refusal(files.server, str(tmp_path))
    assert error.option == "authenticate"
    assert error.remedy == f"run 'openssl rehash {tmp_path}'"


def test_missing_files_are_named(files: Files) -> None:
    for option, error in (
        ("certificate", refusal("/missing/x.pem", files.authority)),
        ("key", refusal(files.server, files.authority, "/missing/x.pem")),
        ("authenticate", refusal(files.server, "/missing/x.pem")),
    ):
        assert error.option == option
        assert "/missing/x.pem cannot be used: No such file or directory" in error.problem


def test_files_that_hold_something_else(files: Files, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("hello")
    assert refusal(str(other), files.authority).option == "certificate"
    assert refusal(files.server, str(other)).option == "authenticate"
    # A key that belongs to another certificate.
    error = refusal(files.server, files.authority, files.client)
    assert error.option == "certificate"
    assert "KEY_VALUES_MISMATCH" in error.problem


def test_an_encrypted_key_without_password_is_refused_rather_than_asked_for(files: Files) -> None:
    certificate, key = encrypted_key(files)
    error = refusal(certificate, files.authority, key)
    assert error.option == "key"
    assert "encrypted" in error.problem
    assert "password-function" in error.remedy


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        ("password", "not a dotted name"),
        ("no.such.module.password", "cannot be imported"),
        ("os.path.no_such_function", "cannot be imported"),
        ("os.sep", "is not a function"),
        ("os.getcwd", "cannot be used"),
    ],
)
def test_bad_password_functions(files: Files, function: str, problem: str) -> None:
    certificate, key = encrypted_key(files)
    error = refusal(certificate, files.authority, key, function)
    assert error.option == ("certificate" if function == "os.getcwd" else "password-function")
    assert problem in error.problem


def test_a_clients_key_needs_a_certificate() -> None:
    with pytest.raises(ConfigurationError, match="key: has no effect without a certificate"):
        client_context(key="/some/key.pem")
    with pytest.raises(ConfigurationError, match="password-function: has no effect"):
        client_context(password_function="os.getcwd")


# -- through zeo.conf --------------------------------------------------------------------------


def test_the_section_in_zeo_conf(files: Files) -> None:
    certificate, key = encrypted_key(files)
    config = parse_server_config(
        f"""
        <zeo>
          address 8100
          <ssl>
            certificate {certificate}
            key {key}
            password-function {__name__}.password
            authenticate {files.authority}
          </ssl>
        </zeo>
        <mappingstorage>
        </mappingstorage>
        """
    )
    assert config.tls is not None
    assert talk(config.tls.context, client_context(files.client, files.authority))


def test_r9_authenticate_is_required(files: Files) -> None:
    with pytest.raises(ConfigurationError, match="authenticate is missing"):
        parse_server_config(
            f"<zeo>\naddress 1\n<ssl>\ncertificate {files.server}\n</ssl>\n</zeo>\n"
            "<mappingstorage>\n</mappingstorage>\n"
        )


# -- less, and more, than certificates on both sides -------------------------------------------


def test_a_server_that_asks_nobody(files: Files) -> None:
    server = server_context(files.server, client_certificates="none")
    assert talk(server, client_context(authenticate=files.authority))
    assert talk(server, client_context(files.stranger, files.authority))


def test_a_certificate_that_is_shown_must_be_admitted(files: Files) -> None:
    server = server_context(files.server, files.authority, client_certificates="optional")
    assert talk(server, client_context(authenticate=files.authority))
    assert talk(server, client_context(files.client, files.authority))
    with pytest.raises(ssl.SSLError, match=r"(?i)certificate"):
        talk(server, client_context(files.stranger, files.authority))


def test_r9_to_admit_everybody_has_to_be_said(files: Files) -> None:
    with pytest.raises(ConfigurationError, match="client-certificates none"):
        server_context(files.server)
    with pytest.raises(ConfigurationError, match="authenticate: is missing"):
        server_context(files.server, client_certificates="optional")
    for option, keywords in (
        ("authenticate", {"authenticate": files.authority}),
        ("crl", {"crl": "/some/list.pem"}),
    ):
        with pytest.raises(ConfigurationError, match=f"{option}: has no effect with"):
            server_context(files.server, client_certificates="none", **keywords)


@pytest.mark.parametrize("word", ["-", "SIGNED"])
def test_the_words_for_the_systems_authorities(files: Files, word: str) -> None:
    server = server_context(files.server, files.authority)
    client = client_context(files.client, word)
    assert client.verify_mode is ssl.CERT_REQUIRED
    with pytest.raises(ssl.SSLCertVerificationError):
        talk(server, client)


def test_the_systems_authorities_are_trusted(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", files.authority)
    server = server_context(files.server, files.authority)
    assert talk(server, client_context(files.client))
    assert talk(server, client_context(files.client, "SIGNED"))


def test_a_file_of_revocation_lists(files: Files, tmp_path: Path) -> None:
    lists = tmp_path / "crl.pem"
    server = server_context(files.server, files.authority)
    for revoked, is_trusted in ((None, True), (files.server, False)):
        lists.write_bytes(revocation_list(files.ca, revoked))
        client = client_context(files.client, files.authority, crl=str(lists))
        if is_trusted:
            assert talk(server, client)
        else:
            with pytest.raises(ssl.SSLCertVerificationError, match="revoked"):
                talk(server, client)


def test_a_directory_of_revocation_lists(files: Files, tmp_path: Path) -> None:
    (tmp_path / "crl.pem").write_bytes(revocation_list(files.ca, files.client))
    with pytest.raises(ConfigurationError, match=f"run 'openssl rehash {tmp_path}'"):
        server_context(files.server, files.authority, crl=str(tmp_path))
    rehash(tmp_path)
    server = server_context(files.server, files.authority, crl=str(tmp_path))
    with pytest.raises(ssl.SSLCertVerificationError, match="revoked"):
        talk(server, client_context(files.client, files.authority))
    (tmp_path / "ca.pem").write_bytes(Path(files.authority).read_bytes())
    rehash(tmp_path)
    with pytest.raises(ConfigurationError, match="holds certificates, too"):
        server_context(files.server, files.authority, crl=str(tmp_path))


def test_r9_a_file_without_revocation_lists_is_refused(files: Files, tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    both.write_bytes(Path(files.client).read_bytes() + revocation_list(files.ca, None))
    for path, problem in (
        (files.authority, "holds no revocation list"),
        (str(both), "holds certificates, too"),
        ("/missing/crl.pem", "No such file"),
    ):
        with pytest.raises(ConfigurationError, match=problem) as caught:
            server_context(files.server, files.authority, crl=path)
        assert caught.value.option == "crl"


def test_the_oldest_version(files: Files) -> None:
    server = server_context(files.server, files.authority, minimum_version="1.3")
    client = client_context(files.client, files.authority)
    assert talk(server, client) == "TLSv1.3"
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError, match=r"(?i)version|protocol"):
        talk(server, client)
    with pytest.raises(ConfigurationError, match=r"minimum-version: '1.1' is unknown"):
        client_context(minimum_version="1.1")


def test_a_password_for_a_key_that_needs_none(files: Files) -> None:
    for option, keywords in (
        ("password-file", {"password_file": "/some/file"}),
        ("password-environment", {"password_environment": "HOME"}),
        ("password-command", {"password_command": "pwd"}),
    ):
        with pytest.raises(ConfigurationError, match=f"{option}: has no effect: the private key"):
            client_context(files.client, files.authority, **keywords)
    # ZEO's own option has always been allowed.
    assert client_context(files.client, files.authority, password_function="os.getcwd")


def test_a_neighbour_trusts_the_servers_own_certificate_only(files: Files) -> None:
    settings = TlsSettings(certificate=files.server, authenticate=files.authority)
    assert talk(settings.server_context(), settings.neighbour_context(), None)
    # Of the same authority, but another.
    other = TlsSettings(certificate=files.client, authenticate=files.authority)
    with pytest.raises(ssl.SSLCertVerificationError):
        talk(other.server_context(), settings.neighbour_context(), None)


def test_a_neighbour_needs_no_key_where_nobody_is_asked(files: Files, tmp_path: Path) -> None:
    chain = tmp_path / "chain.pem"
    _begin, end, rest = Path(files.server).read_text().partition("-----BEGIN CERTIFICATE-----")
    chain.write_text(end + rest)
    settings = TlsSettings(
        certificate=str(chain), key="/not/readable.key", client_certificates="none"
    )
    server = server_context(files.server, client_certificates="none")
    assert talk(server, settings.neighbour_context(), None)
