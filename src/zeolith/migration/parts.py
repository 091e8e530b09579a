"""What would change for a ``buildout.cfg``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from ..config.outline import Place
from ..errors import ConfigurationError
from ..recipe.contradictions import refuse_contradictions
from ..recipe.options import OPTIONS, check_names
from ..recipe.values import Values
from .buildout import Buildout, Options, read_buildout
from .clients import DROP_IN, check_settings
from .remarks import Effect, Remarks
from .servers import ABSENT, check_server

_OLDER: Final = "plone.recipe.zope2zeoserver"
_NEWER: Final = "plone.recipe.zeoserver"
_INSTANCE: Final = "plone.recipe.zope2instance"

_CLIENT_KEYS: Final = {
    "zeo-username": "username",
    "zeo-password": "password",
    "zeo-realm": "realm",
    "min-disconnect-poll": "min-disconnect-poll",
    "max-disconnect-poll": "max-disconnect-poll",
    "zeo-client-drop-cache-rather-verify": "drop-cache-rather-verify",
    "zeo-client-blob-cache-size": "blob-cache-size",
    "zeo-client-blob-cache-size-check": "blob-cache-size-check",
    "shared-blob": "shared-blob-dir",
}
"""Options of an instance → what they become in its ``<zeoclient>``."""

_TRUE: Final = frozenset({"yes", "true", "on", "1"})


def check_buildout(source: str, remarks: Remarks) -> None:
    """Add what there is to say about the ``buildout.cfg`` at *source*.

    :raises ConfigurationError: it cannot be read.
    """
    found = read_buildout(source)
    for name, place in found.unread:
        remarks.add(
            place, "extends", Effect.HINT, f"{name} was not read here", "check what it says, too"
        )
    parts = found.sections.get("buildout", {}).get("parts", ("", Place("")))[0].split()
    for part, options in found.sections.items():
        if part in found.bases and part not in parts:
            continue
        recipe = options.get("recipe", ("", Place("")))[0].split("[")[0].split(":")[0].strip()
        if recipe in (_OLDER, _NEWER):
            _check_server_part(part, recipe, options, source, remarks)
        elif recipe == _INSTANCE:
            _check_instance(part, options, remarks)
    _check_distributions(found, remarks)


def _check_server_part(
    part: str, recipe: str, options: Options, source: str, remarks: Remarks
) -> None:
    place = options["recipe"][1]
    remarks.add(
        place, f"[{part}] recipe", Effect.REFUSED, f"{recipe} makes a server of ZEO's",
        "recipe = zeolith",
    )  # fmt: skip
    has_location = bool(options.get("zope2-location", ("", place))[0])
    if (recipe == _OLDER) != has_location and "defaults" not in options:
        defaults = recipe.rpartition(".")[2]
        remarks.add(
            place, f"[{part}] defaults", Effect.CHANGED,
            "is not given: file-storage, blob-storage and zeo-log would be where the other of the "
            "two recipes has them",
            f"defaults = {defaults}",
        )  # fmt: skip
    _check_refused(part, options, remarks)
    _check_kept(part, options, remarks)
    conf, at = options.get("zeo-conf", ("", place))
    if not conf:
        _check_defaults(part, options, remarks)
    elif "$" in conf:
        remarks.add(
            at, f"[{part}] zeo-conf", Effect.HINT, f"{conf} was not read here", "check it, too"
        )
    else:
        check_server(str(Path(source).absolute().parent / conf), remarks)


def _check_defaults(part: str, options: Options, remarks: Remarks) -> None:
    """Say what has another default or meaning in the ``zeo.conf`` that is made."""
    place = options["recipe"][1]
    address, at = options.get("zeo-address", ("8100", place))
    if re.fullmatch(r"\d+", address):
        remarks.add(
            at, f"[{part}] zeo-address", Effect.CHANGED,
            "a port alone is a port of this host only; in ZEO one of all interfaces",
            f"if other hosts are to connect: zeo-address = *:{address}",
        )  # fmt: skip
    at_client = options.get("client-conflict-resolution", ("", place))[0].lower() in _TRUE
    for name, absent in ABSENT.items():
        if name in options or name == "invalidation-queue-size":  # which the recipe writes
            continue
        if name == "conflict-resolution" and at_client:
            continue
        remedy = f"{absent.case}: {name} = {absent.value}"
        if name not in OPTIONS:
            remedy = f"{absent.case}: {name} {absent.value} in a zeo.conf of your own (zeo-conf)"
        remarks.add(
            place, f"[{part}] {name}", Effect.CHANGED, f"is not given: {absent.text}", remedy
        )


def _check_refused(part: str, options: Options, remarks: Remarks) -> None:
    """Say what the recipe refuses, one after the other."""

    def refused(error: ConfigurationError) -> None:
        place = options[error.option][1]
        remarks.add(place, f"[{part}] {error.option}", Effect.REFUSED, error.problem, error.remedy)

    given: dict[str, str] = {}
    for name in sorted(set(options) - {"recipe"}):
        try:
            check_names([name])
            Values({name: options[name][0]}).text(name)
        except ConfigurationError as error:
            refused(error)
        else:
            given[name] = options[name][0]
    while True:
        try:
            refuse_contradictions(
                Values(given), {name: text for name, text in given.items() if text}
            )
        except ConfigurationError as error:
            refused(error)
            del given[error.option]
        else:
            return


def _check_kept(part: str, options: Options, remarks: Remarks) -> None:
    for name in ("monitor-address", "authentication-database"):
        if options.get(name, ("", Place("")))[0]:
            remarks.add(
                options[name][1], f"[{part}] {name}", Effect.CHANGED,
                "works again; ZEO 5 and 6 refuse the file that the old recipes make of it",
                "set the passwords anew with zeolith user" if "data" in name else "",
            )  # fmt: skip
    if options.get("pack-user", ("", Place("")))[0]:
        remarks.add(
            options["pack-user"][1], f"[{part}] pack-user", Effect.CHANGED,
            "had no effect in ZEO 5 and 6; zeopack logs in",
        )  # fmt: skip
    if "repozo" in options and not options["repozo"][0]:
        remarks.add(
            options["repozo"][1], f"[{part}] repozo", Effect.CHANGED,
            f"is empty: there is no script, as documented; {_NEWER} fails",
        )  # fmt: skip


def _check_instance(part: str, options: Options, remarks: Remarks) -> None:
    client, place = options.get("zeo-client", ("", Place("")))
    if client.lower() not in _TRUE:
        return
    remarks.add(
        place, f"[{part}] zeo-client", Effect.REFUSED,
        "the zope.conf that is made opens a client of the package ZEO",
        f"{DROP_IN}: add it to eggs, and the part may stay as it is",
    )  # fmt: skip
    check_settings(
        {
            key: options[option]
            for option, key in _CLIENT_KEYS.items()
            if options.get(option, ("", place))[0]
        },
        remarks,
    )
    if options.get("zeo-client-client", ("", place))[0]:
        remarks.add(
            options["zeo-client-client"][1], f"[{part}] zeo-client-client", Effect.CHANGED,
            "the cache has another form: a file of ZEO's is put aside as ….zec.zeo, and the new "
            "one begins empty",
        )  # fmt: skip
    if "zeolith.zope" not in "".join(value for value, _ in options.values()):
        remarks.add(
            place, f"[{part}] zope-conf-imports", Effect.HINT,
            "has no zeolith.zope: of several Zopes that start together on an empty database one "
            "may fail, as with ZEO",
            "zope-conf-imports = zeolith.zope",
        )  # fmt: skip


def _check_distributions(found: Buildout, remarks: Remarks) -> None:
    for name, (_, place) in found.sections.get("versions", {}).items():
        if name.lower() == "zeo":
            remarks.add(
                place, "[versions] ZEO", Effect.HINT, "pins PyPI's ZEO",
                "pin zeolith and zeolith-zeo",
            )  # fmt: skip
    for part, options in found.sections.items():
        value, place = options.get("eggs", ("", Place("")))
        if any(
            re.match(r"zeo\s*(?![\w.-])", egg.strip(), re.IGNORECASE) for egg in value.splitlines()
        ):
            remarks.add(
                place, f"[{part}] eggs", Effect.REFUSED,
                "has PyPI's ZEO, beside which zeolith-zeo does not work",
                "write zeolith, and zeolith-zeo where something imports ZEO",
            )  # fmt: skip
