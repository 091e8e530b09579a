"""``zeolith certs``."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ...errors import ConfigurationError

if TYPE_CHECKING:
    from ...admin.certstore import CertificateStore, Entry

_LEAST_DAYS = 1
_MOST_DAYS = 36_500


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("-s", "--server", "servers", metavar="NAME", multiple=True,
              help="Make the server's certificate: a host name or IP address by which clients "
              "reach it.  Given several times, it bears all of them.")  # fmt: skip
@click.option("-c", "--client", "clients", metavar="NAME", multiple=True,
              help="Make a certificate for the client NAME.  May be given several times.",
              )  # fmt: skip
@click.option("--renew", "renewals", metavar="NAME", multiple=True,
              help="Make a certificate anew: server, ca or the name of a client.")  # fmt: skip
@click.option("--renew-due", is_flag=True,
              help="Make those anew that end within 30 days; for cron.")  # fmt: skip
@click.option("--revoke", "revocations", metavar="NAME", multiple=True,
              help="Put a certificate on the revocation list, crl.pem.")  # fmt: skip
@click.option("--days", type=click.IntRange(_LEAST_DAYS, _MOST_DAYS), metavar="DAYS",
              help="How long certificates last.  [default: 825]")  # fmt: skip
@click.option("--ca-days", type=click.IntRange(_LEAST_DAYS, _MOST_DAYS), metavar="DAYS",
              help="How long the authority lasts.  [default: 3650]")  # fmt: skip
@click.option("--ca-password-file", metavar="FILE",
              help="Its first line is the password of ca.key, which a new authority's key is "
              "encrypted with.")  # fmt: skip
def certs(
    directory: Path,
    servers: tuple[str, ...],
    clients: tuple[str, ...],
    renewals: tuple[str, ...],
    renew_due: bool,
    revocations: tuple[str, ...],
    days: int | None,
    ca_days: int | None,
    ca_password_file: str | None,
) -> int:
    """Make the certificates of a site: its own authority, its server, its clients.

    All of them are files in DIRECTORY; the authority is made with the first certificate.  No
    certificate is overwritten unless --renew names it.  Without options, list what there is.
    """
    makes, renews = bool(servers or clients), bool(renewals or renew_due)
    if makes + renews + bool(revocations) > 1:
        raise click.UsageError(
            "--server and --client, --renew and --renew-due, and --revoke exclude each other: "
            "do one after the other"
        )
    for option, value in (("--days", days), ("--ca-days", ca_days)):
        if value is not None and not (makes or renews):
            raise click.UsageError(f"{option} has no effect here: nothing is made")
    if ca_password_file is not None and not (makes or renews or revocations):
        raise click.UsageError("--ca-password-file has no effect here: nothing is signed")
    try:
        return _act(
            _open(directory, ca_password_file),
            (servers, clients),
            (renewals, renew_due),
            revocations,
            (days, ca_days),
        )
    except OSError as error:
        click.echo(f"zeolith: {error.filename}: {error.strerror}", err=True)
        return 1


def _open(directory: Path, password_file: str | None) -> CertificateStore:
    try:
        from ...admin.certstore import CertificateStore
    except ImportError as error:
        if error.name is None or error.name.partition(".")[0] != "cryptography":
            raise
        raise ConfigurationError(
            "zeolith certs", "needs the package cryptography", "install zeolith[certs]"
        ) from error
    password = None
    if password_file is not None:
        from ...config.keypassword import KeyPassword

        password = KeyPassword(file=password_file).asker()()
    return CertificateStore(Path(os.path.abspath(directory.expanduser())), password)


def _act(
    store: CertificateStore,
    names: tuple[tuple[str, ...], tuple[str, ...]],
    renewal: tuple[tuple[str, ...], bool],
    revocations: tuple[str, ...],
    lengths: tuple[int | None, int | None],
) -> int:
    from ...admin.authority import CA_DAYS, DAYS

    days, ca_days = lengths[0] or DAYS, lengths[1] or CA_DAYS
    (servers, clients), (renewals, renew_due) = names, renewal
    if servers or clients:
        if lengths[1] is not None and store.has_authority:
            raise ConfigurationError(
                "--ca-days", "has no effect: the authority exists", "use it with --renew ca"
            )
        for path in store.make(servers, clients, days, ca_days, _title()):
            click.echo(f"created {path}")
        click.echo(_next_steps(store, bool(servers), clients))
    elif renewals or renew_due:
        wanted = dict.fromkeys([*renewals, *(store.due() if renew_due else ())])
        if lengths[1] is not None and "ca" not in wanted and not renew_due:
            raise ConfigurationError("--ca-days", "has no effect without --renew ca", "remove it")
        for path in store.renew(list(wanted), days, ca_days):
            click.echo(f"renewed {path}")
        if not wanted:
            click.echo("nothing is due for renewal")
    elif revocations:
        for name, path in zip(revocations, store.revoke(revocations)):
            click.echo(f"revoked {name}: its file is now {path}")
        click.echo(f"Copy {store.revocations} to the servers: the key crl of <ssl> names it.")
    else:
        return _list(store)
    return 0


def _title() -> str:
    return f"Zeolith site authority of {datetime.now(UTC):%Y-%m-%d %H:%M:%S}"


def _list(store: CertificateStore) -> int:
    from ...admin.tables import align

    now = datetime.now(UTC)
    rows = [("name", "ends", "days left", "state", "for")]
    entries = store.entries()
    for entry in entries:
        left = (entry.expires - now).days
        rows.append(
            (entry.name, f"{entry.expires:%Y-%m-%d}", str(left), _state(entry, now), entry.subject)
        )
    click.echo("\n".join(align(rows, frozenset({2}))))
    return 1 if any(_state(entry, now) not in ("valid", "due") for entry in entries) else 0


def _state(entry: Entry, now: datetime) -> str:
    if entry.is_revoked:
        return "REVOKED"
    if not entry.is_signed:
        return "FOREIGN"
    if entry.expires <= now:
        return "EXPIRED"
    return "due" if entry.is_due(now) else "valid"


def _next_steps(store: CertificateStore, has_server: bool, clients: tuple[str, ...]) -> str:
    lines = []
    if has_server:
        lines += [
            "",
            "On the server, readable for its user only, in the <zeo> section:",
            "  <ssl>",
            f"    certificate {store.path_of('server')}",
            f"    authenticate {store.ca}",
            f"    crl {store.revocations}",
            "  </ssl>",
        ]
    if clients:
        path = store.path_of(clients[0])
        lines += [
            "",
            f"At a client, with copies of {path.name} and {store.ca.name}:",
            f'  zeolith.DB(address, ssl=zeolith.tls("{path.name}", "{store.ca.name}"))',
            "or in its <zeolith> section:",
            "  <ssl>",
            f"    certificate {path.name}",
            f"    authenticate {store.ca.name}",
            "  </ssl>",
        ]
    lines += ["", f"Keep {store.key} away from both: who has it can make certificates."]
    return "\n".join(lines)
