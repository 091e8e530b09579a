"""The user file of ``authentication-database``: its text, and reading and writing it.

::

    realm ZEO
    decoy-key BASE64
    alice:SCRAM-SHA-256$600000:SALT$STORED-KEY:SERVER-KEY access=read,write access@2=read
    web:- certificate=web.example.org uid=www-data
    bob:5f1d3cf4c2a2f8a2f5e0bd51d1fd6d8b1b5b3c0e

The first line and the last are those of ZEO 3: a digest of user, realm and password, by which
nobody can log in any more.  What stands behind a secret is of the form KEY=VALUE, values
percent-encoded.  Empty lines and lines that begin with ``#`` are kept.

No error here shows anything of a secret.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import stat
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote

from ..errors import ConfigurationError
from ..protocol.saslprep import saslprep
from ..protocol.scram import PLAIN, Secret, check_iterations
from ..rights import DEFAULT, NONE, Right, Rights, format_rights, parse_rights

DEFAULT_REALM: Final = "ZEO"

MAX_SIZE: Final = 16 * 1024 * 1024
"""Bytes of a file that is read: some fifty thousand users."""

_TOO_OPEN: Final = 0o037
"""Permissions that a user file must not give: all of others', and the group's to change it."""

_DECOY_SIZE: Final = 32
_KEY_SIZE: Final = 32

_DIGEST: Final = re.compile(r"[0-9a-f]{40}")
_SECRET: Final = re.compile(
    re.escape(PLAIN)
    + r"\$(?P<count>[0-9]{1,9}):(?P<salt>[^$:]+)\$(?P<stored>[^$:]+):(?P<server>.+)"
)
_NONE: Final = "-"


@dataclass(frozen=True, slots=True)
class Entry:
    """One user.

    :ivar name: prepared by ``saslprep``.
    :ivar secret: of the password, or None.
    :ivar digest: ZEO's, or None; of no use but to tell that there was a password.
    :ivar everywhere: rights on storages of which nothing else is said; None: the default if
        nothing is said of any storage, else none.
    :ivar storages: rights by the name of a storage.
    :ivar certificates: names in certificates that stand for this user.
    :ivar accounts: names or ids of users of this machine whose processes are this user.
    """

    name: str
    secret: Secret | None = None
    digest: str | None = field(default=None, repr=False)
    everywhere: Right | None = None
    storages: Mapping[str, Right] = field(default_factory=dict)
    certificates: tuple[str, ...] = ()
    accounts: tuple[str, ...] = ()

    @property
    def rights(self) -> Rights:
        """What the user may do."""
        everywhere = self.everywhere
        if everywhere is None:
            # Who is let to one storage is not meant to be let to all others.
            everywhere = NONE if self.storages else DEFAULT
        return Rights(everywhere, self.storages)

    @property
    def needs_password(self) -> bool:
        """Whether the user had a password that cannot be used any more."""
        return self.secret is None and self.digest is not None


@dataclass
class UserTable:
    """What a user file says.

    :ivar realm: name of the realm; None if the file does not say.
    :ivar decoy_key: makes users that do not exist look as if they did; None if there is none yet.
    :ivar lines: entries and, as they are, comments and empty lines.
    """

    realm: str | None = None
    decoy_key: bytes | None = field(default=None, repr=False)
    lines: list[Entry | str] = field(default_factory=list)

    @property
    def entries(self) -> dict[str, Entry]:
        """The users by name."""
        return {line.name: line for line in self.lines if isinstance(line, Entry)}

    def put(self, entry: Entry) -> None:
        """Add *entry*, or put it in the place of the one of that name."""
        for number, line in enumerate(self.lines):
            if isinstance(line, Entry) and line.name == entry.name:
                self.lines[number] = entry
                return
        self.lines.append(entry)

    def remove(self, name: str) -> None:
        """Take the user of that name out."""
        self.lines = [
            line for line in self.lines if not isinstance(line, Entry) or line.name != name
        ]


def check_name(name: str, option: str = "NAME") -> str:
    """Return a user's name as it is kept.

    :raises ConfigurationError: it cannot be one.
    """
    found = saslprep(name, option)
    if ":" in found or found.startswith("#") or found != found.strip():
        raise ConfigurationError(
            option,
            f"{found!r} cannot be a user's name",
            "it has no colon, no # in front, and no blank at its ends",
        )
    return found


# -- text ----------------------------------------------------------------------------------------


def parse_users(text: str, source: str) -> UserTable:
    """Return what the text of a user file says.

    :param source: what to call it in errors.
    :raises ConfigurationError: it names the line.
    """
    table = UserTable()
    seen: dict[str, int] = {}
    *whole, last = text.split("\n")
    for number, line in enumerate([*whole, last] if last else whole, 1):
        place = f"{source}, line {number}"
        words = line.split()
        if not words or line.startswith("#"):
            table.lines.append(line)
        elif ":" not in line and len(words) == 2 and words[0] == "realm":
            _note(seen, "the realm", number, place)
            table.realm = words[1]
        elif ":" not in line and len(words) == 2 and words[0] == "decoy-key":
            _note(seen, "the decoy-key", number, place)
            table.decoy_key = _bytes(words[1], place, _DECOY_SIZE)
        else:
            entry = _parse_entry(line, place)
            if number > len(whole) and entry.digest is None:
                # What is missing might be what the user may not do.
                raise ConfigurationError(
                    place, "has no end: the file may be cut off", "complete it, or end the line"
                )
            for key in _keys(entry):
                _note(seen, key, number, place)
            table.lines.append(entry)
    return table


def _note(seen: dict[str, int], key: str, number: int, place: str) -> None:
    """Note that *key* is in line *number*.

    :raises ConfigurationError: it was in another one already, or in this one.
    """
    if key in seen:
        raise ConfigurationError(place, f"{key} is in line {seen[key]} too", "remove one of them")
    seen[key] = number


def _keys(entry: Entry) -> list[str]:
    """Return what no two users may have."""
    return [
        f"the user {entry.name!r}",
        *(f"the certificate {name!r}" for name in entry.certificates),
        *(f"the account {name!r}" for name in entry.accounts),
    ]


def _parse_entry(line: str, place: str) -> Entry:
    name, colon, rest = line.partition(":")
    secret_text, *options = rest.split() or [""]
    if not colon:
        raise ConfigurationError(place, "is no user", "a line is NAME:SECRET; see zeolith user")
    if check_name(name, place) != name:
        raise ConfigurationError(place, "the name is not in its normal form", "write it anew")
    secret = digest = None
    found = _SECRET.fullmatch(secret_text)
    if found is not None:
        secret = Secret(
            _bytes(found["salt"], place),
            int(found["count"]),
            _bytes(found["stored"], place, _KEY_SIZE),
            _bytes(found["server"], place, _KEY_SIZE),
        )
        try:
            check_iterations(secret.iterations)
        except ConfigurationError as error:
            raise ConfigurationError(place, str(error)) from error
    elif _DIGEST.fullmatch(secret_text):
        digest = secret_text
    elif secret_text != _NONE:
        raise ConfigurationError(
            place,
            f"the secret of {name!r} is damaged",
            f"set another one: zeolith user passwd, after the line was made {name}:{_NONE}",
        )
    everywhere: Right | None = None
    storages: dict[str, Right] = {}
    certificates: list[str] = []
    accounts: list[str] = []
    for option in options:
        key, equals, value = option.partition("=")
        value = unquote(value, errors="replace")
        key, at, storage = key.partition("@")
        if key == "access" and equals:
            rights = parse_rights(value, place)
            storage = unquote(storage, errors="replace")
            if storage in storages if at else everywhere is not None:
                where = f"storage {storage!r}" if at else "all storages"
                raise ConfigurationError(
                    place, f"has access on {where} twice", "remove one of them"
                )
            if at:
                storages[storage] = rights
            else:
                everywhere = rights
        elif key == "certificate" and value and not at:
            certificates.append(value)
        elif key == "uid" and value and not at:
            accounts.append(value)
        else:
            raise ConfigurationError(
                place, f"{key[:40]!r} is unknown", "known are access, certificate and uid"
            )
    return Entry(name, secret, digest, everywhere, storages, tuple(certificates), tuple(accounts))


def _bytes(text: str, place: str, size: int | None = None) -> bytes:
    try:
        found = b64decode(text, validate=True)
    except ValueError:
        found = b""
    if not found or (size is not None and len(found) != size):
        raise ConfigurationError(place, "is damaged: a key or salt is not what it should be")
    return found


def format_users(table: UserTable) -> str:
    """Return *table* as the text of a file."""
    lines = [] if table.realm is None else [f"realm {table.realm}"]
    if table.decoy_key is not None:
        lines.append(f"decoy-key {_text(table.decoy_key)}")
    lines += [line if isinstance(line, str) else format_entry(line) for line in table.lines]
    return "".join(f"{line}\n" for line in lines)


def format_entry(entry: Entry) -> str:
    """Return the line of one user."""
    secret = entry.digest or _NONE
    if entry.secret is not None:
        salt, count, stored, server = (
            entry.secret.salt,
            entry.secret.iterations,
            entry.secret.stored_key,
            entry.secret.server_key,
        )
        secret = f"{PLAIN}${count}:{_text(salt)}${_text(stored)}:{_text(server)}"
    words = [f"{entry.name}:{secret}"]
    if entry.everywhere is not None:
        words.append(f"access={format_rights(entry.everywhere)}")
    words += [
        f"access@{quote(storage, safe='')}={format_rights(rights)}"
        for storage, rights in entry.storages.items()
    ]
    words += [f"certificate={quote(name)}" for name in entry.certificates]
    words += [f"uid={quote(name)}" for name in entry.accounts]
    return " ".join(words)


def _text(data: bytes) -> str:
    return b64encode(data).decode("ascii")


# -- the file ------------------------------------------------------------------------------------


def read_users(path: str | os.PathLike[str], option: str = "user file") -> UserTable:
    """Read a user file.

    :param option: what names the file, for errors.
    :raises ConfigurationError: it cannot be read, is damaged, or others may read it.
    """
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            status = os.fstat(file.fileno())
            check_permissions(path, status, option)
            data = file.read(MAX_SIZE + 1)
    except OSError as error:
        raise ConfigurationError(
            option,
            f"{os.fspath(path)} cannot be read: {error.strerror}",
            "zeolith user add makes such a file; the server's user must be able to read it",
        ) from error
    if len(data) > MAX_SIZE:
        raise ConfigurationError(option, f"{os.fspath(path)} is larger than {MAX_SIZE} bytes")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            option, f"{os.fspath(path)} is no text: byte {error.start} is not UTF-8"
        ) from None
    return parse_users(text, os.fspath(path))


def _open_at_once(path: str, flags: int) -> int:
    # A pipe that nobody writes to would stop the server, whose loop waits for this.
    return os.open(path, flags | os.O_NONBLOCK)


def check_permissions(path: str | os.PathLike[str], status: os.stat_result, option: str) -> None:
    """Check that *path* is a file that keeps its secrets.

    :raises ConfigurationError: it is none, or does not.
    """
    if not stat.S_ISREG(status.st_mode):
        raise ConfigurationError(option, f"{os.fspath(path)} is no file")
    mode = stat.S_IMODE(status.st_mode)
    if mode & _TOO_OPEN:
        raise ConfigurationError(
            option,
            f"{os.fspath(path)} has the permissions {mode:04o}: others could read or change it",
            f"chmod 600 {os.fspath(path)}, or 640 if the server reads it as its group",
        )


@contextlib.contextmanager
def changing(path: Path) -> Iterator[None]:
    """Keep other commands from changing the file at *path* for the length of a ``with``.

    :raises ConfigurationError: its directory cannot be used.
    """
    # The lock is the directory's, as the file itself will be another one: the directory of the file
    # that is meant, by whichever link it is named.
    directory = path.resolve().parent
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise ConfigurationError(
            "user file", f"{directory}: {error.strerror}", "correct the path"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def write_users(path: Path, table: UserTable) -> None:
    """Put *table* in the place of the file at *path*, in one step, and on disk.

    Owner and permissions stay; a new file is for its owner alone.

    :raises ConfigurationError: it cannot be written.
    """
    if table.decoy_key is None:
        table.decoy_key = secrets.token_bytes(_DECOY_SIZE)
    if table.realm is None:
        table.realm = DEFAULT_REALM
    path = path.resolve()  # what a link names is replaced, not the link
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        try:
            _write(temporary, format_users(table).encode("utf-8"), path)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise ConfigurationError(
            "user file", f"{path} cannot be written: {error.strerror}", "check its directory"
        ) from error


def _write(temporary: Path, data: bytes, model: Path) -> None:
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "wb") as file:
        with contextlib.suppress(FileNotFoundError):
            status = model.stat()
            if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
                os.fchown(descriptor, status.st_uid, status.st_gid)
            os.fchmod(descriptor, stat.S_IMODE(status.st_mode) & ~_TOO_OPEN)
        file.write(data)
        file.flush()
        os.fsync(descriptor)
