"""What the options of a part mean together."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..config.accounts import Account, find_account
from ..config.address import parse_address
from ..config.runner import LONGEST_SOCKET_PATH
from ..errors import ConfigurationError
from .contradictions import refuse_contradictions
from .options import OPTIONS, ZEOSERVER, ZOPE2ZEOSERVER
from .values import Values, script_name


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where buildout keeps what.

    :ivar part: name of the part.
    :ivar directory: of the buildout.
    :ivar parts: directory of the parts.
    :ivar bin: directory of the scripts.
    :ivar is_relative: whether ``[buildout]`` asks for relative paths.
    """

    part: str
    directory: Path
    parts: Path
    bin: Path
    is_relative: bool = False

    @property
    def location(self) -> Path:
        """The directory of the part."""
        return self.parts / self.part


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A part.  Paths are absolute; ``texts`` has what is passed on as it is.

    :ivar layout: where buildout keeps what.
    :ivar texts: the options that were given, with values, by name.
    :ivar var: directory of what the server writes.
    :ivar address: where the server listens, in the form of ``zeo.conf``.
    :ivar socket_address: the path of the socket if that is a Unix socket, or None.
    :ivar monitor: the path of the socket that ``monitor-address`` is, or None.
    :ivar storage: name of the storage; None: what ``zeo_conf`` has.
    :ivar zeo_conf: the user's own configuration, or None.
    :ivar blob_storage: directory of blobs, or None.
    :ivar account: who is to run the server, or None for whoever starts it.
    :ivar zeopack, repozo: file whose ``main`` the script calls; None: ours and ZODB's.
    :ivar zeopack_name, repozo_name, backup_name: names of scripts; None: no script.
    """

    layout: Layout
    texts: Mapping[str, str]
    is_relative: bool
    var: Path
    zope2_location: Path | None
    eggs: tuple[str, ...]
    extra_paths: tuple[Path, ...]
    initialization: str
    zeo_conf: Path | None
    address: str
    socket_address: Path | None
    monitor: Path | None
    storage: str | None
    read_only: bool
    flags: Mapping[str, bool]
    file_storage: Path
    blob_storage: Path | None
    pid_file: Path
    socket_name: Path
    log: Path
    files: Mapping[str, Path]
    account: Account | None
    zeopack: Path | None
    repozo: Path | None
    pack_days: float
    zeopack_name: str | None
    repozo_name: str | None
    backup_name: str | None
    backup_directory: Path

    @property
    def configuration(self) -> Path:
        """The ``zeo.conf`` that the scripts use."""
        return self.zeo_conf or self.layout.location / "etc" / "zeo.conf"

    @property
    def password_file(self) -> Path | None:
        """Where the password of ``pack-user`` is kept; None if there is none."""
        if "pack-password" in self.texts:
            return self.layout.location / "etc" / "pack-password"
        return self.files.get("pack-password-file")


def read_settings(layout: Layout, given: Mapping[str, str]) -> Settings:
    """Return what the options mean; nothing is looked at on the disk.

    :param given: the options of the part.
    :raises ConfigurationError: one is unknown or cannot be used, or two contradict each other.
    """
    values = Values(given)
    texts = {name: text for name in OPTIONS if (text := values.text(name)) is not None}
    refuse_contradictions(values, texts)
    base = layout.directory
    var = base / values.needed("var", "var")
    old = _is_old(values)
    under = base if old else var
    values.needed("file-storage", "filestorage/Data.fs")
    file_storage = values.text("file-storage")
    blob_storage = values.text("blob-storage")
    if blob_storage is None and not old and not values.is_empty("blob-storage"):
        blob_storage = "blobstorage"
    values.needed("zeo-log", f"log/{layout.part}.log")
    log = values.text("zeo-log")
    address, socket_address = _address(base, values.needed("zeo-address", "8100"), "zeo-address")
    socket_name = base / values.needed("socket-name", str(var / "zeo.zdsock"))
    _check_socket(socket_name)
    user = texts.get("effective-user")
    is_relative = bool(values.flag("relative-paths", layout.is_relative))
    if is_relative:
        _check_below(layout)
    names = {
        "zeopack": script_name(values, "zeopack", "zeopack"),
        "repozo": script_name(values, "repozo", "repozo"),
        "backup": script_name(values, "backup", f"{layout.part}-backup"),
    }
    _refuse_same_names(layout.part, names)
    return Settings(
        layout=layout,
        texts=texts,
        is_relative=is_relative,
        var=var,
        zope2_location=_under(base, values.text("zope2-location")),
        eggs=tuple(values.list("eggs")),
        extra_paths=tuple(base / line for line in values.list("extra-paths")),
        initialization=_initialization(given.get("initialization", "")),
        zeo_conf=_under(base, values.text("zeo-conf")),
        address=address,
        socket_address=socket_address,
        monitor=_monitor(base, values, address),
        storage=_storage(values),
        read_only=bool(values.flag("read-only")),
        flags=_flags(values),
        file_storage=_under(under, file_storage) or var / "filestorage" / "Data.fs",
        blob_storage=_under(under, blob_storage),
        pid_file=base / values.needed("pid-file", str(var / f"{layout.part}.pid")),
        socket_name=socket_name,
        log=_under(under, log) or var / "log" / f"{layout.part}.log",
        files=_files(base, texts),
        account=None if user is None else find_account(user, "effective-user"),
        zeopack=_under(base, texts.get("zeopack")),
        repozo=_under(base, texts.get("repozo")),
        pack_days=_days(values.needed("pack-days", "1")),
        zeopack_name=names["zeopack"],
        repozo_name=names["repozo"],
        backup_name=names["backup"],
        backup_directory=_under(base, texts.get("backup-directory"))
        or var / "backups" / layout.part,
    )  # fmt: skip


def _is_old(values: Values) -> bool:
    chosen = values.text("defaults")
    if chosen not in (None, ZEOSERVER, ZOPE2ZEOSERVER):
        raise ConfigurationError(
            "defaults", f"{chosen!r} is unknown", f"use {ZEOSERVER} or {ZOPE2ZEOSERVER}"
        )
    if chosen is None:
        # The older recipe could not do without it, the newer one does not know it.
        return values.text("zope2-location") is not None
    return chosen == ZOPE2ZEOSERVER


def _address(base: Path, text: str, option: str) -> tuple[str, Path | None]:
    if "/" in text:
        text = str(base / text)
    parsed = parse_address(text, option)
    return text, Path(parsed) if isinstance(parsed, str) else None


def _monitor(base: Path, values: Values, address: str) -> Path | None:
    """Return the path that ``monitor-address`` is, if it is one; refuse that of the server."""
    option = "monitor-address"
    given = values.text(option)
    if given is None:
        return None
    text, path = _address(base, given, option)
    ours, servers = parse_address(text, option), parse_address(address)
    if not isinstance(ours, str) and not isinstance(servers, str):
        is_same = ours[1] == servers[1] != 0 and ("" in (ours[0], servers[0]) or ours == servers)
        if is_same:
            raise ConfigurationError(option, "is that of zeo-address", "choose another port")
    return path


def _check_socket(path: Path) -> None:
    excess = len(os.fsencode(path)) - LONGEST_SOCKET_PATH
    if excess > 0:
        raise ConfigurationError(
            "socket-name",
            f"{path} is too long for a socket, by {excess} bytes",
            "name a shorter path",
        )


def _check_below(layout: Layout) -> None:
    """Refuse relative paths for scripts from which there is no way to the buildout."""
    for option, path in (("parts-directory", layout.parts), ("bin-directory", layout.bin)):
        if not path.is_relative_to(layout.directory):
            raise ConfigurationError(
                "relative-paths",
                f"cannot be: the {option} of [buildout], {path}, is not below {layout.directory}",
                "move it there, or use relative-paths = false",
            )


def _storage(values: Values) -> str | None:
    if values.text("zeo-conf") is not None:
        return values.text("storage-number")
    name = values.needed("storage-number", "1")
    # ZConfig folds the names of sections to lower case.
    if not all(char.isascii() and (char.isalnum() or char in "_.-") for char in name) or (
        name != name.lower()
    ):
        raise ConfigurationError(
            "storage-number",
            f"{name!r} cannot be the name of a storage",
            "use small letters, digits, '.', '-' and '_'",
        )
    return name


def _flags(values: Values) -> dict[str, bool]:
    """Return the flags that are given, by name."""
    names = ("client-conflict-resolution", "msgpack", "pack-gc", "pack-keep-old")
    found = {name: values.flag(name, None) for name in names}
    return {name: flag for name, flag in found.items() if flag is not None}


def _files(base: Path, texts: Mapping[str, str]) -> dict[str, Path]:
    """Return the files that options name and that have to be there, by option."""
    names = ["authentication-database", "pack-password-file"]
    for prefix in ("ssl-", "pack-ssl-"):
        for name in ("certificate", "key", "password-file", "authenticate", "crl"):
            names.append(prefix + name)
    return {name: base / texts[name] for name in names if name in texts}


def _under(base: Path, text: str | None) -> Path | None:
    return None if text is None else base / text


def _days(text: str) -> float:
    try:
        days = float(text)
    except ValueError:
        days = -1.0
    if not 0 <= days < float("inf"):
        raise ConfigurationError(
            "pack-days", f"{text!r} is not a number of days", "give a number, 0 or greater"
        )
    return days


def _refuse_same_names(part: str, names: Mapping[str, str | None]) -> None:
    taken = {part}
    for kind, name in names.items():
        if name in taken:
            raise ConfigurationError(
                f"{kind}-script-name", f"there is another script {name!r}", "choose another name"
            )
        taken.update({name} if name else ())


def _initialization(code: str) -> str:
    try:
        compile(code, "initialization", "exec")
    except (SyntaxError, ValueError) as error:
        raise ConfigurationError(
            "initialization", f"is not Python: {error}", "correct it"
        ) from error
    return code.strip("\n")
