"""What would change for a ``zope.conf``, and wherever else clients are configured."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from ..config.outline import Place
from .plain import Part, read_plain
from .remarks import Effect, Remarks

DROP_IN: Final = "install zeolith-zeo in the place of ZEO"

_WORK: Final = {
    "min-disconnect-poll": "had no effect in ZEO 5 and 6; it is the first pause before connecting "
    "again, in seconds",
    "max-disconnect-poll": "had no effect in ZEO 5 and 6; it is the longest pause before "
    "connecting again, in seconds",
    "drop-cache-rather-verify": "had no effect in ZEO 5 and 6; if true, the cache is dropped after "
    "an absence and not verified",
    "username": "had no effect in ZEO 5 and 6; the client logs in, and refuses a server that does "
    "not ask for it",
    "password": "had no effect in ZEO 5 and 6; it is what the client logs in with",
    "realm": "had no effect in ZEO 5 and 6; the client refuses a server whose realm is another one",
}
"""Keys that are the same and do something now."""

_NOT_THERE: Final = " in <zeolith>; zeolith-zeo leaves it out, with a warning"

_TRUE: Final = frozenset({"yes", "true", "on", "1"})

_GONE: Final = {
    "zeo-client-name": "<zeolith> has client NAME for the cache",
    "enable-product-installation": "write %import zeolith.zope: ZEO_CLIENT and FORCE_PRODUCT_LOAD "
    "then say who initialises the database",
}
"""Keys of zope.conf that Zope itself refuses since version 4, and what is there for them."""


def check_zope(source: str, remarks: Remarks) -> None:
    """Add what there is to say about the ``zope.conf`` at *source*.

    :raises ConfigurationError: it cannot be read.
    """
    whole = read_plain(source)
    clients = whole.find("zeoclient", "clientstorage")
    imported = {name for name, _ in whole.imports}
    for client in clients:
        check_client(client, remarks, has_import="zeolith" in imported)
    for name, place in whole.unread:
        remarks.add(
            place, "%include", Effect.HINT, f"{name} was not read here",
            "check it by itself, with --kind zope.conf",
        )  # fmt: skip
    for name, place in whole.imports:
        if name == "ZEO":
            remarks.add(
                place, "%import ZEO", Effect.REFUSED,
                "needs a package of the name ZEO",
                f"write %import zeolith; or {DROP_IN}, and nothing here has to change",
            )  # fmt: skip
    for key, remedy in _GONE.items():
        if key in whole.keys:
            remarks.add(
                whole.place_of(key), key, Effect.REFUSED, "Zope 4 and later refuse it", remedy
            )
    custom = Path(source).absolute().parent.parent / "custom_zodb.py"
    if custom.is_file():
        remarks.add(
            Place(str(custom)), "", Effect.HINT,
            "Zope opens what this module says, in the place of the main database; if it imports "
            "ZEO, it needs a package of that name",
            f"{DROP_IN}, or import from zeolith",
        )  # fmt: skip
    if (clients or custom.is_file()) and "zeolith.zope" not in imported:
        remarks.add(
            whole.place, "%import zeolith.zope", Effect.HINT,
            "is not there: of several Zopes that start together on an empty database one may fail, "
            "as with ZEO",
            "write the line",
        )  # fmt: skip


def check_client(section: Part, remarks: Remarks, *, has_import: bool) -> None:
    """Add what there is to say about a ``<zeoclient>`` or ``<clientstorage>``.

    :param has_import: whether the file has ``%import zeolith``.
    """
    header = f"<{section.type}>"
    if section.type == "zeoclient":
        remarks.add(
            section.place, header, Effect.REFUSED,
            "opens a client of the package ZEO",
            f"write <zeolith>, with %import zeolith at the beginning; or {DROP_IN}, and the "
            "section may stay",
        )  # fmt: skip
    elif has_import:
        remarks.add(section.place, header, Effect.HINT, "is Zeolith's with %import zeolith")
    check_settings(
        {key: (values[-1][0], values[-1][1]) for key, values in section.keys.items()}, remarks
    )
    if "client" in section.keys or "cache-path" in section.keys:
        key = "client" if "client" in section.keys else "cache-path"
        remarks.add(
            section.place_of(key), key, Effect.CHANGED,
            "the cache has another form: a file of ZEO's is put aside as ….zec.zeo, and the new "
            "one begins empty",
        )  # fmt: skip
    if section.type == "clientstorage":
        for tls in section.find("ssl"):
            remarks.add(
                tls.place, "<ssl>", Effect.HINT,
                "works as it is; certificate is needed only if the server asks for one",
            )  # fmt: skip


def check_settings(settings: dict[str, tuple[str, Place]], remarks: Remarks) -> None:
    """Add what there is to say about settings of a client.

    :param settings: key as in ``<zeoclient>`` → value and place.
    """
    for key, text in _WORK.items():
        if key in settings and settings[key][0]:
            value, place = settings[key]
            if key == "drop-cache-rather-verify" and value.lower() not in _TRUE:
                continue  # our default
            remarks.add(place, key, Effect.CHANGED, text)
    if "username" in settings and "password" not in settings:
        remarks.add(
            settings["username"][1], "username", Effect.REFUSED, "there is no password with it",
            "add password, or better password-file",
        )  # fmt: skip
    for key in ("password", "realm"):
        if key in settings and "username" not in settings:
            remarks.add(
                settings[key][1], key, Effect.REFUSED,
                "has no effect without username, and is refused", "remove the line",
            )  # fmt: skip
    size, check = settings.get("blob-cache-size"), settings.get("blob-cache-size-check")
    shared = settings.get("shared-blob-dir", ("", Place("")))[0].lower() in _TRUE
    if check is not None and size is None:
        remarks.add(
            check[1], "blob-cache-size-check", Effect.REFUSED,
            f"has no effect without blob-cache-size, and is refused{_NOT_THERE}", "remove the line",
        )  # fmt: skip
    if size is not None and shared:
        remarks.add(
            size[1], "blob-cache-size", Effect.REFUSED,
            f"has no effect with shared-blob-dir, and is refused{_NOT_THERE}", "remove the line",
        )  # fmt: skip
