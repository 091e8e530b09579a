"""The options of a part: names, defaults and meanings.

``docs/buildout.md`` has its tables from here.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from ..errors import ConfigurationError

VARIABLE: Final = "ZEOLITH_BUILDOUT"
"""Variable of the environment: the directory of the buildout, in a ``zeo.conf`` that can be moved.
The scripts set it."""

ZEOSERVER: Final = "zeoserver"
ZOPE2ZEOSERVER: Final = "zope2zeoserver"


@dataclass(frozen=True)
class Option:
    """One option.

    :ivar name: what it is called.
    :ivar default: what holds without it, in words; empty: nothing.
    :ivar meaning: what it does, in words.
    :ivar writes: whether it is written to ``zeo.conf``, and so has no effect with ``zeo-conf``.
    :ivar lines: whether its value may have several lines.
    :ivar names_file: whether it names what this part or another may have to make first, or what
        only the eggs can tell, so that it is checked when the part is installed.
    """

    name: str
    default: str
    meaning: str
    writes: bool = False
    lines: bool = False
    names_file: bool = False


PART: Final = (
    Option("defaults", "`zope2zeoserver` if `zope2-location` is given, else `zeoserver`",
           "whose defaults hold: those of `plone.recipe.zeoserver` or those of "
           "`plone.recipe.zope2zeoserver`, see [below](#two-sets-of-defaults)"),
    Option("zope2-location", "",
           "the directory of a Zope 2 installation. If it has `lib/python`, that is appended to "
           "the path of the server; see [below](#zope2-location)", names_file=True),
    Option("var", "`${buildout:directory}/var`", "the directory of what the server writes; made "
           "if it does not exist"),
    Option("eggs", "", "further distributions for the path of the server and the scripts, one per "
           "line: an application's classes, for conflict resolution; `zeolith[uvloop]`",
           lines=True),
    Option("extra-paths", "", "further directories for the path of the server and the scripts, "
           "one per line", lines=True),
    Option("initialization", "", "Python to run at the beginning of the control script, and so "
           "before each start of the server", lines=True),
    Option("relative-paths", "what `[buildout]` says, else `false`",
           "`true`: scripts and `zeo.conf` still work when the directory of the buildout was "
           "moved, see [below](#relative-paths)"),
    Option("find-links", "what `[buildout]` says", "where to look for distributions besides the "
           "index", lines=True),
    Option("index", "what `[buildout]` says", "the index of distributions"),
)  # fmt: skip

SERVER: Final = (
    Option("zeo-conf", "", "the path of a `zeo.conf` of your own, in place of one made from the "
           "options marked † below, which then are refused", names_file=True),
    Option("zeo-address", "`8100`", "where the server listens: `PORT` (of the loopback interface), "
           "`HOST:PORT`, `[IPv6]:PORT`, `*:PORT` (all interfaces) or the path of a Unix socket, "
           "with a slash in it. With `zeo-conf`: must be what is said there"),
    Option("storage-number", "`1`", "the name of the storage. With `zeo-conf`: the one that the "
           "scripts are for; must be there; all unless given"),
    Option("effective-user", "", "the user who runs the server; only root can start it for "
           "another user. If root runs buildout, new directories are given to that user",
           writes=True),
    Option("invalidation-queue-size", "`100`", "how many transactions the server remembers for "
           "clients that come back. The server's own default is 10000", writes=True),
    Option("invalidation-age", "the server's, 1d", "for how long clients may have been away to "
           "be told what they missed, if the queue does not reach so far back", writes=True),
    Option("transaction-timeout", "the server's, 30 s", "how many seconds a client may hold the "
           "commit lock; `0`: for ever", writes=True),
    Option("read-only", "`false`", "`true`: clients may not commit", writes=True),
    Option("client-conflict-resolution", "`false`", "`true`: clients resolve conflicts, so that "
           "the server needs no application code", writes=True),
    Option("msgpack", "`true` if `ZEO_MSGPACK` is set", "propose msgpack to ZEO's clients",
           writes=True),
    Option("monitor-address", "", "where to listen for those who want a report of a few lines",
           writes=True),
    Option("file-storage", "`filestorage/Data.fs` in `var`", "the database's file; its directory "
           "is made", writes=True, names_file=True),
    Option("blob-storage", "`blobstorage` in `var`; `zope2zeoserver`: none",
           "the directory of the blobs; an empty value: no blobs", writes=True,
           names_file=True),
    Option("pack-gc", "`true`", "`false`: a pack removes old revisions only, not objects that "
           "nothing refers to", writes=True),
    Option("pack-keep-old", "`true`", "`false`: a pack leaves no `Data.fs.old`", writes=True),
    Option("pid-file", "`<part>.pid` in `var`", "the file that holds the server's process id",
           writes=True),
    Option("socket-name", "`zeo.zdsock` in `var`", "the socket on which the daemon manager "
           "listens for the control script. Two servers need two", writes=True),
    Option("zeo-conf-additional", "", "lines to append to `zeo.conf`; indent all but the first",
           writes=True, lines=True, names_file=True),
)  # fmt: skip

LOG: Final = (
    Option("zeo-log", "`log/<part>.log` in `var`", "the log file, and what `logtail` shows",
           writes=True),
    Option("zeo-log-level", "`info`", "the least level that is logged: `debug`, `info`, `warn`, "
           "`error`, `critical`", writes=True),
    Option("zeo-log-format", "`%(asctime)s %(message)s`", "the format of its lines", writes=True),
    Option("zeo-log-max-size", "", "the size at which the log file is put aside, as `10MB`",
           writes=True),
    Option("zeo-log-old-files", "`1`", "how many old log files are kept; needs `zeo-log-max-size`",
           writes=True),
    Option("zeo-log-custom", "", "what `<eventlog>` has in place of `<logfile>`, as it is; "
           "`zeo-log` then is what `logtail` shows, and the three options above are refused",
           writes=True, lines=True, names_file=True),
)  # fmt: skip

SECURITY: Final = (
    Option("authentication-database", "", "the file of the users who may connect, see "
           "[security.md](security.md)", writes=True, names_file=True),
    Option("authentication-realm", "`ZEO`", "what the realm of the users is called; needs "
           "`authentication-database`", writes=True),
    Option("ssl-certificate", "", "TLS: the server's certificate, a file in PEM form, perhaps "
           "with the key. Without it there is no TLS", writes=True, names_file=True),
    Option("ssl-key", "", "TLS: its private key, if that is another file", writes=True,
           names_file=True),
    Option("ssl-password-file", "", "TLS: a file whose first line is the password of the key",
           writes=True, names_file=True),
    Option("ssl-password-environment", "", "TLS: the environment variable with that password",
           writes=True, names_file=True),
    Option("ssl-password-command", "", "TLS: a command that prints that password", writes=True,
           names_file=True),
    Option("ssl-password-function", "", "TLS: the dotted name of a function that returns that "
           "password", writes=True, names_file=True),
    Option("ssl-authenticate", "", "TLS: a file or directory of the certificates of clients, or "
           "of those who sign for them; needed unless `ssl-client-certificates` is `none`",
           writes=True, names_file=True),
    Option("ssl-crl", "", "TLS: a file or directory of revocation lists", writes=True,
           names_file=True),
    Option("ssl-client-certificates", "`required`", "TLS: `required`, `optional` or `none`",
           writes=True, names_file=True),
    Option("ssl-minimum-version", "`1.2`", "TLS: `1.2` or `1.3`", writes=True, names_file=True),
)  # fmt: skip

SCRIPTS: Final = (
    Option("zeopack", "`zeolith pack` for this server", "an empty value: no script; a path: the "
           "script calls `main()` of that Python file", names_file=True),
    Option("zeopack-script-name", "`zeopack`", "what the script is called; an empty value: none"),
    Option("pack-days", "`1`", "how many days of history `zeopack` keeps"),
    Option("pack-user", "", "the user whom `zeopack` logs in as; needs a password"),
    Option("pack-password", "", "that user's password. It is kept in "
           "`parts/<part>/etc/pack-password`, which only the owner can read, but also in "
           "buildout's own `.installed.cfg`: better use the next option"),
    Option("pack-password-file", "", "in place of `pack-password`: a file whose first line is the "
           "password", names_file=True),
    Option("pack-ssl-certificate", "", "TLS: the certificate of `zeopack`",
           names_file=True),
    Option("pack-ssl-key", "", "TLS: its private key, if that is another file", names_file=True),
    Option("pack-ssl-password-file", "", "TLS: a file whose first line is the password of that "
           "key", names_file=True),
    Option("pack-ssl-authenticate", "the system's authorities",
           "TLS: a file or directory of the certificates of servers, or of those who sign for "
           "them", names_file=True),
    Option("pack-ssl-crl", "", "TLS: revocation lists on which the server must not be",
           names_file=True),
    Option("pack-ssl-server-hostname", "the host of `zeo-address`", "TLS: the name that the "
           "server's certificate must bear"),
    Option("repozo", "ZODB's repozo", "an empty value: no script; a path: the script calls "
           "`main()` of that Python file", names_file=True),
    Option("repozo-script-name", "`repozo`", "what the script is called; an empty value: none"),
    Option("backup-script-name", "`<part>-backup`", "what the script is called that calls "
           "`zeolith backup` for this server; an empty value: none"),
    Option("backup-directory", "`backups/<part>` in `var`", "the directory of its backups"),
)  # fmt: skip

GROUPS: Final[Mapping[str, tuple[Option, ...]]] = {
    "The part": PART,
    "The server": SERVER,
    "Its log": LOG,
    "Security": SECURITY,
    "Scripts": SCRIPTS,
}
"""All options by what they are about, in the order of the documentation."""

OPTIONS: Final[Mapping[str, Option]] = {
    option.name: option for group in GROUPS.values() for option in group
}
"""Each option by its name."""

_NO_REPLICATION: Final = (
    "is about replication by zc.zrs, which Zeolith does not have and no ZODB of today works with",
    "remove the option; bin/<part>-backup copies a database while it is served",
)

REFUSED: Final[Mapping[str, tuple[str, str]]] = {
    "replicate-to": _NO_REPLICATION,
    "replicate-from": _NO_REPLICATION,
    "keep-alive-delay": _NO_REPLICATION,
    "zope-conf-additional": (
        "was the name of zeo-conf-additional before version 0.9 of the old recipe",
        "call it zeo-conf-additional",
    ),
}
"""Options of the old recipes that cannot be honoured → why not, and what to do."""

_BUILDOUTS_OWN: Final = frozenset({"recipe"})


def check_names(names: Iterable[str]) -> None:
    """Refuse names that are no options.

    :raises ConfigurationError: there is one; the nearest names are in the text.
    """
    for name in sorted(names):
        # Names that begin so are buildout's bookkeeping.
        if name in OPTIONS or name in _BUILDOUTS_OWN or name.startswith(("<", "_")):
            continue
        if name in REFUSED:
            raise ConfigurationError(name, *REFUSED[name])
        close = difflib.get_close_matches(name, OPTIONS, n=3, cutoff=0.6)
        remedy = f"did you mean {' or '.join(close)}?" if close else "remove it"
        raise ConfigurationError(name, "is no option of this recipe", remedy)
